//! Instances and addresses to servers.

use super::*;
use crate::endpoint::Endpoint;
use proptest::prelude::*;
use std::net::IpAddr;

/// What stands in etcd at one key.
pub(crate) fn instance(host: &str, port: u16) -> Instance {
    let value = format!(r#"{{"host":"{host}","port":{port}}}"#);
    Instance::new(Endpoint::decode(value.as_bytes()).unwrap(), 1)
}

fn desired(port: u16, hosts: &[&str]) -> DesiredService {
    let all = hosts.iter().enumerate();
    let all = all.map(|(n, host)| (format!("i{n}"), instance(host, port)));
    DesiredService {
        port,
        instances: all.collect(),
    }
}

/// A service's servers, `-` for one without an address.
fn shows(backends: &Backends, service: &str) -> String {
    let servers = &backends.services()[service].servers;
    let all = servers.iter();
    let all = all.map(|(name, server)| format!("{name}={}", server.address));
    all.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_name_without_an_address_has_no_server_yet() {
    let (mut backends, mut addresses) = (Backends::default(), HostAddresses::default());
    let all = BTreeMap::from([("a".to_owned(), desired(80, &["db1", "10.0.0.1"]))]);
    let list = || all.iter().map(|(name, desired)| (name, desired.clone()));
    assert!(backends.update(list(), &addresses));
    assert_eq!(shows(&backends, "a"), "i1=10.0.0.1:80");
    addresses.insert("db1".to_owned(), "10.0.0.9".parse().unwrap());
    assert!(!backends.update(list(), &addresses));
    assert_eq!(shows(&backends, "a"), "i0=10.0.0.9:80 i1=10.0.0.1:80");
}

proptest! {
    /// What is followed step by step is what would be worked out at once.
    #[test]
    fn nothing_that_is_kept_is_stale(
        steps in prop::collection::vec((0..6u8, 0..3u8, prop::collection::vec(0..5u8, 0..3), 1..3u16), 1..30)
    ) {
        let (mut backends, mut addresses) = (Backends::default(), HostAddresses::default());
        let mut all: BTreeMap<String, DesiredService> = BTreeMap::new();
        let mut hosts: Vec<String> = Vec::new();
        for (what, service, at, port) in steps {
            let service = format!("s{service}");
            match what {
                0 => drop(all.remove(&service)),
                1 => addresses.insert(format!("h{}", at.len()), IpAddr::from([10, 0, 0, service.as_bytes()[1]])),
                _ => {
                    let at: Vec<_> = at.iter().map(|n| if *n < 3 { format!("h{n}") } else { format!("10.1.0.{n}") }).collect();
                    let at: Vec<_> = at.iter().map(String::as_str).collect();
                    all.insert(service, desired(port, &at));
                }
            }
            let list = || all.iter().map(|(name, desired)| (name, desired.clone()));
            let (before, listener_version) = (backends.services().clone(), backends.listener_version());
            let told = backends.update(list(), &addresses);
            let mut fresh = Backends::default();
            fresh.update(list(), &addresses);
            let plain = |d: &Backends| d.services().iter().map(|(n, s)| (n.clone(), s.port, s.servers.clone())).collect::<Vec<_>>();
            prop_assert_eq!(plain(&backends), plain(&fresh));
            prop_assert!(backends.hosts().eq(fresh.hosts()));
            prop_assert_eq!(told, !backends.hosts().eq(hosts.iter()));
            hosts = backends.hosts().cloned().collect();
            let ports = |all: &BTreeMap<String, Backend>| all.iter().map(|(n, s)| (n.clone(), s.port, s.servers.is_empty())).collect::<Vec<_>>();
            prop_assert_eq!(listener_version == backends.listener_version(), ports(&before) == ports(backends.services()));
        }
    }
}
