//! The registrar, step by step: what it asks for, in which order, at which moment. (What it does
//! when everything goes wrong at once is in registrar_simulation.rs.)

mod batches;
mod further;
mod handover;
mod keys;

use crate::announce::lease::protocol::{
    DesiredKey, Entry, Header, KeyStatus, LeaseEvent, MAX_OPS, MAX_WRITES, Op, Request, Response,
    Step,
};
use crate::announce::lease::registrar::{HEAL_PAUSE, LeaseSettings, REJECTED_PAUSE, Registrar};
use crate::clock::Moment;
use crate::endpoint::{Endpoint, Key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const TTL: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(45);
const THIRD: Duration = Duration::from_secs(20);
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

fn announce(port: u16) -> DesiredKey {
    DesiredKey::Announce(Arc::new(endpoint(port)))
}

const WITHDRAW: DesiredKey = DesiredKey::Withdraw { down: None };

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
    lease: i64,
}

impl Desk {
    /// With a lease, and these wishes.
    fn new(desired: &[(usize, DesiredKey)]) -> Self {
        let mut desk = Self::without_lease(desired);
        desk.is_granted(TTL);
        desk
    }

    fn without_lease(desired: &[(usize, DesiredKey)]) -> Self {
        let settings = LeaseSettings {
            ttl: TTL,
            interval: INTERVAL,
        };
        let mut desk = Self {
            registrar: Registrar::new(settings, 7),
            now: START,
            lease: 0,
        };
        desk.desire(desired);
        desk
    }

    /// It asks for a lease, and by which id.
    fn asks_for_a_lease(&mut self) -> i64 {
        match self.asks() {
            Request::Grant(id, TTL) => id,
            other => panic!("{other:?} instead of a grant"),
        }
    }

    /// What it asks for is a lease, and etcd gives it that TTL.
    fn is_granted(&mut self, ttl: Duration) {
        self.lease = self.asks_for_a_lease();
        let grant = self.asks();
        self.answer(&grant, Response::Granted(ttl));
    }

    /// Its lease is renewed as often as that is due; then it reads.
    fn reads(&mut self) -> Request {
        loop {
            let request = match self.registrar.poll(self.now) {
                Step::Do(request) => request,
                Step::Wait(until) => {
                    self.now = until;
                    continue;
                }
                Step::Done => panic!("it is done"),
            };
            match request {
                Request::Renew(_) => self.answer(&request, Response::Renewed),
                Request::Read(_) => return request,
                other => panic!("{other:?} instead of a read"),
            }
        }
    }

