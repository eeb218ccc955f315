//! Several containers: who has a key that two claim, and how the status tells of all.

use super::*;
use crate::announce::lease::ownership::Holder;
use crate::announce::policy::claims::Outranked;

fn claimant(id: &str, since: Option<&str>) -> Evaluation {
    let mut container = web(&[
        ("sidekick.service", "web"),
        ("sidekick.port", "80"),
        ("sidekick.instance", "x"),
    ]);
    container.id = id.repeat(64);
    container.name = format!("web-{id}");
    container.started_at = since.and_then(Since::parse);
    judged(container)
}

#[test]
fn of_two_that_claim_one_key_the_later_has_it_and_the_other_is_told() {
    let (early, late) = (
        Some("2026-11-23T05:06:06.5Z"),
        Some("2026-11-23T05:06:06.51Z"),
    );
    for (a, b, winner) in [
        (early, late, "b"),
        (late, early, "a"),
        (early, early, "b"),
        (None, early, "b"),
    ] {
        let both = [("a", claimant("a", a)), ("b", claimant("b", b))];
        let all: BTreeMap<_, _> = both.map(|(id, j)| (id.to_owned(), j)).into();
        let assignment = assign_keys(&all);
        let [(key, DesiredKey::Announce(endpoint))] =
            &assignment.desired.iter().collect::<Vec<_>>()[..]
        else {
            panic!("{:?}", assignment.desired);
        };
        assert_eq!(endpoint.container, Some(winner.repeat(12)));
        let loser = if winner == "a" { "b" } else { "a" };
        let told: Vec<_> = assignment.outranked.iter().collect();
        assert_eq!(
            told,
            [(
                &(loser.to_owned(), (*key).clone()),
                &format!("web-{winner}")
            )]
        );
    }
}

#[test]
fn one_that_is_up_has_the_key_before_one_that_is_down() {
    let mut later = web(&[("sidekick.service", "web"), ("sidekick.instance", "x")]);
    later.id = "b".repeat(64);
    later.state = ContainerState::Paused;
    later.started_at = Since::parse("2027-01-01T00:00:00Z");
    let all = BTreeMap::from([
        ("a".to_owned(), claimant("a", Some("2026-11-23T05:06:06Z"))),
        ("b".to_owned(), judged(later)),
    ]);
    let desired = assign_keys(&all).desired;
    assert!(
        matches!(desired.values().next(), Some(DesiredKey::Announce(e)) if e.container == Some("a".repeat(12)))
    );
}

/// As `docker compose up` has it: the old container is down, and the new one is there and has not started.
#[test]
fn who_is_down_says_so_and_not_that_another_has_the_key() {
    let named = |id: &str, state| {
        let labels = [
            ("sidekick.service", "web"),
            ("sidekick.instance", "x"),
            ("sidekick.port", "80"),
        ];
        let mut container = web(&labels);
        container.id = id.repeat(64);
        if state == ContainerState::Created {
            container.started_at = None;
        }
        container.state = state;
        (id.to_owned(), judged(container))
    };
    let both = |a, b| BTreeMap::from([named("a", a), named("b", b)]);
    let told = |all: &BTreeMap<String, Evaluation>| {
        let outranked = assign_keys(all).outranked;
        let ((id, _), winner) = outranked.first_key_value().expect("one has lost");
        claims(&all[id])[0].why_outranked(winner).to_string()
    };
    let (up, down) = (ContainerState::Running, ContainerState::Exited(137));
    let created = ContainerState::Created;
    assert!(told(&both(down.clone(), created)).ends_with("was never started"));
    assert!(told(&both(up.clone(), down)).ends_with("has exited with status 137"));
    assert!(told(&both(up.clone(), up)).contains(" has the key "));
}

#[test]
fn while_the_engine_is_lost_claims_stay_for_the_grace_and_no_longer() {
    let view = seen(web(&[("sidekick.service", "web"), ("sidekick.port", "80")]));
    let before = judged_after(&view, None, NOW);
    let lost = ContainerView {
        lost_since: Some(NOW),
        ..view.clone()
    };
    let end = NOW + Duration::from_secs(60);
    let kept = judged_after(&lost, Some(&before), end - Duration::from_millis(1));
    assert_eq!(kept.claims, before.claims);
    assert_eq!(kept.ends, Some(end));
    assert!(kept.stands(&lost, &CheckResults::new(), end - Duration::from_millis(1)));
    assert!(!kept.stands(&lost, &CheckResults::new(), end));
    assert!(
        !kept.stands(&view, &CheckResults::new(), NOW),
        "an engine that is back is judged by"
    );
    let over = judged_after(&lost, Some(&kept), end);
    assert!(matches!(claims(&over)[0].verdict, Verdict::Withdraw(_)));
    assert_eq!(claims(&over)[0].key, claims(&before)[0].key);
    let back = judged_after(&view, Some(&over), end);
    assert_eq!(back.claims, before.claims);
}

/// An answer of the engine and its end may be one change: the life that is known to be down is the earlier one.
#[test]
fn a_life_that_begins_as_the_engine_is_lost_is_not_the_one_that_is_down() {
    let mut down = web(&[("sidekick.service", "web"), ("sidekick.port", "80")]);
    let mut next = down.clone();
    down.state = ContainerState::Exited(0);
    next.started_at = Since::parse("2027-01-01T00:00:00Z");
    let before = judged(down.clone());
    let lost = ContainerView {
        lost_since: Some(NOW),
        ..seen(next)
    };
    let all = judged_after(&lost, Some(&before), NOW);
    let desired = assign_keys(&BTreeMap::from([("the-id".to_owned(), all)])).desired;
    let since = |key: &DesiredKey| match key {
        DesiredKey::Withdraw { down: Some(down) } => down.since,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        desired.values().map(since).collect::<Vec<_>>(),
        [down.started_at]
    );
}

