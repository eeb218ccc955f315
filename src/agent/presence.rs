//! Who counts as there: the table, and for a while those who left it in a crowd. Pure.
//!
//! One instance that leaves is believed at once. Half of a service, or several services, that leave
//! within two seconds look like an etcd that was emptied, or a network cut in two, and not like
//! that many containers dying: those are kept for a while, and HAProxy's own checks decide.

mod service;

use super::beside::beside;
use super::limits::MAX_SERVICES;
use super::table::{Instances, Services};
use crate::clock::Moment;
use service::Service;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Departures within so long of each other are one crowd.
pub const CROWD: Duration = Duration::from_secs(2);

/// A service this big may be held by itself; in a smaller one, "over half" is a single container.
const BIG_ENOUGH: usize = 4;

/// How long things outlast their keys.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How long a crowd is kept; zero: not at all.
    pub hold: Duration,
    /// How long the front of a service without any instance stays bound.
    pub forget: Duration,
}

/// Something worth a loud line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// So many instances of the service left at a blow, and are kept.
    Held(String, usize),
    /// They are let go.
    LetGo(String, usize),
    /// The service had no instance for long enough.
    Forgotten(String),
}

/// A service as it is to be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where clients dial it unless the operator said otherwise: the lowest port among its
    /// instances when it was first seen, and never another one while it is known.
    pub port: u16,
    /// Those that are there, and those that are held. The same pointer as long as nothing changes.
    pub instances: Arc<Instances>,
}

