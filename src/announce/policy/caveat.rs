//! Why clients may not be able to reach an announced address. Pure.

use super::container::{Binding, ContainerPort};
use crate::endpoint::Host;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The announced address is none of those that the port is published on. Something may translate it on
/// the way (a router, a cloud's public address), so the address is announced all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caveat {
    host: IpAddr,
    port: ContainerPort,
    bound: Vec<Binding>,
}

impl Caveat {
    /// `None` where one of the bindings accepts connections to `host`, and where `host` is a name, which clients
    /// resolve.
    #[must_use]
    pub fn of(host: &Host, port: ContainerPort, bound: &[Binding]) -> Option<Self> {
        let Host::Ip(host) = host else {
            return None;
        };
        let host = host.to_canonical();
        let takes = |binding: &Binding| {
            let ip = binding.ip.to_canonical();
            // Docker binds `::` for IPv6 alone; for both families it shows 0.0.0.0 as well.
            ip == host || (ip.is_unspecified() && ip.is_ipv4() == host.is_ipv4())
        };
        (!bound.iter().any(takes)).then(|| Self {
            host,
            port,
            bound: bound.to_vec(),
        })
    }
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, bound } = self;
        let bound: Vec<_> = bound
            .iter()
            .map(|b| SocketAddr::new(b.ip, b.port.get()).to_string())
            .collect();
        let bound = bound.join(", ");
        write!(
            f,
            "{port} is published on {bound} and not on {host}; clients reach it only if {host} is translated \
             on the way. Publish the port on that address, or announce another (--host)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caveat(host: &str, bound: &[&str]) -> Option<String> {
        let binding = |text: &&str| {
            let address: SocketAddr = text.parse().unwrap();
            Binding {
                ip: address.ip(),
                port: address.port().try_into().unwrap(),
            }
        };
        let bound: Vec<_> = bound.iter().map(binding).collect();
        let port = "6379".parse().unwrap();
        Caveat::of(&host.parse().unwrap(), port, &bound).map(|caveat| caveat.to_string())
    }

    #[test]
    fn an_address_that_the_port_is_not_published_on_is_doubted() {
        let words = caveat("10.0.0.7", &["172.17.0.1:6379"]).unwrap();
        assert!(
            words.starts_with("6379/tcp is published on 172.17.0.1:6379 and not on 10.0.0.7; "),
            "{words}"
        );
        let words = caveat("2001:db8::7", &["0.0.0.0:6379"]).unwrap();
        assert!(
            words.contains("on 0.0.0.0:6379 and not on 2001:db8::7"),
            "{words}"
        );
        let words = caveat("10.0.0.7", &["[::]:6379"]).unwrap();
        assert!(
            words.contains("on [::]:6379 and not on 10.0.0.7"),
            "{words}"
        );
        assert!(caveat("10.0.0.7", &["10.0.0.5:1", "10.0.0.6:2"]).is_some());
    }

    #[test]
    fn an_address_that_a_binding_takes_is_not_doubted_and_a_name_never() {
        for (host, bound) in [
            ("10.0.0.7", &["10.0.0.7:6379"][..]),
            ("10.0.0.7", &["0.0.0.0:6379"]),
            ("10.0.0.7", &["0.0.0.0:6379", "[::]:6379"]),
            ("2001:db8::7", &["0.0.0.0:6379", "[::]:6379"]),
            ("2001:db8::7", &["[2001:db8::7]:6379"]),
            ("::ffff:10.0.0.7", &["0.0.0.0:6379"]),
            ("10.0.0.7", &["[::ffff:10.0.0.7]:6379"]),
            ("worker-1", &["172.17.0.1:6379"]),
            ("worker-1", &["[::]:6379"]),
        ] {
            assert_eq!(caveat(host, bound), None, "{host} on {bound:?}");
        }
    }
}
