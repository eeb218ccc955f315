//! Where each instance is: instances, and the addresses of the names among them → servers. Pure.
//!
//! What was worked out is kept, and worked out again only where something has changed: of ten
//! thousand instances usually one has.

use crate::agent::model::allow::{Admission, Allow};
use crate::agent::model::bind::Bind;
use crate::agent::model::host_addresses::Addresses;
use crate::agent::model::membership::Wanted;
use crate::catalog::Refused;
use crate::catalog::{Instance, Instances};
use crate::endpoint::Host;
use itertools::{EitherOrBoth, Itertools};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

/// Of how many ports a service is remembered that its instances had them on this machine.
const PORTS_REMEMBERED: usize = 64;

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
    /// Those whose address is known, and isn't refused. The same pointer as long as nothing changes.
    pub servers: Arc<Servers>,
    /// How many of them are leaving. A service with no other serves no client.
    pub leaving: usize,
    /// The `create_revision` of its oldest key.
    pub oldest: i64,
    /// The ports that its instances have, or lately had, on this machine: HAProxy would keep an
    /// instance that is started again from binding its own.
    pub ports_here: BTreeSet<u16>,
    /// Instances whose address no client may be sent to, and why.
    refused: BTreeMap<String, String>,
    /// Whether any of its instances, refused or not, is on this machine.
    is_here: bool,
    made_of: Arc<Instances>,
}

/// All services with their servers.
#[derive(Debug, Default)]
pub struct Directory {
    services: BTreeMap<String, Served>,
    hosts: Hosts,
    admission: Admission,
    untold: Vec<Refused>,
    /// The addresses' `changes` when last looked.
    changes: u64,
    shape: u64,
    ends: u64,
}

impl Directory {
    /// Empty. Serves only what `allow` lets through.
    #[must_use]
    pub fn new(allow: Allow) -> Self {
        Self {
            admission: Admission::new(allow),
            ..Self::default()
        }
    }

    /// Where the agent's HAProxy listens from now on, or was told to: an instance there would be
    /// HAProxy itself. Tells whether that is different.
    pub fn listens(&mut self, listeners: impl Iterator<Item = Bind> + Clone) -> bool {
        self.admission.listens(listeners)
    }

    /// Follows `wanted`, which comes in the order of its names. Tells whether other hosts than before
    /// have to be resolved.
    pub fn update<'a>(
        &mut self,
        wanted: impl Iterator<Item = (&'a String, Wanted)>,
        addresses: &Addresses,
    ) -> bool {
        let moved = std::mem::replace(&mut self.changes, addresses.changes) != addresses.changes;
        let elsewhere = self.admission.moves(&addresses.own);
        let rebound = self.admission.is_rebound();
        let (mut other_hosts, mut new, mut gone) = (false, Vec::new(), Vec::new());
        let both = wanted.merge_join_by(self.services.iter_mut(), |(a, _), (b, _)| (*a).cmp(*b));
        for pair in both {
            let (service, wanted, before) = match pair {
                EitherOrBoth::Both((service, wanted), (_, before)) => {
                    (service, wanted, Some(before))
                }
                EitherOrBoth::Left((service, wanted)) => (service, wanted, None),
                EitherOrBoth::Right((service, before)) => {
                    other_hosts |= self.hosts.go(&before.made_of);
                    gone.push(service.clone());
                    continue;
                }
            };
            if let Some(before) = &before
                && Arc::ptr_eq(&before.made_of, &wanted.instances)
                && before.port == wanted.port
                && !elsewhere
                && !(rebound && before.is_here)
                && !(moved && hosts(&before.made_of).next().is_some())
            {
                continue;
            }
            other_hosts |= self.hosts.come(&wanted.instances);
            let now = served(wanted, addresses, &self.admission);
            let known = before.as_ref().map(|before| &before.refused);
            let is_new = |(name, why): &(&String, &String)| {
                known.and_then(|known| known.get(*name)) != Some(*why)
            };
            let untold = now.refused.iter().filter(is_new);
            let untold = untold.map(|(name, why)| Refused::new(service, name, why));
            self.untold.extend(untold);
            if let Some(before) = before {
                other_hosts |= self.hosts.go(&before.made_of);
                let goes = |name| !now.servers.contains_key(name);
                self.ends += u64::from(before.servers.keys().any(goes));
                self.shape += u64::from(before.becomes(now));
            } else {
                new.push((service.clone(), now));
                self.shape += 1;
            }
        }
        self.services.extend(new);
        if !gone.is_empty() {
            (self.shape, self.ends) = (self.shape + 1, self.ends + 1);
            self.services
                .retain(|service, _| gone.binary_search(service).is_err());
        }
        other_hosts
    }

    /// Instances that were refused since this was last asked; one again only for another reason.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.untold)
    }

    /// How many instances are refused.
    #[must_use]
    pub fn refused(&self) -> usize {
        self.services.values().map(|it| it.refused.len()).sum()
    }

    /// The services, by name.
    #[must_use]
    pub const fn services(&self) -> &BTreeMap<String, Served> {
        &self.services
    }

    /// How many servers are leaving.
    #[must_use]
    pub fn leaving(&self) -> usize {
        self.services.values().map(|it| it.leaving).sum()
    }

    /// The same as long as no server goes.
    #[must_use]
    pub const fn ends(&self) -> u64 {
        self.ends
    }

    /// The same as long as no service comes, goes, has another port, begins to serve or serves no more,
    /// or has an instance at another port of this machine.
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

impl Served {
    /// Whether it has a server that isn't leaving.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.servers.len() > self.leaving
    }

    /// Is that from now on. Tells whether it may listen elsewhere now.
    fn becomes(&mut self, now: Self) -> bool {
        let differs = self.port != now.port || self.serves() != now.serves();
        let is_elsewhere = !now.ports_here.is_subset(&self.ports_here);
        self.ports_here.extend(&now.ports_here);
        let most = PORTS_REMEMBERED.max(now.ports_here.len());
        while self.ports_here.len() > most
            && let Some(old) = self.ports_here.difference(&now.ports_here).next().copied()
        {
            self.ports_here.remove(&old);
        }
        if *self.servers != *now.servers {
            self.servers = now.servers;
        }
        self.port = now.port;
        self.leaving = now.leaving;
        self.oldest = now.oldest;
        self.refused = now.refused;
        self.is_here = now.is_here;
        self.made_of = now.made_of;
        differs || is_elsewhere
    }
}

/// An instance whose host has no address yet has no server, and neither has one that is refused.
fn served(wanted: Wanted, addresses: &Addresses, admission: &Admission) -> Served {
    let (mut servers, mut refused) = (Servers::new(), BTreeMap::new());
    let (mut ports_here, mut is_here) = (BTreeSet::new(), false);
    let mut leaving = 0;
    for (name, it) in &*wanted.instances {
        let Some(server) = server(it, addresses) else {
            continue;
        };
        let here = admission.is_here(server.address);
        is_here |= here;
        if let Some(why) = admission.refuses(server.address) {
            refused.insert(name.clone(), why);
            continue;
        }
        if here {
            ports_here.insert(server.address.port());
        }
        leaving += usize::from(it.leaving);
        servers.insert(name.clone(), server);
    }
    let stay = wanted.instances.values().filter(|it| !it.leaving);
    let oldest = stay.map(|it| it.create_revision).min();
    Served {
        port: wanted.port,
        servers: Arc::new(servers),
        leaving,
        oldest: oldest.unwrap_or(i64::MAX),
        ports_here,
        refused,
        is_here,
        made_of: wanted.instances,
    }
}

fn server(it: &Instance, addresses: &Addresses) -> Option<Server> {
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
