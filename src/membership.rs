//! Which instances count as present: those in etcd, and for a while those that left it. Pure.
//!
//! An instance whose key disappears gets no new connections from then on. Its key may come back in a moment
//! (an announcer restarts, a lease is lost), so its connections end only some time later, or when HAProxy's
//! health check says that it is down. If half of a service, or several services, disappear within two
//! seconds, that looks like an emptied etcd or a network partition, and not like that many containers dying:
//! those instances are held and go on serving for a while, and HAProxy's health checks decide.

mod service_history;

use crate::catalog::limits::{MAX_LEAVING, MAX_SERVICES};
use crate::catalog::{Instances, Services};
use crate::clock::Moment;
use imbl::ordmap::DiffItem;
pub use service_history::{DesiredService, MASS_DEPARTURE_WINDOW};
use service_history::{HostPorts, ObservedAt, ServiceHistory};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long listeners, instances and connections outlast their keys.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// How long instances that disappeared together are held; zero: not at all.
    pub hold: Duration,
    /// How long a service without instances keeps its listener.
    pub forget: Duration,
    /// How long after its key an instance's connections end; zero: at once.
    pub drain: Duration,
}

/// A change that is worth a log line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    /// So many instances of the service disappeared together, and are held.
    Held(String, usize),
    /// So many held instances did not come back in time.
    HoldEnded(String, usize),
    /// So many held instances are released: other keys announce their addresses.
    Displaced(String, usize),
    /// The service had no instance for [`Retention::forget`].
    Forgotten(String),
}

/// All services with their recent past.
#[derive(Debug)]
pub struct Membership {
    retention: Retention,
    services: BTreeMap<String, ServiceHistory>,
    /// The catalog as it was last observed.
    observed: Services,
    notes: Vec<MembershipEvent>,
    /// How often the catalog was observed.
    observations: u64,
}

impl Membership {
    /// Starts from what was served last (the file on disk), so that instances that disappear while no agent
    /// runs are held too. Each service keeps the port it was served at.
    #[must_use]
    pub fn new(retention: Retention, last: BTreeMap<String, DesiredService>, now: Moment) -> Self {
        let observed = last.iter();
        let observed = observed.filter(|(_, it)| !it.instances.is_empty());
        let observed = observed.map(|(name, it)| (name.clone(), it.instances.clone()));
        let observed = observed.collect();
        let services = last.into_iter().map(|(name, desired)| {
            let empty_since = desired.instances.is_empty().then_some(now);
            let service = ServiceHistory {
                port: desired.port,
                present: desired.instances,
                empty_since,
                ..ServiceHistory::default()
            };
            (name, service)
        });
        Self {
            retention,
            services: services.collect(),
            observed,
            notes: Vec::new(),
            observations: 0,
        }
    }

    /// Compares the catalog at `now` with the last one. Returns whether anything changed. A key that is put
    /// again unchanged is no change.
    pub fn observe(&mut self, catalog: &Services, now: Moment) -> bool {
        self.observations += 1;
        let (stamp, mut arrived, mut changed) = ((now, self.observations), HostPorts::new(), false);
        let before = std::mem::replace(&mut self.observed, catalog.clone());
        for change in before.diff(catalog) {
            let (name, present) = match change {
                DiffItem::Add(name, present)
                | DiffItem::Update {
                    new: (name, present),
                    ..
                } => (name, present.clone()),
                DiffItem::Remove(name, _) => (name, Instances::new()),
            };
            let service = self.services.entry(name.clone()).or_default();
            service.observe(present, stamp, &mut arrived);
            changed = true;
        }
        if changed && !self.retention.hold.is_zero() {
            self.release(&arrived);
            self.hold(now);
        }
        if changed {
            self.end_oldest_leaving();
        }
        changed
    }

    /// The services to serve at `now`, by name. Removes instances and services whose retention is over.
    pub fn desired(&mut self, now: Moment) -> impl Iterator<Item = (&String, DesiredService)> {
        let Retention { forget, drain, .. } = self.retention;
        let notes = &mut self.notes;
        self.services.retain(|name, service| {
            let end_hold = service.end_hold(now);
            if end_hold > 0 {
                notes.push(MembershipEvent::HoldEnded(name.clone(), end_hold));
            }
            service.end_drained(now, drain);
            service.forget_old_events(now);
            if !service.present.is_empty() || !service.held.is_empty() {
                return true;
            }
            let since = *service.empty_since.get_or_insert(now);
            let goes = !service.departed.is_empty() || !service.leaving.is_empty();
            let stays = now.saturating_sub(since) < forget || goes;
            if !stays {
                notes.push(MembershipEvent::Forgotten(name.clone()));
            }
            stays
        });
        self.forget_oldest_empty();
        let services = self.services.iter_mut();
        services.map(|(name, service)| (name, service.desired()))
    }

