//! One service with its recent past: who is there, who has just left, who is kept. Pure.

use super::super::table::{Instance, Instances};
use super::{CROWD, Wanted};
use crate::clock::Moment;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) port: u16,
    pub(super) here: Arc<Instances>,
    /// Gone within the last [`CROWD`], and believed so far.
    pub(super) left: BTreeMap<String, (Instance, Moment)>,
    /// Gone, and kept until the second moment.
    pub(super) held: BTreeMap<String, (Instance, Moment, Moment)>,
    pub(super) empty_since: Option<Moment>,
    /// Those here and those held, as last told; `None` while nobody is held.
    pub(super) both: Option<Arc<Instances>>,
}

impl Service {
    /// Those are here now, and nobody else. Tells whether that is different.
    pub(super) fn is_now(&mut self, here: Option<&Arc<Instances>>, now: Moment) -> bool {
        self.left
            .retain(|_, (_, at)| now.saturating_sub(*at) <= CROWD);
        let same = here.map_or(self.here.is_empty(), |here| Arc::ptr_eq(here, &self.here));
        if same {
            return false;
        }
        let before = std::mem::replace(&mut self.here, here.cloned().unwrap_or_default());
        for (name, instance) in &*before {
            // One that was draining said that it would go.
            if !self.here.contains_key(name) && !instance.draining {
                self.left.insert(name.clone(), (instance.clone(), now));
            }
        }
        self.left.retain(|name, _| !self.here.contains_key(name));
        self.held.retain(|name, _| !self.here.contains_key(name));
        // Also where it is empty again before anybody asks who is wanted.
        if !self.here.is_empty() {
            self.empty_since = None;
        }
        if self.port == 0 {
            let lowest = self.here.values().map(|instance| instance.port.get()).min();
            self.port = lowest.unwrap_or_default();
        }
        true
    }

    pub(super) fn wanted(&mut self) -> Wanted {
        let instances = if self.held.is_empty() {
            self.both = None;
            self.here.clone()
        } else {
            let held = self.held.iter();
            let held = held.map(|(name, (instance, ..))| (name.clone(), instance.clone()));
            let mut both: Instances = held.collect();
            both.extend((*self.here).clone());
            let before = self.both.take().filter(|before| **before == both);
            let both = before.unwrap_or_else(|| Arc::new(both));
            self.both.insert(both).clone()
        };
        Wanted {
            port: self.port,
            instances,
        }
    }

    /// Whether nobody is there any more, and somebody was a moment ago.
    pub(super) fn is_wiped(&self, now: Moment) -> bool {
        let recent = |at: Moment| now.saturating_sub(at) <= CROWD;
        let left = self.left.values().any(|(_, at)| recent(*at));
        let held = self.held.values().any(|(_, at, _)| recent(*at));
        self.here.is_empty() && (left || held)
    }
}
