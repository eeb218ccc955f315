//! The storm's etcd: what stands in it, and what its watch hasn't told the agent.

use super::{KEEPING, Scene};
use crate::agent::haproxy::render::proxy_name;
use crate::catalog::{Instances, Item};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) struct Etcd {
    pub(super) stands: BTreeMap<String, (String, i64)>,
    pub(super) revision: i64,
    /// What the watch hasn't told yet; `None`: it is lost, and so is what happens.
    pub(super) untold: Option<Vec<String>>,
}

impl Scene {
    /// Something changes in etcd; the watch tells it later.
    pub(super) fn change(&mut self, key: String, value: Option<String>) {
        self.etcd.revision += 1;
        match value {
            Some(value) => {
                let revision = self.etcd.revision;
                let stands = self.etcd.stands.entry(key.clone());
                stands.or_insert((String::new(), revision)).0 = value;
            }
            None => drop(self.etcd.stands.remove(&key)),
        }
        if let Some(untold) = &mut self.etcd.untold {
            untold.push(key);
        }
    }

    /// The watch tells of all changes, or of the first few; of each key what stands there by now.
    pub(super) fn tell(&mut self, count: usize) {
        let Some(untold) = &mut self.etcd.untold else {
            return;
        };
        let told: Vec<_> = untold.drain(..count.min(untold.len())).collect();
        for key in &told {
            match self.etcd.stands.get(key) {
                Some(stands) => self.agent.table.put(item_of(key, stands)),
                None => self.agent.table.delete(key.as_bytes()),
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

    /// Everything is read: after a compaction, a lost connection, or just now and then.
    pub(super) fn read_again(&mut self) {
        self.agent.heard.get_or_insert(self.now);
        let stands = self.etcd.stands.iter();
        self.agent
            .table
            .replace(stands.map(|(key, stands)| item_of(key, stands)));
        self.observe();
        self.etcd.untold = Some(Vec::new());
        let stands: BTreeSet<_> = self.etcd.stands.keys().filter_map(|k| target(k)).collect();
        self.held.retain(|target, _| !stands.contains(target));
        self.release();
    }

    /// Whose address another key announces need not be held.
    fn release(&mut self) {
        let there = self.agent.table.services();
        let there = there.values().flat_map(|all| all.values());
        let taken: BTreeSet<_> = there.map(|it| (it.host.clone(), it.port.get())).collect();
        self.held
            .retain(|_, (host, port, _)| !taken.contains(&(host.clone(), *port)));
    }

    /// All of it is gone from one moment to the next.
    pub(super) fn empty(&mut self) {
        self.read_again();
        let until = self.now + KEEPING.hold;
        let there = self.agent.table.services().clone();
        self.etcd.stands.clear();
        self.etcd.revision = 1;
        self.read_again();
        // Who was draining said that it would go.
        let stays = |all: &Arc<Instances>| all.values().any(|it| !it.draining);
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

pub(super) fn item_of<'a>(key: &'a str, (value, revision): &'a (String, i64)) -> Item<'a> {
    Item {
        key: key.as_bytes(),
        value: value.as_bytes(),
        create_revision: *revision,
    }
}

/// As HAProxy calls what stands at that key.
fn target(key: &str) -> Option<String> {
    let (service, instance) = key.strip_prefix("/services/")?.split_once('/')?;
    Some(format!("{service}/{}", proxy_name(instance)))
}
