//! Services with their servers: instances, and the addresses of their host names. Pure.

mod last_server;

pub use last_server::DrainingInstance;

use crate::agent::model::allow::{AddressFilter, Allow};
use crate::agent::model::bind::Bind;
use crate::agent::model::host_addresses::HostAddresses;
use crate::catalog::RefusedInstance;
use crate::catalog::{Instance, Instances};
use crate::endpoint::Host;
use crate::membership::DesiredService;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use itertools::{EitherOrBoth, Itertools};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

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

/// The servers of one service, by instance. Persistent, as [`Instances`] are.
pub type Servers = OrdMap<String, Server>;

/// Names of instances, by service.
pub type InstanceNames = BTreeMap<String, BTreeSet<String>>;

/// A service as it is to be served.
#[derive(Debug, Clone, Default)]
pub struct Backend {
    /// Where clients dial it unless the operator said otherwise.
    pub port: u16,
    /// Instances whose address is known and not refused.
    pub servers: Servers,
    /// How many of them are leaving.
    pub leaving: usize,
    /// The ports that its instances have, or recently had, on this machine: if HAProxy listened there, an
    /// instance that is started again could not bind its own port.
    pub local_ports: BTreeSet<u16>,
    /// Instances whose address is refused, and why.
    refused: OrdMap<String, String>,
    instances: Instances,
    /// Instances whose values say that they drain, numbered in the order in which they began to.
    draining: BTreeMap<String, u64>,
    /// How many instances have begun to drain.
    drains: u64,
    /// The draining instance that goes on serving, for it is the last one that is up.
    last_up: Option<String>,
}

/// All services with their servers.
#[derive(Debug, Default)]
pub struct Backends {
    services: BTreeMap<String, Backend>,
    /// Host names, with the number of instances at each.
    hosts: OrdMap<String, usize>,
    address_filter: AddressFilter,
    unreported: Vec<RefusedInstance>,
    /// Instances that HAProxy's checks have down, by service.
    down: InstanceNames,
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
        // Then an instance that is the same may have another server, or none.
        let afresh = hosts_moved || own_addresses_changed || listeners_changed;
        let (filter, no_name) = (&self.address_filter, BTreeSet::new());
        let down = |service: &str| self.down.get(service).unwrap_or(&no_name);
        let (mut changed, mut new, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        let both = desired.merge_join_by(self.services.iter_mut(), |(a, _), (b, _)| (*a).cmp(*b));
        for pair in both {
            match pair {
                EitherOrBoth::Both((service, desired), (_, backend)) => {
                    let follows = !afresh && backend.follows(&desired);
                    if follows && !backend.has_draining() {
                        continue;
                    }
                    let before = backend.clone();
                    if !follows {
                        backend.follow(desired, afresh, addresses, filter);
                    }
                    if backend.keep_last_up(down(service)) || !follows {
                        changed.push((service.clone(), before));
                    }
                }
                EitherOrBoth::Left((service, desired)) => {
                    let mut backend = Backend::default();
                    backend.follow(desired, afresh, addresses, filter);
                    backend.keep_last_up(down(service));
                    new.push((service.clone(), backend));
                }
                EitherOrBoth::Right((service, _)) => gone.push(service.clone()),
            }
        }
        let hosts_before = self.hosts.clone();
        for (service, before) in changed {
            self.record(&service, &before);
        }
        for (service, backend) in new {
            self.services.insert(service.clone(), backend);
            self.record(&service, &Backend::default());
            self.listener_version += 1;
        }
        for service in gone {
            let before = self.services.remove(&service);
            self.record(&service, &before.unwrap_or_default());
            self.listener_version += 1;
        }
        let mut hosts = hosts_before.diff(&self.hosts);
        hosts.any(|change| !matches!(change, DiffItem::Update { .. }))
    }

    /// Records how a service differs from `before`.
    fn record(&mut self, service: &str, before: &Backend) {
        let none = Backend::default();
        let now = self.services.get(service).unwrap_or(&none);
        self.removal_version += u64::from(before.loses_a_server_to(now));
        self.listener_version += u64::from(before.listens_otherwise_than(now));
        for change in before.refused.diff(&now.refused) {
            if let DiffItem::Add(name, why)
            | DiffItem::Update {
                new: (name, why), ..
            } = change
            {
                self.unreported
                    .push(RefusedInstance::new(service, name, why));
            }
        }
        for change in before.instances.diff(&now.instances) {
            let (old, new) = sides(change);
            if let Some(name) = new.and_then(|(_, it)| host_name(it)) {
                *self.hosts.entry(name.clone()).or_default() += 1;
            }
            if let Some(name) = old.and_then(|(_, it)| host_name(it))
                && let Some(count) = self.hosts.get_mut(name)
            {
                *count -= 1;
                if *count == 0 {
                    self.hosts.remove(name);
                }
            }
        }
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
        self.hosts.keys()
    }
}

