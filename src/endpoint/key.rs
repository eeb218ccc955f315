//! A key: prefix, service, instance. Pure.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest part of a key, in bytes. HAProxy and systemd take names of this length.
pub const MAX_PART: usize = 128;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 1024;

/// `<prefix>/<service>/<instance>`, such as `/services/redis/redis@1`.
///
/// Every part is `[A-Za-z0-9_.:@-]+` without `..`, at most [`MAX_PART`] bytes. A clone is cheap: a key
/// stands in several tables at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// Why a text is no [`Key`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It doesn't begin with a slash.
    #[error("must begin with '/', like /services/redis/redis@1")]
    NotAbsolute,
    /// Two slashes in a row, or one at the end.
    #[error("has an empty part; write it like /services/redis/redis@1")]
    EmptyPart,
    /// There is no service or no instance in it.
    #[error("needs a prefix, a service and an instance, like /services/redis/redis@1")]
    TooFewParts,
    /// `..` somewhere.
    #[error("must not contain '..'")]
    DotDot,
    /// A character that no reader could take safely.
    #[error("contains {0:?}; a part may hold letters, digits and _ . : @ -")]
    BadCharacter(char),
    /// Longer than [`MAX_KEY`], or a part longer than [`MAX_PART`].
    #[error("is too long (at most {MAX_PART} bytes a part, {MAX_KEY} in all)")]
    TooLong,
}

/// Whether `part` may stand between two slashes of a key (and so be a service's or an instance's name).
///
/// # Errors
/// The first rule of [`Key`] that it breaks.
pub fn check_part(part: &str) -> Result<(), KeyError> {
    if part.is_empty() {
        return Err(KeyError::EmptyPart);
    }
    if part.len() > MAX_PART {
        return Err(KeyError::TooLong);
    }
    if let Some(c) = part
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || "_.:@-".contains(*c)))
    {
        return Err(KeyError::BadCharacter(c));
    }
    if part.contains("..") || part == "." {
        return Err(KeyError::DotDot);
    }
    Ok(())
}

impl Key {
    /// A key in another reader's layout: printable ASCII without blanks, with or without a slash at its beginning.
    ///
    /// # Errors
    /// It is empty, has another character, or is longer than [`MAX_KEY`].
    pub fn in_layout(text: &str) -> Result<Self, KeyError> {
        if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(KeyError::BadCharacter(c));
        }
        match text.len() {
            0 => Err(KeyError::EmptyPart),
            1..=MAX_KEY => Ok(Self(text.into())),
            _ => Err(KeyError::TooLong),
        }
    }

    /// The whole key.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before service and instance: `/services` of `/services/redis/redis@1`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        self.0.rsplitn(3, '/').nth(2).unwrap_or_default()
    }

    /// The part before the last: `redis` of `/services/redis/redis@1`.
    #[must_use]
    pub fn service(&self) -> &str {
        self.0.rsplit('/').nth(1).unwrap_or_default()
    }

    /// The last part: `redis@1` of `/services/redis/redis@1`.
    #[must_use]
    pub fn instance(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix('/').ok_or(KeyError::NotAbsolute)?;
        if text.len() > MAX_KEY {
            return Err(KeyError::TooLong);
        }
        let mut parts = 0;
        for part in rest.split('/') {
            check_part(part)?;
            parts += 1;
        }
        if parts < 3 {
            return Err(KeyError::TooFewParts);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
