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

fn wanted(port: u16, hosts: &[&str]) -> Wanted {
    let all = hosts.iter().enumerate();
    let all = all.map(|(n, host)| (format!("i{n}"), instance(host, port)));
    Wanted {
        port,
        instances: Arc::new(all.collect()),
    }
}

/// A service's servers, `-` for one without an address.
fn shows(directory: &Directory, service: &str) -> String {
    let servers = &directory.services()[service].servers;
    let all = servers.iter();
    let all = all.map(|(name, server)| format!("{name}={}", server.address));
    all.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_name_without_an_address_has_no_server_yet() {
    let (mut directory, mut addresses) = (Directory::default(), Addresses::default());
    let all = BTreeMap::from([("a".to_owned(), wanted(80, &["db1", "10.0.0.1"]))]);
    let list = || all.iter().map(|(name, wanted)| (name, wanted.clone()));
    assert!(directory.update(list(), &addresses));
    assert_eq!(shows(&directory, "a"), "i1=10.0.0.1:80");
    addresses.insert("db1".to_owned(), "10.0.0.9".parse().unwrap());
    assert!(!directory.update(list(), &addresses));
    assert_eq!(shows(&directory, "a"), "i0=10.0.0.9:80 i1=10.0.0.1:80");
}

proptest! {
    /// What is kept is what a directory that was never used before would work out, and a
    /// pointer stays the same if and only if nothing has changed.
    #[test]
    fn nothing_that_is_kept_is_stale(
        steps in prop::collection::vec((0..6u8, 0..3u8, prop::collection::vec(0..5u8, 0..3), 1..3u16), 1..30)
    ) {
        let (mut directory, mut addresses) = (Directory::default(), Addresses::default());
        let mut all: BTreeMap<String, Wanted> = BTreeMap::new();
        let mut hosts: Vec<String> = Vec::new();
        for (what, service, at, port) in steps {
            let service = format!("s{service}");
            match what {
                0 => drop(all.remove(&service)),
                1 => addresses.insert(format!("h{}", at.len()), IpAddr::from([10, 0, 0, service.as_bytes()[1]])),
                _ => {
                    let at: Vec<_> = at.iter().map(|n| if *n < 3 { format!("h{n}") } else { format!("10.1.0.{n}") }).collect();
                    let at: Vec<_> = at.iter().map(String::as_str).collect();
                    all.insert(service, wanted(port, &at));
                }
            }
            let list = || all.iter().map(|(name, wanted)| (name, wanted.clone()));
            let (before, shape) = (directory.services().clone(), directory.shape());
            let told = directory.update(list(), &addresses);
            let mut fresh = Directory::default();
            fresh.update(list(), &addresses);
            let plain = |d: &Directory| d.services().iter().map(|(n, s)| (n.clone(), s.port, s.servers.clone())).collect::<Vec<_>>();
            prop_assert_eq!(plain(&directory), plain(&fresh));
            prop_assert!(directory.hosts().eq(fresh.hosts()));
            prop_assert_eq!(told, !directory.hosts().eq(hosts.iter()));
            hosts = directory.hosts().cloned().collect();
            let ports = |all: &BTreeMap<String, Served>| all.iter().map(|(n, s)| (n.clone(), s.port, s.servers.is_empty())).collect::<Vec<_>>();
            prop_assert_eq!(shape == directory.shape(), ports(&before) == ports(directory.services()));
            for (service, now) in directory.services() {
                if let Some(before) = before.get(service) {
                    prop_assert_eq!(Arc::ptr_eq(&before.servers, &now.servers), before.servers == now.servers);
                }
            }
        }
    }
}
