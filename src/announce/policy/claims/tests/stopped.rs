//! Claims of a container that is being stopped, and depends on a check.

use super::checked::{checked, judged_with, only_check, outcome};
use super::*;
use crate::announce::policy::check::CheckResult;
use crate::announce::policy::container::ContainerHealth;

/// The same container after the engine has told of this signal.
fn signalled(view: &ContainerView, at: Moment) -> ContainerView {
    let mut view = view.clone();
    assert!(view.signalled(&"a".repeat(64), 15, at));
    view
}

/// Whether it drains; else the reason, or `announced`.
fn drains_or(judged: &Evaluation) -> String {
    match claims(judged)[0].verdict.stop() {
        Some(stop) => format!("draining: {stop}"),
        None => outcome(judged),
    }
}

const BEGUN: &str = "draining: its stop has begun (signal 15)";

#[test]
fn a_check_that_fails_during_a_stop_takes_no_key_away() {
    let view = checked(&[("sidekick.check", "tcp")]);
    let mut results = CheckResults::new();
    let waits = judged_with(&view, None, &results, NOW);
    let subject = only_check(&waits).subject;
    results.insert(subject.clone(), CheckResult::Passing);
    let passes = judged_with(&view, Some(&waits), &results, NOW);
    let stopped = signalled(&view, NOW);
    // The listener may be closed before the event is read.
    for closed_at_once in [false, true] {
        let refused = CheckResult::Failing("refused".to_owned());
        let mut results = results.clone();
        if closed_at_once {
            results.insert(subject.clone(), refused.clone());
        }
        let drains = judged_with(&stopped, Some(&passes), &results, NOW);
        assert_eq!(drains_or(&drains), BEGUN);
        assert_eq!(drains.checks().count(), 0, "it isn't asked any more");
        results.insert(subject.clone(), refused);
        assert!(drains.stands(&stopped, &results, NOW));
        let later = NOW + Duration::from_secs(3);
        let drains = judged_with(&stopped, Some(&drains), &results, later);
        assert_eq!(drains_or(&drains), BEGUN);
        // Nor does it while the engine is lost.
        let lost = ContainerView {
            lost_since: Some(NOW),
            ..stopped.clone()
        };
        for before in [&passes, &drains] {
            let kept = judged_with(&lost, Some(before), &results, later);
            assert_eq!(drains_or(&kept), BEGUN);
        }
    }
}

/// The same container, as its own health check finds it.
fn of_health(view: &ContainerView, health: ContainerHealth) -> ContainerView {
    let mut view = view.clone();
    if let Observation::Present(container) = &mut view.observation {
        Arc::make_mut(container).health = health;
    }
    view
}

const UNHEALTHY: ContainerHealth = ContainerHealth::Unhealthy { failed: 3 };

#[test]
fn a_container_that_turns_unhealthy_during_its_stop_keeps_draining() {
    for labels in [&[][..], &[("sidekick.check", "tcp")]] {
        let view = checked(labels);
        let mut results = CheckResults::new();
        let first = judged_with(&view, None, &results, NOW);
        for target in first.checks() {
            results.insert(target.subject.clone(), CheckResult::Passing);
        }
        let serves = judged_with(&view, Some(&first), &results, NOW);
        assert_eq!(drains_or(&serves), "announced");

        let unhealthy = of_health(&signalled(&view, NOW), UNHEALTHY);
        let drains = judged_with(&unhealthy, Some(&serves), &results, NOW);
        assert_eq!(drains_or(&drains), BEGUN);
        // Once it has outlived its stop, a check of ours that passes is not enough.
        let late = NOW + Duration::from_secs(60);
        let outlived = judged_with(&unhealthy, Some(&drains), &results, late);
        let told = drains_or(&outlived);
        assert!(told.contains("it has outlived its stop timeout"), "{told}");
    }
}

#[test]
fn a_stop_puts_no_key_for_a_container_that_was_unhealthy_before() {
    let view = of_health(&checked(&[]), UNHEALTHY);
    let results = CheckResults::new();
    let why = "health: unhealthy (3 checks failed in a row)";
    let before = judged_with(&view, None, &results, NOW);
    assert_eq!(drains_or(&before), why);
    for before in [None, Some(&before)] {
        let stopped = judged_with(&signalled(&view, NOW), before, &results, NOW);
        assert_eq!(drains_or(&stopped), why);
    }
}

