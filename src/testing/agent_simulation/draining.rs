//! What the agent says of the instances that drain, held against the fake HAProxy's sessions.

use super::{AgentScene, Totals};
use crate::agent::control_loop::draining::ControlKeys;
use crate::agent::haproxy::server_state::{DRAIN, MAINTENANCE};
use crate::agent::model::backends::DrainingInstance;
use crate::endpoint::Host;
use crate::endpoint::control::{ControlKey, ControlPrefix, DrainWord, InstanceName};
use crate::testing::fake_haproxy::now_or_never;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

fn target(it: DrainingInstance<'_>) -> (InstanceName, Option<SocketAddr>) {
    let name = InstanceName::new(it.service, it.name).unwrap();
    (name, it.address)
}

/// The words among the keys that the agent wants to be in etcd.
fn words(keys: &ControlKeys) -> BTreeMap<InstanceName, DrainWord> {
    let control = ControlPrefix::of("/services");
    let words = keys.iter().filter_map(|(key, value)| {
        let Some(ControlKey::Word(_, name)) = control.parse(key.as_bytes()) else {
            return None;
        };
        Some((name, DrainWord::decode(value.as_bytes())?))
    });
    words.collect()
}

impl AgentScene {
    /// As `ControlLoop::run` does. A word that is given at a look is true at that moment.
    pub(super) fn look(&mut self, totals: &mut Totals) -> Result<(), String> {
        let draining = self.agent.desired.backends.draining().map(target);
        self.drained_at
            .extend(draining.filter_map(|(name, at)| Some((name, at?))));
        let before = self.control_keys.borrow().clone();
        now_or_never(self.agent.look(self.now));
        let after = self.control_keys.borrow().clone();
        if after == before {
            return Ok(());
        }
        let before = words(&before);
        for (name, word) in words(&after) {
            if before.get(&name) == Some(&word) || word.alone {
                continue;
            }
            totals.words += 1;
            let Some(now) = self.address(&word) else {
                continue;
            };
            // A name may have another address by now than the one that was drained; a key, another name.
            let then = self.drained_at.get(&name).copied();
            let then = then.filter(|it| it.port() == word.port.get());
            let addresses = [now].into_iter().chain(then);
            let untrue: Vec<_> = addresses
                .map(|address| self.untrue(&name, address))
                .collect();
            if untrue.iter().all(Option::is_some) {
                return Err(format!("{word:?} about {name}, and {untrue:?}"));
            }
        }
        Ok(())
    }

    /// Why it isn't true that this instance is drained at that address.
    fn untrue(&mut self, name: &InstanceName, address: SocketAddr) -> Option<String> {
        let sessions = self.world().sessions.with(address);
        let takes = self.takes_connections(Some(&name.service), address);
        (sessions > 0 || takes).then(|| {
            format!("{sessions} sessions with {address}, which takes connections: {takes}")
        })
    }

    /// The address that a word is about. That of its instance may be another by now: a younger container's.
    fn address(&self, word: &DrainWord) -> Option<SocketAddr> {
        let ip = match &word.host {
            Host::Ip(ip) => *ip,
            Host::Name(name) => self.addresses.borrow().get(name)?,
        };
        Some(SocketAddr::new(ip, word.port.get()))
    }

    /// Whether a server with that address takes connections, of that service or of any.
    fn takes_connections(&mut self, service: Option<&str>, address: SocketAddr) -> bool {
        let backends = self.world().servers.0.iter();
        let its = backends.filter(|(name, _)| service.is_none_or(|it| it == name.as_str()));
        let mut at = its.flat_map(|(_, servers)| servers.values());
        at.any(|it| {
            it.address == Some(address) && it.weight > 0 && it.admin & (DRAIN | MAINTENANCE) == 0
        })
    }

    /// In the end there is a word about each instance that drains and about no other; and of each service that has an
    /// instance that is up, a server takes connections.
    pub(super) fn every_drain_is_over(&mut self) -> Result<(), String> {
        let words = words(&self.control_keys.borrow());
        let words: BTreeSet<_> = words.into_keys().collect();
        let draining: Vec<_> = self.agent.desired.backends.draining().map(target).collect();
        // One of which the address is also another's, who takes connections, is never drained.
        let draining = draining.into_iter().filter(|(name, address)| {
            words.contains(name) || address.is_none_or(|it| !self.takes_connections(None, it))
        });
        let draining: BTreeSet<_> = draining.map(|(name, _)| name).collect();
        if words != draining {
            return Err(format!("words about {words:?}, and {draining:?} drain"));
        }
        let there = self.agent.desired.catalog.services();
        let backends = self.world().servers.0.clone();
        for (service, instances) in &there {
            let servers = backends.get(service).into_iter().flatten();
            let servers =
                servers.filter(|(name, _)| instances.contains_key(&name.replace("::", "@")));
            let up: Vec<_> = servers.filter(|(_, it)| !it.down).collect();
            let takes = |it: &&(&String, &crate::agent::haproxy::server_state::ServerState)| {
                it.1.weight > 0 && it.1.admin & (DRAIN | MAINTENANCE) == 0
            };
            if !up.is_empty() && !up.iter().any(|it| takes(&it)) {
                return Err(format!("no server of {service} takes connections: {up:?}"));
            }
        }
        Ok(())
    }
}
