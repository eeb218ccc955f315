//! The hand-over of the keys to the next process.

use super::{Desk, START, WITHDRAW, announce, endpoint, entry, header, key};
use crate::announce::lease::protocol::{DesiredKey, Entry, Op, Request, Response, Step, Version};
use crate::announce::lease::registrar::HANDOVER_TTL;

const LATER: &str =
    r#"{"host":"b","port":1,"container":"bbbbbbbbbbbb","since":"2026-11-23T06:00:00Z"}"#;

fn value(i: u16) -> Vec<u8> {
    endpoint(i).encode().into()
}

/// It hands over these keys, which stand since revision 6; etcd has granted the short lease. Returns the former one.
fn handing_over(desired: &[(usize, DesiredKey)]) -> (Desk, i64) {
    let mut desk = Desk::new(desired);
    desk.written(6);
    desk.registrar.hand_over();
    let former = desk.lease;
    desk.lease = match desk.asks() {
        Request::Grant(id, HANDOVER_TTL) => id,
        other => panic!("{other:?} instead of a grant"),
    };
    assert_ne!(desk.lease, former);
    let grant = desk.asks();
    desk.answer(&grant, Response::Granted(HANDOVER_TTL));
    (desk, former)
}

fn take_over(i: u16, lease: i64, mod_revision: i64) -> Op {
    let version = Version {
        mod_revision,
        lease,
    };
    Op::TakeOver(key(i.into()), value(i), version)
}

fn on(lease: i64, mod_revision: i64, i: u16) -> Entry {
    Entry {
        value: value(i),
        lease,
        mod_revision,
    }
}

/// The former lease is revoked, and that is all.
fn ends(desk: &mut Desk, former: i64) {
    let revoke = desk.asks();
    assert_eq!(revoke, Request::Revoke(former));
    desk.answer(&revoke, Response::Failed);
    assert_eq!(desk.asks(), revoke);
    desk.answer(&revoke, Response::LeaseGone);
    assert_eq!(desk.registrar.poll(desk.now), Step::Done);
    assert!(!desk.registrar.has_left_behind());
}

#[test]
fn the_keys_move_as_they_are_to_a_short_lease_and_then_the_former_one_is_revoked() {
    let (mut desk, former) = handing_over(&[(1, announce(1)), (2, announce(2))]);
    let expected = [take_over(1, former, 6), take_over(2, former, 6)];
    assert_eq!(desk.writes(), expected);
    desk.written(7);
    ends(&mut desk, former);
    assert_eq!(desk.registrar.statuses().len(), 2);
}

#[test]
fn what_another_has_overtaken_or_what_is_withdrawn_stays_as_it_is() {
    let (mut desk, former) = handing_over(&[(1, announce(1)), (2, announce(2))]);
    desk.desire(&[(1, announce(1)), (2, WITHDRAW)]);
    let write = desk.asks();
    assert_eq!(
        write,
        Request::Write(desk.lease, vec![take_over(1, former, 6)])
    );
    let theirs = vec![(key(1), Some(entry(LATER, 99, 8)))];
    desk.answer(&write, Response::ConditionFailed(header(8), theirs));
    ends(&mut desk, former);
}

#[test]
fn a_move_without_an_answer_is_settled_before_the_former_lease_goes() {
    for done in [true, false] {
        let (mut desk, former) = handing_over(&[(1, announce(1))]);
        let write = desk.asks();
        desk.answer(&write, Response::Failed);
        // A create finds out what stands there.
        let create = desk.asks();
        let expected = vec![Op::Create(key(1), value(1))];
        assert_eq!(create, Request::Write(desk.lease, expected));
        let stands = match done {
            true => on(desk.lease, 7, 1),
            false => on(former, 6, 1),
        };
        let found = vec![(key(1), Some(stands))];
        desk.answer(&create, Response::ConditionFailed(header(7), found));
        if !done {
            assert_eq!(desk.writes(), [take_over(1, former, 6)]);
            desk.written(8);
        }
        ends(&mut desk, former);
    }
}

#[test]
fn a_key_that_was_put_back_a_moment_ago_is_not_waited_for() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.registrar.observe(&key(1), None, 7);
    desk.written(8);
    desk.registrar.observe(&key(1), None, 9);
    assert!(desk.waits() > START, "it may be put back again in a second");
    desk.registrar.hand_over();
    let grant = desk.asks();
    desk.answer(&grant, Response::Granted(HANDOVER_TTL));
    let create = vec![Op::Create(key(1), value(1))];
    assert!(matches!(desk.asks(), Request::Write(_, ops) if ops == create));
}

#[test]
fn keys_that_etcd_rejects_keep_their_lease() {
    let (mut desk, _) = handing_over(&[(1, announce(1))]);
    let write = desk.asks();
    desk.answer(&write, Response::Rejected);
    assert_eq!(desk.registrar.poll(desk.now), Step::Done);
    assert!(desk.registrar.has_left_behind());
}

#[test]
fn without_a_lease_it_leaves_as_ever() {
    let mut desk = Desk::without_lease(&[(1, announce(1))]);
    let id = desk.asks_for_a_lease();
    desk.registrar.hand_over();
    ends(&mut desk, id);
}
