//! Where each instance is: instances, and the addresses of the names among them → servers. Pure.
//!
//! What was worked out is kept, and worked out again only where something has changed: of ten
//! thousand instances usually one has.

use super::beside::beside;
use super::presence::Wanted;
use super::table::{Instance, Instances};
use crate::endpoint::Host;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Host names and their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses {
    by_name: BTreeMap<String, IpAddr>,
    /// How often anything has changed.
    changes: u64,
}

impl Addresses {
    /// Where that host is, if it is known.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<IpAddr> {
        self.by_name.get(name).copied()
    }

    /// How many hosts there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// Forgets the others.
    pub fn retain(&mut self, is_wanted: impl Fn(&String) -> bool) {
        let before = self.by_name.len();
        self.by_name.retain(|name, _| is_wanted(name));
        self.changes += u64::from(self.by_name.len() < before);
    }

    /// That host is there from now on.
    pub fn insert(&mut self, name: String, address: IpAddr) {
        if self.by_name.insert(name, address) != Some(address) {
            self.changes += 1;
        }
    }
}

impl FromIterator<(String, IpAddr)> for Addresses {
    fn from_iter<T: IntoIterator<Item = (String, IpAddr)>>(addresses: T) -> Self {
        Self {
            by_name: addresses.into_iter().collect(),
            changes: 0,
        }
    }
}

/// One address behind a front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where HAProxy dials.
    pub address: SocketAddr,
    /// Takes no new connections.
    pub draining: bool,
    /// The name that `address` was found under, if it had one.
    pub host: Option<String>,
}

/// The servers of one service, by instance.
pub type Servers = BTreeMap<String, Server>;

/// A service as it is to be served.
#[derive(Debug, Clone)]
pub struct Served {
    /// Where clients dial it unless the operator said otherwise.
    pub port: u16,
    /// Those whose address is known. The same pointer as long as nothing changes.
    pub servers: Arc<Servers>,
    made_of: Arc<Instances>,
}

/// All services with their servers.
#[derive(Debug, Default)]
pub struct Directory {
    services: BTreeMap<String, Served>,
    hosts: Hosts,
    /// The addresses' `changes` when last looked.
    changes: u64,
    shape: u64,
}

impl Directory {
    /// Follows `wanted`, which comes in the order of its names. Tells whether other hosts than before
    /// have to be resolved.
    pub fn update<'a>(
        &mut self,
        wanted: impl Iterator<Item = (&'a String, Wanted)>,
        addresses: &Addresses,
    ) -> bool {
        let moved = std::mem::replace(&mut self.changes, addresses.changes) != addresses.changes;
        let (mut other_hosts, mut names, mut new) = (false, Vec::new(), Vec::new());
        let wanted = wanted.inspect(|(service, _)| names.push(*service));
        for (service, wanted, before) in beside(wanted, self.services.iter_mut()) {
            if let Some(before) = &before
                && Arc::ptr_eq(&before.made_of, &wanted.instances)
                && before.port == wanted.port
                && !(moved && hosts(&before.made_of).next().is_some())
            {
                continue;
            }
            let servers = servers(&wanted.instances, addresses);
            other_hosts |= self.hosts.come(&wanted.instances);
            if let Some(before) = before {
                other_hosts |= self.hosts.go(&before.made_of);
                self.shape += u64::from(before.port != wanted.port);
                before.port = wanted.port;
                before.made_of = wanted.instances;
                if *before.servers != servers {
                    before.servers = Arc::new(servers);
                }
            } else {
                let served = Served {
                    port: wanted.port,
                    servers: Arc::new(servers),
                    made_of: wanted.instances,
                };
                new.push((service.clone(), served));
                self.shape += 1;
            }
        }
        self.services.extend(new);
        if names.len() < self.services.len() {
            self.shape += 1;
            self.services.retain(|service, served| {
                let stays = names.binary_search(&service).is_ok();
                other_hosts |= !stays && self.hosts.go(&served.made_of);
                stays
            });
        }
        other_hosts
    }

    /// The services, by name.
    #[must_use]
    pub const fn services(&self) -> &BTreeMap<String, Served> {
        &self.services
    }

    /// The same as long as no service comes, goes, or has another port.
    #[must_use]
    pub const fn shape(&self) -> u64 {
        self.shape
    }

    /// The hosts that have to be resolved.
    pub fn hosts(&self) -> impl Iterator<Item = &String> {
        self.hosts.0.keys()
    }
}

/// The names among the hosts, and how many instances are at each.
#[derive(Debug, Default)]
struct Hosts(BTreeMap<String, usize>);

impl Hosts {
    /// Whether any of them is new.
    fn come(&mut self, instances: &Instances) -> bool {
        let before = self.0.len();
        for name in hosts(instances) {
            match self.0.get_mut(name) {
                Some(count) => *count += 1,
                None => drop(self.0.insert(name.clone(), 1)),
            }
        }
        self.0.len() > before
    }

    /// Whether nobody is at any of them any more.
    fn go(&mut self, instances: &Instances) -> bool {
        let before = self.0.len();
        for name in hosts(instances) {
            if let Some(count) = self.0.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(name);
                }
            }
        }
        self.0.len() < before
    }
}

fn hosts(instances: &Instances) -> impl Iterator<Item = &String> {
    instances.values().filter_map(|it| match &it.host {
        Host::Name(name) => Some(name),
        Host::Ip(_) => None,
    })
}

/// An instance whose host has no address yet has no server.
fn servers(instances: &Instances, addresses: &Addresses) -> Servers {
    let server = |it: &Instance| {
        let (ip, host) = match &it.host {
            Host::Ip(ip) => (*ip, None),
            Host::Name(name) => (addresses.get(name)?, Some(name.clone())),
        };
        Some(Server {
            address: SocketAddr::new(ip, it.port.get()),
            draining: it.draining,
            host,
        })
    };
    let servers = instances.iter();
    let servers = servers.filter_map(|(name, it)| Some((name.clone(), server(it)?)));
    servers.collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use proptest::prelude::*;

    /// What stands in etcd at one key.
    pub(in crate::agent) fn instance(host: &str, port: u16) -> Instance {
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
                let ports = |all: &BTreeMap<String, Served>| all.iter().map(|(n, s)| (n.clone(), s.port)).collect::<Vec<_>>();
                prop_assert_eq!(shape == directory.shape(), ports(&before) == ports(directory.services()));
                for (service, now) in directory.services() {
                    if let Some(before) = before.get(service) {
                        prop_assert_eq!(Arc::ptr_eq(&before.servers, &now.servers), before.servers == now.servers);
                    }
                }
            }
        }
    }
}
