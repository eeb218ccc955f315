//! Claims that depend on a check.

use super::*;
use crate::announce::policy::check::{CheckResult, CheckTarget};
use crate::announce::policy::check_settings::CheckOptions;
use crate::announce::policy::reason::Reason;

pub(super) fn judged_with(
    view: &ContainerView,
    before: Option<&Evaluation>,
    checks: &CheckResults,
    now: Moment,
) -> Evaluation {
    judged_by(&CheckOptions::default(), view, before, checks, now)
}

fn judged_by(
    check_options: &CheckOptions,
    view: &ContainerView,
    before: Option<&Evaluation>,
    checks: &CheckResults,
    now: Moment,
) -> Evaluation {
    let target = Target::All {
        registrator: false,
        prefix: "/services".to_owned(),
    };
    let judge = Evaluator {
        target: &target,
        rules: &AddressOptions::default(),
        grace: Some(Duration::from_secs(60)),
        checks,
        check_options,
    };
    judge.judge("the-id", view, before, now)
}

pub(super) fn checked(labels: &[(&str, &str)]) -> ContainerView {
    let mut container = web(&[
        &[("sidekick.service", "web"), ("sidekick.port", "80")],
        labels,
    ]
    .concat());
    let own = |ip: &str, gateway: &str| (ip.parse().unwrap(), gateway.parse().unwrap());
    container.addresses = vec![own("172.17.0.2", "172.17.0.1"), own("fd00::2", "fd00::1")];
    seen(container)
}

pub(super) fn only_check(judged: &Evaluation) -> CheckTarget {
    let checks: Vec<_> = judged.checks().cloned().collect();
    assert_eq!(checks.len(), 1);
    checks[0].clone()
}

/// The reason, or `announced`.
pub(super) fn outcome(judged: &Evaluation) -> String {
    match &claims(judged)[0].verdict {
        Verdict::Announce(_) => "announced".to_owned(),
        Verdict::Withdraw(reason) => reason.to_string(),
    }
}

#[test]
fn a_claim_waits_for_its_check_and_goes_with_it() {
    let view = checked(&[("sidekick.check", "http:/health")]);
    let mut results = CheckResults::new();
    let waits = judged_with(&view, None, &results, NOW);
    assert_eq!(outcome(&waits), "its check http:/health has not passed yet");
    let target = only_check(&waits);
    let seconds = (
        target.subject.settings.interval,
        target.subject.settings.timeout,
    );
    assert_eq!(seconds, (Duration::from_secs(2), Duration::from_secs(1)));
    let addresses = target.addresses.iter();
    let addresses: Vec<_> = addresses.map(|it| it.address.to_string()).collect();
    assert_eq!(
        addresses,
        ["172.17.0.2:80", "[fd00::2]:80", "127.0.0.1:8080"]
    );
    assert!(waits.stands(&view, &results, NOW));

    results.insert(target.subject.clone(), CheckResult::Passing);
    assert!(!waits.stands(&view, &results, NOW), "there is a result");
    let passes = judged_with(&view, Some(&waits), &results, NOW);
    assert_eq!(outcome(&passes), "announced");
    assert_eq!(only_check(&passes), target);

    let failing = CheckResult::Failing("it answers 503".to_owned());
    results.insert(target.subject.clone(), failing);
    let fails = judged_with(&view, Some(&passes), &results, NOW);
    assert_eq!(
        outcome(&fails),
        "its check http:/health fails: it answers 503"
    );

    // What is known of it doesn't go with an address.
    let mut moved = checked(&[("sidekick.check", "http:/health")]);
    if let Observation::Present(container) = &mut moved.observation {
        Arc::make_mut(container).addresses.clear();
    }
    assert_eq!(
        outcome(&judged_with(&moved, None, &results, NOW)),
        outcome(&fails)
    );
    // But with its life.
    if let Observation::Present(container) = &mut moved.observation {
        Arc::make_mut(container).started_at = Since::parse("2027-01-01T00:00:00Z");
    }
    assert_eq!(
        outcome(&judged_with(&moved, None, &results, NOW)),
        outcome(&waits)
    );
}

#[test]
fn a_check_counts_while_the_engine_is_lost_and_no_longer_than_the_grace() {
    let view = checked(&[
        ("sidekick.check", "tcp"),
        ("sidekick.check-interval", "10s"),
    ]);
    let mut results = CheckResults::new();
    let target = only_check(&judged_with(&view, None, &results, NOW));
    results.insert(target.subject.clone(), CheckResult::Passing);
    let passes = judged_with(&view, None, &results, NOW);
    let lost = ContainerView {
        lost_since: Some(NOW),
        ..view
    };
    let kept = judged_with(&lost, Some(&passes), &results, NOW);
    assert_eq!(kept.claims, passes.claims);
    results.insert(
        target.subject.clone(),
        CheckResult::Failing("refused".to_owned()),
    );
    assert!(!kept.stands(&lost, &results, NOW));
    let fails = judged_with(&lost, Some(&kept), &results, NOW);
    assert_eq!(outcome(&fails), "its check tcp fails: refused");
    assert!(fails.stands(&lost, &results, NOW), "it is decided once");
    results.insert(target.subject, CheckResult::Passing);
    assert_eq!(
        judged_with(&lost, Some(&fails), &results, NOW).claims,
        passes.claims
    );
    let over = judged_with(
        &lost,
        Some(&passes),
        &results,
        NOW + Duration::from_secs(60),
    );
    assert!(
        outcome(&over).contains("--docker-grace"),
        "{}",
        outcome(&over)
    );
    assert_eq!(over.checks().count(), 0);
}

