//! Which addresses an instance may have. Pure.

use crate::agent::model::bind::Bind;
use crate::endpoint::Host;
use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// A network in CIDR notation (RFC 4632, RFC 4291 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many leading bits an address shares with `address`; 32 or 128 at most.
    bits: u8,
}

impl Network {
    /// Whether the network holds that address. An IPv4 network holds no IPv6 address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip) {
            (IpAddr::V4(own), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits));
                (own.to_bits() ^ ip.to_bits()) & mask.unwrap_or_default() == 0
            }
            (IpAddr::V6(own), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits));
                (own.to_bits() ^ ip.to_bits()) & mask.unwrap_or_default() == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    /// `10.0.0.0/8`, `fd00::/8`; a bare address is a network of one.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no network; write 10.0.0.0/8, fd00::/8 or 10.0.0.7");
        let (address, bits) = text
            .split_once('/')
            .map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(all), |bits| bits.parse().ok());
        match bits.filter(|bits| *bits <= all) {
            Some(bits) => Ok(Self { address, bits }),
            None => Err(wrong()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// `--allow`: the networks that instances may be in; empty: every address that another machine can
/// reach.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allow(pub Vec<Network>);

impl Allow {
    /// Why no instance may have that address: it is loopback, link-local, unspecified or multicast, or
    /// outside the allowed networks. `None`: it may.
    #[must_use]
    pub fn refuses(&self, ip: IpAddr) -> Option<String> {
        if let Err(why) = Host::of_ip(ip) {
            return Some(why.to_string());
        }
        let inside = self.0.is_empty() || self.0.iter().any(|network| network.contains(ip));
        (!inside).then(|| format!("{ip} is outside the networks of --allow"))
    }
}

/// What decides whether an instance may have an address.
#[derive(Debug, Default)]
pub(crate) struct AddressFilter {
    allow: Allow,
    /// The addresses of this machine.
    own: Arc<BTreeSet<IpAddr>>,
    /// Where the agent's HAProxy listens, or is to listen, and on which ports.
    listeners: Vec<Bind>,
    ports: BTreeSet<u16>,
    listeners_changed: bool,
}

impl AddressFilter {
    pub(crate) fn new(allow: Allow) -> Self {
        Self {
            allow,
            ..Self::default()
        }
    }

    /// Sets where HAProxy listens. Returns whether that changed.
    pub(crate) fn set_listeners(&mut self, listeners: impl Iterator<Item = Bind> + Clone) -> bool {
        let different = !listeners.clone().eq(self.listeners.iter().copied());
        if different {
            self.listeners = listeners.collect();
            self.ports = self.listeners.iter().map(|it| it.port()).collect();
            self.listeners_changed = true;
        }
        different
    }

    /// Whether the listeners have changed since the last call.
    pub(crate) fn take_listeners_changed(&mut self) -> bool {
        std::mem::take(&mut self.listeners_changed)
    }

    /// Sets the machine's addresses. Returns whether they changed.
    pub(crate) fn set_own_addresses(&mut self, own: &Arc<BTreeSet<IpAddr>>) -> bool {
        let before = std::mem::replace(&mut self.own, own.clone());
        !Arc::ptr_eq(&before, own) && before != *own
    }

    /// Whether the address is one of this machine's.
    pub(crate) fn is_local(&self, address: SocketAddr) -> bool {
        self.own.contains(&address.ip())
    }

    /// Why no client may be sent to that address; `None` if one may.
    pub(crate) fn refuses(&self, address: SocketAddr) -> Option<String> {
        let at = Bind::At(address);
        let is_listener = self.is_local(address)
            && self.ports.contains(&address.port())
            && self.listeners.iter().any(|bind| bind.overlaps(at));
        if is_listener {
            return Some(format!(
                "{address} is a listener of this agent's HAProxy, which would dial itself; announce \
                 the instance's own port, or move the listener with --bind"
            ));
        }
        self.allow.refuses(address.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_shares_its_leading_bits() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.0.0.7", "10.0.0.7", "10.0.0.8"),
            ("0.0.0.0/0", "203.0.113.1", "fd00::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(
                network.contains(inside.parse().unwrap()),
                "{network} {inside}"
            );
            assert!(
                !network.contains(outside.parse().unwrap()),
                "{network} {outside}"
            );
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0/8",
            "db/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_only_this_machine_or_this_link_can_reach_is_refused_whatever_is_allowed() {
        let all = Allow(vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()]);
        for ip in [
            "127.0.0.1",
            "127.0.1.1",
            "::1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::ffff:127.0.0.1",
            "::ffff:169.254.0.1",
        ] {
            assert!(all.refuses(ip.parse().unwrap()).is_some(), "{ip}");
        }
        assert_eq!(all.refuses("10.0.0.1".parse().unwrap()), None);
        let some = Allow(vec!["10.0.0.0/8".parse().unwrap()]);
        assert!(some.refuses("192.0.2.1".parse().unwrap()).is_some());
    }
}
