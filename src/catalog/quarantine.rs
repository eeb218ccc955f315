//! Keys that are kept out of the catalog, and why. Pure.

use crate::endpoint::{KeyError, Protocol, ValueError};

/// Why a key is in quarantine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuarantineReason {
    /// The key does not name a service and an instance.
    #[error("the key {0}")]
    Key(KeyError),
    /// The key isn't text.
    #[error("the key is no text")]
    NotText,
    /// Too few parts below the prefix, or too many.
    #[error("the key is not of the form {0}/SERVICE/INSTANCE")]
    Depth(String),
    /// The value is no endpoint.
    #[error("{0}")]
    Value(ValueError),
    /// HAProxy can't carry what the instance speaks.
    #[error(
        "the instance speaks {}, which HAProxy in TCP mode can't carry: not served, its clients have to dial it themselves",
        .0.to_string().to_uppercase()
    )]
    Protocol(Protocol),
    /// It is over one of the limits.
    #[error("there is no room for it: {0}")]
    Full(&'static str),
    /// Its address is refused.
    #[error("{0}")]
    RefusedInstance(String),
}

/// A key that was put into quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuarantinedKey {
    /// The key, escaped and cut to 100 bytes.
    pub key: String,
    /// Why it is quarantined.
    pub reason: QuarantineReason,
}

impl QuarantinedKey {
    /// Whether the key begins with `start`, as far as it is shown. `start` is made of checked names.
    #[must_use]
    pub fn is_below(&self, start: &str) -> bool {
        let cut = self.key.strip_suffix('…');
        self.key.starts_with(start) || cut.is_some_and(|shown| start.starts_with(shown))
    }
}

/// An instance whose address no client may be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedInstance {
    /// Its service.
    pub service: String,
    /// Its name.
    pub instance: String,
    /// In words.
    pub why: String,
}

impl RefusedInstance {
    pub(crate) fn new(service: &str, instance: &str, why: &str) -> Self {
        Self {
            service: service.to_owned(),
            instance: instance.to_owned(),
            why: why.to_owned(),
        }
    }
}

/// A key, which may hold any bytes and be a kilobyte long, for a log line.
pub(super) fn printable(key: &[u8]) -> String {
    const SHOWN: usize = 100;
    let shown = &key[..key.len().min(SHOWN)];
    let mut text = shown.escape_ascii().to_string();
    if key.len() > SHOWN {
        text.push('…');
    }
    text
}
