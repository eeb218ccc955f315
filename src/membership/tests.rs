//! Which instances count as present.

use super::*;
use crate::catalog::Instance;
use crate::endpoint::Endpoint;

const HOLD: Duration = Duration::from_secs(30);
const FORGET: Duration = Duration::from_secs(3600);

fn at(seconds: f64) -> Moment {
    Moment::from_secs_f64(1000.0 + seconds)
}

/// Connections end with their key, unless a test says otherwise.
const RETENTION: Retention = Retention {
    hold: HOLD,
    forget: FORGET,
    drain: Duration::ZERO,
};

fn membership() -> Membership {
    Membership::new(RETENTION, BTreeMap::new(), at(0.0))
}

fn draining_for(drain: f64) -> Membership {
    let drain = Duration::from_secs_f64(drain);
    Membership::new(Retention { drain, ..RETENTION }, BTreeMap::new(), at(0.0))
}

/// `redis:1,2 web:1`: instance 1 at port 6001; a `d` after the number: draining.
fn catalog(text: &str) -> Services {
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
            instances.insert(number.to_owned(), Instance::new(endpoint, 1));
        }
    }
    services
}

/// A `-` after an instance: it is leaving.
fn shows(membership: &mut Membership, seconds: f64) -> String {
    let desired = membership.desired(at(seconds));
    let services = desired.map(|(name, desired)| {
        let word = |it: &Instance| if it.leaving { "-" } else { "" };
        let instances = desired.instances.iter();
        let instances: Vec<_> = instances
            .map(|(name, it)| format!("{name}{}", word(it)))
            .collect();
        format!("{name}:{}", instances.join(","))
    });
    services.collect::<Vec<_>>().join(" ")
}

#[test]
fn one_that_leaves_is_believed_at_once() {
    let mut p = membership();
    p.observe(&catalog("redis:1,2,3,4"), at(0.0));
    p.observe(&catalog("redis:1,2,3"), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "redis:1,2,3");
    p.observe(&catalog("redis:1,2"), at(2.0));
    assert_eq!(shows(&mut p, 2.0), "redis:1,2");
    assert_eq!(p.take_events(), []);
}

#[test]
fn over_half_within_two_seconds_is_held_also_those_who_went_first() {
    let mut p = membership();
    p.observe(&catalog("redis:1,2,3,4"), at(0.0));
    p.observe(&catalog("redis:1,2,3"), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "redis:1,2,3");
    p.observe(&catalog("redis:1"), at(2.0));
    assert_eq!(shows(&mut p, 2.0), "redis:1,2,3,4");
    assert_eq!(
        p.take_events(),
        [MembershipEvent::Held("redis".to_owned(), 3)]
    );
    assert_eq!(p.next_change(), Some(at(32.0)));
    assert_eq!(shows(&mut p, 31.9), "redis:1,2,3,4");
    assert_eq!(shows(&mut p, 32.0), "redis:1");
    assert_eq!(
        p.take_events(),
        [MembershipEvent::HoldEnded("redis".to_owned(), 3)]
    );
}

#[test]
fn over_half_but_slowly_is_believed() {
    let mut p = membership();
    p.observe(&catalog("redis:1,2,3,4"), at(0.0));
    for (departed, when) in [("redis:1,2,3", 0.0), ("redis:1,2", 2.1), ("redis:1", 4.2)] {
        p.observe(&catalog(departed), at(when));
        assert_eq!(shows(&mut p, when), departed);
    }
}

