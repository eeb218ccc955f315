//! The registrar, step by step: what it asks for, in which order, at which moment. (What it does
//! when everything goes wrong at once is in registrar_simulation.rs.)

// A scene that can't be set is a failed test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, missing_docs)]

use sidekick::announce::exchange::{
    Answer, Entry, Header, MAX_OPS, MAX_WRITES, Note, Op, Request, Standing, Step, Wish,
};
use sidekick::announce::registrar::{APART_PAUSE, HEAL_PAUSE, Registrar, Settings};
use sidekick::clock::Moment;
use sidekick::endpoint::{Endpoint, Key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const LEASE: i64 = 7;
const TTL: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(45);
const START: Moment = Duration::from_secs(1000);

fn key(i: usize) -> Key {
    format!("/services/redis/redis@{i:04}")
        .parse()
        .expect("a key")
}

fn endpoint(port: u16) -> Endpoint {
    let value = format!(
        r#"{{"host":"a","port":{port},"container":"aaaaaaaaaaaa","since":"2026-11-23T05:06:06Z"}}"#
    );
    Endpoint::decode(value.as_bytes()).expect("an endpoint")
}

fn announce(port: u16) -> Wish {
    Wish::Announce(Arc::new(endpoint(port)))
}

const WITHDRAW: Wish = Wish::Withdraw { down: None };

fn header(revision: i64) -> Header {
    Header {
        cluster: 1,
        revision,
    }
}

fn entry(value: &str, lease: i64, mod_revision: i64) -> Entry {
    Entry {
        value: value.into(),
        lease,
        mod_revision,
    }
}

struct Desk {
    registrar: Registrar,
    now: Moment,
}

impl Desk {
    /// With a lease, and these wishes.
    fn new(wishes: &[(usize, Wish)]) -> Self {
        let mut desk = Self {
            registrar: Registrar::new(Settings {
                ttl: TTL,
                interval: INTERVAL,
            }),
            now: START,
        };
        desk.wish(wishes);
        assert_eq!(desk.asks(), Request::Grant(TTL));
        desk.answer(&Request::Grant(TTL), Answer::Granted(LEASE, TTL));
        desk
    }

    fn wish(&mut self, wishes: &[(usize, Wish)]) {
        let wishes: BTreeMap<_, _> = wishes.iter().map(|(i, w)| (key(*i), w.clone())).collect();
        self.registrar.wish(&wishes);
    }

    fn asks(&mut self) -> Request {
        match self.registrar.poll(self.now) {
            Step::Do(request) => request,
            other => panic!("{other:?} instead of a request"),
        }
    }

    fn waits(&mut self) -> Moment {
        match self.registrar.poll(self.now) {
            Step::Wait(until) => until,
            other => panic!("{other:?} instead of waiting"),
        }
    }

    fn answer(&mut self, request: &Request, answer: Answer) {
        self.registrar.answer(request, answer);
    }

    fn writes(&mut self) -> Vec<Op> {
        match self.asks() {
            Request::Write(LEASE, ops) => ops,
            other => panic!("{other:?} instead of a write"),
        }
    }

    fn written(&mut self, revision: i64) {
        let request = self.asks();
        self.answer(&request, Answer::Written(header(revision)));
    }
}

#[test]
fn a_lease_is_held_before_there_is_anything_to_announce_and_a_claim_is_one_write() {
    let mut desk = Desk::new(&[(1, WITHDRAW)]);
    let read = desk.asks();
    assert_eq!(read, Request::Read(vec![key(1)]));
    desk.answer(&read, Answer::Read(header(5), vec![(key(1), None)]));
    assert_eq!(desk.waits(), START + INTERVAL);
    desk.wish(&[(1, announce(1))]);
    assert_eq!(
        desk.writes(),
        [Op::Create(key(1), endpoint(1).encode().into())]
    );
    desk.written(6);
    assert_eq!(
        desk.registrar.standings()[&key(1)],
        Standing::Announced(Arc::new(endpoint(1)))
    );
    assert_eq!(desk.waits(), START + INTERVAL);
}

#[test]
fn every_interval_the_lease_is_renewed_and_the_key_is_read_and_nothing_is_written() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    for _ in 0..3 {
        desk.now = desk.waits();
        let renew = desk.asks();
        assert_eq!(renew, Request::Renew(LEASE));
        desk.answer(&renew, Answer::Renewed);
        let read = desk.asks();
        assert_eq!(read, Request::Read(vec![key(1)]));
        let stands = entry(&endpoint(1).encode(), LEASE, 6);
        desk.answer(&read, Answer::Read(header(9), vec![(key(1), Some(stands))]));
        assert_eq!(desk.waits(), desk.now + INTERVAL);
    }
    assert_eq!(desk.registrar.take_notes(), []);
}

