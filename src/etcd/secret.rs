//! What no log may show: a password, a private key.

use std::borrow::Cow;
use std::fmt;

/// Bytes that no log and no `Debug` shows.
#[derive(Clone)]
pub struct Secret(pub Vec<u8>);

impl Secret {
    /// The text that it was made of.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// TLS material in PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// The CAs to trust; `None`: the system's.
    pub ca: Option<Vec<u8>>,
    /// Our certificate (with its chain) and its key.
    pub identity: Option<(Vec<u8>, Secret)>,
}