/// Three instances used to count as a mass departure where there had never been more than two at once.
#[test]
fn short_lived_keys_in_turn_beside_a_steady_one_are_no_crowd() {
    let mut p = membership();
    p.observe(&catalog("redis:9"), at(0.0));
    for n in 0..9 {
        let when = f64::from(n) / 5.0;
        p.observe(&catalog(&format!("redis:{},9", n % 4)), at(when));
        p.observe(&catalog("redis:9"), at(when + 0.1));
        assert_eq!(shows(&mut p, when + 0.1), "redis:9");
    }
    // Instances that replace each other are no mass departure either.
    for n in 0..6 {
        p.observe(
            &catalog(&format!("redis:{n},9")),
            at(10.0 + f64::from(n) / 5.0),
        );
    }
    // Nor are services of which each was gone before the next came.
    for n in 0..4 {
        p.observe(
            &catalog(&format!("redis:5,9 s{n}:1")),
            at(20.0 + f64::from(n) / 5.0),
        );
        p.observe(&catalog("redis:5,9"), at(20.1 + f64::from(n) / 5.0));
    }
    assert_eq!((p.held(), p.take_events()), (0, vec![]));
    // Those that were present at once are, though some had just arrived.
    p.observe(&catalog("redis:5,6,7,8,9"), at(30.0));
    p.observe(&catalog("redis:9"), at(30.5));
    assert_eq!(
        shows(&mut p, 30.5).split(' ').next(),
        Some("redis:5,6,7,8,9")
    );
}

/// Half of a's clients used to reach b, for 21 s.
#[test]
fn who_is_held_goes_as_soon_as_a_live_key_announces_its_address() {
    let mut p = membership();
    p.observe(&catalog("a:1 b:2 c:3"), at(0.0));
    p.observe(&catalog(""), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "a:1 b:2 c:3");
    p.observe(&catalog("a:2"), at(1.2));
    assert_eq!(shows(&mut p, 1.2), "a:1,2 b: c:3");
    p.observe(&catalog("a:2 b:1"), at(1.3));
    assert_eq!(shows(&mut p, 1.3), "a:2 b:1 c:3");
    let displaced = |service: &str| MembershipEvent::Displaced(service.to_owned(), 1);
    assert_eq!(p.take_events()[3..], [displaced("b"), displaced("a")]);
    // The other way round: the key arrived before the mass departure was complete.
    let mut p = membership();
    p.observe(&catalog("a:1 b:2"), at(0.0));
    p.observe(&catalog("b:2"), at(1.0));
    p.observe(&catalog("b:2 c:1"), at(1.1));
    p.observe(&catalog("c:1"), at(1.2));
    assert_eq!(shows(&mut p, 1.2), "a: b: c:1");
    // Two keys of one instance do not displace each other.
    let mut p = membership();
    p.observe(&catalog("a:1 b:1 c:1"), at(0.0));
    p.observe(&catalog("c:1"), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "a:1 b:1 c:1");
}

#[test]
fn who_was_draining_is_never_held() {
    let mut p = membership();
    p.observe(&catalog("redis:1d,2d,3d,4 web:1d"), at(0.0));
    p.observe(&catalog("redis:4"), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "redis:4 web:");
}

#[test]
fn two_services_wiped_are_held_one_is_believed() {
    let mut p = membership();
    p.observe(&catalog("a:1 b:1 c:1"), at(0.0));
    p.observe(&catalog("b:1 c:1"), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "a: b:1 c:1");
    p.observe(&catalog("c:1"), at(2.0));
    assert_eq!(shows(&mut p, 2.0), "a:1 b:1 c:1");
    p.observe(&catalog(""), at(3.5));
    assert_eq!(shows(&mut p, 3.5), "a:1 b:1 c:1");
    // They come back one by one: no longer held, and no longer counted.
    p.observe(&catalog("a:1"), at(5.0));
    assert_eq!(p.held(), 2);
    assert_eq!(shows(&mut p, 34.0), "a:1 b: c:");
}

#[test]
fn zero_turns_it_off() {
    let mut p = membership();
    p.retention.hold = Duration::ZERO;
    p.observe(&catalog("a:1,2,3,4 b:1"), at(0.0));
    p.observe(&catalog(""), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "a: b:");
}

#[test]
fn what_was_served_last_is_part_of_the_crowd() {
    let mut before = membership();
    before.observe(&catalog("a:1 b:1"), at(0.0));
    let last = before
        .desired(at(0.0))
        .map(|(name, desired)| (name.clone(), desired));
    let last = last.collect();
    let mut p = Membership::new(RETENTION, last, at(10.0));
    p.observe(&catalog(""), at(11.0));
    assert_eq!(shows(&mut p, 11.0), "a:1 b:1");
}