#[test]
fn after_a_suspend_the_lease_is_asked_after_before_anything_is_written() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.now += TTL * 10;
    desk.wish(&[(1, announce(2))]);
    let renew = desk.asks();
    assert_eq!(renew, Request::Renew(LEASE));
    desk.answer(&renew, Answer::LeaseGone);
    assert_eq!(desk.asks(), Request::Grant(TTL));
    assert_eq!(desk.registrar.take_notes(), [Note::LeaseLost(LEASE)]);
}

#[test]
fn a_failed_renewal_is_asked_for_again_and_the_lease_is_not_thrown_away() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.now += INTERVAL;
    for _ in 0..5 {
        let renew = desk.asks();
        assert_eq!(renew, Request::Renew(LEASE));
        desk.answer(&renew, Answer::Failed);
    }
    assert_eq!(desk.registrar.lease(), Some(LEASE));
}

#[test]
fn a_key_deleted_by_another_is_put_back_at_once_and_then_at_most_once_a_pause() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.registrar.observe(&key(1), None, 7);
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
    desk.written(8);
    assert_eq!(desk.registrar.take_notes(), [Note::Healed(key(1), 1)]);
    desk.registrar.observe(&key(1), None, 9);
    assert_eq!(desk.waits(), START + HEAL_PAUSE);
    desk.now = START + HEAL_PAUSE - Duration::from_nanos(1);
    assert_eq!(desk.waits(), START + HEAL_PAUSE);
    desk.now = START + HEAL_PAUSE;
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
    // A change of our own wish waits for nobody.
    desk.written(10);
    desk.registrar.observe(&key(1), None, 11);
    desk.wish(&[(1, announce(2))]);
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
}

#[test]
fn an_old_watch_event_does_not_undo_a_newer_answer() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.registrar.observe(&key(1), None, 5);
    desk.registrar.observe(&key(1), None, 6);
    assert_eq!(desk.waits(), START + INTERVAL);
}

#[test]
fn a_write_of_unknown_outcome_is_found_out_and_not_assumed() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    let write = desk.asks();
    desk.answer(&write, Answer::Failed);
    assert_eq!(desk.registrar.standings()[&key(1)], Standing::Pending);
    // It had been done after all: the next create finds it there.
    let again = desk.asks();
    let stands = entry(&endpoint(1).encode(), LEASE, 6);
    desk.answer(
        &again,
        Answer::Refused(header(6), vec![(key(1), Some(stands))]),
    );
    assert_eq!(desk.waits(), START + INTERVAL);
    // And a withdrawal makes sure too, although nothing is known to stand there.
    desk.wish(&[(1, announce(2))]);
    let update = desk.asks();
    desk.answer(&update, Answer::Failed);
    desk.wish(&[(1, WITHDRAW)]);
    assert_eq!(desk.writes(), [Op::Delete(key(1))]);
}

#[test]
fn standing_by_is_told_once_for_every_holder() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    let write = desk.asks();
    let younger = |port: u16| {
        entry(
            &format!(
                r#"{{"host":"b","port":{port},"container":"bb","since":"2026-11-23T05:06:07Z"}}"#
            ),
            8,
            9,
        )
    };
    desk.answer(
        &write,
        Answer::Refused(header(9), vec![(key(1), Some(younger(1)))]),
    );
    desk.waits();
    assert!(matches!(
        desk.registrar.take_notes()[..],
        [Note::StandingBy(..)]
    ));
    desk.registrar.watch_opened(&key(1));
    let read = desk.asks();
    desk.answer(
        &read,
        Answer::Read(header(10), vec![(key(1), Some(younger(1)))]),
    );
    desk.waits();
    assert_eq!(desk.registrar.take_notes(), []);
    desk.registrar.observe(
        &key(1),
        Some(Entry {
            mod_revision: 11,
            ..younger(2)
        }),
        11,
    );
    desk.waits();
    assert!(matches!(
        desk.registrar.take_notes()[..],
        [Note::StandingBy(..)]
    ));
    // It went: ours at once.
    desk.registrar.observe(&key(1), None, 12);
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
}

