//! Keys that disappear for a moment, health checks that change, and how long an instance keeps its
//! connections that left etcd.

use super::{AgentScene, RETENTION, Totals};
use crate::agent::haproxy::render::proxy_name;
use crate::clock::Moment;
use crate::endpoint::Host;
use crate::testing::fake_haproxy::now_or_never;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct LeavingServers {
    /// All instances that the agent knows, by HAProxy's names.
    there: BTreeMap<String, (Host, u16)>,
    /// Those whose values say that they drain: their time has begun already.
    draining: BTreeSet<String>,
    /// Instances whose keys are gone: where they were, and until when their servers must not be removed.
    until: BTreeMap<String, (Host, u16, Moment)>,
    /// Servers that a check has found down.
    down: BTreeSet<String>,
    /// A key that comes back then, as it was.
    back: Option<(Moment, String, String)>,
}

impl LeavingServers {
    /// Where that server is, if it has left and still has time.
    pub(super) fn has_time(&self, target: &str, now: Moment) -> Option<(&Host, u16)> {
        let (host, port, until) = self.until.get(target)?;
        (*until > now && !self.down.contains(target)).then_some((host, *port))
    }

    /// The key that disappeared for a moment comes back at that time.
    pub(super) fn is_back_at(&mut self, time: Moment) {
        if let Some((at, ..)) = &mut self.back {
            *at = time;
        }
    }
}

impl AgentScene {
    /// The agent observes its catalog.
    pub(super) fn observe(&mut self) {
        self.agent.observe(self.now);
        let services = self.agent.desired.catalog.services();
        let there = services.iter().flat_map(|(service, all)| {
            let all = all.iter();
            all.map(move |(name, it)| {
                let target = format!("{service}/{}", proxy_name(name));
                (target, (it.host.clone(), it.port.get()))
            })
        });
        let there: BTreeMap<_, _> = there.collect();
        let draining = services.iter().flat_map(|(service, all)| {
            let draining = all.iter().filter(|(_, it)| it.draining);
            draining.map(move |(name, _)| format!("{service}/{}", proxy_name(name)))
        });
        let draining = draining.collect();
        let drained = std::mem::replace(&mut self.leaving.draining, draining);
        let until = self.now + RETENTION.drain;
        for (target, (host, port)) in std::mem::take(&mut self.leaving.there) {
            if !there.contains_key(&target) && !drained.contains(&target) {
                self.leaving.until.insert(target, (host, port, until));
            }
        }
        self.leaving
            .until
            .retain(|target, _| !there.contains_key(target));
        self.leaving.there = there;
    }

    /// A key disappears, the agent sees that, and later it comes back as it was.
    pub(super) fn blink(&mut self) {
        let keys: Vec<_> = self.etcd.keys.keys().cloned().collect();
        if keys.is_empty() || self.leaving.back.is_some() {
            return;
        }
        let key = keys[self.rng.usize(0..keys.len())].clone();
        let value = self.etcd.keys[&key].0.clone();
        self.change(key.clone(), None);
        self.deliver(usize::MAX);
        let longest = [300, 3_000, 40_000][self.rng.usize(0..3)];
        let pause = Duration::from_millis(self.rng.u64(1..longest));
        self.leaving.back = Some((self.now + pause, key, value));
    }

    /// The key that disappeared for a moment comes back.
    pub(super) fn come_back(&mut self, totals: &mut Totals) {
        let now = self.now;
        let Some((_, key, value)) = self.leaving.back.take_if(|(at, ..)| *at <= now) else {
            return;
        };
        let before = self.agent.desired.membership.leaving().count();
        self.change(key, Some(value));
        self.deliver(usize::MAX);
        totals.blinks += usize::from(self.agent.desired.membership.leaving().count() < before);
    }

    /// A server's health check changes.
    pub(super) fn a_check_changes(&mut self) {
        if let Some((target, true)) = self.world().check_turns() {
            self.leaving.down.insert(target);
        }
        self.poll_servers();
    }

    /// As `ControlLoop::run` does; a look takes no time here.
    pub(super) fn poll_servers(&mut self) {
        now_or_never(self.agent.poll_servers(self.now));
    }

    /// Checks that no worker has a server, or connections to one, that has been without a key for long
    /// enough.
    pub(super) fn none_stays(&mut self) -> Result<(), String> {
        let there = self.leaving.there.clone();
        let world = self.world();
        let older = world.older.values().flatten().cloned();
        let mut targets = world.targets().into_iter().chain(older);
        match targets.find(|target| !there.contains_key(target)) {
            Some(target) => Err(format!("{target} stays, and has no key")),
            None => Ok(()),
        }
    }
}
