//! A host: an address that a client on another machine can dial, or a name. Pure.

use serde::{Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Where a client on another machine can dial: an IP address or an RFC 1123 name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An address that other machines can reach: no loopback, no wildcard, no multicast, nothing
    /// that needs a zone.
    Ip(IpAddr),
    /// A host name as RFC 1123 section 2.1 has it, in the letters that it was given in.
    Name(String),
}

/// Why a text is no [`Host`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// White space in it.
    #[error("holds white space")]
    WhiteSpace,
    /// It means the machine that asks.
    #[error("{0} is a loopback address; other machines can't reach it")]
    Loopback(String),
    /// 0.0.0.0, ::, multicast or link-local.
    #[error("{0} is no address that a client on another machine could dial")]
    Unroutable(String),
    /// Neither an address nor a name.
    #[error("{0:?} is neither an IP address nor a host name (RFC 1123)")]
    Malformed(String),
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.contains(char::is_whitespace) {
            return Err(HostError::WhiteSpace);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Self::of_ip(ip);
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let lower = name.to_ascii_lowercase();
        if lower == "localhost"
            || lower.ends_with(".localhost")
            || lower.starts_with("localhost.")
            || matches!(lower.as_str(), "ip6-localhost" | "ip6-loopback")
        {
            return Err(HostError::Loopback(text.to_owned()));
        }
        if !is_rfc1123(name) {
            return Err(HostError::Malformed(shorten(text)));
        }
        Ok(Self::Name(name.to_owned()))
    }
}

impl Host {
    /// An address as a host.
    ///
    /// # Errors
    /// A client on another machine can't dial it: it is loopback, link-local (169.254.0.0/16, where clouds
    /// keep their metadata, and fe80::/10: RFC 3927, RFC 4291), unspecified, multicast or broadcast.
    pub fn of_ip(ip: IpAddr) -> Result<Self, HostError> {
        // ::ffff:127.0.0.1 is 127.0.0.1 to every dialler.
        let canonical = ip.to_canonical();
        if canonical.is_loopback() {
            return Err(HostError::Loopback(ip.to_string()));
        }
        let link_local = |v6: Ipv6Addr| v6.segments()[0] & 0xffc0 == 0xfe80;
        let unroutable = canonical.is_unspecified()
            || canonical.is_multicast()
            || match canonical {
                IpAddr::V4(v4) => v4.is_broadcast() || v4.is_link_local() || v4.octets()[0] == 0,
                IpAddr::V6(v6) => link_local(v6),
            };
        if unroutable {
            return Err(HostError::Unroutable(ip.to_string()));
        }
        Ok(Self::Ip(canonical))
    }
}

/// RFC 1123 section 2.1, and nothing that `inet_aton(3)` would read as a number: `127.1` and
/// `0x7f000001` are loopback to many a resolver.
fn is_rfc1123(name: &str) -> bool {
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .or_else(|| last.strip_prefix("0X"))
            .is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    name.len() <= 253 && name.split('.').all(label_ok) && !numeric
}

/// What goes into an error message of a text that may be a megabyte long.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        text.to_owned()
    } else {
        text.chars().take(SHOWN).chain("…".chars()).collect()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}
