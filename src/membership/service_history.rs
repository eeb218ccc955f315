//! One service with its recent past: which instances are present, departed, held and leaving. Pure.

use crate::catalog::{Instance, Instances};
use crate::clock::Moment;
use crate::endpoint::Host;
use imbl::ordmap::DiffItem;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::time::Duration;

/// Departures within this time of each other count as one mass departure.
pub const MASS_DEPARTURE_WINDOW: Duration = Duration::from_secs(2);

/// The smallest service whose own departures can be a mass departure; in a smaller one, over half is a single container.
const MIN_SIZE_TO_HOLD: usize = 4;

/// A service as it is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DesiredService {
    /// Where clients dial it unless the operator said otherwise: the lowest port among its
    /// instances when it was first seen, and never another one while it is known.
    pub port: u16,
    /// Present, held and leaving instances.
    pub instances: Instances,
}

#[derive(Debug, Default)]
pub(super) struct ServiceHistory {
    pub(super) port: u16,
    pub(super) present: Instances,
    /// When instances arrived, within the last [`MASS_DEPARTURE_WINDOW`].
    pub(super) arrived_at: BTreeMap<String, ObservedAt>,
    /// Instances that departed within the last [`MASS_DEPARTURE_WINDOW`] and are not held.
    pub(super) departed: BTreeMap<String, Departure>,
    /// Departed instances that go on serving: when they departed, and until when they are held.
    pub(super) held: BTreeMap<String, (Instance, ObservedAt, Moment)>,
    pub(super) empty_since: Option<Moment>,
    /// Instances whose keys are gone since that moment: they get no new connections, and keep their old ones
    /// for a while.
    pub(super) leaving: BTreeMap<String, (Instance, Moment)>,
    /// Since when present instances drain; without those that go on serving because no other one is up.
    pub(super) draining_since: BTreeMap<String, Moment>,
}

/// An instance that departed, and when it was present.
#[derive(Debug)]
pub(super) struct Departure {
    instance: Instance,
    /// The zero stamp if it arrived longer than a [`MASS_DEPARTURE_WINDOW`] before it departed.
    arrived_at: ObservedAt,
    pub(super) departed: ObservedAt,
}

/// When the catalog was observed, and the number of that observation: two may be at one moment.
pub(super) type ObservedAt = (Moment, u64);

/// Hosts and ports as the keys say them.
pub(super) type HostPorts = BTreeSet<(Host, NonZeroU16)>;

impl ServiceHistory {
    /// Sets the present instances; `arrived` collects the addresses at which instances are new.
    pub(super) fn observe(&mut self, present: Instances, now: ObservedAt, arrived: &mut HostPorts) {
        self.forget_old_events(now.0);
        let before = std::mem::replace(&mut self.present, present.clone());
        for change in before.diff(&present) {
            self.note_draining(&change, now.0);
            match change {
                DiffItem::Add(name, instance) => self.arrive(name, instance, now, arrived),
                DiffItem::Update { old, new } => {
                    if (&old.1.host, old.1.port) != (&new.1.host, new.1.port) {
                        arrived.insert((new.1.host.clone(), new.1.port));
                    }
                }
                DiffItem::Remove(name, instance) => self.depart(name, instance, now),
            }
        }
        // Also if the service is empty again before `desired` is called.
        if !present.is_empty() {
            self.empty_since = None;
        }
        if self.port == 0 {
            let ports = present.values().map(|instance| instance.port.get());
            self.port = ports.min().unwrap_or_default();
        }
    }

    fn arrive(
        &mut self,
        name: &str,
        instance: &Instance,
        now: ObservedAt,
        arrived: &mut HostPorts,
    ) {
        let departed = self.departed.remove(name).map(|it| it.instance);
        let held = self.held.remove(name).map(|(it, ..)| it);
        let leaving = self.leaving.remove(name).map(|(it, _)| it);
        self.arrived_at.insert(name.to_owned(), now);
        // An instance that comes back as it was has taken no other's address.
        let known = departed.or(held).or(leaving);
        if known.is_none_or(|it| (&it.host, it.port) != (&instance.host, instance.port)) {
            arrived.insert((instance.host.clone(), instance.port));
        }
    }