    /// Limits the services that are remembered: those go first that were empty the longest.
    fn forget_oldest_empty(&mut self) {
        let surplus = self.services.len().saturating_sub(MAX_SERVICES);
        if surplus == 0 {
            return;
        }
        let empty = self.services.iter();
        let empty = empty.filter_map(|(name, service)| Some((service.empty_since?, name.clone())));
        let mut empty: Vec<_> = empty.collect();
        empty.sort_unstable();
        for (_, name) in empty.into_iter().take(surplus) {
            self.services.remove(&name);
            self.notes.push(MembershipEvent::Forgotten(name));
        }
    }

    /// When [`Membership::desired`] will change without a change in etcd.
    #[must_use]
    pub fn next_change(&self) -> Option<Moment> {
        let drain = self.retention.drain;
        let held = self
            .services
            .values()
            .flat_map(|s| s.held.values().map(|(_, _, until)| *until));
        let empty = self.services.values().filter_map(|service| {
            let forgotten = service.empty_since? + self.retention.forget;
            let departed = service
                .departed
                .values()
                .map(|it| it.departed.0 + MASS_DEPARTURE_WINDOW);
            let leaving = service
                .leaving
                .values()
                .map(|(_, departed)| *departed + drain);
            departed.chain(leaving).chain([forgotten]).max()
        });
        let services = self.services.values();
        let leaving =
            services.flat_map(|it| it.leaving.values().map(|(_, departed)| *departed + drain));
        held.chain(empty).chain(leaving).min()
    }

    /// Services and instances whose keys are gone and whose connections may remain.
    pub fn leaving(&self) -> impl Iterator<Item = (&String, &String)> {
        let services = self.services.iter();
        services.flat_map(|(service, it)| it.leaving.keys().map(move |name| (service, name)))
    }

    /// HAProxy's health check says that this instance is down: if it is leaving, it is removed. Returns
    /// whether it was leaving.
    pub fn is_down(&mut self, service: &str, name: &str) -> bool {
        let service = self.services.get_mut(service);
        service.is_some_and(|service| service.end(name))
    }

    /// That draining instance goes on serving at `now`, for no other one is up: its time to drain has not begun.
    pub fn serves_alone(&mut self, service: &str, name: &str, now: Moment) {
        if let Some(service) = self.services.get_mut(service) {
            service.serves_alone(name, now);
        }
    }

    /// How long instances that disappeared together are held.
    #[must_use]
    pub const fn hold_time(&self) -> Duration {
        self.retention.hold
    }

    /// The instances that are held.
    #[must_use]
    pub fn held_names(&self) -> BTreeMap<String, BTreeSet<String>> {
        let services = self.services.iter().filter(|(_, it)| !it.held.is_empty());
        let names = services.map(|(name, it)| (name.clone(), it.held.keys().cloned().collect()));
        names.collect()
    }

    /// How many instances are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.services
            .values()
            .map(|service| service.held.len())
            .sum()
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<MembershipEvent> {
        std::mem::take(&mut self.notes)
    }

    fn hold(&mut self, now: Moment) {
        let emptied = self.services.values().filter_map(|it| it.emptied(now));
        let several = overlap(emptied);
        for (name, service) in &mut self.services {
            service.forget_old_events(now);
            let departed = service.departed.len();
            let is_crowd =
                || service.lost_majority() || (several && service.emptied(now).is_some());
            if departed > 0 && is_crowd() {
                self.notes
                    .push(MembershipEvent::Held(name.clone(), departed));
                service.hold(now + self.retention.hold);
            }
        }
    }

    /// Limits the instances that are leaving: those are removed first that left first.
    fn end_oldest_leaving(&mut self) {
        let surplus = self.leaving().count().saturating_sub(MAX_LEAVING);
        if surplus == 0 {
            return;
        }
        let services = self.services.iter();
        let all = services.flat_map(|(service, it)| {
            let leaving = it.leaving.iter();
            leaving.map(move |(name, (_, departed))| (*departed, service.clone(), name.clone()))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        for (_, service, name) in all.into_iter().take(surplus) {
            self.is_down(&service, &name);
        }
    }

    /// Releases held instances whose address a new key announces: their clients would reach the new
    /// container.
    fn release(&mut self, arrived: &HostPorts) {
        for (name, service) in &mut self.services {
            let has_left = !service.departed.is_empty() || !service.held.is_empty();
            let count = if has_left {
                service.release(arrived)
            } else {
                0
            };
            if count > 0 {
                self.notes
                    .push(MembershipEvent::Displaced(name.clone(), count));
            }
        }
    }
}

/// Whether two of the spans overlap; each ends just before its second stamp.
fn overlap(spans: impl Iterator<Item = (ObservedAt, ObservedAt)>) -> bool {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    spans.windows(2).any(|pair| pair[1].0 < pair[0].1)
}

#[cfg(test)]
mod tests;