#[test]
fn a_port_has_its_own_check_or_the_containers_and_one_without_tcp_has_none() {
    let mut container = web(&[
        ("sidekick.80.service", "web"),
        ("sidekick.80.check", "http:/"),
        ("sidekick.443.service", "web"),
        ("sidekick.check", "tcp"),
        ("sidekick.check-timeout", "300ms"),
    ]);
    let kinds = |container: &ContainerSnapshot| {
        let judged = judged(container.clone());
        let kind = |it: &CheckTarget| {
            let settings = &it.subject.settings;
            (
                it.subject.port.to_string(),
                settings.kind.to_string(),
                settings.timeout.as_millis(),
            )
        };
        judged.checks().map(kind).collect::<Vec<_>>()
    };
    let of = |port: &str, kind: &str| (port.to_owned(), kind.to_owned(), 300);
    assert_eq!(
        kinds(&container),
        [of("80/tcp", "http:/"), of("443/tcp", "tcp")]
    );

    container.labels = labels(&[
        ("sidekick.53/udp.service", "dns"),
        ("sidekick.check", "tcp"),
    ]);
    let bound = container.ports[&"80".parse().unwrap()].clone();
    container.ports = BTreeMap::from([("53/udp".parse().unwrap(), bound)]);
    assert_eq!(kinds(&container), []);
    let judged = judged(container);
    let Verdict::Withdraw(reason) = &claims(&judged)[0].verdict else {
        panic!("it can't be checked");
    };
    assert_eq!(*reason, Reason::Uncheckable("53/udp".parse().unwrap()));
    assert_eq!(
        reason.to_string(),
        "a check asks a TCP port, and 53/udp is none"
    );

    for (label, text, why) in [
        (
            "sidekick.check",
            "script",
            "\"script\" is no check: write tcp, redis, or http:/PATH",
        ),
        (
            "sidekick.check-interval",
            "99ms",
            "is no duration like 10s, from 100ms to 1h",
        ),
        ("sidekick.80.check-timeout", "2h", "is no duration like 10s"),
    ] {
        let reason = services(&labels(&[("sidekick.service", "web"), (label, text)])).unwrap_err();
        assert!(
            reason
                .to_string()
                .starts_with(&format!("label {label} {why}")),
            "{reason}"
        );
    }
}

/// The options of `announce`.
fn options(kinds: &str, interval: &str) -> CheckOptions {
    CheckOptions {
        kinds: Some(kinds.parse().unwrap()),
        interval: Some(interval.parse().unwrap()),
        ..CheckOptions::default()
    }
}

#[test]
fn a_label_counts_before_an_option_and_none_is_no_check() {
    let asked = |labels: &[(&str, &str)]| {
        let options = options("redis", "5s");
        let view = checked(labels);
        let judged = judged_by(&options, &view, None, &CheckResults::new(), NOW);
        let settings = judged.checks().map(|it| &it.subject.settings);
        let told = settings.map(|it| {
            let interval = it.interval.as_millis();
            format!("{} {interval} ms {}/{}", it.kind, it.rise, it.fall)
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(asked(&[]), ["redis 5000 ms 1/3"]);
    let label = ("sidekick.check", "tcp");
    assert_eq!(asked(&[label]), ["tcp 5000 ms 1/3"]);
    assert_eq!(
        asked(&[
            label,
            ("sidekick.check-interval", "1s"),
            ("sidekick.rise", "2"),
            ("sidekick.fall", "1"),
        ]),
        ["tcp 1000 ms 2/1"]
    );
    assert_eq!(asked(&[("sidekick.check", "none")]), [""; 0]);
}

#[test]
fn the_checks_of_one_container_are_the_options_and_no_labels() {
    let target = Target::One {
        container: "web".to_owned(),
        key: "/services/web/web@1".parse().unwrap(),
    };
    let options = options("redis", "5s");
    let judge = |check_options| {
        let judge = Evaluator {
            target: &target,
            rules: &AddressOptions::default(),
            grace: None,
            checks: &CheckResults::new(),
            check_options,
        };
        let view = checked(&[("sidekick.check", "tcp"), ("sidekick.fall", "x")]);
        outcome(&judge.judge("web", &view, None, NOW))
    };
    assert_eq!(judge(&options), "its check redis has not passed yet");
    assert_eq!(judge(&CheckOptions::default()), "announced");
}

#[test]
fn all_of_several_checks_have_to_pass_and_the_one_that_fails_is_told() {
    let view = checked(&[("sidekick.check", "tcp http:/health")]);
    let mut results = CheckResults::new();
    let waits = judged_with(&view, None, &results, NOW);
    let targets: Vec<_> = waits.checks().map(|it| it.subject.clone()).collect();
    let [tcp, http] = &targets[..] else {
        panic!("{targets:?}")
    };
    results.insert(tcp.clone(), CheckResult::Passing);
    assert!(!waits.stands(&view, &results, NOW));
    let waits = judged_with(&view, Some(&waits), &results, NOW);
    assert_eq!(outcome(&waits), "its check http:/health has not passed yet");
    results.insert(http.clone(), CheckResult::Passing);
    assert_eq!(
        outcome(&judged_with(&view, Some(&waits), &results, NOW)),
        "announced"
    );
    let refused = CheckResult::Failing("refused".to_owned());
    results.insert(http.clone(), refused);
    results.remove(tcp);
    let fails = judged_with(&view, Some(&waits), &results, NOW);
    assert_eq!(outcome(&fails), "its check http:/health fails: refused");
}