    fn desire(&mut self, desired: &[(usize, DesiredKey)]) {
        let desired: BTreeMap<_, _> = desired.iter().map(|(i, w)| (key(*i), w.clone())).collect();
        self.registrar.set_desired(&desired);
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

    fn answer(&mut self, request: &Request, answer: Response) {
        self.registrar.answer(request, answer);
    }

    fn writes(&mut self) -> Vec<Op> {
        match self.asks() {
            Request::Write(lease, ops) if lease == self.lease => ops,
            other => panic!("{other:?} instead of a write"),
        }
    }

    fn written(&mut self, revision: i64) {
        let request = self.asks();
        self.answer(&request, Response::Written(header(revision)));
    }
}

#[test]
fn a_lease_is_held_before_there_is_anything_to_announce_and_a_claim_is_one_write() {
    let mut desk = Desk::new(&[(1, WITHDRAW)]);
    let read = desk.asks();
    assert_eq!(read, Request::Read(vec![key(1)]));
    desk.answer(&read, Response::Read(header(5), vec![(key(1), None)]));
    assert_eq!(desk.waits(), START + THIRD);
    desk.desire(&[(1, announce(1))]);
    assert_eq!(
        desk.writes(),
        [Op::Create(key(1), endpoint(1).encode().into())]
    );
    desk.written(6);
    assert_eq!(
        desk.registrar.statuses()[&key(1)],
        KeyStatus::Announced(Arc::new(endpoint(1)))
    );
    assert_eq!(desk.waits(), START + THIRD);
}

#[test]
fn the_lease_is_renewed_at_each_third_of_its_ttl_and_the_key_is_read_at_each_interval() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    let (mut renewed, mut read) = (Vec::new(), Vec::new());
    while desk.now < START + 3 * TTL {
        match desk.registrar.poll(desk.now) {
            Step::Do(request @ Request::Renew(_)) => {
                renewed.push((desk.now - START).as_secs());
                desk.answer(&request, Response::Renewed);
            }
            Step::Do(request @ Request::Read(_)) => {
                read.push((desk.now - START).as_secs());
                let stands = entry(&endpoint(1).encode(), desk.lease, 6);
                let found = vec![(key(1), Some(stands))];
                desk.answer(&request, Response::Read(header(9), found));
            }
            Step::Wait(until) => desk.now = until,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(renewed, [20, 40, 60, 80, 100, 120, 140, 160]);
    assert_eq!(read, [45, 90, 135]);
    assert_eq!(desk.registrar.take_events(), []);
}

#[test]
fn the_ttl_that_etcd_granted_counts_and_not_the_one_that_was_asked_for() {
    for granted in [TTL / 2, 2 * TTL] {
        let mut desk = Desk::without_lease(&[]);
        desk.is_granted(granted);
        for n in 1..=2 {
            desk.now = START + n * granted / 3 - Duration::from_nanos(1);
            if matches!(desk.registrar.poll(desk.now), Step::Do(Request::Renew(_))) {
                panic!("renewed before a third of {granted:?}");
            }
            desk.now += Duration::from_nanos(1);
            let renew = desk.asks();
            assert_eq!(renew, Request::Renew(desk.lease));
            desk.answer(&renew, Response::Renewed);
        }
    }
}

/// A grant whose answer was lost left a lease behind, and each further try another one.
#[test]
fn a_grant_without_an_answer_is_asked_for_again_by_the_same_id() {
    let mut desk = Desk::without_lease(&[(1, announce(1))]);
    let id = desk.asks_for_a_lease();
    for answer in [Response::Failed, Response::Rejected, Response::Failed] {
        let grant = desk.asks();
        desk.answer(&grant, answer);
        assert_eq!(desk.asks_for_a_lease(), id);
    }
    let grant = desk.asks();
    desk.answer(&grant, Response::LeaseExists);
    assert_eq!(desk.registrar.lease(), Some(id));
    // It was granted by an earlier try, at an unknown time.
    let renew = desk.asks();
    assert_eq!(renew, Request::Renew(id));
    desk.answer(&renew, Response::Renewed);
    desk.lease = id;
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
    desk.written(6);
    assert_eq!(desk.waits(), START + THIRD);
    // The next lease has another id.
    desk.now += THIRD;
    let renew = desk.asks();
    desk.answer(&renew, Response::LeaseGone);
    assert_ne!(desk.asks_for_a_lease(), id);
}

#[test]
fn an_id_that_another_has_is_not_ours() {
    let mut desk = Desk::without_lease(&[(1, announce(1))]);
    let id = desk.asks_for_a_lease();
    let grant = desk.asks();
    desk.answer(&grant, Response::LeaseExists);
    assert_eq!(desk.registrar.lease(), None);
    assert_ne!(desk.asks_for_a_lease(), id);
}

#[test]
fn who_leaves_without_knowing_whether_it_has_a_lease_revokes_it() {
    let mut desk = Desk::without_lease(&[(1, announce(1))]);
    // The stop comes while the request is under way.
    let id = desk.asks_for_a_lease();
    desk.registrar.shut_down();
    let revoke = desk.asks();
    assert_eq!(revoke, Request::Revoke(id));
    desk.answer(&revoke, Response::Failed);
    assert_eq!(desk.asks(), revoke);
    desk.answer(&revoke, Response::LeaseGone);
    assert_eq!(desk.registrar.poll(desk.now), Step::Done);
}

#[test]
fn after_a_suspend_the_lease_is_asked_after_before_anything_is_written() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.now += TTL * 10;
    desk.desire(&[(1, announce(2))]);
    let renew = desk.asks();
    assert_eq!(renew, Request::Renew(desk.lease));
    desk.answer(&renew, Response::LeaseGone);
    assert_ne!(desk.asks_for_a_lease(), desk.lease);
    assert_eq!(
        desk.registrar.take_events(),
        [LeaseEvent::LeaseLost(desk.lease)]
    );
}

#[test]
fn a_failed_renewal_is_asked_for_again_and_the_lease_is_not_thrown_away() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.now += THIRD;
    for _ in 0..5 {
        let renew = desk.asks();
        assert_eq!(renew, Request::Renew(desk.lease));
        desk.answer(&renew, Response::Failed);
    }
    assert_eq!(desk.registrar.lease(), Some(desk.lease));
}

#[test]
fn leaving_is_one_revoke_that_is_repeated_until_it_is_answered() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.registrar.shut_down();
    for answer in [Response::Failed, Response::Failed, Response::Revoked] {
        let request = desk.asks();
        assert_eq!(request, Request::Revoke(desk.lease));
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
    desk.answer(&read, Response::Read(header(3), vec![(key(1), None)]));
    assert_eq!(desk.registrar.take_events(), [LeaseEvent::HistoryReset]);
    let create = desk.asks();
    desk.answer(&create, Response::LeaseGone);
    assert_ne!(desk.asks_for_a_lease(), desk.lease);
}