#[test]
fn what_a_past_life_left_of_a_container_that_is_down_is_cleared_away() {
    let ours = sidekick::announce::ownership::Holder::from(&endpoint(1));
    let mut desk = Desk::new(&[(1, Wish::Withdraw { down: Some(ours) })]);
    let read = desk.asks();
    let left = entry(&endpoint(1).encode(), 99, 4);
    desk.answer(
        &read,
        Answer::Read(header(5), vec![(key(1), Some(left.clone()))]),
    );
    assert_eq!(desk.writes(), [Op::Clear(key(1), left.version())]);
    desk.written(6);
    assert_eq!(desk.registrar.take_notes(), [Note::Cleared(key(1))]);
}

/// Two sidekicks, one of which couldn't see yet that the container had died,
/// deleted and put back the key once a second.
#[test]
fn what_is_put_back_after_it_was_cleared_away_is_left_in_peace() {
    let down = |port| Wish::Withdraw {
        down: Some(sidekick::announce::ownership::Holder::from(&endpoint(port))),
    };
    let mut desk = Desk::new(&[(1, down(1))]);
    let read = desk.asks();
    let left = |revision| Some(entry(&endpoint(1).encode(), 99, revision));
    desk.answer(&read, Answer::Read(header(5), vec![(key(1), left(4))]));
    let clear = desk.asks();
    // It isn't told whether that was done.
    desk.answer(&clear, Answer::Failed);
    let delete = desk.asks();
    desk.answer(&delete, Answer::Refused(header(5), vec![(key(1), left(4))]));
    assert!(matches!(desk.writes()[..], [Op::Clear(..)]));
    desk.written(6);
    desk.registrar.observe(&key(1), left(7), 7);
    assert_eq!(desk.waits(), START + INTERVAL);
    // What the next life of the container leaves is another matter.
    desk.wish(&[(1, down(2))]);
    assert!(matches!(desk.writes()[..], [Op::Clear(..)]));
}

#[test]
fn deletes_travel_apart_from_puts_and_before_them() {
    let mut desk = Desk::new(&[(1, announce(1)), (2, announce(2))]);
    desk.written(6);
    desk.wish(&[(1, WITHDRAW), (2, announce(3))]);
    assert_eq!(desk.writes(), [Op::Delete(key(1))]);
    desk.written(7);
    assert!(matches!(desk.writes()[..], [Op::Update(..)]));
}

#[test]
fn a_thousand_keys_travel_in_batches_and_one_contested_key_does_not_hold_them_up() {
    let all: Vec<_> = (0..1000).map(|i| (i, announce(1))).collect();
    let mut desk = Desk::new(&all);
    let contested = entry(
        r#"{"host":"b","port":1,"container":"bb","since":"2027-01-01T00:00:00Z"}"#,
        8,
        2,
    );
    let (mut revision, mut requests) = (2, 0);
    loop {
        desk.now += Duration::from_millis(1);
        let Step::Do(request) = desk.registrar.poll(desk.now) else {
            break;
        };
        requests += 1;
        assert!(requests < 40, "{requests} requests");
        let answer = match &request {
            Request::Read(keys) => {
                assert!(keys.len() <= MAX_OPS);
                panic!("nothing is unknown after its write was answered");
            }
            Request::Write(_, ops) => {
                assert!(ops.len() <= MAX_WRITES);
                if ops.iter().any(|op| *op.key() == key(500)) {
                    let found = |op: &Op| {
                        (
                            op.key().clone(),
                            (*op.key() == key(500)).then(|| contested.clone()),
                        )
                    };
                    Answer::Refused(header(revision), ops.iter().map(found).collect())
                } else {
                    revision += 1;
                    Answer::Written(header(revision))
                }
            }
            other => panic!("{other:?}"),
        };
        desk.answer(&request, answer);
    }
    let standings = desk.registrar.standings();
    let announced = standings
        .values()
        .filter(|s| matches!(s, Standing::Announced(_)))
        .count();
    assert_eq!(announced, 999);
    assert!(matches!(standings[&key(500)], Standing::StandingBy(_)));
}