#[test]
fn an_empty_service_keeps_its_front_and_its_port_until_forgotten() {
    let mut p = membership();
    p.observe(&catalog("a:2,3"), at(0.0));
    p.observe(&catalog(""), at(10.0));
    assert_eq!(shows(&mut p, 10.0), "a:");
    assert_eq!(p.next_change(), Some(at(3610.0)));
    assert_eq!(shows(&mut p, 3609.0), "a:");
    p.observe(&catalog("a:1"), at(3609.5));
    assert_eq!(p.desired(at(3609.5)).next().unwrap().1.port, 6002);
    p.observe(&catalog(""), at(4000.0));
    assert_eq!(shows(&mut p, 4000.0), "a:");
    assert_eq!(shows(&mut p, 7600.0), "");
    assert_eq!(
        p.take_events(),
        [MembershipEvent::Forgotten("a".to_owned())]
    );
    p.observe(&catalog("a:1"), at(8000.0));
    assert_eq!(p.desired(at(8000.0)).next().unwrap().1.port, 6001);
}
/// The service was due to be forgotten, but instances that had just departed kept it, and until those were
/// forgotten too there was a pass each millisecond (seed 2242 of the agent's simulation).
#[test]
fn one_that_comes_and_goes_between_two_looks_is_empty_from_then_on() {
    for forget in [FORGET, Duration::ZERO] {
        let hold = Duration::ZERO;
        let mut p = Membership::new(
            Retention {
                hold,
                forget,
                ..RETENTION
            },
            BTreeMap::new(),
            at(0.0),
        );
        p.observe(&catalog("redis:1,2"), at(0.0));
        p.observe(&catalog(""), at(1.0));
        assert_eq!(shows(&mut p, 1.0), "redis:");
        p.observe(&catalog("redis:1,2"), at(3602.0));
        p.observe(&catalog(""), at(3602.5));
        assert_eq!(shows(&mut p, 3602.5), "redis:");
        let next = at(3602.5) + forget.max(MASS_DEPARTURE_WINDOW);
        assert_eq!(p.next_change(), Some(next));
    }
}

/// A service that came and went used to stay for `--forget`, and there were as many of them as names.
#[test]
fn services_that_come_and_go_do_not_pile_up() {
    let mut p = membership();
    for n in 0..2 * MAX_SERVICES {
        let when = n as f64 / 10.0;
        p.observe(&catalog(&format!("steady:1 s{n}:1")), at(when));
        p.observe(&catalog("steady:1"), at(when));
        assert!(p.desired(at(when)).count() <= MAX_SERVICES);
    }
    let last = format!("s{}", 2 * MAX_SERVICES - 1);
    let desired: BTreeMap<_, _> = p.desired(at(820.0)).collect();
    assert_eq!(desired.len(), MAX_SERVICES);
    assert!(desired.contains_key(&"steady".to_owned()) && desired.contains_key(&last));
}

/// A key that was gone for 0.2 s used to cut all connections of a healthy instance.
#[test]
fn a_key_that_blinks_ends_nothing() {
    let mut p = draining_for(30.0);
    p.observe(&catalog("redis:1,2"), at(0.0));
    p.observe(&catalog("redis:2"), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "redis:1-,2");
    assert_eq!(p.next_change(), Some(at(31.0)));
    p.observe(&catalog("redis:1,2"), at(1.2));
    assert_eq!(shows(&mut p, 1.2), "redis:1,2");
    assert_eq!((p.leaving().count(), p.next_change()), (0, None));
    assert_eq!(p.take_events(), []);
}