impl Backend {
    /// Whether it has a server that is not leaving.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.servers.len() > self.leaving
    }

    /// What it was made from: the instances that stand in etcd, or stood there if they are held or leaving.
    #[must_use]
    pub const fn instances(&self) -> &Instances {
        &self.instances
    }

    /// Why the address of that instance is refused; `None` where it isn't.
    #[must_use]
    pub fn refusal(&self, name: &str) -> Option<&String> {
        self.refused.get(name)
    }

    /// The smallest `create_revision` among its instances that stay.
    #[must_use]
    pub fn oldest(&self) -> i64 {
        let stay = self.instances.values().filter(|it| !it.leaving);
        let oldest = stay.map(|it| it.create_revision).min();
        oldest.unwrap_or(i64::MAX)
    }

    /// Whether that is what it was made from.
    fn follows(&self, desired: &DesiredService) -> bool {
        self.port == desired.port && self.instances == desired.instances
    }

    /// Follows `desired`. `afresh`: an instance that is the same may have another server. One whose host name has
    /// no address yet has none, nor has one that is refused.
    fn follow(
        &mut self,
        desired: DesiredService,
        afresh: bool,
        addresses: &HostAddresses,
        filter: &AddressFilter,
    ) {
        let servers_before = self.servers.clone();
        if afresh {
            (self.servers, self.leaving) = (Servers::new(), 0);
            self.refused.clear();
        }
        let seen = if afresh {
            Instances::new()
        } else {
            std::mem::take(&mut self.instances)
        };
        for change in seen.diff(&desired.instances) {
            let (old, new) = sides(change);
            if let Some((name, it)) = old {
                self.refused.remove(name);
                let is_gone = self.servers.remove(name).is_some();
                self.leaving -= usize::from(is_gone && it.leaving);
            }
            if let Some((name, it)) = new {
                self.add(name, it, addresses, filter);
            }
        }
        if afresh && self.servers == servers_before {
            // So that nothing is compared one by one again.
            self.servers = servers_before;
        }
        self.note_draining(&seen, &desired.instances);
        (self.port, self.instances) = (desired.port, desired.instances);
        self.forget_old_ports(filter);
    }

    fn add(
        &mut self,
        name: &str,
        it: &Instance,
        addresses: &HostAddresses,
        filter: &AddressFilter,
    ) {
        let Some(server) = server(it, addresses) else {
            return;
        };
        if let Some(why) = filter.refuses(server.address) {
            self.refused.insert(name.to_owned(), why);
            return;
        }
        if filter.is_local(server.address) {
            self.local_ports.insert(server.address.port());
        }
        self.leaving += usize::from(it.leaving);
        self.servers.insert(name.to_owned(), server);
    }

    /// Limits the ports that are remembered to those in use and some others.
    fn forget_old_ports(&mut self, filter: &AddressFilter) {
        if self.local_ports.len() <= MAX_LOCAL_PORTS {
            return;
        }
        let servers = self.servers.values().map(|server| server.address);
        let local = servers.filter(|address| filter.is_local(*address));
        let in_use: BTreeSet<_> = local.map(|address| address.port()).collect();
        let old: Vec<_> = self.local_ports.difference(&in_use).copied().collect();
        let surplus = self.local_ports.len() - MAX_LOCAL_PORTS;
        for port in old.into_iter().take(surplus) {
            self.local_ports.remove(&port);
        }
    }

    fn loses_a_server_to(&self, now: &Self) -> bool {
        let mut changes = self.servers.diff(&now.servers);
        changes.any(|change| matches!(change, DiffItem::Remove(..)))
    }

    /// Whether its listener may have to change.
    fn listens_otherwise_than(&self, now: &Self) -> bool {
        (self.port, self.serves()) != (now.port, now.serves())
            || !now.local_ports.is_subset(&self.local_ports)
    }
}

/// A name with its instance or server, before and after a change.
type Sides<'a, T> = (Option<(&'a String, &'a T)>, Option<(&'a String, &'a T)>);

fn sides<'a, T>(change: DiffItem<'a, 'a, String, T>) -> Sides<'a, T> {
    match change {
        DiffItem::Add(name, new) => (None, Some((name, new))),
        DiffItem::Update { old, new } => (Some(old), Some(new)),
        DiffItem::Remove(name, old) => (Some((name, old)), None),
    }
}

const fn host_name(it: &Instance) -> Option<&String> {
    match &it.host {
        Host::Name(name) => Some(name),
        Host::Ip(_) => None,
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