/// The services with their recent past.
#[derive(Debug)]
pub struct Presence {
    settings: Settings,
    services: BTreeMap<String, Service>,
    notes: Vec<Note>,
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
        }
    }

    /// The table as it is at `now`. Tells whether anything is different.
    pub fn observe(&mut self, table: &Services, now: Moment) -> bool {
        let mut changed = false;
        for (_, service, here) in beside(self.services.iter_mut(), table.iter()) {
            changed |= service.is_now(here, now);
        }
        let all = beside(table.iter(), self.services.iter());
        let new = all.filter_map(|(name, here, service)| service.is_none().then_some((name, here)));
        for (name, here) in new.collect::<Vec<_>>() {
            let service = self.services.entry(name.clone()).or_default();
            changed |= service.is_now(Some(here), now);
        }
        if changed && !self.settings.hold.is_zero() {
            self.hold(now);
        }
        changed
    }

    /// Who is to be served at `now`, by name. Lets those go whose time is up.
    pub fn wanted(&mut self, now: Moment) -> impl Iterator<Item = (&String, Wanted)> {
        let forget = self.settings.forget;
        let notes = &mut self.notes;
        self.services.retain(|name, service| {
            let before = service.held.len();
            service.held.retain(|_, (_, _, until)| *until > now);
            if service.held.len() < before {
                notes.push(Note::LetGo(name.clone(), before - service.held.len()));
            }
            service
                .left
                .retain(|_, (_, at)| now.saturating_sub(*at) <= CROWD);
            if !service.here.is_empty() || !service.held.is_empty() {
                return true;
            }
            let since = *service.empty_since.get_or_insert(now);
            let stays = now.saturating_sub(since) < forget || !service.left.is_empty();
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
        let held = self
            .services
            .values()
            .flat_map(|s| s.held.values().map(|(_, _, until)| *until));
        let empty = self.services.values().filter_map(|service| {
            let forgotten = service.empty_since? + self.settings.forget;
            let left = service.left.values().map(|(_, at)| *at + CROWD);
            left.chain([forgotten]).max()
        });
        held.chain(empty).min()
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
        let wiped = self
            .services
            .values()
            .filter(|service| service.is_wiped(now))
            .count();
        for (name, service) in &mut self.services {
            let (left, here) = (service.left.len(), service.here.len());
            let half = left + here >= BIG_ENOUGH && left * 2 > left + here;
            if left > 0 && (half || (wiped >= 2 && service.is_wiped(now))) {
                self.notes.push(Note::Held(name.clone(), left));
                let until = now + self.settings.hold;
                let crowd = std::mem::take(&mut service.left).into_iter();
                service
                    .held
                    .extend(crowd.map(|(name, (instance, at))| (name, (instance, at, until))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::table::Instance;
    use crate::endpoint::Endpoint;

    const HOLD: Duration = Duration::from_secs(30);
    const FORGET: Duration = Duration::from_secs(3600);

    fn at(seconds: f64) -> Moment {
        Moment::from_secs_f64(1000.0 + seconds)
    }

    fn presence() -> Presence {
        Presence::new(
            Settings {
                hold: HOLD,
                forget: FORGET,
            },
            BTreeMap::new(),
            at(0.0),
        )
    }

    /// `redis:1,2 web:1` with 1 → port 6001; a `d` after the number: draining.
    fn table(text: &str) -> Services {
        let mut services = Services::new();
        for part in text.split_whitespace() {
            let (service, instances) = part.split_once(':').unwrap();
            for name in instances.split(',').filter(|i| !i.is_empty()) {
                let number = name.trim_end_matches('d');
                let status = if name.ends_with('d') {
                    r#","status":"draining""#
                } else {
                    ""
                };
                let value = format!(
                    r#"{{"host":"10.0.0.1","port":{}{status}}}"#,
                    6000 + number.parse::<u16>().unwrap()
                );
                let endpoint = Endpoint::decode(value.as_bytes()).unwrap();
                let instances = services.entry(service.to_owned()).or_default();
                Arc::make_mut(instances).insert(number.to_owned(), Instance::new(endpoint, 1));
            }
        }
        services
    }

    fn shows(presence: &mut Presence, seconds: f64) -> String {
        let wanted = presence.wanted(at(seconds));
        let services = wanted.map(|(name, wanted)| {
            let instances: Vec<_> = wanted.instances.keys().map(String::as_str).collect();
            format!("{name}:{}", instances.join(","))
        });
        services.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn one_that_leaves_is_believed_at_once() {
        let mut p = presence();
        p.observe(&table("redis:1,2,3,4"), at(0.0));
        p.observe(&table("redis:1,2,3"), at(1.0));
        assert_eq!(shows(&mut p, 1.0), "redis:1,2,3");
        p.observe(&table("redis:1,2"), at(2.0));
        assert_eq!(shows(&mut p, 2.0), "redis:1,2");
        assert_eq!(p.take_notes(), []);
    }

    #[test]
    fn over_half_within_two_seconds_is_held_also_those_who_went_first() {
        let mut p = presence();
        p.observe(&table("redis:1,2,3,4"), at(0.0));
        p.observe(&table("redis:1,2,3"), at(1.0));
        assert_eq!(shows(&mut p, 1.0), "redis:1,2,3");
        p.observe(&table("redis:1"), at(2.0));
        assert_eq!(shows(&mut p, 2.0), "redis:1,2,3,4");
        assert_eq!(p.take_notes(), [Note::Held("redis".to_owned(), 3)]);
        assert_eq!(p.next_change(), Some(at(32.0)));
        assert_eq!(shows(&mut p, 31.9), "redis:1,2,3,4");
        assert_eq!(shows(&mut p, 32.0), "redis:1");
        assert_eq!(p.take_notes(), [Note::LetGo("redis".to_owned(), 3)]);
    }

    #[test]
    fn over_half_but_slowly_is_believed() {
        let mut p = presence();
        p.observe(&table("redis:1,2,3,4"), at(0.0));
        for (left, when) in [("redis:1,2,3", 0.0), ("redis:1,2", 2.1), ("redis:1", 4.2)] {
            p.observe(&table(left), at(when));
            assert_eq!(shows(&mut p, when), left);
        }
    }

    #[test]
    fn who_was_draining_is_never_held() {
        let mut p = presence();
        p.observe(&table("redis:1d,2d,3d,4 web:1d"), at(0.0));
        p.observe(&table("redis:4"), at(1.0));
        assert_eq!(shows(&mut p, 1.0), "redis:4 web:");
    }

    #[test]
    fn two_services_wiped_are_held_one_is_believed() {
        let mut p = presence();
        p.observe(&table("a:1 b:1 c:1"), at(0.0));
        p.observe(&table("b:1 c:1"), at(1.0));
        assert_eq!(shows(&mut p, 1.0), "a: b:1 c:1");
        p.observe(&table("c:1"), at(2.0));
        assert_eq!(shows(&mut p, 2.0), "a:1 b:1 c:1");
        p.observe(&table(""), at(3.5));
        assert_eq!(shows(&mut p, 3.5), "a:1 b:1 c:1");
        // They come back one by one: no longer held, and no longer counted.
        p.observe(&table("a:1"), at(5.0));
        assert_eq!(p.held(), 2);
        assert_eq!(shows(&mut p, 34.0), "a:1 b: c:");
    }

    #[test]
    fn zero_turns_it_off() {
        let mut p = presence();
        p.settings.hold = Duration::ZERO;
        p.observe(&table("a:1,2,3,4 b:1"), at(0.0));
        p.observe(&table(""), at(1.0));
        assert_eq!(shows(&mut p, 1.0), "a: b:");
    }

    #[test]
    fn what_was_served_last_is_part_of_the_crowd() {
        let mut before = presence();
        before.observe(&table("a:1 b:1"), at(0.0));
        let last = before
            .wanted(at(0.0))
            .map(|(name, wanted)| (name.clone(), wanted));
        let last = last.collect();
        let mut p = Presence::new(
            Settings {
                hold: HOLD,
                forget: FORGET,
            },
            last,
            at(10.0),
        );
        p.observe(&table(""), at(11.0));
        assert_eq!(shows(&mut p, 11.0), "a:1 b:1");
    }

    #[test]
    fn an_empty_service_keeps_its_front_and_its_port_until_forgotten() {
        let mut p = presence();
        p.observe(&table("a:2,3"), at(0.0));
        p.observe(&table(""), at(10.0));
        assert_eq!(shows(&mut p, 10.0), "a:");
        assert_eq!(p.next_change(), Some(at(3610.0)));
        assert_eq!(shows(&mut p, 3609.0), "a:");
        p.observe(&table("a:1"), at(3609.5));
        assert_eq!(p.wanted(at(3609.5)).next().unwrap().1.port, 6002);
        p.observe(&table(""), at(4000.0));
        assert_eq!(shows(&mut p, 4000.0), "a:");
        assert_eq!(shows(&mut p, 7600.0), "");
        assert_eq!(p.take_notes(), [Note::Forgotten("a".to_owned())]);
        p.observe(&table("a:1"), at(8000.0));
        assert_eq!(p.wanted(at(8000.0)).next().unwrap().1.port, 6001);
    }
    /// The time to be forgotten was over, those who had just left spoke against it, and until they
    /// were forgotten too there was a pass each millisecond (seed 2242 of the storm).
    #[test]
    fn one_that_comes_and_goes_between_two_looks_is_empty_from_then_on() {
        for forget in [FORGET, Duration::ZERO] {
            let hold = Duration::ZERO;
            let mut p = Presence::new(Settings { hold, forget }, BTreeMap::new(), at(0.0));
            p.observe(&table("redis:1,2"), at(0.0));
            p.observe(&table(""), at(1.0));
            assert_eq!(shows(&mut p, 1.0), "redis:");
            p.observe(&table("redis:1,2"), at(3602.0));
            p.observe(&table(""), at(3602.5));
            assert_eq!(shows(&mut p, 3602.5), "redis:");
            let next = at(3602.5) + forget.max(CROWD);
            assert_eq!(p.next_change(), Some(next));
        }
    }

    /// A service that came and went stayed for `--forget`, and as many of them as there were names.
    #[test]
    fn services_that_come_and_go_do_not_pile_up() {
        let mut p = presence();
        for n in 0..2 * MAX_SERVICES {
            let when = n as f64 / 10.0;
            p.observe(&table(&format!("steady:1 s{n}:1")), at(when));
            p.observe(&table("steady:1"), at(when));
            assert!(p.wanted(at(when)).count() <= MAX_SERVICES);
        }
        let last = format!("s{}", 2 * MAX_SERVICES - 1);
        let wanted: BTreeMap<_, _> = p.wanted(at(820.0)).collect();
        assert_eq!(wanted.len(), MAX_SERVICES);
        assert!(wanted.contains_key(&"steady".to_owned()) && wanted.contains_key(&last));
    }
}
