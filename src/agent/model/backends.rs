//! Services with their servers: instances, and the addresses of their host names. Pure.
//!
//! A service is worked out again only if something of it has changed: of ten thousand instances usually one
//! has.

use crate::agent::model::allow::{AddressFilter, Allow};
use crate::agent::model::bind::Bind;
use crate::agent::model::host_addresses::HostAddresses;
use crate::agent::model::membership::DesiredService;
use crate::catalog::RefusedInstance;
use crate::catalog::{Instance, Instances};
use crate::endpoint::Host;
use itertools::{EitherOrBoth, Itertools};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// How many ports a service's instances had on this machine are remembered.
const MAX_LOCAL_PORTS: usize = 64;

/// One server of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Where HAProxy dials.
    pub address: SocketAddr,
    /// Takes no new connections.
    pub draining: bool,
    /// The host name that `address` was resolved from, if the key has a name.
    pub host: Option<String>,
}

/// The servers of one service, by instance.
pub type Servers = BTreeMap<String, Server>;

/// A service as it is to be served.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Where clients dial it unless the operator said otherwise.
    pub port: u16,
    /// Instances whose address is known and not refused. The same pointer as long as nothing changes.
    pub servers: Arc<Servers>,
    /// How many of them are leaving.
    pub leaving: usize,
    /// The `create_revision` of its oldest key.
    pub oldest: i64,
    /// The ports that its instances have, or recently had, on this machine: if HAProxy listened there, an
    /// instance that is started again could not bind its own port.
    pub local_ports: BTreeSet<u16>,
    /// Instances whose address is refused, and why.
    refused: BTreeMap<String, String>,
    /// Whether any of its instances, refused or not, is on this machine.
    is_local: bool,
    instances: Arc<Instances>,
}

/// All services with their servers.
#[derive(Debug, Default)]
pub struct Backends {
    services: BTreeMap<String, Backend>,
    hosts: HostCounts,
    address_filter: AddressFilter,
    unreported: Vec<RefusedInstance>,
    /// `HostAddresses::version` at the last update.
    version: u64,
    listener_version: u64,
    removal_version: u64,
}

impl Backends {
    /// Empty; serves only what `allow` lets through.
    #[must_use]
    pub fn new(allow: Allow) -> Self {
        Self {
            address_filter: AddressFilter::new(allow),
            ..Self::default()
        }
    }

    /// Sets where the agent's HAProxy listens, or is to listen: an instance at such an address would be
    /// HAProxy itself. Returns whether that changed.
    pub fn set_listeners(&mut self, listeners: impl Iterator<Item = Bind> + Clone) -> bool {
        self.address_filter.set_listeners(listeners)
    }

    /// Follows `desired`, which comes in the order of its names. Returns whether other host names than
    /// before have to be resolved.
    pub fn update<'a>(
        &mut self,
        desired: impl Iterator<Item = (&'a String, DesiredService)>,
        addresses: &HostAddresses,
    ) -> bool {
        let hosts_moved =
            std::mem::replace(&mut self.version, addresses.version) != addresses.version;
        let own_addresses_changed = self.address_filter.set_own_addresses(&addresses.own);
        let listeners_changed = self.address_filter.take_listeners_changed();
        let (mut other_hosts, mut new, mut gone) = (false, Vec::new(), Vec::new());
        let both = desired.merge_join_by(self.services.iter_mut(), |(a, _), (b, _)| (*a).cmp(*b));
        for pair in both {
            let (service, desired, before) = match pair {
                EitherOrBoth::Both((service, desired), (_, before)) => {
                    (service, desired, Some(before))
                }
                EitherOrBoth::Left((service, desired)) => (service, desired, None),
                EitherOrBoth::Right((service, _)) => {
                    gone.push(service.clone());
                    continue;
                }
            };
            if let Some(before) = &before
                && Arc::ptr_eq(&before.instances, &desired.instances)
                && before.port == desired.port
                && !own_addresses_changed
                && !(listeners_changed && before.is_local)
                && !(hosts_moved && hosts(&before.instances).next().is_some())
            {
                continue;
            }
            other_hosts |= self.hosts.add(&desired.instances);
            let now = backend(desired, addresses, &self.address_filter);
            let known = before.as_ref().map(|before| &before.refused);
            let is_new = |(name, why): &(&String, &String)| {
                known.and_then(|known| known.get(*name)) != Some(*why)
            };
            let unreported = now.refused.iter().filter(is_new);
            let unreported = unreported.map(|(name, why)| RefusedInstance::new(service, name, why));
            self.unreported.extend(unreported);
            if let Some(before) = before {
                other_hosts |= self.hosts.remove(&before.instances);
                let goes = |name| !now.servers.contains_key(name);
                self.removal_version += u64::from(before.servers.keys().any(goes));
                self.listener_version += u64::from(before.replace_with(now));
            } else {
                new.push((service.clone(), now));
                self.listener_version += 1;
            }
        }
        self.services.extend(new);
        if !gone.is_empty() {
            self.listener_version += 1;
            self.removal_version += 1;
            // After the others were added: a name that moves to another service stays.
            self.services.retain(|service, backend| {
                let stays = gone.binary_search(service).is_err();
                other_hosts |= !stays && self.hosts.remove(&backend.instances);
                stays
            });
        }
        other_hosts
    }