#[test]
fn who_outlives_its_stop_serves_where_its_own_address_has_answered_since() {
    let view = checked(&[("sidekick.check", "tcp http:/")]);
    let mut results = CheckResults::new();
    let waits = judged_with(&view, None, &results, NOW);
    for target in waits.checks() {
        results.insert(target.subject.clone(), CheckResult::Passing);
    }
    let passes = judged_with(&view, Some(&waits), &results, NOW);
    let stopped = signalled(&view, NOW);
    // The default timeout, and a second.
    let end = NOW + Duration::from_secs(11);
    let drains = judged_with(&stopped, Some(&passes), &results, NOW);
    assert_eq!(
        (drains_or(&drains).as_str(), drains.ends),
        (BEGUN, Some(end))
    );
    // A process that slept meanwhile has the results from before still.
    for before in [&drains, &passes] {
        let drains = judged_with(&stopped, Some(before), &results, end);
        let told = drains_or(&drains);
        assert!(
            told.contains("it has outlived its stop timeout of 10 s"),
            "{told}"
        );
        let targets: Vec<_> = drains.checks().cloned().collect();
        let addresses = targets[0].addresses.iter();
        let addresses: Vec<_> = addresses.map(|it| it.address.to_string()).collect();
        assert_eq!(
            addresses,
            ["172.17.0.2:80", "[fd00::2]:80"],
            "not the proxy"
        );

        let mut results = results.clone();
        results.insert(targets[0].subject.clone(), CheckResult::Passing);
        let half = judged_with(&stopped, Some(&drains), &results, end);
        assert_eq!(drains_or(&half), told, "all have to pass");
        results.insert(targets[1].subject.clone(), CheckResult::Passing);
        assert!(!half.stands(&stopped, &results, end));
        let serves = judged_with(&stopped, Some(&half), &results, end);
        assert_eq!(drains_or(&serves), "announced");
        let Verdict::Announce(decision) = &claims(&serves)[0].verdict else {
            panic!("it serves");
        };
        assert!(!decision.endpoint.is_draining());

        let refused = CheckResult::Failing("refused".to_owned());
        results.insert(targets[1].subject.clone(), refused);
        let fails = judged_with(&stopped, Some(&serves), &results, end);
        assert_eq!(drains_or(&fails), told, "its SIGKILL may be near");

        let again = signalled(&stopped, end + Duration::from_secs(60));
        let next = judged_with(
            &again,
            Some(&serves),
            &results,
            end + Duration::from_secs(60),
        );
        assert_eq!(drains_or(&next), BEGUN);
    }
}

#[test]
fn a_stop_puts_no_key_for_a_server_whose_check_has_failed_before() {
    let view = checked(&[("sidekick.check", "tcp")]);
    let mut results = CheckResults::new();
    let waits = judged_with(&view, None, &results, NOW);
    let stopped = signalled(&view, NOW);
    let still = judged_with(&stopped, Some(&waits), &results, NOW);
    assert_eq!(drains_or(&still), "its check tcp has not passed yet");
    let subject = only_check(&still).subject;
    let refused = CheckResult::Failing("refused".to_owned());
    results.insert(subject.clone(), refused);
    let fails = judged_with(&stopped, Some(&still), &results, NOW);
    assert_eq!(drains_or(&fails), "its check tcp fails: refused");
    results.insert(subject, CheckResult::Passing);
    let late = judged_with(&stopped, Some(&fails), &results, NOW);
    assert_eq!(drains_or(&late), BEGUN);

    // What the life before was announced as says nothing of the next.
    let mut next = checked(&[("sidekick.check", "tcp")]);
    if let Observation::Present(container) = &mut next.observation {
        Arc::make_mut(container).started_at = Since::parse("2027-01-01T00:00:00Z");
    }
    let next = signalled(&next, NOW);
    let waits = judged_with(&next, Some(&late), &CheckResults::new(), NOW);
    assert_eq!(drains_or(&waits), "its check tcp has not passed yet");
}
