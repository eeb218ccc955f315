use super::*;
use crate::announce::lease::ownership::Holder;
use crate::endpoint::control::{AgentRecord, ControlPrefix, DrainWord};

const BEGAN: Moment = Duration::from_secs(1000);
const LONGEST: Duration = Duration::from_secs(10);
const INSTANT: Duration = Duration::from_nanos(1);

fn key(i: usize) -> Key {
    format!("/services/redis/redis@{i}").parse().unwrap()
}

fn endpoint(i: usize) -> Endpoint {
    let value = format!(r#"{{"host":"10.0.0.{i}","port":6379,"since":"2026-11-23T05:06:06Z"}}"#);
    Endpoint::decode(value.as_bytes()).unwrap()
}

fn announce(i: usize) -> DesiredKey {
    DesiredKey::Announce(Arc::new(endpoint(i)))
}

fn desired(keys: &[usize]) -> DesiredKeys {
    keys.iter().map(|i| (key(*i), announce(*i))).collect()
}

/// These instances are announced as draining, and the others are not confirmed.
fn drain_is_put(keys: &[usize]) -> KeyStatuses {
    let status = |i: usize| KeyStatus::Announced(Arc::new(endpoint(i).draining()));
    keys.iter().map(|i| (key(*i), status(*i))).collect()
}

fn begin(keys: &[usize], longest: Duration) -> ShutdownDrain {
    ShutdownDrain::new(BEGAN, longest, &desired(keys), &KeyStatuses::new())
}

/// These agents serve redis, and those have given their word about these instances.
fn agents(all: &[&str], words: &[(&str, usize)]) -> AgentViews {
    let control = ControlPrefix::of("/services");
    let mut views = AgentViews::default();
    let services = ["redis".to_owned()].into();
    let record = AgentRecord { services }.encode();
    for id in all {
        let key = control.agent(id);
        views.put(&control, key.as_bytes(), record.as_bytes());
    }
    for (id, i) in words {
        let word = DrainWord::about(&endpoint(*i), false).encode();
        let key = control.word(id, &InstanceName::from(&key(*i)));
        views.put(&control, key.as_bytes(), word.as_bytes());
    }
    views
}

fn time_is_up(silent: &[&str], unserved: &[&str]) -> DrainStep {
    let owned = |words: &[&str]| words.iter().map(|it| (*it).to_owned()).collect();
    DrainStep::Over(DrainEnd::TimeIsUp {
        silent: owned(silent),
        unserved: owned(unserved),
    })
}

const DRAINED: DrainStep = DrainStep::Over(DrainEnd::Drained);
const UNCONFIRMED: DrainStep = DrainStep::Over(DrainEnd::Unconfirmed);
const NOTHING: DrainStep = DrainStep::Over(DrainEnd::NothingToDrain);

#[test]
fn a_put_that_is_not_confirmed_within_its_deadline_ends_the_drain() {
    let drain = begin(&[1], LONGEST);
    let end = BEGAN + CONFIRM_DEADLINE;
    assert_eq!(drain.poll(BEGAN), DrainStep::Wait(end));
    assert_eq!(drain.poll(end - INSTANT), DrainStep::Wait(end));
    assert_eq!(drain.poll(end), UNCONFIRMED);
    // --drain 2s, which is shorter.
    let drain = begin(&[1], Duration::from_secs(2));
    let end = BEGAN + Duration::from_secs(2);
    assert_eq!(drain.poll(end - INSTANT), DrainStep::Wait(end));
    assert_eq!(drain.poll(end), UNCONFIRMED);
}

#[test]
fn words_do_not_count_before_etcd_has_the_draining_value() {
    let mut drain = begin(&[1], LONGEST);
    drain.set_agents(&agents(&["a"], &[("a", 1)]));
    assert_eq!(drain.poll(BEGAN), DrainStep::Wait(BEGAN + CONFIRM_DEADLINE));
    let serving = KeyStatus::Announced(Arc::new(endpoint(1)));
    drain.set_statuses(&[(key(1), serving)].into());
    assert_eq!(drain.poll(BEGAN), DrainStep::Wait(BEGAN + CONFIRM_DEADLINE));
    drain.set_statuses(&drain_is_put(&[1]));
    assert_eq!(drain.poll(BEGAN), DRAINED);
}

#[test]
fn it_ends_with_the_last_word() {
    let mut drain = begin(&[1, 2], LONGEST);
    drain.set_statuses(&drain_is_put(&[1, 2]));
    let end = BEGAN + LONGEST;
    for words in [
        &[][..],
        &[("a", 1)],
        &[("a", 1), ("b", 1)],
        &[("a", 1), ("b", 1), ("a", 2)],
    ] {
        drain.set_agents(&agents(&["a", "b"], words));
        assert_eq!(drain.poll(BEGAN), DrainStep::Wait(end), "{words:?}");
    }
    let all = [("a", 1), ("b", 1), ("a", 2), ("b", 2)];
    drain.set_agents(&agents(&["a", "b"], &all));
    assert_eq!(drain.poll(BEGAN), DRAINED);
    assert_eq!(
        drain.poll(end),
        DRAINED,
        "with the last word at the last moment"
    );
}

#[test]
fn without_an_agent_and_with_a_silent_one_it_takes_the_full_time() {
    let end = BEGAN + LONGEST;
    let mut drain = begin(&[1], LONGEST);
    drain.set_statuses(&drain_is_put(&[1]));
    assert_eq!(drain.poll(end - INSTANT), DrainStep::Wait(end));
    assert_eq!(drain.poll(end), time_is_up(&[], &["redis"]));
    drain.set_agents(&agents(&["a", "b"], &[("a", 1)]));
    // b is gone, and a with its word.
    drain.set_agents(&agents(&[], &[]));
    assert_eq!(drain.poll(end - INSTANT), DrainStep::Wait(end));
    assert_eq!(drain.poll(end), time_is_up(&["b"], &[]));
}

#[test]
fn it_ends_with_the_containers_death() {
    let mut drain = begin(&[1, 2], LONGEST);
    assert_eq!(drain.leaving().len(), 2);
    drain.set_statuses(&drain_is_put(&[1, 2]));
    drain.set_agents(&agents(&["a"], &[("a", 2)]));
    drain.set_desired(&desired(&[1, 2]));
    assert_eq!(drain.poll(BEGAN), DrainStep::Wait(BEGAN + LONGEST));
    let mut down = desired(&[1, 2]);
    down.insert(key(1), DesiredKey::Withdraw { down: None });
    drain.set_desired(&down);
    assert_eq!(drain.poll(BEGAN), DRAINED, "the other one is drained");
    drain.set_desired(&DesiredKeys::new());
    assert_eq!(drain.poll(BEGAN), NOTHING);
}

#[test]
fn what_is_not_announced_needs_no_drain() {
    let theirs = KeyStatus::StandingBy(Holder::from(&endpoint(9)));
    for (desired, status) in [
        (DesiredKey::Withdraw { down: None }, KeyStatus::Withdrawn),
        (announce(1), theirs.clone()),
        (announce(1), KeyStatus::Rejected),
    ] {
        let desired = [(key(1), desired)].into();
        let drain = ShutdownDrain::new(BEGAN, LONGEST, &desired, &[(key(1), status)].into());
        assert_eq!(drain.poll(BEGAN), NOTHING);
    }
    // A younger container takes the key during the drain: our sessions are waited for all the same.
    let mut drain = begin(&[1], LONGEST);
    drain.set_statuses(&[(key(1), theirs)].into());
    assert_eq!(drain.poll(BEGAN), DrainStep::Wait(BEGAN + LONGEST));
}

#[test]
fn one_key_that_etcd_does_not_take_holds_the_others_up_for_no_longer_than_its_deadline() {
    let mut drain = begin(&[1, 2], LONGEST);
    drain.set_statuses(&drain_is_put(&[1]));
    drain.set_agents(&agents(&["a"], &[("a", 1)]));
    let confirm_by = BEGAN + CONFIRM_DEADLINE;
    assert_eq!(
        drain.poll(confirm_by - INSTANT),
        DrainStep::Wait(confirm_by)
    );
    assert_eq!(drain.poll(confirm_by), DRAINED);
    drain.set_agents(&agents(&["a"], &[]));
    assert_eq!(drain.poll(confirm_by), DrainStep::Wait(BEGAN + LONGEST));
}

/// Whatever happens, the drain is over after `--drain`.
#[test]
fn it_always_ends() {
    for confirmed in [&[][..], &[1], &[1, 2]] {
        for words in [&[][..], &[("a", 1)], &[("a", 1), ("a", 2)]] {
            for seconds in 1..=10 {
                let longest = Duration::from_secs(seconds);
                let mut drain = begin(&[1, 2], longest);
                drain.set_statuses(&drain_is_put(confirmed));
                drain.set_agents(&agents(&["a"], words));
                let mut now = BEGAN;
                while let DrainStep::Wait(until) = drain.poll(now) {
                    assert!(now < until && until <= BEGAN + longest, "{now:?} {until:?}");
                    now = until;
                }
            }
        }
    }
}
