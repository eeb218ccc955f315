//! Many keys: what one transaction takes, and a key that etcd refuses.

use super::*;

#[test]
fn deletes_travel_apart_from_puts_and_before_them() {
    let mut desk = Desk::new(&[(1, announce(1)), (2, announce(2))]);
    desk.written(6);
    desk.desire(&[(1, WITHDRAW), (2, announce(3))]);
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
                    Response::ConditionFailed(header(revision), ops.iter().map(found).collect())
                } else {
                    revision += 1;
                    Response::Written(header(revision))
                }
            }
            other => panic!("{other:?}"),
        };
        desk.answer(&request, answer);
    }
    let statuses = desk.registrar.statuses();
    let announced = statuses
        .values()
        .filter(|s| matches!(s, KeyStatus::Announced(_)))
        .count();
    assert_eq!(announced, 999);
    assert!(matches!(statuses[&key(500)], KeyStatus::StandingBy(_)));
}

#[test]
fn keys_that_another_has_taken_meanwhile_are_taken_over_as_many_at_a_time() {
    let all: Vec<_> = (0..2 * MAX_WRITES).map(|i| (i, announce(1))).collect();
    let mut desk = Desk::new(&all);
    let older = r#"{"host":"b","port":1,"container":"bb","since":"2026-01-01T00:00:00Z"}"#;
    let theirs = entry(older, 8, 2);
    let (mut counts, mut revision) = (Vec::new(), 2);
    while let Step::Do(request) = desk.registrar.poll(desk.now) {
        let Request::Write(_, ops) = &request else {
            panic!("{request:?}");
        };
        counts.push(ops.len());
        // None is free, as the registrar believes of those that it has not tried yet.
        let free = |op: &Op| matches!(op, Op::Create(..));
        let answer = if ops.iter().any(free) {
            let found = ops
                .iter()
                .map(|op| (op.key().clone(), Some(theirs.clone())));
            Response::ConditionFailed(header(revision), found.collect())
        } else {
            revision += 1;
            Response::Written(header(revision))
        };
        desk.answer(&request, answer);
    }
    assert_eq!(counts, [MAX_WRITES; 4]);
    let statuses = desk.registrar.statuses();
    let is_there = |s: &KeyStatus| matches!(s, KeyStatus::Announced(_));
    assert!(statuses.values().all(is_there));
}

#[test]
fn a_key_no_longer_wished_for_is_deleted_and_forgotten() {
    let mut desk = Desk::new(&[(1, announce(1)), (2, announce(2))]);
    desk.written(6);
    desk.desire(&[(2, announce(2))]);
    assert_eq!(desk.writes(), [Op::Delete(key(1))]);
    desk.written(7);
    assert_eq!(desk.registrar.statuses().len(), 1);
    // Not at once: etcd may still do a put whose caller has given up waiting.
    let audited = |desk: &mut Desk| {
        let read = desk.reads();
        let Request::Read(keys) = &read else {
            panic!("no audit");
        };
        let kept = entry(&endpoint(2).encode(), desk.lease, 6);
        let stands = |k: &Key| (*k == key(2)).then(|| kept.clone());
        let found = keys.iter().map(|k| (k.clone(), stands(k))).collect();
        desk.answer(&read, Response::Read(header(7), found));
        keys.clone()
    };
    assert_eq!(audited(&mut desk), [key(1), key(2)]);
    assert_eq!(audited(&mut desk), [key(2)]);
}

#[test]
fn a_put_that_was_done_after_its_key_was_given_up_is_taken_back() {
    let mut desk = Desk::new(&[(1, announce(1))]);
    let create = desk.asks();
    desk.answer(&create, Response::Failed);
    desk.desire(&[]);
    let delete = desk.asks();
    desk.answer(
        &delete,
        Response::ConditionFailed(header(5), vec![(key(1), None)]),
    );
    let read = desk.reads();
    assert_eq!(read, Request::Read(vec![key(1)]));
    let late = entry(&endpoint(1).encode(), desk.lease, 6);
    desk.answer(&read, Response::Read(header(6), vec![(key(1), Some(late))]));
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
            Request::Write(_, ops) if ops.iter().any(|op| is_denied(op.key())) => {
                Response::Rejected
            }
            Request::Read(keys) if keys.iter().any(is_denied) => Response::Rejected,
            Request::Write(..) => {
                *revision += 1;
                Response::Written(header(*revision))
            }
            Request::Renew(_) => Response::Renewed,
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
        let statuses = desk.registrar.statuses();
        let is_there = |s: &&KeyStatus| matches!(s, KeyStatus::Announced(_));
        statuses.values().filter(is_there).count()
    };
    assert_eq!(announced(&desk), 199);
    assert!(desk.registrar.has_rejected_keys());
    for _ in 0..3 {
        assert_eq!(desk.waits(), desk.now + REJECTED_PAUSE);
        desk.now += REJECTED_PAUSE;
        assert_eq!(serve(&mut desk, &[50], &mut revision), 1);
    }
    desk.now += REJECTED_PAUSE;
    assert_eq!(serve(&mut desk, &[], &mut revision), 1);
    assert_eq!(announced(&desk), 200);
    assert!(!desk.registrar.has_rejected_keys());
}

#[test]
fn an_etcd_that_refuses_everything_has_all_keys_a_second_after_it_takes_them() {
    let all: Vec<_> = (0..40).map(|i| (i, announce(1))).collect();
    let mut desk = Desk::new(&all);
    let mut revision = 2;
    let everything: Vec<_> = (0..40).collect();
    serve(&mut desk, &everything, &mut revision);
    for _ in 0..5 {
        desk.now += REJECTED_PAUSE;
        assert_eq!(serve(&mut desk, &everything, &mut revision), 1);
    }
    desk.now += REJECTED_PAUSE;
    let requests = serve(&mut desk, &[], &mut revision);
    assert!(requests < 10, "{requests} requests");
    assert!(!desk.registrar.has_rejected_keys());
    let statuses = desk.registrar.statuses();
    assert!(
        statuses
            .values()
            .all(|s| matches!(s, KeyStatus::Announced(_)))
    );
}
