//! Who counts as there: the table, and for a while those who left it. Pure.
//!
//! One instance that leaves takes no new connection from then on. Its key may come back in a moment (an
//! announcer that is restarted, a lease that was lost), so its connections end only some time later, or when
//! HAProxy's check says that it is down. Half of a service, or several services, that leave
//! within two seconds look like an etcd that was emptied, or a network cut in two, and not like
//! that many containers dying: those go on serving for a while, and HAProxy's own checks decide.

mod service_history;

use crate::catalog::Services;
use crate::catalog::limits::{MAX_LEAVING, MAX_SERVICES};
use crate::clock::Moment;
use itertools::{EitherOrBoth, Itertools};
pub use service_history::{DesiredService, MASS_DEPARTURE_WINDOW};
use service_history::{HostPorts, ObservedAt, ServiceHistory};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long things outlast their keys.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// How long a crowd is kept; zero: not at all.
    pub hold: Duration,
    /// How long the front of a service without any instance stays bound.
    pub forget: Duration,
    /// How long after its key an instance's connections end; zero: with the key.
    pub drain: Duration,
}

/// Something worth a loud line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipEvent {
    /// So many instances of the service left at a blow, and are kept.
    Held(String, usize),
    /// They are let go.
    HoldEnded(String, usize),
    /// So many that were kept go, for keys that are there announce their addresses.
    Displaced(String, usize),
    /// The service had no instance for long enough.
    Forgotten(String),
}

/// The services with their recent past.
#[derive(Debug)]
pub struct Membership {
    retention: Retention,
    services: BTreeMap<String, ServiceHistory>,
    notes: Vec<MembershipEvent>,
    /// How often the table was looked at.
    observations: u64,
}

impl Membership {
    /// Starts from what was served last (from the file on disk), so that a crowd that left while
    /// nobody looked is a crowd too. Each service comes with the port it was served at.
    #[must_use]
    pub fn new(retention: Retention, last: BTreeMap<String, DesiredService>, now: Moment) -> Self {
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
            notes: Vec::new(),
            observations: 0,
        }
    }

    /// The table as it is at `now`. Tells whether anything is different.
    pub fn observe(&mut self, catalog: &Services, now: Moment) -> bool {
        let mut changed = false;
        self.observations += 1;
        let (stamp, mut arrived) = ((now, self.observations), HostPorts::new());
        let mut new = Vec::new();
        let services = self.services.iter_mut();
        for pair in services.merge_join_by(catalog, |(a, _), (b, _)| (*a).cmp(*b)) {
            changed |= match pair {
                EitherOrBoth::Both((_, service), (_, present)) => {
                    service.observe(Some(present), stamp, &mut arrived)
                }
                EitherOrBoth::Left((_, service)) => service.observe(None, stamp, &mut arrived),
                EitherOrBoth::Right((name, present)) => {
                    let mut service = ServiceHistory::default();
                    let changed = service.observe(Some(present), stamp, &mut arrived);
                    new.push((name.clone(), service));
                    changed
                }
            };
        }
        self.services.extend(new);
        if changed && !self.retention.hold.is_zero() {
            self.release(&arrived);
            self.hold(now);
        }
        if changed {
            self.end_oldest_leaving();
        }
        changed
    }

    /// Who is to be served at `now`, by name. Lets those go whose time is up.
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

    /// Services that come and go are no more in all than may be there at once: those go first that
    /// were empty the longest.
    fn forget_oldest_empty(&mut self) {
        let over_limits = self.services.len().saturating_sub(MAX_SERVICES);
        if over_limits == 0 {
            return;
        }
        let empty = self.services.iter();
        let empty = empty.filter_map(|(name, service)| Some((service.empty_since?, name.clone())));
        let mut empty: Vec<_> = empty.collect();
        empty.sort_unstable();
        for (_, name) in empty.into_iter().take(over_limits) {
            self.services.remove(&name);
            self.notes.push(MembershipEvent::Forgotten(name));
        }
    }

    /// When [`Membership::desired`] will change by itself.
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

    /// Services and instances whose keys are gone, and whose connections aren't yet.
    pub fn leaving(&self) -> impl Iterator<Item = (&String, &String)> {
        let services = self.services.iter();
        services.flat_map(|(service, it)| it.leaving.keys().map(move |name| (service, name)))
    }

    /// HAProxy's check says that this instance is down. One that is leaving is gone with that. Tells
    /// whether it was one.
    pub fn is_down(&mut self, service: &str, name: &str) -> bool {
        let service = self.services.get_mut(service);
        service.is_some_and(|service| service.end(name))
    }

    /// How long a crowd is held.
    #[must_use]
    pub const fn hold_time(&self) -> Duration {
        self.retention.hold
    }

    /// How many instances are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.services
            .values()
            .map(|service| service.held.len())
            .sum()
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<MembershipEvent> {
        std::mem::take(&mut self.notes)
    }

    fn hold(&mut self, now: Moment) {
        let emptied = self.services.values().filter_map(|it| it.emptied(now));
        let several = overlap(emptied);
        for (name, service) in &mut self.services {
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

    /// Instances that leave faster than their time passes are no more in all than there may be of one
    /// service: those end first that left first.
    fn end_oldest_leaving(&mut self) {
        let over_limits = self.leaving().count().saturating_sub(MAX_LEAVING);
        if over_limits == 0 {
            return;
        }
        let services = self.services.iter();
        let all = services.flat_map(|(service, it)| {
            let leaving = it.leaving.iter();
            leaving.map(move |(name, (_, departed))| (*departed, service.clone(), name.clone()))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        for (_, service, name) in all.into_iter().take(over_limits) {
            self.is_down(&service, &name);
        }
    }

    /// A container that was made anew may have the address of one that left, whose clients would reach it.
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

/// Whether two of the spans have a moment in common; each ends just before its second stamp.
fn overlap(spans: impl Iterator<Item = (ObservedAt, ObservedAt)>) -> bool {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    spans.windows(2).any(|pair| pair[1].0 < pair[0].1)
}

#[cfg(test)]
mod tests;