    /// Instances that were refused since the last call; one again only for another reason.
    pub fn take_refused(&mut self) -> Vec<RefusedInstance> {
        std::mem::take(&mut self.unreported)
    }

    /// How many instances are refused.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.services.values().map(|it| it.refused.len()).sum()
    }

    /// The services, by name.
    #[must_use]
    pub const fn services(&self) -> &BTreeMap<String, Backend> {
        &self.services
    }

    /// How many servers are leaving.
    #[must_use]
    pub fn leaving(&self) -> usize {
        self.services.values().map(|it| it.leaving).sum()
    }

    /// Changes when a server is removed.
    #[must_use]
    pub const fn removal_version(&self) -> u64 {
        self.removal_version
    }

    /// Changes when a service comes, goes, gets another port, begins to serve or stops, or gets an instance
    /// at another port of this machine: when its listener may change.
    #[must_use]
    pub const fn listener_version(&self) -> u64 {
        self.listener_version
    }

    /// The host names to resolve.
    pub fn hosts(&self) -> impl Iterator<Item = &String> {
        self.hosts.0.keys()
    }
}

/// Host names, with the number of instances at each.
#[derive(Debug, Default)]
struct HostCounts(BTreeMap<String, usize>);

impl HostCounts {
    /// Adds the instances' names; returns whether any is new.
    fn add(&mut self, instances: &Instances) -> bool {
        let before = self.0.len();
        for name in hosts(instances) {
            match self.0.get_mut(name) {
                Some(count) => *count += 1,
                None => drop(self.0.insert(name.clone(), 1)),
            }
        }
        self.0.len() > before
    }

    /// Removes the instances' names; returns whether any is unused now.
    fn remove(&mut self, instances: &Instances) -> bool {
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

impl Backend {
    /// Whether it has a server that is not leaving.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.servers.len() > self.leaving
    }

    /// Takes over `now`. Returns whether its listener may change.
    fn replace_with(&mut self, now: Self) -> bool {
        let differs = self.port != now.port || self.serves() != now.serves();
        let is_elsewhere = !now.local_ports.is_subset(&self.local_ports);
        self.local_ports.extend(&now.local_ports);
        let most = MAX_LOCAL_PORTS.max(now.local_ports.len());
        while self.local_ports.len() > most
            && let Some(old) = self
                .local_ports
                .difference(&now.local_ports)
                .next()
                .copied()
        {
            self.local_ports.remove(&old);
        }
        if *self.servers != *now.servers {
            self.servers = now.servers;
        }
        self.port = now.port;
        self.leaving = now.leaving;
        self.oldest = now.oldest;
        self.refused = now.refused;
        self.is_local = now.is_local;
        self.instances = now.instances;
        differs || is_elsewhere
    }
}

/// Works out a service's servers: an instance whose host name has no address yet has none, nor has one that
/// is refused.
fn backend(
    desired: DesiredService,
    addresses: &HostAddresses,
    address_filter: &AddressFilter,
) -> Backend {
    let (mut servers, mut refused) = (Servers::new(), BTreeMap::new());
    let (mut local_ports, mut is_local) = (BTreeSet::new(), false);
    let mut leaving = 0;
    for (name, it) in &*desired.instances {
        let Some(server) = server(it, addresses) else {
            continue;
        };
        let here = address_filter.is_local(server.address);
        is_local |= here;
        if let Some(why) = address_filter.refuses(server.address) {
            refused.insert(name.clone(), why);
            continue;
        }
        if here {
            local_ports.insert(server.address.port());
        }
        leaving += usize::from(it.leaving);
        servers.insert(name.clone(), server);
    }
    let stay = desired.instances.values().filter(|it| !it.leaving);
    let oldest = stay.map(|it| it.create_revision).min();
    Backend {
        port: desired.port,
        servers: Arc::new(servers),
        leaving,
        oldest: oldest.unwrap_or(i64::MAX),
        local_ports,
        refused,
        is_local,
        instances: desired.instances,
    }
}

fn server(it: &Instance, addresses: &HostAddresses) -> Option<Server> {
    let (ip, host) = match &it.host {
        Host::Ip(ip) => (*ip, None),
        Host::Name(name) => (addresses.get(name)?, Some(name.clone())),
    };
    Some(Server {
        address: SocketAddr::new(ip, it.port.get()),
        draining: it.draining || it.leaving,
        host,
    })
}

#[cfg(test)]
pub(crate) mod tests;
