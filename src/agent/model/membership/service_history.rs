//! One service with its recent past: who is there, who has just left, who is kept. Pure.

use crate::catalog::{Instance, Instances};
use crate::clock::Moment;
use crate::endpoint::Host;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// Departures within so long of each other are one crowd.
pub const MASS_DEPARTURE_WINDOW: Duration = Duration::from_secs(2);

/// A service this big may be held by itself; in a smaller one, "over half" is a single container.
const MIN_SIZE_TO_HOLD: usize = 4;

/// A service as it is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredService {
    /// Where clients dial it unless the operator said otherwise: the lowest port among its
    /// instances when it was first seen, and never another one while it is known.
    pub port: u16,
    /// Those that are there, those that are held, and those that are leaving. The same pointer as long as nothing changes.
    pub instances: Arc<Instances>,
}

#[derive(Debug, Default)]
pub(super) struct ServiceHistory {
    pub(super) port: u16,
    pub(super) present: Arc<Instances>,
    /// When those came who came within the last [`MASS_DEPARTURE_WINDOW`].
    pub(super) arrived_at: BTreeMap<String, ObservedAt>,
    /// Gone within the last [`MASS_DEPARTURE_WINDOW`], and believed so far.
    pub(super) departed: BTreeMap<String, Departure>,
    /// Gone, and kept until the second moment.
    pub(super) held: BTreeMap<String, (Instance, ObservedAt, Moment)>,
    pub(super) empty_since: Option<Moment>,
    /// Their keys are gone since that moment: they take no new connections, and still have their old ones.
    pub(super) leaving: BTreeMap<String, (Instance, Moment)>,
    /// Those here, those held and those leaving, as last told; `None` if that isn't what there is now.
    pub(super) all: Option<Arc<Instances>>,
}

/// An instance that left, and was there in the time between.
#[derive(Debug)]
pub(super) struct Departure {
    instance: Instance,
    /// The earliest there is: longer ago than a [`MASS_DEPARTURE_WINDOW`] before it left.
    arrived_at: ObservedAt,
    pub(super) departed: ObservedAt,
}

/// When the table was looked at, and the how manyth look that was: two may be at one moment.
pub(super) type ObservedAt = (Moment, u64);

/// Where instances are, by what their keys say.
pub(super) type HostPorts = BTreeSet<(Host, NonZeroU16)>;

impl ServiceHistory {
    /// Those are here now, and nobody else. Tells whether that is different.
    /// Adds to `arrived` where instances are now that weren't there before.
    pub(super) fn observe(
        &mut self,
        present: Option<&Arc<Instances>>,
        now: ObservedAt,
        arrived: &mut HostPorts,
    ) -> bool {
        self.forget_old_events(now.0);
        let same = present.map_or(self.present.is_empty(), |present| {
            Arc::ptr_eq(present, &self.present)
        });
        if same {
            return false;
        }
        self.all = None;
        let before = std::mem::replace(&mut self.present, present.cloned().unwrap_or_default());
        for (name, instance) in &*before {
            if self.present.contains_key(name) {
                continue;
            }
            let arrived_at = self.arrived_at.remove(name).unwrap_or_default();
            self.leaving.insert(name.clone(), (instance.clone(), now.0));
            // One that was draining said that it would go.
            if !instance.draining {
                let instance = instance.clone();
                let departed = now;
                let departure = Departure {
                    instance,
                    arrived_at,
                    departed,
                };
                self.departed.insert(name.clone(), departure);
            }
        }
        for (name, instance) in &*self.present {
            let departed = self.departed.remove(name).map(|it| it.instance);
            let held = self.held.remove(name).map(|(it, ..)| it);
            let leaving = self.leaving.remove(name).map(|(it, _)| it);
            if !before.contains_key(name) {
                self.arrived_at.insert(name.clone(), now);
            }
            // One that comes back as it was has taken no other's place.
            let known = before.get(name).or(departed.as_ref());
            let known = known.or(held.as_ref()).or(leaving.as_ref());
            if known.is_none_or(|it| (&it.host, it.port) != (&instance.host, instance.port)) {
                arrived.insert((instance.host.clone(), instance.port));
            }
        }
        // Also where it is empty again before anybody asks who is wanted.
        if !self.present.is_empty() {
            self.empty_since = None;
        }
        if self.port == 0 {
            let lowest = self
                .present
                .values()
                .map(|instance| instance.port.get())
                .min();
            self.port = lowest.unwrap_or_default();
        }
        true
    }

