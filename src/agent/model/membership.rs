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
pub use service_history::{CROWD, Wanted};
use service_history::{Places, Service, Stamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long things outlast their keys.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a crowd is kept; zero: not at all.
    pub hold: Duration,
    /// How long the front of a service without any instance stays bound.
    pub forget: Duration,
    /// How long after its key an instance's connections end; zero: with the key.
    pub drain: Duration,
}

/// Something worth a loud line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// So many instances of the service left at a blow, and are kept.
    Held(String, usize),
    /// They are let go.
    LetGo(String, usize),
    /// So many that were kept go, for keys that are there announce their addresses.
    Displaced(String, usize),
    /// The service had no instance for long enough.
    Forgotten(String),
}

/// The services with their recent past.
#[derive(Debug)]
pub struct Presence {
    settings: Settings,
    services: BTreeMap<String, Service>,
    notes: Vec<Note>,
    /// How often the table was looked at.
    looks: u64,
}

impl Presence {
    /// Starts from what was served last (from the file on disk), so that a crowd that left while
    /// nobody looked is a crowd too. Each service comes with the port it was served at.
    #[must_use]
    pub fn new(settings: Settings, last: BTreeMap<String, Wanted>, now: Moment) -> Self {
        let services = last.into_iter().map(|(name, wanted)| {
            let empty_since = wanted.instances.is_empty().then_some(now);
            let service = Service {
                port: wanted.port,
                here: wanted.instances,
                empty_since,
                ..Service::default()
            };
            (name, service)
        });
        Self {
            settings,
            services: services.collect(),
            notes: Vec::new(),
            looks: 0,
        }
    }

    /// The table as it is at `now`. Tells whether anything is different.
    pub fn observe(&mut self, table: &Services, now: Moment) -> bool {
        let mut changed = false;
        self.looks += 1;
        let (stamp, mut arrived) = ((now, self.looks), Places::new());
        let mut new = Vec::new();
        let services = self.services.iter_mut();
        for pair in services.merge_join_by(table, |(a, _), (b, _)| (*a).cmp(*b)) {
            changed |= match pair {
                EitherOrBoth::Both((_, service), (_, here)) => {
                    service.is_now(Some(here), stamp, &mut arrived)
                }
                EitherOrBoth::Left((_, service)) => service.is_now(None, stamp, &mut arrived),
                EitherOrBoth::Right((name, here)) => {
                    let mut service = Service::default();
                    let changed = service.is_now(Some(here), stamp, &mut arrived);
                    new.push((name.clone(), service));
                    changed
                }
            };
        }
        self.services.extend(new);
        if changed && !self.settings.hold.is_zero() {
            self.release(&arrived);
            self.hold(now);
        }
        if changed {
            self.end_surplus();
        }
        changed
    }

    /// Who is to be served at `now`, by name. Lets those go whose time is up.
    pub fn wanted(&mut self, now: Moment) -> impl Iterator<Item = (&String, Wanted)> {
        let Settings { forget, drain, .. } = self.settings;
        let notes = &mut self.notes;
        self.services.retain(|name, service| {
            let let_go = service.let_go(now);
            if let_go > 0 {
                notes.push(Note::LetGo(name.clone(), let_go));
            }
            service.end_old(now, drain);
            service.forget_old(now);
            if !service.here.is_empty() || !service.held.is_empty() {
                return true;
            }
            let since = *service.empty_since.get_or_insert(now);
            let goes = !service.left.is_empty() || !service.leaving.is_empty();
            let stays = now.saturating_sub(since) < forget || goes;
            if !stays {
                notes.push(Note::Forgotten(name.clone()));
            }
            stays
        });
        self.forget_surplus();
        let services = self.services.iter_mut();
        services.map(|(name, service)| (name, service.wanted()))
    }

    /// Services that come and go are no more in all than may be there at once: those go first that
    /// were empty the longest.
    fn forget_surplus(&mut self) {
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
            self.notes.push(Note::Forgotten(name));
        }
    }

    /// When [`Presence::wanted`] will change by itself.
    #[must_use]
    pub fn next_change(&self) -> Option<Moment> {
        let drain = self.settings.drain;
        let held = self
            .services
            .values()
            .flat_map(|s| s.held.values().map(|(_, _, until)| *until));
        let empty = self.services.values().filter_map(|service| {
            let forgotten = service.empty_since? + self.settings.forget;
            let left = service.left.values().map(|it| it.left.0 + CROWD);
            let leaving = service.leaving.values().map(|(_, left)| *left + drain);
            left.chain(leaving).chain([forgotten]).max()
        });
        let services = self.services.values();
        let leaving = services.flat_map(|it| it.leaving.values().map(|(_, left)| *left + drain));
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
        self.settings.hold
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
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    fn hold(&mut self, now: Moment) {
        let wiped = self.services.values().filter_map(|it| it.wiped(now));
        let several = overlap(wiped);
        for (name, service) in &mut self.services {
            let left = service.left.len();
            let is_crowd = || service.lost_half() || (several && service.wiped(now).is_some());
            if left > 0 && is_crowd() {
                self.notes.push(Note::Held(name.clone(), left));
                service.hold(now + self.settings.hold);
            }
        }
    }

    /// Instances that leave faster than their time passes are no more in all than there may be of one
    /// service: those end first that left first.
    fn end_surplus(&mut self) {
        let surplus = self.leaving().count().saturating_sub(MAX_LEAVING);
        if surplus == 0 {
            return;
        }
        let services = self.services.iter();
        let all = services.flat_map(|(service, it)| {
            let leaving = it.leaving.iter();
            leaving.map(move |(name, (_, left))| (*left, service.clone(), name.clone()))
        });
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        for (_, service, name) in all.into_iter().take(surplus) {
            self.is_down(&service, &name);
        }
    }

    /// A container that was made anew may have the address of one that left, whose clients would reach it.
    fn release(&mut self, arrived: &Places) {
        for (name, service) in &mut self.services {
            let has_left = !service.left.is_empty() || !service.held.is_empty();
            let count = if has_left {
                service.release(arrived)
            } else {
                0
            };
            if count > 0 {
                self.notes.push(Note::Displaced(name.clone(), count));
            }
        }
    }
}

/// Whether two of the spans have a moment in common; each ends just before its second stamp.
fn overlap(spans: impl Iterator<Item = (Stamp, Stamp)>) -> bool {
    let mut spans: Vec<_> = spans.collect();
    spans.sort_unstable();
    spans.windows(2).any(|pair| pair[1].0 < pair[0].1)
}

#[cfg(test)]
mod tests;
