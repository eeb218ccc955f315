//! The machine that the agent runs on: its addresses, and its limits as far as HAProxy's file depends on
//! them.

use super::config::{AgentConfig, HaproxyMode};
use crate::agent::haproxy::base_config::listener_maxconn;
use crate::agent::haproxy::render::FixedConfig;
use crate::agent::model::host_addresses::HostAddresses;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::process::Command;
use tokio::time::timeout;
use tracing::{debug, warn};

/// proc_pid_net(5): a unit with `ProcSubset=pid` has no other.
const IPV4: &str = "/proc/self/net/fib_trie";
const IPV6: &str = "/proc/self/net/if_inet6";

/// TEST-NET-1 and the documentation prefix (RFC 5737, RFC 3849): where a default route leads.
const ELSEWHERE: [(&str, &str); 2] = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];

/// All addresses of all interfaces but loopback ones, as the kernel has them now.
///
/// # Errors
/// The kernel's list of IPv4 addresses can't be read. (Without IPv6 there is no other.)
pub(crate) fn addresses() -> io::Result<BTreeSet<IpAddr>> {
    let four = std::fs::read_to_string(IPV4)?;
    let six = std::fs::read_to_string(IPV6).unwrap_or_default();
    let all = local_ipv4(&four).map(IpAddr::from);
    let all = all.chain(local_ipv6(&six).map(IpAddr::from));
    Ok(all.filter(|ip| !ip.is_loopback()).collect())
}

/// Updates the machine's own addresses; where they can't be read the old ones stay. Returns whether they
/// changed.
pub(crate) fn update(addresses: &mut HostAddresses) -> bool {
    match self::addresses() {
        Ok(own) => addresses.set_own(own),
        Err(error) => {
            debug!("can't read {IPV4}: {error}");
            false
        }
    }
}

/// The same at the start: logs a warning if there are no addresses.
pub(crate) fn begin(addresses: &mut HostAddresses) {
    update(addresses);
    if addresses.own().is_empty() {
        warn!(
            "this machine has no address but loopback, as far as {IPV4} says: instances on it are not \
             recognised, and those that are announced under its own name are not served"
        );
    }
}

/// The address of `own` that other machines most likely use: the source address of the default route, else
/// the first IPv4 address. Sends nothing: connect(2) on a datagram socket only looks up the route.
#[must_use]
pub(crate) fn usual(own: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let sources = ELSEWHERE.iter().filter_map(|(from, to)| {
        let socket = UdpSocket::bind(from).ok()?;
        socket.connect(to).ok()?;
        Some(socket.local_addr().ok()?.ip())
    });
    let mut sources = sources.filter(|ip| own.contains(ip));
    sources.next().or_else(|| own.first().copied())
}

/// The addresses that the routing table calls local: a line `|-- ADDRESS`, then `/32 host LOCAL`.
fn local_ipv4(trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut last = None;
    trie.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        }
        (line == "/32 host LOCAL").then_some(last).flatten()
    })
}

/// Each line begins with the address, in 32 hexadecimal digits.
fn local_ipv6(list: &str) -> impl Iterator<Item = Ipv6Addr> {
    list.lines().filter_map(|line| {
        let digits = line.split_whitespace().next()?;
        let bits = (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok());
        bits.flatten().map(Ipv6Addr::from_bits)
    })
}

/// How long `haproxy -vv` may take: it prints some lines.
const VERSION_DEADLINE: Duration = Duration::from_secs(2);

/// The part of HAProxy's file that never changes while the agent runs.
pub(crate) async fn fixed_config(config: &AgentConfig) -> FixedConfig {
    let socket = config.haproxy_mode.socket();
    FixedConfig {
        base: config.base.clone(),
        ipv6: has_ipv6(),
        idle: format!("{}.idle", socket.display()),
        listener_maxconn: listener_maxconn(&config.base, most_files()),
        // Of a HAProxy that another service manager runs it is not certain which program that is.
        exporter: matches!(config.haproxy_mode, HaproxyMode::Supervise(_))
            && has_exporter(&config.haproxy).await,
    }
}

/// Whether that HAProxy has the exporter for Prometheus built in; not, where it can't be run.
async fn has_exporter(haproxy: &Path) -> bool {
    let mut version = Command::new(haproxy);
    let version = version.arg("-vv").stdin(Stdio::null()).kill_on_drop(true);
    match timeout(VERSION_DEADLINE, version.output()).await {
        // The line "Available services : prometheus-exporter".
        Ok(Ok(told)) => String::from_utf8_lossy(&told.stdout).contains("prometheus-exporter"),
        _ => false,
    }
}

/// Whether the machine has IPv6: it has none with `ipv6.disable=1` on the kernel's command line.
fn has_ipv6() -> bool {
    TcpSocket::new_v6().is_ok()
}

/// How many files HAProxy may have open: it inherits the agent's limit (setrlimit(2)).
fn most_files() -> u64 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.maximum.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lists_are_read() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 127.0.0.0\n        /8 host LOCAL\n     |-- 192.0.2.2\n        /32 host LOCAL\n        |-- 192.0.2.255\n           /32 link BROADCAST\n";
        let four: Vec<_> = local_ipv4(trie).collect();
        assert_eq!(four, [Ipv4Addr::new(192, 0, 2, 2)]);
        let list = "fd000000000000000000000000000002 04 40 00 82     eth0\n00 x\n";
        let six: Vec<_> = local_ipv6(list).map(|ip| ip.to_string()).collect();
        assert_eq!(six, ["fd00::2"]);
    }

    #[test]
    fn every_address_of_this_machine_can_be_bound() {
        let own = addresses().unwrap();
        for ip in own.iter().filter(|ip| ip.is_ipv4()) {
            assert!(UdpSocket::bind((*ip, 0)).is_ok(), "{ip}");
        }
        assert!(!own.contains(&IpAddr::from(Ipv4Addr::LOCALHOST)));
        assert!(usual(&own).is_none_or(|ip| own.contains(&ip)));
    }
}