#[test]
fn an_instance_that_drained_already_gets_no_second_time() {
    let mut p = draining_for(30.0);
    p.observe(&catalog("redis:1,2"), at(0.0));
    p.observe(&catalog("redis:1d,2"), at(2.0));
    p.observe(&catalog("redis:2"), at(12.0));
    assert_eq!(shows(&mut p, 31.9), "redis:1-,2");
    assert_eq!(shows(&mut p, 32.0), "redis:2");
    // Longer than that: it is gone with its key.
    p.observe(&catalog("redis:1d,2"), at(40.0));
    p.observe(&catalog("redis:2"), at(80.0));
    assert_eq!(shows(&mut p, 80.0), "redis:2");
    // One that served again in between has all of it.
    p.observe(&catalog("redis:1d,2"), at(90.0));
    p.observe(&catalog("redis:1,2"), at(100.0));
    p.observe(&catalog("redis:2"), at(110.0));
    assert_eq!(shows(&mut p, 139.9), "redis:1-,2");
    // And so has one that served until now, because no other one was up.
    p.observe(&catalog("redis:3d"), at(200.0));
    p.serves_alone("redis", "3", at(220.0));
    p.observe(&catalog(""), at(220.0));
    assert_eq!(shows(&mut p, 249.9), "redis:3-");
    assert_eq!(shows(&mut p, 250.0), "redis:");
}

#[test]
fn one_that_is_leaving_is_gone_when_its_check_says_that_it_is_down() {
    let mut p = draining_for(30.0);
    p.observe(&catalog("redis:1,2"), at(0.0));
    assert!(!p.is_down("redis", "1"), "it isn't leaving");
    p.observe(&catalog(""), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "redis:1-,2-");
    assert!(p.is_down("redis", "1") && !p.is_down("redis", "1"));
    assert_eq!(shows(&mut p, 2.0), "redis:2-");
    assert_eq!(shows(&mut p, 31.0), "redis:");
}

#[test]
fn a_crowd_that_is_held_serves_and_what_is_left_of_its_time_it_drains() {
    let mut p = draining_for(40.0);
    p.observe(&catalog("redis:1,2,3,4"), at(0.0));
    p.observe(&catalog("redis:2,3,4"), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "redis:1-,2,3,4");
    p.observe(&catalog("redis:4"), at(2.0));
    assert_eq!(shows(&mut p, 2.0), "redis:1,2,3,4");
    assert_eq!(shows(&mut p, 32.0), "redis:1-,2-,3-,4");
    assert_eq!(shows(&mut p, 41.0), "redis:2-,3-,4");
    assert_eq!(shows(&mut p, 42.0), "redis:4");
    assert_eq!(p.next_change(), None);
}

/// Its clients would reach the container that has the address now; the old connections stay where they are.
#[test]
fn one_that_was_held_and_whose_address_another_key_announces_drains() {
    let mut p = draining_for(10.0);
    p.observe(&catalog("a:1 b:2"), at(0.0));
    p.observe(&catalog(""), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "a:1 b:2");
    p.observe(&catalog("b:1"), at(2.0));
    assert_eq!(shows(&mut p, 2.0), "a:1- b:1,2");
    assert_eq!(shows(&mut p, 11.0), "a: b:1,2");
}

/// A service is not forgotten before its last leaving instance.
#[test]
fn those_that_are_leaving_are_not_forgotten_with_their_service() {
    let mut p = draining_for(30.0);
    p.retention.forget = Duration::ZERO;
    p.observe(&catalog("redis:1"), at(0.0));
    p.observe(&catalog(""), at(1.0));
    assert_eq!(shows(&mut p, 1.0), "redis:1-");
    assert_eq!(p.next_change(), Some(at(31.0)));
    assert_eq!(shows(&mut p, 31.0), "");
}

/// Keys that come and go under ever new names.
#[test]
fn those_that_are_leaving_do_not_pile_up() {
    let mut p = draining_for(1e6);
    p.retention.hold = Duration::ZERO;
    for n in 0..MAX_LEAVING + 10 {
        let when = n as f64 / 100.0;
        p.observe(&catalog(&format!("redis:9 s{}:{n}", n % 7)), at(when));
        p.observe(&catalog("redis:9"), at(when));
    }
    let first = p.leaving().map(|(_, name)| name.parse::<usize>().unwrap());
    assert_eq!((first.min(), p.leaving().count()), (Some(10), MAX_LEAVING));
}