#[test]
fn a_key_no_longer_wished_for_is_deleted_and_forgotten() {
    let mut desk = Desk::new(&[(1, announce(1)), (2, announce(2))]);
    desk.written(6);
    desk.wish(&[(2, announce(2))]);
    assert_eq!(desk.writes(), [Op::Delete(key(1))]);
    desk.written(7);
    assert_eq!(desk.registrar.standings().len(), 1);
    // Not at once: a put that nobody waits for any more may still be done.
    let audited = |desk: &mut Desk| {
        desk.now = desk.waits();
        let renew = desk.asks();
        desk.answer(&renew, Answer::Renewed);
        let read = desk.asks();
        let Request::Read(keys) = &read else {
            panic!("no audit");
        };
        let kept = entry(&endpoint(2).encode(), LEASE, 6);
        let stands = |k: &Key| (*k == key(2)).then(|| kept.clone());
        let found = keys.iter().map(|k| (k.clone(), stands(k))).collect();
        desk.answer(&read, Answer::Read(header(7), found));
        keys.clone()
    };
    assert_eq!(audited(&mut desk), [key(1), key(2)]);
    assert_eq!(audited(&mut desk), [key(2)]);
}

#[test]
fn a_put_that_was_done_after_its_key_was_given_up_is_taken_back() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    let create = desk.asks();
    desk.answer(&create, Answer::Failed);
    desk.wish(&[]);
    let delete = desk.asks();
    desk.answer(&delete, Answer::Refused(header(5), vec![(key(1), None)]));
    desk.now = desk.waits();
    let renew = desk.asks();
    desk.answer(&renew, Answer::Renewed);
    let read = desk.asks();
    assert_eq!(read, Request::Read(vec![key(1)]));
    let late = entry(&endpoint(1).encode(), LEASE, 6);
    desk.answer(&read, Answer::Read(header(6), vec![(key(1), Some(late))]));
    assert_eq!(desk.writes(), [Op::Delete(key(1))]);
}

/// etcd refuses each request with one of `denied` in it, and takes the others, until `desk` waits.
fn serve(desk: &mut Desk, denied: &[usize], revision: &mut i64) -> usize {
    let mut requests = 0;
    while let Step::Do(request) = desk.registrar.poll(desk.now) {
        requests += 1;
        assert!(requests < 100, "{request:?}");
        let is_denied = |k: &Key| denied.iter().any(|i| key(*i) == *k);
        let answer = match &request {
            Request::Write(_, ops) if ops.iter().any(|op| is_denied(op.key())) => Answer::Rejected,
            Request::Read(keys) if keys.iter().any(is_denied) => Answer::Rejected,
            Request::Write(..) => {
                *revision += 1;
                Answer::Written(header(*revision))
            }
            Request::Renew(_) => Answer::Renewed,
            other => panic!("{other:?}"),
        };
        desk.answer(&request, answer);
    }
    requests
}

#[test]
fn a_key_that_etcd_refuses_does_not_hold_up_the_others_and_is_tried_once_a_second() {
    let all: Vec<_> = (0..200).map(|i| (i, announce(1))).collect();
    let mut desk = Desk::new(&all);
    let mut revision = 2;
    let requests = serve(&mut desk, &[50], &mut revision);
    assert!(requests < 30, "{requests} requests");
    let announced = |desk: &Desk| {
        let standings = desk.registrar.standings();
        let is_there = |s: &&Standing| matches!(s, Standing::Announced(_));
        standings.values().filter(is_there).count()
    };
    assert_eq!(announced(&desk), 199);
    assert!(desk.registrar.is_refused());
    for _ in 0..3 {
        assert_eq!(desk.waits(), desk.now + APART_PAUSE);
        desk.now += APART_PAUSE;
        assert_eq!(serve(&mut desk, &[50], &mut revision), 1);
    }
    desk.now += APART_PAUSE;
    assert_eq!(serve(&mut desk, &[], &mut revision), 1);
    assert_eq!(announced(&desk), 200);
    assert!(!desk.registrar.is_refused());
}

