//! Further keys, step by step.

use super::*;
use crate::announce::policy::layouts::Layouts;

const THEIRS: i64 = 99;

fn desk(layout: &str, desired: &[(usize, DesiredKey)]) -> Desk {
    let settings = LeaseSettings {
        ttl: TTL,
        interval: INTERVAL,
    };
    let layouts = Layouts::parse(&[layout.to_owned()], None).unwrap();
    let mut desk = Desk {
        registrar: Registrar::new(settings, 7).with_layouts(layouts),
        now: START,
        lease: 0,
    };
    desk.desire(desired);
    desk.is_granted(TTL);
    desk
}

fn further(text: &str) -> Key {
    Key::in_layout(text).unwrap()
}

fn value(port: u16) -> Vec<u8> {
    endpoint(port).encode().into_bytes()
}

fn entry(value: &[u8], lease: i64, mod_revision: i64) -> Option<Entry> {
    Some(Entry {
        value: value.to_vec(),
        lease,
        mod_revision,
    })
}

const LAYOUT: &str = "x/{service}/{instance}={hostport}";
const FIRST: &str = "x/redis/redis@0001";

fn create(port: u16) -> [Op; 2] {
    let at = format!("a:{port}").into_bytes();
    [
        Op::Create(key(1), value(port)),
        Op::Create(further(FIRST), at),
    ]
}

/// What it asks is answered by a condition that failed, with these values.
fn finds(desk: &mut Desk, revision: i64, entries: &[(Key, Option<Entry>)]) {
    let request = desk.asks();
    let answer = Response::ConditionFailed(header(revision), entries.to_vec());
    desk.answer(&request, answer);
}

fn events(desk: &mut Desk) -> Vec<LeaseEvent> {
    desk.registrar.poll(desk.now);
    desk.registrar.take_events()
}

#[test]
fn a_further_key_comes_with_its_primary_and_goes_when_that_drains() {
    let mut desk = desk(LAYOUT, &[(1, announce(6379))]);
    assert_eq!(desk.writes(), create(6379));
    desk.written(5);
    assert_eq!(desk.registrar.statuses().len(), 1);
    desk.desire(&[(1, announce(6379).draining())]);
    let draining = endpoint(6379).draining().encode().into_bytes();
    let gone = Op::Delete(further(FIRST));
    assert_eq!(desk.writes(), [Op::Update(key(1), draining), gone]);
    desk.written(6);
    // And it comes back with the value that serves.
    desk.desire(&[(1, announce(6379))]);
    let [Op::Update(..), Op::Create(back, _)] = &desk.writes()[..] else {
        panic!("{:?}", desk.writes());
    };
    assert_eq!(*back, further(FIRST));
    desk.written(7);
    desk.desire(&[(1, WITHDRAW)]);
    assert_eq!(
        desk.writes(),
        [Op::Delete(key(1)), Op::Delete(further(FIRST))]
    );
}

#[test]
fn a_key_that_moves_takes_its_further_keys_along() {
    let mut desk = desk("x/{hostport}=y", &[(1, announce(6379))]);
    desk.written(5);
    desk.desire(&[(1, announce(6380))]);
    let ops = desk.writes();
    assert!(ops.contains(&Op::Update(key(1), value(6380))));
    assert!(ops.contains(&Op::Create(further("x/a:6380"), b"y".to_vec())));
    assert!(ops.contains(&Op::Delete(further("x/a:6379"))));
    assert_eq!(ops.len(), 3);
}

#[test]
fn what_an_earlier_process_left_is_taken_over_with_its_primary() {
    let mut desk = desk(LAYOUT, &[(1, announce(6379))]);
    let left = entry(&value(6379), THEIRS, 4);
    let left_further = entry(b"a:6379", THEIRS, 4);
    let found = [
        (key(1), left.clone()),
        (further(FIRST), left_further.clone()),
    ];
    finds(&mut desk, 5, &found);
    let version = left.unwrap().version();
    let expected = [
        Op::TakeOver(key(1), value(6379), version),
        Op::TakeOver(further(FIRST), b"a:6379".to_vec(), version),
    ];
    assert_eq!(desk.writes(), expected);
    desk.written(6);
    assert!(
        !events(&mut desk)
            .iter()
            .any(|event| matches!(event, LeaseEvent::FurtherKeyHeld(..)))
    );
}

#[test]
fn what_another_writer_has_is_left_alone_and_told_once() {
    let mut desk = desk(LAYOUT, &[(1, announce(6379))]);
    finds(
        &mut desk,
        5,
        &[(key(1), None), (further(FIRST), entry(b"b", THEIRS, 4))],
    );
    assert_eq!(desk.writes(), [Op::Create(key(1), value(6379))]);
    let held = LeaseEvent::FurtherKeyHeld(further(FIRST), THEIRS);
    assert_eq!(events(&mut desk), [held]);
    desk.written(6);
    desk.waits();
    // The next audit finds that it is gone.
    let read = desk.reads();
    let ours = entry(&value(6379), desk.lease, 6);
    let entries = vec![(key(1), ours), (further(FIRST), None)];
    desk.answer(&read, Response::Read(header(9), entries));
    let [Op::IfStands(primary, version, op)] = &desk.writes()[..] else {
        panic!("{:?}", desk.writes());
    };
    assert_eq!((primary, version.mod_revision), (&key(1), 6));
    assert_eq!(**op, Op::Create(further(FIRST), b"a:6379".to_vec()));
    assert_eq!(events(&mut desk), []);
}

