//! The transport protocol of a port. Pure.

use serde::{Serialize, Serializer};
use std::fmt;

/// A transport protocol that Docker publishes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// The one meant when none is named.
    #[default]
    Tcp,
    /// `53/udp`.
    Udp,
    /// `9999/sctp`.
    Sctp,
}

impl Protocol {
    /// The protocol of that name, in whichever case; `None` if Docker publishes no such.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [Self::Tcp, Self::Udp, Self::Sctp];
        all.into_iter()
            .find(|it| it.name().eq_ignore_ascii_case(name))
    }

    /// Whether a value has no `protocol`: it is TCP.
    pub(super) const fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Protocol::{Tcp, Udp};
    use crate::endpoint::Endpoint;

    #[test]
    fn a_value_says_udp_and_says_nothing_of_tcp() {
        let value = r#"{"host":"a","port":53,"protocol":"udp","container":"593ee5d76755"}"#;
        let mut read = Endpoint::decode(value.as_bytes()).unwrap();
        assert_eq!((read.protocol, read.encode().as_str()), (Udp, value));
        read.protocol = Tcp;
        let tcp = r#"{"host":"a","port":53,"container":"593ee5d76755"}"#;
        assert_eq!(read.encode(), tcp);
        assert_eq!(Endpoint::decode(tcp.as_bytes()), Ok(read));
        for other in [r#""http""#, "17", "null", r#""""#] {
            let value = format!(r#"{{"host":"a","port":1,"protocol":{other}}}"#);
            assert_eq!(Endpoint::decode(value.as_bytes()).unwrap().protocol, Tcp);
        }
    }
}