    pub(super) fn desired(&mut self) -> DesiredService {
        let instances = if self.held.is_empty() && self.leaving.is_empty() {
            self.all = None;
            self.present.clone()
        } else {
            self.all.get_or_insert_with(|| {
                let leaving = self.leaving.iter().map(|(name, (instance, _))| {
                    let instance = instance.clone();
                    let leaving = true;
                    (
                        name.clone(),
                        Instance {
                            leaving,
                            ..instance
                        },
                    )
                });
                let mut all: Instances = leaving.collect();
                let held = self.held.iter();
                all.extend(held.map(|(name, (instance, ..))| (name.clone(), instance.clone())));
                all.extend((*self.present).clone());
                Arc::new(all)
            });
            self.all.clone().unwrap_or_default()
        };
        DesiredService {
            port: self.port,
            instances,
        }
    }

    /// Those whose hold is over serve no more, and are leaving since they left. Tells how many.
    pub(super) fn end_hold(&mut self, now: Moment) -> usize {
        self.end_hold_if(|(.., until)| *until <= now)
    }

    /// Those are gone that left as long ago as `drain`.
    pub(super) fn end_drained(&mut self, now: Moment, drain: Duration) {
        let before = self.leaving.len();
        self.leaving
            .retain(|_, (_, departed)| *departed + drain > now);
        if self.leaving.len() < before {
            self.all = None;
        }
    }

    /// That one is gone, if it was leaving; tells whether it was.
    pub(super) fn end(&mut self, name: &str) -> bool {
        let removal_version = self.leaving.remove(name).is_some();
        if removal_version {
            self.all = None;
        }
        removal_version
    }

    fn end_hold_if(
        &mut self,
        removal_version: impl Fn(&(Instance, ObservedAt, Moment)) -> bool,
    ) -> usize {
        let held = std::mem::take(&mut self.held).into_iter();
        let (ended, held): (BTreeMap<_, _>, _) = held.partition(|(_, it)| removal_version(it));
        self.held = held;
        if !ended.is_empty() {
            self.all = None;
        }
        let count = ended.len();
        let ended = ended.into_iter();
        self.leaving
            .extend(ended.map(|(name, (it, departed, _))| (name, (it, departed.0))));
        count
    }

    pub(super) fn forget_old_events(&mut self, now: Moment) {
        let recent = |at: Moment| now.saturating_sub(at) <= MASS_DEPARTURE_WINDOW;
        self.departed
            .retain(|_, departure| recent(departure.departed.0));
        self.arrived_at.retain(|_, arrived_at| recent(arrived_at.0));
    }

    /// Whether over half of those left that were there at once when they were the most, within the last
    /// [`MASS_DEPARTURE_WINDOW`]; of a small service no part is a crowd.
    pub(super) fn lost_majority(&self) -> bool {
        // Too few have left, whenever the others came: nothing has to be counted.
        if self.departed.len() + self.arrived_at.len() <= self.present.len() {
            return false;
        }
        // They were the most just before one of them left.
        let moments: BTreeSet<ObservedAt> = self.departed.values().map(|it| it.departed).collect();
        let counts = moments.into_iter().map(|moment| {
            let gone = self.departed.values();
            let gone = gone
                .filter(|it| it.arrived_at < moment && it.departed >= moment)
                .count();
            let later = self
                .arrived_at
                .values()
                .filter(|arrived_at| **arrived_at >= moment)
                .count();
            (gone + self.present.len().saturating_sub(later), gone)
        });
        let peak = counts.max();
        peak.is_some_and(|(there, gone)| there >= MIN_SIZE_TO_HOLD && gone * 2 > there)
    }

    /// From when to when it had an instance of those that left within the last [`MASS_DEPARTURE_WINDOW`]; `None` where
    /// none did, or where it still has one.
    pub(super) fn emptied(&self, now: Moment) -> Option<(ObservedAt, ObservedAt)> {
        let recent = |at: &ObservedAt| now.saturating_sub(at.0) <= MASS_DEPARTURE_WINDOW;
        let held = self.held.values().map(|(_, at, _)| *at).filter(recent);
        let times = held.map(|at| (ObservedAt::default(), at));
        let times = times.chain(
            self.departed
                .values()
                .map(|it| (it.arrived_at, it.departed)),
        );
        let times = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        times.filter(|_| self.present.is_empty())
    }

    /// Those that left go on serving until then.
    pub(super) fn hold(&mut self, until: Moment) {
        self.all = None;
        for (name, it) in std::mem::take(&mut self.departed) {
            self.leaving.remove(&name);
            self.held.insert(name, (it.instance, it.departed, until));
        }
    }

    /// Those that left serve no more where a key has arrived since that announces their address. Tells
    /// how many of them were held.
    ///
    /// Their old connections go on for the time of any that leaves: they lead to the process that the key
    /// was about, be it announced by another name now, or to one that is dead, and then they are dead too.
    /// The one that has the address now gets none of them.
    pub(super) fn release(&mut self, arrived: &HostPorts) -> usize {
        let goes = |it: &Instance| arrived.contains(&(it.host.clone(), it.port));
        self.departed.retain(|_, it| !goes(&it.instance));
        self.end_hold_if(|(it, ..)| goes(it))
    }
}