#[test]
fn an_etcd_that_refuses_everything_has_all_keys_a_second_after_it_takes_them() {
    let all: Vec<_> = (0..40).map(|i| (i, announce(1))).collect();
    let mut desk = Desk::new(&all);
    let mut revision = 2;
    let everything: Vec<_> = (0..40).collect();
    serve(&mut desk, &everything, &mut revision);
    for _ in 0..5 {
        desk.now += APART_PAUSE;
        assert_eq!(serve(&mut desk, &everything, &mut revision), 1);
    }
    desk.now += APART_PAUSE;
    let requests = serve(&mut desk, &[], &mut revision);
    assert!(requests < 10, "{requests} requests");
    assert!(!desk.registrar.is_refused());
    let standings = desk.registrar.standings();
    assert!(
        standings
            .values()
            .all(|s| matches!(s, Standing::Announced(_)))
    );
}

#[test]
fn leaving_is_one_revoke_that_is_repeated_until_it_is_answered() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.registrar.leave();
    for answer in [Answer::Failed, Answer::Failed, Answer::Revoked] {
        let request = desk.asks();
        assert_eq!(request, Request::Revoke(LEASE));
        desk.answer(&request, answer);
    }
    assert_eq!(desk.registrar.poll(desk.now), Step::Done);
}

#[test]
fn an_etcd_that_went_back_in_time_is_read_again() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(600);
    desk.registrar.watch_opened(&key(1));
    let read = desk.asks();
    desk.answer(&read, Answer::Read(header(3), vec![(key(1), None)]));
    assert_eq!(desk.registrar.take_notes(), [Note::HistoryReset]);
    let create = desk.asks();
    desk.answer(&create, Answer::LeaseGone);
    assert_eq!(desk.asks(), Request::Grant(TTL));
}

/// Found by the simulation, seed 2684.
#[test]
fn a_permanent_copy_of_a_younger_containers_value_is_taken_over() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    let write = desk.asks();
    let copy = entry(
        r#"{"host":"b","port":1,"container":"bb","since":"2027-01-01T00:00:00Z"}"#,
        0,
        9,
    );
    let found = vec![(key(1), Some(copy))];
    desk.answer(&write, Answer::Refused(header(9), found));
    assert!(matches!(desk.writes()[..], [Op::TakeOver(..)]));
}

/// Found by the simulation: of two sidekicks on one container the one that couldn't see the restart
/// overwrote what the other had announced of the new life, or kept it from announcing it.
#[test]
fn a_stale_view_of_the_container_yields_to_a_later_one() {
    let later = entry(
        r#"{"host":"a","port":2,"container":"aaaaaaaaaaaa","since":"2026-11-23T06:00:00Z"}"#,
        8,
        9,
    );
    let mut stale = Desk::new(&[(1, announce(1))]);
    let write = stale.asks();
    let found = vec![(key(1), Some(later.clone()))];
    stale.answer(&write, Answer::Refused(header(9), found));
    assert_eq!(stale.waits(), START + INTERVAL);

    let fresh = Endpoint::decode(&later.value).expect("an endpoint");
    let mut fresh = Desk::new(&[(1, Wish::Announce(Arc::new(fresh)))]);
    fresh.written(9);
    let earlier = entry(&endpoint(1).encode(), 8, 10);
    fresh.registrar.observe(&key(1), Some(earlier), 10);
    assert!(matches!(fresh.writes()[..], [Op::TakeOver(..)]));
}

/// Found by the simulation, seed 31: after an etcd that was emptied behind our back the same
/// revision can be another's write.
#[test]
fn a_take_over_names_the_lease_that_it_takes_over_from() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    let write = desk.asks();
    let older = entry(
        r#"{"host":"b","port":1,"container":"bb","since":"2020-01-01T00:00:00Z"}"#,
        8,
        9,
    );
    let found = vec![(key(1), Some(older.clone()))];
    desk.answer(&write, Answer::Refused(header(9), found));
    let [Op::TakeOver(_, _, version)] = &desk.writes()[..] else {
        panic!("no take-over");
    };
    assert_eq!((version.mod_revision, version.lease), (9, 8));
    assert_eq!(*version, older.version());
}
