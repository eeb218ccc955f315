//! Which service listens where: the model of what HAProxy is to be. Pure.

use crate::agent::model::backends::{Backend, Servers};
use crate::agent::model::bind::Bind;
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

/// The name of the statistics page. No service can have it: see `render::proxy_name`.
pub const STATS: &str = "sidekick:stats";

/// One `listen` section of HAProxy: a service's address and its servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// Where clients dial.
    pub bind: Bind,
    /// Its servers, by instance.
    pub servers: Servers,
}

/// The listeners, by service. Persistent, as [`Servers`] are: a copy of the model costs nothing.
pub type Listeners = OrdMap<String, Listener>;

/// What HAProxy is to be, except for what never changes while the agent runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    /// Where the statistics page listens; `None`: nowhere.
    pub stats: Option<Bind>,
    /// By service.
    pub listeners: Listeners,
}

/// A listener that HAProxy cannot have, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefusedListener {
    /// The service, or [`STATS`].
    pub service: String,
    /// In words.
    pub why: String,
}

/// The operator's options that concern listeners.
#[derive(Debug, Clone, Default)]
pub struct ListenerRules {
    /// `--bind`: these listen whether or not the service has an instance, and come before others.
    pub binds: BTreeMap<String, Bind>,
    /// `--stats`.
    pub stats: Option<Bind>,
    /// Names of sections in the operator's own base file.
    pub reserved: BTreeSet<String>,
    /// Where those sections listen. HAProxy would bind one port twice, and clients would get one or the
    /// other.
    pub occupied: Vec<Bind>,
}

/// Assigns the listeners. `backed_off` are those that HAProxy failed to bind recently; `bound` are those
/// that it has.
///
/// Of several services that want one address, the first of these gets it: one with `--bind`; one with
/// servers that are not leaving; one that is bound there; the one whose oldest key is older; the one whose
/// name is smaller. So a new service takes no address from one that serves, and an empty one keeps none from
/// another. Without `--bind` a service does not get a port that an instance on this machine has, or recently
/// had.
#[must_use]
pub fn assign_listeners(
    rules: &ListenerRules,
    services: &BTreeMap<String, Backend>,
    backed_off: &BTreeMap<(String, Bind), String>,
    bound: &BTreeMap<String, Bind>,
) -> (Model, Vec<RefusedListener>) {
    let local_ports = services.iter().flat_map(|(service, it)| {
        let ports = it.local_ports.iter();
        ports.map(move |port| (*port, service.as_str()))
    });
    let mut assignment = PortAssignment {
        rules,
        backed_off,
        local_ports: local_ports.collect(),
        taken: BTreeMap::new(),
        refusals: Vec::new(),
    };
    let stats = rules.stats.filter(|bind| assignment.assign(STATS, *bind));
    let mut listeners = Listeners::new();
    for (service, bind) in &rules.binds {
        if assignment.assign(service, *bind) {
            let servers = services.get(service).map(|it| it.servers.clone());
            let servers = servers.unwrap_or_default();
            let bind = *bind;
            listeners.insert(service.clone(), Listener { bind, servers });
        }
    }
    let unrequested = services.iter().filter_map(|(service, it)| {
        let bind = Bind::Everywhere(NonZeroU16::new(it.port)?);
        let is_bound = bound.get(service) == Some(&bind);
        let rank = (!it.serves(), !is_bound, it.oldest(), service);
        (!rules.binds.contains_key(service)).then_some((rank, bind, &it.servers))
    });
    let mut unrequested: Vec<_> = unrequested.collect();
    unrequested.sort_unstable_by_key(|(rank, ..)| *rank);
    for ((_, is_new, _, service), bind, servers) in unrequested {
        if assignment.assign_unrequested(service, bind, is_new) {
            let servers = servers.clone();
            listeners.insert(service.clone(), Listener { bind, servers });
        }
    }
    (Model { stats, listeners }, assignment.refusals)
}

struct PortAssignment<'a> {
    rules: &'a ListenerRules,
    backed_off: &'a BTreeMap<(String, Bind), String>,
    /// Ports of instances on this machine, and of which service.
    local_ports: BTreeMap<u16, &'a str>,
    /// By port; the few on one port are looked at one by one.
    taken: BTreeMap<u16, Vec<(Bind, String)>>,
    refusals: Vec<RefusedListener>,
}

impl PortAssignment<'_> {
    /// `is_new`: HAProxy doesn't listen there yet.
    fn assign_unrequested(&mut self, service: &str, bind: Bind, is_new: bool) -> bool {
        let here = self.local_ports.get(&bind.port()).filter(|_| is_new);
        let Some(owner) = here else {
            return self.assign(service, bind);
        };
        let why = format!(
            "{bind} is the port of an instance on this machine ({owner}), which could not start again if \
             HAProxy listened there; say where to listen: --bind {service}=ADDRESS:PORT"
        );
        self.refuse(service, why)
    }

    fn assign(&mut self, service: &str, bind: Bind) -> bool {
        let on_port = self.taken.entry(bind.port()).or_default();
        let holder = on_port.iter().find(|(other, _)| bind.overlaps(*other));
        let why = if let Some((_, holder)) = holder {
            format!("{bind} is taken by {holder}")
        } else if self.rules.occupied.iter().any(|it| bind.overlaps(*it)) {
            format!("{bind} is taken by the base file")
        } else if self.rules.reserved.contains(service) {
            "the base file has a section of that name".to_owned()
        } else if let Some(why) = self.backed_off.get(&(service.to_owned(), bind)) {
            format!("{bind}: {why}")
        } else {
            on_port.push((bind, service.to_owned()));
            return true;
        };
        self.refuse(service, why)
    }

    fn refuse(&mut self, service: &str, why: String) -> bool {
        self.refusals.push(RefusedListener {
            service: service.to_owned(),
            why,
        });
        false
    }
}

impl Model {
    /// All listeners, the statistics page included.
    pub fn binds(&self) -> impl Iterator<Item = (&str, Bind)> {
        let stats = self.stats.map(|bind| (STATS, bind));
        stats.into_iter().chain(
            self.listeners
                .iter()
                .map(|(name, listener)| (name.as_str(), listener.bind)),
        )
    }

    /// Takes over the servers of the services. A service that is not among them has none.
    pub fn follow(&mut self, services: &BTreeMap<String, Backend>) {
        let none = Servers::new();
        let now = self.listeners.iter().map(|(service, listener)| {
            let servers = services.get(service).map_or(&none, |it| &it.servers);
            (service, listener, servers)
        });
        let others = now.filter(|(_, listener, servers)| listener.servers != **servers);
        let others = others.map(|(service, listener, servers)| {
            let (bind, servers) = (listener.bind, servers.clone());
            (service.clone(), Listener { bind, servers })
        });
        let others: Vec<_> = others.collect();
        self.listeners.extend(others);
    }

    /// How many servers there are.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.listeners
            .values()
            .map(|listener| listener.servers.len())
            .sum()
    }
}

#[cfg(test)]
mod tests;
