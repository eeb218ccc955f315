//! One key: put, taken over, stood by for, put back and cleared away.

use super::*;

const fn healed(key: Key, contested: bool) -> LeaseEvent {
    LeaseEvent::Healed { key, contested }
}

/// "took the key over from n4:6379" was said by the sidekick of n4:6379.
#[test]
fn a_key_that_a_hand_changed_was_not_taken_over_from_ourselves() {
    let other = r#"{"host":"b","port":1}"#;
    for value in [endpoint(1).encode(), endpoint(2).encode(), other.to_owned()] {
        let mut desk = Desk::new(&[(1, announce(1))]);
        desk.written(6);
        desk.registrar
            .observe(&key(1), Some(entry(&value, 0, 7)), 7);
        assert!(matches!(desk.writes()[..], [Op::TakeOver(..)]));
        desk.written(8);
        let events = desk.registrar.take_events();
        assert_eq!(events, [healed(key(1), true)], "{value}");
    }
}

#[test]
fn what_stands_there_at_the_start_is_told_by_whose_it_is() {
    let own = endpoint(1).encode();
    let rival = r#"{"host":"b","port":1,"container":"bb","since":"2020-01-01T00:00:00Z"}"#;
    let holder =
        crate::announce::lease::ownership::Holder::of(rival.as_bytes()).expect("an endpoint");
    for (value, lease, event) in [
        (&*own, 99, LeaseEvent::Resumed(key(1))),
        // Made permanent by hand.
        (&*own, 0, healed(key(1), false)),
        (
            rival,
            99,
            LeaseEvent::TookOver {
                key: key(1),
                holder,
                contested: false,
            },
        ),
    ] {
        let mut desk = Desk::new(&[(1, announce(1))]);
        let create = desk.asks();
        let found = vec![(key(1), Some(entry(value, lease, 4)))];
        desk.answer(&create, Response::ConditionFailed(header(5), found));
        desk.written(6);
        assert_eq!(desk.registrar.take_events(), [event]);
    }
}

#[test]
fn a_key_deleted_by_another_is_put_back_at_once_and_then_at_most_once_a_pause() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.registrar.observe(&key(1), None, 7);
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
    desk.written(8);
    assert_eq!(desk.registrar.take_events(), [healed(key(1), true)]);
    desk.registrar.observe(&key(1), None, 9);
    assert_eq!(desk.waits(), START + HEAL_PAUSE);
    desk.now = START + HEAL_PAUSE - Duration::from_nanos(1);
    assert_eq!(desk.waits(), START + HEAL_PAUSE);
    desk.now = START + HEAL_PAUSE;
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
    // A change of the desired value is not delayed.
    desk.written(10);
    desk.registrar.observe(&key(1), None, 11);
    desk.desire(&[(1, announce(2))]);
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
}

#[test]
fn an_old_watch_event_does_not_undo_a_newer_answer() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.registrar.observe(&key(1), None, 5);
    desk.registrar.observe(&key(1), None, 6);
    assert_eq!(desk.waits(), START + THIRD);
}

#[test]
fn a_write_of_unknown_outcome_is_found_out_and_not_assumed() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    let write = desk.asks();
    desk.answer(&write, Response::Failed);
    assert_eq!(desk.registrar.statuses()[&key(1)], KeyStatus::Pending);
    // It had been done after all: the next create finds it there.
    let again = desk.asks();
    let stands = entry(&endpoint(1).encode(), desk.lease, 6);
    desk.answer(
        &again,
        Response::ConditionFailed(header(6), vec![(key(1), Some(stands))]),
    );
    assert_eq!(desk.waits(), START + THIRD);
    // And a withdrawal makes sure too, although nothing is known to stand there.
    desk.desire(&[(1, announce(2))]);
    let update = desk.asks();
    desk.answer(&update, Response::Failed);
    desk.desire(&[(1, WITHDRAW)]);
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
        Response::ConditionFailed(header(9), vec![(key(1), Some(younger(1)))]),
    );
    desk.waits();
    assert!(matches!(
        desk.registrar.take_events()[..],
        [LeaseEvent::StandingBy(..)]
    ));
    desk.registrar.watch_opened(&key(1));
    let read = desk.asks();
    desk.answer(
        &read,
        Response::Read(header(10), vec![(key(1), Some(younger(1)))]),
    );
    desk.waits();
    assert_eq!(desk.registrar.take_events(), []);
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
        desk.registrar.take_events()[..],
        [LeaseEvent::StandingBy(..)]
    ));
    // It went: ours at once.
    desk.registrar.observe(&key(1), None, 12);
    assert!(matches!(desk.writes()[..], [Op::Create(..)]));
}

