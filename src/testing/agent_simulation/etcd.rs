//! The simulation's etcd: its keys, and what its watch has not delivered yet.

use super::{AgentScene, RETENTION};
use crate::agent::haproxy::render::proxy_name;
use crate::catalog::{Instances, RawKeyValue};
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct FakeEtcd {
    pub(super) keys: BTreeMap<String, (String, i64)>,
    pub(super) revision: i64,
    /// What the watch has not delivered yet; `None`: the watch is lost, and so are its events.
    pub(super) undelivered: Option<Vec<String>>,
}

impl AgentScene {
    /// Changes a key; the watch delivers it later.
    pub(super) fn change(&mut self, key: String, value: Option<String>) {
        self.etcd.revision += 1;
        match value {
            Some(value) => {
                let revision = self.etcd.revision;
                let keys = self.etcd.keys.entry(key.clone());
                keys.or_insert((String::new(), revision)).0 = value;
            }
            None => drop(self.etcd.keys.remove(&key)),
        }
        if let Some(undelivered) = &mut self.etcd.undelivered {
            undelivered.push(key);
        }
    }

    /// The watch delivers all changes, or the first few; of each key its current value.
    pub(super) fn deliver(&mut self, count: usize) {
        let Some(undelivered) = &mut self.etcd.undelivered else {
            return;
        };
        let told: Vec<_> = undelivered.drain(..count.min(undelivered.len())).collect();
        for key in &told {
            match self.etcd.keys.get(key) {
                Some(keys) => self.agent.desired.catalog.put(item_of(key, keys)),
                None => self.agent.desired.catalog.delete(key.as_bytes()),
            }
            if let Some(target) = target(key) {
                self.held.remove(&target);
            }
        }
        if !told.is_empty() {
            self.observe();
            self.release();
        }
    }

    /// A snapshot is read: after a compaction, a lost connection, or just now and then.
    pub(super) fn read_again(&mut self) {
        self.agent.schedule.etcd_heard.get_or_insert(self.now);
        let keys = self.etcd.keys.iter();
        self.agent
            .desired
            .catalog
            .replace(keys.map(|(key, keys)| item_of(key, keys)));
        self.observe();
        self.etcd.undelivered = Some(Vec::new());
        let keys: BTreeSet<_> = self.etcd.keys.keys().filter_map(|k| target(k)).collect();
        self.held.retain(|target, _| !keys.contains(target));
        self.release();
    }

    /// An instance whose address another key announces need not be held.
    fn release(&mut self) {
        let there = self.agent.desired.catalog.services();
        let there = there.values().flat_map(|all| all.values());
        let taken: BTreeSet<_> = there.map(|it| (it.host.clone(), it.port.get())).collect();
        self.held
            .retain(|_, (host, port, _)| !taken.contains(&(host.clone(), *port)));
    }

    /// All keys disappear at once.
    pub(super) fn empty(&mut self) {
        self.read_again();
        let until = self.now + RETENTION.hold;
        let there = self.agent.desired.catalog.services();
        self.etcd.keys.clear();
        self.etcd.revision = 1;
        self.read_again();
        // An instance that was draining had announced its departure.
        let stays = |all: &Instances| all.values().any(|it| !it.draining);
        if there.values().filter(|all| stays(all)).count() >= 2 {
            for (service, instances) in &there {
                let stay = instances.iter().filter(|(_, it)| !it.draining);
                self.held.extend(stay.map(|(name, it)| {
                    let target = format!("{service}/{}", proxy_name(name));
                    (target, (it.host.clone(), it.port.get(), until))
                }));
            }
        }
    }
}

pub(super) fn item_of<'a>(key: &'a str, (value, revision): &'a (String, i64)) -> RawKeyValue<'a> {
    RawKeyValue {
        key: key.as_bytes(),
        value: value.as_bytes(),
        create_revision: *revision,
    }
}

/// HAProxy's name of the instance at that key.
fn target(key: &str) -> Option<String> {
    let (service, instance) = key.strip_prefix("/services/")?.split_once('/')?;
    Some(format!("{service}/{}", proxy_name(instance)))
}