#[test]
fn the_status_counts_the_containers_that_run_and_names_some_that_are_not_announced() {
    let said = |all: &BTreeMap<String, Evaluation>, announced: &[&str]| {
        let assignment = assign_keys(all);
        let statuses = assignment
            .desired
            .iter()
            .filter_map(|(key, wish)| match wish {
                DesiredKey::Announce(endpoint) if announced.contains(&key.instance()) => {
                    Some((key.clone(), KeyStatus::Announced(endpoint.clone())))
                }
                _ => None,
            });
        let status = AnnounceStatus {
            statuses: &statuses.collect(),
            etcd_lost_since: None,
            docker_lost_since: None,
            now: NOW,
        };
        status.line(all, &assignment.outranked)
    };
    let named = |name: &str, state: ContainerState, label: &str| {
        let mut container = web(&[("sidekick.service", label), ("sidekick.port", "80")]);
        container.name = name.to_owned();
        container.state = state;
        (name.to_owned(), judged(container))
    };
    assert_eq!(
        said(&BTreeMap::new(), &[]),
        "waiting: no container has a sidekick label"
    );
    let mut all = BTreeMap::from([
        named("a", ContainerState::Running, "web"),
        named("over", ContainerState::Exited(0), "web"),
    ]);
    assert_eq!(
        said(&all, &["a@worker-1"]),
        "announcing a@worker-1 = worker-1:8080"
    );
    assert_eq!(said(&all, &[]), "waiting: a@worker-1 has not been put yet");
    let ended = BTreeMap::from([named("over", ContainerState::Exited(0), "web")]);
    assert_eq!(said(&ended, &[]), "waiting: over has exited with status 0");
    all.extend([
        named("b", ContainerState::Paused, "web"),
        named("c", ContainerState::Restarting, "web"),
        named("d", ContainerState::Running, "/"),
        named("e", ContainerState::Running, "/"),
    ]);
    let line = said(&all, &["a@worker-1"]);
    let begins =
        "announcing 1 of 5 containers; b is paused; c is restarting; d: label sidekick.service";
    assert!(
        line.starts_with(begins) && line.ends_with("; and 1 more"),
        "{line}"
    );
}

/// The status where web1 is in this state; `etcd` and `docker` went away at these seconds.
fn status_of(
    state: ContainerState,
    status: KeyStatus,
    etcd: Option<u64>,
    docker: Option<u64>,
) -> String {
    let mut container = web(&[("sidekick.service", "web"), ("sidekick.port", "80")]);
    container.state = state;
    let judged = judged(container);
    let status = AnnounceStatus {
        statuses: &BTreeMap::from([(claims(&judged)[0].key.clone(), status)]),
        etcd_lost_since: etcd.map(Duration::from_secs),
        docker_lost_since: docker.map(Duration::from_secs),
        now: NOW,
    };
    let all = BTreeMap::from([("the-id".to_owned(), judged)]);
    status.line(&all, &Outranked::new())
}

#[test]
fn the_status_of_a_single_container_is_that_of_its_key() {
    use ContainerState::{Paused, Running};
    let endpoint = Endpoint::decode(br#"{"host":"worker-1","port":8080}"#).expect("an endpoint");
    let announced = || KeyStatus::Announced(Arc::new(endpoint.clone()));
    assert_eq!(
        status_of(Running, announced(), None, Some(90)),
        "announcing web1@worker-1 = worker-1:8080 (Docker unreachable for 10 s)"
    );
    assert_eq!(
        status_of(Paused, KeyStatus::Withdrawn, None, None),
        "waiting: web1 is paused"
    );
    let withdrawing = status_of(Paused, announced(), None, None);
    assert_eq!(withdrawing, "withdrawing web1@worker-1: web1 is paused");
    let by = KeyStatus::StandingBy(Holder::from(&endpoint));
    let by = status_of(Running, by, None, None);
    assert!(by.starts_with("standing by: web1@worker-1 is held by worker-1:8080"));
}

#[test]
fn an_etcd_that_is_away_comes_before_everything_and_a_failover_does_not() {
    let status = |lost| status_of(ContainerState::Paused, KeyStatus::Withdrawn, lost, None);
    assert_eq!(status(Some(88)), "etcd unreachable for 12 s, retrying");
    assert!(status(Some(100)).starts_with("waiting: "));
}

proptest! {
    /// Whoever claims what: each key has one wish, and all other claims to it are told who has it.
    #[test]
    fn each_claim_has_its_key_or_is_told_who_has(starts in prop::collection::vec(0u8..4, 1..6)) {
        let all: BTreeMap<_, _> = starts.iter().zip('a'..).map(|(start, id)| {
            let since = format!("2026-11-23T05:06:0{start}Z");
            (id.to_string(), claimant(&id.to_string(), Some(&since)))
        }).collect();
        let assignment = assign_keys(&all);
        prop_assert_eq!(assignment.desired.len(), 1);
        prop_assert_eq!(assignment.outranked.len(), all.len() - 1);
        let best = starts.iter().zip('a'..).max().map(|(_, id)| format!("web-{id}"));
        for winner in assignment.outranked.values() {
            prop_assert_eq!(Some(winner), best.as_ref());
        }
    }
}