#[test]
fn what_a_past_life_left_of_a_container_that_is_down_is_cleared_away() {
    let ours = crate::announce::lease::ownership::Holder::from(&endpoint(1));
    let mut desk = Desk::new(&[(1, DesiredKey::Withdraw { down: Some(ours) })]);
    let read = desk.asks();
    let left = entry(&endpoint(1).encode(), 99, 4);
    desk.answer(
        &read,
        Response::Read(header(5), vec![(key(1), Some(left.clone()))]),
    );
    assert_eq!(desk.writes(), [Op::Clear(key(1), left.version())]);
    desk.written(6);
    assert_eq!(desk.registrar.take_events(), [LeaseEvent::Cleared(key(1))]);
}

/// Two sidekicks, one of which couldn't see yet that the container had died,
/// deleted and put back the key once a second.
#[test]
fn what_is_put_back_after_it_was_cleared_away_is_left_in_peace() {
    let down = |port| DesiredKey::Withdraw {
        down: Some(crate::announce::lease::ownership::Holder::from(&endpoint(
            port,
        ))),
    };
    let mut desk = Desk::new(&[(1, down(1))]);
    let read = desk.asks();
    let left = |revision| Some(entry(&endpoint(1).encode(), 99, revision));
    desk.answer(&read, Response::Read(header(5), vec![(key(1), left(4))]));
    let clear = desk.asks();
    // It isn't told whether that was done.
    desk.answer(&clear, Response::Failed);
    let delete = desk.asks();
    desk.answer(
        &delete,
        Response::ConditionFailed(header(5), vec![(key(1), left(4))]),
    );
    assert!(matches!(desk.writes()[..], [Op::Clear(..)]));
    desk.written(6);
    desk.registrar.observe(&key(1), left(7), 7);
    assert_eq!(desk.waits(), START + THIRD);
    // What the next life of the container leaves is another matter.
    desk.desire(&[(1, down(2))]);
    assert!(matches!(desk.writes()[..], [Op::Clear(..)]));
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
    desk.answer(&write, Response::ConditionFailed(header(9), found));
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
    stale.answer(&write, Response::ConditionFailed(header(9), found));
    assert_eq!(stale.waits(), START + THIRD);

    let fresh = Endpoint::decode(&later.value).expect("an endpoint");
    let mut fresh = Desk::new(&[(1, DesiredKey::Announce(Arc::new(fresh)))]);
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
    desk.answer(&write, Response::ConditionFailed(header(9), found));
    let [Op::TakeOver(_, _, version)] = &desk.writes()[..] else {
        panic!("no take-over");
    };
    assert_eq!((version.mod_revision, version.lease), (9, 8));
    assert_eq!(*version, older.version());
}

/// A drain costs neither the lease nor a moment in which the key is gone, and doesn't wait for [`HEAL_PAUSE`].
#[test]
fn a_drain_is_an_update_of_the_key_on_the_same_lease_and_so_is_its_end() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    desk.written(6);
    desk.registrar.observe(&key(1), None, 7);
    desk.written(8);
    for (desired, value) in [
        (announce(1).draining(), endpoint(1).draining().encode()),
        (announce(1), endpoint(1).encode()),
    ] {
        desk.desire(&[(1, desired)]);
        let update = Op::Update(key(1), value.into_bytes());
        assert_eq!(desk.asks(), Request::Write(desk.lease, vec![update]));
        desk.written(9);
        assert_eq!(desk.registrar.lease(), Some(desk.lease));
    }
    assert_eq!(WITHDRAW.draining(), WITHDRAW);
}
