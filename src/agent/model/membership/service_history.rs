//! One service with its recent past: who is there, who has just left, who is kept. Pure.

use crate::catalog::{Instance, Instances};
use crate::clock::Moment;
use crate::endpoint::Host;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// Departures within so long of each other are one crowd.
pub const CROWD: Duration = Duration::from_secs(2);

/// A service this big may be held by itself; in a smaller one, "over half" is a single container.
const BIG_ENOUGH: usize = 4;

/// A service as it is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where clients dial it unless the operator said otherwise: the lowest port among its
    /// instances when it was first seen, and never another one while it is known.
    pub port: u16,
    /// Those that are there, those that are held, and those that are leaving. The same pointer as long as nothing changes.
    pub instances: Arc<Instances>,
}

#[derive(Debug, Default)]
pub(super) struct Service {
    pub(super) port: u16,
    pub(super) here: Arc<Instances>,
    /// When those came who came within the last [`CROWD`].
    pub(super) came: BTreeMap<String, Stamp>,
    /// Gone within the last [`CROWD`], and believed so far.
    pub(super) left: BTreeMap<String, Departure>,
    /// Gone, and kept until the second moment.
    pub(super) held: BTreeMap<String, (Instance, Stamp, Moment)>,
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
    /// The earliest there is: longer ago than a [`CROWD`] before it left.
    came: Stamp,
    pub(super) left: Stamp,
}

/// When the table was looked at, and the how manyth look that was: two may be at one moment.
pub(super) type Stamp = (Moment, u64);

/// Where instances are, by what their keys say.
pub(super) type Places = BTreeSet<(Host, NonZeroU16)>;

impl Service {
    /// Those are here now, and nobody else. Tells whether that is different.
    /// Adds to `arrived` where instances are now that weren't there before.
    pub(super) fn is_now(
        &mut self,
        here: Option<&Arc<Instances>>,
        now: Stamp,
        arrived: &mut Places,
    ) -> bool {
        self.forget_old(now.0);
        let same = here.map_or(self.here.is_empty(), |here| Arc::ptr_eq(here, &self.here));
        if same {
            return false;
        }
        self.all = None;
        let before = std::mem::replace(&mut self.here, here.cloned().unwrap_or_default());
        for (name, instance) in &*before {
            if self.here.contains_key(name) {
                continue;
            }
            let came = self.came.remove(name).unwrap_or_default();
            self.leaving.insert(name.clone(), (instance.clone(), now.0));
            // One that was draining said that it would go.
            if !instance.draining {
                let instance = instance.clone();
                let left = now;
                let departure = Departure {
                    instance,
                    came,
                    left,
                };
                self.left.insert(name.clone(), departure);
            }
        }
        for (name, instance) in &*self.here {
            let left = self.left.remove(name).map(|it| it.instance);
            let held = self.held.remove(name).map(|(it, ..)| it);
            let leaving = self.leaving.remove(name).map(|(it, _)| it);
            if !before.contains_key(name) {
                self.came.insert(name.clone(), now);
            }
            // One that comes back as it was has taken no other's place.
            let known = before.get(name).or(left.as_ref());
            let known = known.or(held.as_ref()).or(leaving.as_ref());
            if known.is_none_or(|it| (&it.host, it.port) != (&instance.host, instance.port)) {
                arrived.insert((instance.host.clone(), instance.port));
            }
        }
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
        let instances = if self.held.is_empty() && self.leaving.is_empty() {
            self.all = None;
            self.here.clone()
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
                all.extend((*self.here).clone());
                Arc::new(all)
            });
            self.all.clone().unwrap_or_default()
        };
        Wanted {
            port: self.port,
            instances,
        }
    }

    /// Those whose hold is over serve no more, and are leaving since they left. Tells how many.
    pub(super) fn let_go(&mut self, now: Moment) -> usize {
        self.release_if(|(.., until)| *until <= now)
    }

    /// Those are gone that left as long ago as `drain`.
    pub(super) fn end_old(&mut self, now: Moment, drain: Duration) {
        let before = self.leaving.len();
        self.leaving.retain(|_, (_, left)| *left + drain > now);
        if self.leaving.len() < before {
            self.all = None;
        }
    }

    /// That one is gone, if it was leaving; tells whether it was.
    pub(super) fn end(&mut self, name: &str) -> bool {
        let ends = self.leaving.remove(name).is_some();
        if ends {
            self.all = None;
        }
        ends
    }

    fn release_if(&mut self, ends: impl Fn(&(Instance, Stamp, Moment)) -> bool) -> usize {
        let held = std::mem::take(&mut self.held).into_iter();
        let (ended, held): (BTreeMap<_, _>, _) = held.partition(|(_, it)| ends(it));
        self.held = held;
        if !ended.is_empty() {
            self.all = None;
        }
        let count = ended.len();
        let ended = ended.into_iter();
        self.leaving
            .extend(ended.map(|(name, (it, left, _))| (name, (it, left.0))));
        count
    }

    pub(super) fn forget_old(&mut self, now: Moment) {
        let recent = |at: Moment| now.saturating_sub(at) <= CROWD;
        self.left.retain(|_, departure| recent(departure.left.0));
        self.came.retain(|_, came| recent(came.0));
    }

    /// Whether over half of those left that were there at once when they were the most, within the last
    /// [`CROWD`]; of a small service no part is a crowd.
    pub(super) fn lost_half(&self) -> bool {
        // Too few have left, whenever the others came: nothing has to be counted.
        if self.left.len() + self.came.len() <= self.here.len() {
            return false;
        }
        // They were the most just before one of them left.
        let moments: BTreeSet<Stamp> = self.left.values().map(|it| it.left).collect();
        let counts = moments.into_iter().map(|moment| {
            let gone = self.left.values();
            let gone = gone
                .filter(|it| it.came < moment && it.left >= moment)
                .count();
            let later = self.came.values().filter(|came| **came >= moment).count();
            (gone + self.here.len().saturating_sub(later), gone)
        });
        let peak = counts.max();
        peak.is_some_and(|(there, gone)| there >= BIG_ENOUGH && gone * 2 > there)
    }

    /// From when to when it had an instance of those that left within the last [`CROWD`]; `None` where
    /// none did, or where it still has one.
    pub(super) fn wiped(&self, now: Moment) -> Option<(Stamp, Stamp)> {
        let recent = |at: &Stamp| now.saturating_sub(at.0) <= CROWD;
        let held = self.held.values().map(|(_, at, _)| *at).filter(recent);
        let times = held.map(|at| (Stamp::default(), at));
        let times = times.chain(self.left.values().map(|it| (it.came, it.left)));
        let times = times.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        times.filter(|_| self.here.is_empty())
    }

    /// Those that left go on serving until then.
    pub(super) fn hold(&mut self, until: Moment) {
        self.all = None;
        for (name, it) in std::mem::take(&mut self.left) {
            self.leaving.remove(&name);
            self.held.insert(name, (it.instance, it.left, until));
        }
    }

    /// Those that left serve no more where a key has arrived since that announces their address. Tells
    /// how many of them were held.
    ///
    /// Their old connections go on for the time of any that leaves: they lead to the process that the key
    /// was about, be it announced by another name now, or to one that is dead, and then they are dead too.
    /// The one that has the address now gets none of them.
    pub(super) fn release(&mut self, arrived: &Places) -> usize {
        let goes = |it: &Instance| arrived.contains(&(it.host.clone(), it.port));
        self.left.retain(|_, it| !goes(&it.instance));
        self.release_if(|(it, ..)| goes(it))
    }
}
