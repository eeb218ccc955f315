//! An address to listen on. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

/// Where HAProxy listens for a service's clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bind {
    /// The port on all addresses, IPv4 and IPv6.
    Everywhere(NonZeroU16),
    /// The port on one address.
    At(SocketAddr),
}

impl Bind {
    /// Whether both would bind the same address and port.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        if self.port() != other.port() {
            return false;
        }
        match (self, other) {
            (Self::At(a), Self::At(b)) => {
                let wide = a.ip().is_unspecified() || b.ip().is_unspecified();
                a.ip() == b.ip() || (wide && a.is_ipv4() == b.is_ipv4())
            }
            _ => true,
        }
    }

    /// The port, 1 to 65535.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Everywhere(port) => port.get(),
            Self::At(address) => address.port(),
        }
    }
}

impl FromStr for Bind {
    type Err = String;

    /// `:80`, `*:80` and `80` are everywhere; `10.0.0.1:80`, `[::1]:80` and `0.0.0.0:80` are there.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = text
            .strip_prefix("*:")
            .or_else(|| text.strip_prefix(':'))
            .unwrap_or(text);
        if let Ok(port) = port.parse() {
            return Ok(Self::Everywhere(port));
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 => Ok(Self::At(address)),
            _ => Err(format!(
                "{text:?} is no address to listen on; write :80, 10.0.0.1:80 or [::1]:80"
            )),
        }
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

/// The socket addresses to bind for it, the wildcard address first.
#[must_use]
pub fn sockets(bind: Bind) -> Vec<SocketAddr> {
    match bind {
        Bind::At(address) => vec![address],
        Bind::Everywhere(port) => {
            let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
            any.map(|ip| SocketAddr::new(ip, port.get())).to_vec()
        }
    }
}