#[test]
fn a_further_key_that_etcd_refuses_costs_itself_alone() {
    let mut desk = desk(LAYOUT, &[(1, announce(6379))]);
    let refuse = |desk: &mut Desk| {
        let request = desk.asks();
        desk.answer(&request, Response::Rejected);
    };
    assert_eq!(desk.writes().len(), 2);
    refuse(&mut desk);
    assert_eq!(desk.writes(), [Op::Create(key(1), value(6379))]);
    desk.written(6);
    assert!(matches!(desk.writes()[..], [Op::IfStands(..)]));
    refuse(&mut desk);
    assert_eq!(
        desk.registrar.tell_further_rejected(&further(FIRST)),
        Some(true)
    );
    assert_eq!(
        desk.registrar.tell_further_rejected(&further(FIRST)),
        Some(false)
    );
    assert_eq!(desk.registrar.tell_further_rejected(&key(1)), None);
    assert!(!desk.registrar.has_rejected_keys());
    // Until the next audit nothing is asked for it.
    assert_eq!(desk.waits(), desk.now + THIRD);
    let status = desk.registrar.statuses().remove(&key(1));
    assert!(matches!(status, Some(KeyStatus::Announced(_))));
}

#[test]
fn who_is_overtaken_deletes_its_further_keys() {
    let mut desk = desk(LAYOUT, &[(1, announce(6379))]);
    desk.written(5);
    let younger =
        br#"{"host":"b","port":1,"container":"bbbbbbbbbbbb","since":"2026-11-23T05:06:07Z"}"#;
    desk.registrar
        .observe(&key(1), entry(younger, THEIRS, 7), 7);
    assert_eq!(desk.writes(), [Op::Delete(further(FIRST))]);
    desk.written(8);
    // The younger one has it now; when both go, both come back together.
    desk.registrar.observe(&key(1), None, 9);
    assert_eq!(desk.writes(), create(6379));
}

#[test]
fn of_two_instances_one_has_a_further_key_that_both_make() {
    let both = [(1, announce(1)), (2, announce(2))];
    let mut desk = desk("x/{service}={hostport}", &both);
    let puts: Vec<_> = desk.writes().iter().map(|op| op.key().clone()).collect();
    assert_eq!(puts, [key(1), further("x/redis"), key(2)]);
    let why = "x/redis is already the key of /services/redis/redis@0001";
    let refused = LeaseEvent::FurtherKeyRefused(key(2), why.to_owned());
    assert_eq!(events(&mut desk), [refused]);
    desk.written(5);
    desk.desire(&both);
    assert_eq!(events(&mut desk), []);
    // Once the first one is gone it is the other's.
    desk.desire(&[(1, WITHDRAW), both[1].clone()]);
    let gone = desk.writes();
    assert_eq!(gone, [Op::Delete(key(1))]);
    desk.written(6);
    let [Op::IfStands(primary, _, op)] = &desk.writes()[..] else {
        panic!("{:?}", desk.writes());
    };
    assert_eq!(primary, &key(2));
    assert_eq!(**op, Op::Update(further("x/redis"), b"a:2".to_vec()));
}

#[test]
fn a_transaction_has_no_more_operations_than_etcd_allows_and_tears_no_instance_apart() {
    let settings = LeaseSettings {
        ttl: TTL,
        interval: INTERVAL,
    };
    let templates = ["a/{instance}=1", "x/{instance}={host}", "y/{instance}=2"].map(str::to_owned);
    let layouts = Layouts::parse(&templates, None).unwrap();
    let mut desk = Desk {
        registrar: Registrar::new(settings, 7).with_layouts(layouts),
        now: START,
        lease: 0,
    };
    let all: Vec<_> = (0..100).map(|i| (i, announce(6379))).collect();
    desk.desire(&all);
    desk.is_granted(TTL);
    let (mut revision, mut written) = (5, 0);
    while written < 400 {
        let ops = desk.writes();
        let conditions = 2 * ops.iter().map(Op::cost).sum::<usize>();
        assert!(ops.len() <= MAX_OPS && conditions <= MAX_OPS, "{ops:?}");
        assert_eq!(ops.len() % 4, 0, "{ops:?}");
        written += ops.len();
        desk.written(revision);
        revision += 1;
    }
    assert_eq!(written, 400);
    desk.waits();
}

#[test]
fn a_hand_over_takes_the_further_keys_along() {
    let mut desk = desk(LAYOUT, &[(1, announce(6379))]);
    desk.written(5);
    let former = desk.lease;
    desk.registrar.hand_over();
    let grant = desk.asks();
    let Request::Grant(id, ttl) = grant else {
        panic!("{grant:?} instead of a grant");
    };
    desk.lease = id;
    desk.answer(&grant, Response::Granted(ttl));
    let moved = desk.writes();
    let [Op::TakeOver(primary, ..), Op::TakeOver(other, at, _)] = &moved[..] else {
        panic!("{moved:?}");
    };
    assert_eq!((primary, other), (&key(1), &further(FIRST)));
    assert_eq!(at, b"a:6379");
    desk.written(6);
    assert_eq!(desk.asks(), Request::Revoke(former));
}