    fn depart(&mut self, name: &str, instance: &Instance, now: ObservedAt) {
        let arrived_at = self.arrived_at.remove(name).unwrap_or_default();
        // The time that it has drained already counts.
        let since = self.draining_since.remove(name).unwrap_or(now.0);
        self.leaving
            .insert(name.to_owned(), (instance.clone(), since));
        // An instance that was draining had announced its departure.
        if !instance.draining {
            let departure = Departure {
                instance: instance.clone(),
                arrived_at,
                departed: now,
            };
            self.departed.insert(name.to_owned(), departure);
        }
    }

    fn note_draining(&mut self, change: &DiffItem<'_, '_, String, Instance>, now: Moment) {
        if let DiffItem::Add(name, it)
        | DiffItem::Update {
            new: (name, it), ..
        } = change
        {
            if it.draining {
                self.draining_since.entry((*name).clone()).or_insert(now);
            } else {
                self.draining_since.remove(*name);
            }
        }
    }

    /// That draining instance serves: its time to drain begins when it no longer does.
    pub(super) fn serves_alone(&mut self, name: &str, now: Moment) {
        if let Some(since) = self.draining_since.get_mut(name) {
            *since = now;
        }
    }

    pub(super) fn desired(&self) -> DesiredService {
        let mut instances = self.present.clone();
        let held = self.held.iter().map(|(name, (it, ..))| (name, it, false));
        let leaving = self.leaving.iter().map(|(name, (it, _))| (name, it, true));
        for (name, it, leaving) in held.chain(leaving) {
            let instance = Instance {
                leaving,
                ..it.clone()
            };
            instances.insert(name.clone(), instance);
        }
        DesiredService {
            port: self.port,
            instances,
        }
    }

    /// Instances whose hold is over are leaving, since they departed. Returns how many.
    pub(super) fn end_hold(&mut self, now: Moment) -> usize {
        self.end_hold_if(|(.., until)| *until <= now)
    }

    /// Removes instances that have been leaving for `drain`.
    pub(super) fn end_drained(&mut self, now: Moment, drain: Duration) {
        self.leaving
            .retain(|_, (_, departed)| *departed + drain > now);
    }

    /// Removes that instance if it is leaving; returns whether it was.
    pub(super) fn end(&mut self, name: &str) -> bool {
        self.leaving.remove(name).is_some()
    }

    fn end_hold_if(&mut self, ends: impl Fn(&(Instance, ObservedAt, Moment)) -> bool) -> usize {
        let held = std::mem::take(&mut self.held).into_iter();
        let (ended, held): (BTreeMap<_, _>, _) = held.partition(|(_, it)| ends(it));
        self.held = held;
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

    /// Whether over half of the instances departed that were present at the peak of the last
    /// [`MASS_DEPARTURE_WINDOW`]; never for a small service.
    pub(super) fn lost_majority(&self) -> bool {
        // Too few departed, whenever the others arrived: no need to count.
        if self.departed.len() + self.arrived_at.len() <= self.present.len() {
            return false;
        }
        // The peak was just before one of them departed.
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

    /// The span in which the service had the instances that departed within the last
    /// [`MASS_DEPARTURE_WINDOW`]; `None` if none departed, or if it still has one.
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

    /// Holds the departed instances until then.
    pub(super) fn hold(&mut self, until: Moment) {
        for (name, it) in std::mem::take(&mut self.departed) {
            self.leaving.remove(&name);
            self.held.insert(name, (it.instance, it.departed, until));
        }
    }

    /// Releases departed instances whose address a newly arrived key announces. Returns how many of them
    /// were held.
    ///
    /// Their connections drain as those of any instance that leaves: they lead to the process that the old
    /// key was about, be it announced by another name now, or dead, and then they are dead too. What has the
    /// address now gets none of them.
    pub(super) fn release(&mut self, arrived: &HostPorts) -> usize {
        let goes = |it: &Instance| arrived.contains(&(it.host.clone(), it.port));
        self.departed.retain(|_, it| !goes(&it.instance));
        self.end_hold_if(|(it, ..)| goes(it))
    }
}
