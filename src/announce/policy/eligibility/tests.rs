//! Which container is announced, under which address and port, and why not: every rule of the
//! design's section 2.

mod ended;
mod properties;

use crate::announce::policy::check::CheckResults;
use crate::announce::policy::check_settings::CheckOptions;
use crate::announce::policy::claims::{Evaluation, Evaluator};
use crate::announce::policy::container::{
    Binding, ContainerHealth, ContainerPort, ContainerSnapshot, ContainerState, ContainerView,
    Observation,
};
use crate::announce::policy::eligibility::{
    AddressOptions, Decision, HostSource, Verdict, parse_binding,
};
use crate::announce::policy::reason::Reason;
use crate::announce::policy::stop::StopSettings;
use crate::announce::policy::target::Target;
use crate::clock::Moment;
use crate::endpoint::Since;
use std::collections::BTreeMap;
use std::num::NonZeroI32;
use std::sync::Arc;
use std::time::Duration;

const ID: &str = "593ee5d76755aaaabbbbccccddddeeeeffff00001111222233334444555566667777";

/// A running redis1 with these ports published, written `6379 → 0.0.0.0:6379`.
fn redis(published: &[(&str, &str)]) -> ContainerSnapshot {
    let mut ports: BTreeMap<ContainerPort, Vec<Binding>> = BTreeMap::new();
    for (port, bound) in published {
        let (ip, host_port) = bound.rsplit_once(':').expect("ip:port");
        let binding = parse_binding(Some(ip), Some(host_port)).expect("a binding");
        ports
            .entry(port.parse().expect("a port"))
            .or_default()
            .push(binding);
    }
    ContainerSnapshot {
        id: ID.to_owned(),
        name: "redis1".to_owned(),
        state: ContainerState::Running,
        health: ContainerHealth::Good,
        started_at: Since::parse("2026-11-23T05:06:06.123456789Z"),
        pid: NonZeroI32::new(4711),
        stop: StopSettings::default(),
        host_network: false,
        ports,
        labels: BTreeMap::new(),
        refusal: None,
        addresses: Vec::new(),
    }
}

fn labelled(mut container: ContainerSnapshot, labels: &[(&str, &str)]) -> ContainerSnapshot {
    container.labels = labels
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    container
}

fn rules(host: Option<&str>, port: Option<&str>) -> AddressOptions {
    AddressOptions {
        host: host.map(|h| h.parse().expect("a host")),
        port: port.map(|p| p.parse().expect("a port")),
        hostname: Some("machine-7".to_owned()),
    }
}

fn judge(
    view: &ContainerView,
    rules: &AddressOptions,
    grace: Option<Duration>,
    before: Option<&Evaluation>,
    now: Moment,
) -> Evaluation {
    let target = Target::One {
        container: "redis1".to_owned(),
        key: "/services/redis/redis@1".parse().expect("a key"),
    };
    let evaluator = Evaluator {
        target: &target,
        rules,
        grace,
        checks: &CheckResults::new(),
        check_options: &CheckOptions::default(),
    };
    evaluator.judge("redis1", view, before, now)
}

/// What becomes of the one key, which is claimed whatever the container is like.
fn verdict(judged: &Evaluation) -> Verdict {
    let claims = judged.claims.as_deref().expect("claims");
    let [claim] = claims else {
        panic!("{claims:?}");
    };
    assert_eq!(claim.key.as_str(), "/services/redis/redis@1");
    claim.verdict.clone()
}

fn decide(
    container: &ContainerSnapshot,
    rules: &AddressOptions,
    engine_name: Option<&str>,
) -> Result<Decision, Reason> {
    let observation = Observation::Present(Arc::new(container.clone()));
    let view = ContainerView::seen(observation, engine_name.map(Into::into), None, Moment::ZERO);
    match verdict(&judge(&view, rules, None, None, Moment::ZERO)) {
        Verdict::Announce(decision) => Ok(*decision),
        Verdict::Withdraw(reason) => Err(reason),
    }
}

fn decided(container: &ContainerSnapshot, rules: &AddressOptions) -> Decision {
    decide(container, rules, Some("docker-host")).expect("announceable")
}

/// `host:port` and the rule that chose the host.
fn announced(container: &ContainerSnapshot, rules: &AddressOptions) -> (String, HostSource) {
    let decision = decided(container, rules);
    (decision.endpoint.to_string(), decision.host_source)
}

fn refusal(container: &ContainerSnapshot, rules: &AddressOptions) -> String {
    decide(container, rules, Some("docker-host"))
        .expect_err("not announceable")
        .to_string()
}

#[test]
fn the_seeds_case_to_the_letter() {
    let container = redis(&[("6379", "0.0.0.0:6379"), ("6379", ":::6379")]);
    let decision = decided(&container, &rules(Some("ip-172-31-24-253"), None));
    assert_eq!(
        decision.endpoint.encode(),
        r#"{"host":"ip-172-31-24-253","port":6379,"container":"593ee5d76755","since":"2026-11-23T05:06:06.123456789Z"}"#
    );
}

#[test]
fn only_a_container_that_is_really_up_is_announced() {
    let states = [
        (ContainerState::Paused, "redis1 is paused"),
        (ContainerState::Restarting, "redis1 is restarting"),
        (ContainerState::Created, "redis1 was never started"),
        (
            ContainerState::Exited(137),
            "redis1 has exited with status 137",
        ),
        (ContainerState::Removing, "redis1 is being removed"),
        (ContainerState::Dead, "redis1 is dead"),
        (
            ContainerState::Other("stopping".to_owned()),
            "redis1 is \"stopping\"",
        ),
    ];
    for (state, words) in states {
        let mut container = redis(&[("6379", "0.0.0.0:6379")]);
        container.state = state;
        assert_eq!(refusal(&container, &rules(None, None)), words);
        assert!(
            decide(&container, &rules(None, None), None)
                .unwrap_err()
                .container_is_down()
        );
    }
}

#[test]
fn a_container_without_a_good_verdict_on_its_health_is_not_announced() {
    let mut container = redis(&[("6379", "0.0.0.0:6379")]);
    container.health = ContainerHealth::Starting {
        failed: 2,
        retries: 3,
    };
    assert_eq!(
        refusal(&container, &rules(None, None)),
        "health: starting (2 of 3 checks)"
    );
    container.health = ContainerHealth::Unhealthy { failed: 3 };
    assert_eq!(
        refusal(&container, &rules(None, None)),
        "health: unhealthy (3 checks failed in a row)"
    );
    container.health = ContainerHealth::Good;
    decided(&container, &rules(None, None));
}

#[test]
fn the_announced_port_is_the_one_that_docker_published() {
    let random = redis(&[("6379", "0.0.0.0:32768"), ("6379", ":::32769")]);
    // IPv4 and IPv6 can differ: IPv4, unless the address says otherwise.
    assert_eq!(announced(&random, &rules(Some("a"), None)).0, "a:32768");
    assert_eq!(
        announced(&random, &rules(Some("10.0.0.7"), None)).0,
        "10.0.0.7:32768"
    );
    assert_eq!(
        announced(&random, &rules(Some("2001:db8::7"), None)).0,
        "[2001:db8::7]:32769"
    );
    assert_eq!(
        announced(&random, &rules(None, Some("6379"))).0,
        "docker-host:32768"
    );
}

#[test]
fn a_port_that_is_not_published_is_refused_with_what_is() {
    let container = redis(&[("16379", "0.0.0.0:32768")]);
    assert_eq!(
        refusal(&container, &rules(None, Some("6379"))),
        "6379/tcp is not published; published: 16379/tcp → 32768"
    );
    assert_eq!(
        refusal(&redis(&[]), &rules(None, Some("53/udp"))),
        "53/udp is not published; published: nothing"
    );
    // The same number under another protocol is another port.
    let dns = redis(&[("53/udp", "0.0.0.0:53")]);
    assert!(refusal(&dns, &rules(None, Some("53"))).starts_with("53/tcp is not published"));
    assert_eq!(
        announced(&dns, &rules(None, Some("53/udp"))).0,
        "docker-host:53"
    );
}

#[test]
fn without_a_wish_the_only_published_port_is_taken_and_several_are_listed() {
    assert!(refusal(&redis(&[]), &rules(None, None)).starts_with("no port is published"));
    let two = redis(&[("6379", "0.0.0.0:6379"), ("9121", "10.0.0.5:9121")]);
    let words = refusal(&two, &rules(None, None));
    assert!(
        words.contains("6379/tcp → 6379") && words.contains("9121/tcp → 10.0.0.5:9121"),
        "{words}"
    );
    let two = labelled(two, &[("sidekick.port", "9121")]);
    assert_eq!(
        announced(&two, &rules(None, None)),
        ("10.0.0.5:9121".to_owned(), HostSource::Binding)
    );
    // The option beats the label.
    assert_eq!(
        announced(&two, &rules(None, Some("6379"))).0,
        "docker-host:6379"
    );
}

#[test]
fn on_the_hosts_network_the_container_port_is_the_port() {
    let mut container = redis(&[]);
    container.host_network = true;
    assert_eq!(
        announced(&container, &rules(None, Some("6379"))).0,
        "docker-host:6379"
    );
    assert!(refusal(&container, &rules(None, None)).contains("name the port with --port"));
}

#[test]
fn a_port_on_loopback_is_no_address() {
    for ip in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
        let container = redis(&[("6379", &format!("{ip}:6379"))]);
        let words = refusal(&container, &rules(Some("a"), None));
        assert!(words.contains("loopback only"), "{words}");
    }
    // Where it is bound elsewhere too, that is taken.
    let both = redis(&[("6379", "127.0.0.1:1"), ("6379", "10.0.0.5:2")]);
    assert_eq!(announced(&both, &rules(None, None)).0, "10.0.0.5:2");
}

#[test]
fn of_several_bindings_the_one_that_the_address_leads_to_is_taken() {
    let container = redis(&[
        ("6379", "10.0.0.5:5"),
        ("6379", "10.0.0.6:6"),
        ("6379", "0.0.0.0:7"),
    ]);
    assert_eq!(
        announced(&container, &rules(Some("10.0.0.6"), None)).0,
        "10.0.0.6:6"
    );
    assert_eq!(
        announced(&container, &rules(Some("10.0.0.9"), None)).0,
        "10.0.0.9:7"
    );
    assert_eq!(
        announced(&container, &rules(Some("name"), None)).0,
        "name:7"
    );
}

/// Only the wanted port's own bindings count.
#[test]
fn an_address_that_the_port_is_not_bound_on_is_announced_with_a_caveat() {
    let bound = redis(&[("6379", "172.17.0.1:6379"), ("9121", "0.0.0.0:9121")]);
    let caveat =
        |container: &ContainerSnapshot, rules: &AddressOptions| decided(container, rules).caveat;
    let port = Some("6379");
    assert!(caveat(&bound, &rules(Some("10.0.0.7"), port)).is_some());
    assert!(caveat(&bound, &rules(Some("10.0.0.7"), Some("9121"))).is_none());
    assert!(caveat(&bound, &rules(Some("name"), port)).is_none());
    assert!(caveat(&bound, &rules(None, port)).is_none());
    let bound = labelled(bound, &[("sidekick.host", "10.0.0.7")]);
    assert!(caveat(&bound, &rules(None, port)).is_some());
    let mut bound = bound;
    bound.host_network = true;
    assert!(caveat(&bound, &rules(None, port)).is_none());
}

#[test]
fn the_first_host_source_that_applies_wins() {
    let bound = labelled(
        redis(&[("6379", "10.0.0.5:6379")]),
        &[("sidekick.host", "by-label")],
    );
    assert_eq!(
        announced(&bound, &rules(Some("by-option"), None)),
        ("by-option:6379".to_owned(), HostSource::Option)
    );
    assert_eq!(
        announced(&bound, &rules(None, None)),
        ("by-label:6379".to_owned(), HostSource::Label)
    );
    let bound = redis(&[("6379", "10.0.0.5:6379")]);
    assert_eq!(
        announced(&bound, &rules(None, None)),
        ("10.0.0.5:6379".to_owned(), HostSource::Binding)
    );
    let open = redis(&[("6379", "0.0.0.0:6379")]);
    assert_eq!(
        announced(&open, &rules(None, None)),
        ("docker-host:6379".to_owned(), HostSource::EngineName)
    );
    let decision = decide(&open, &rules(None, None), None).expect("announceable");
    assert_eq!(
        (decision.endpoint.to_string(), decision.host_source),
        ("machine-7:6379".to_owned(), HostSource::Hostname)
    );
}

#[test]
fn an_address_that_no_client_can_dial_is_refused_and_says_what_to_do() {
    let open = redis(&[("6379", "0.0.0.0:6379")]);
    for bad in ["127.0.0.1", "localhost", "", "a b"] {
        let words = refusal(
            &labelled(open.clone(), &[("sidekick.host", bad)]),
            &rules(None, None),
        );
        assert!(words.starts_with("label sidekick.host "), "{words}");
    }
    let words = refusal(
        &labelled(open.clone(), &[("sidekick.port", "x")]),
        &rules(None, None),
    );
    assert!(words.starts_with("label sidekick.port "), "{words}");
    // In a container the machine's own name is unknown, and /info may be refused by a proxy.
    let unknown = AddressOptions {
        hostname: None,
        ..rules(None, None)
    };
    let words = decide(&open, &unknown, None).unwrap_err().to_string();
    assert!(words.contains("--host"), "{words}");
    let words = decide(&open, &unknown, Some("localhost"))
        .unwrap_err()
        .to_string();
    assert!(
        words.contains("loopback") && words.contains("--host"),
        "{words}"
    );
}

#[test]
fn while_docker_cannot_be_asked_what_is_announced_stays_for_the_grace() {
    let second = Duration::from_secs;
    let seen = |lost_since| ContainerView {
        observation: Observation::Present(Arc::new(redis(&[("6379", "0.0.0.0:6379")]))),
        lost_since,
        engine_name: Some("docker-host".into()),
        ..ContainerView::unasked(Duration::ZERO)
    };
    let options = rules(None, None);
    let before = judge(&seen(None), &options, None, None, second(500));
    assert!(matches!(verdict(&before), Verdict::Announce(_)));
    let lost = seen(Some(second(100)));
    let at = |grace, now| judge(&lost, &options, grace, Some(&before), now);
    let kept = |grace, now, end| {
        let judged = at(grace, now);
        assert_eq!(
            (verdict(&judged), judged.ends, judged.is_kept()),
            (verdict(&before), end, true)
        );
    };
    let grace = Some(second(60));
    kept(grace, second(100), Some(second(160)));
    kept(grace, Duration::from_millis(159_999), Some(second(160)));
    // At the exact boundary it is over.
    let over = at(grace, second(160));
    let lost_for_good = Verdict::Withdraw(Reason::EngineLost(second(60)));
    assert_eq!((verdict(&over), over.is_kept()), (lost_for_good, false));
    kept(None, second(1_000_000), None);
    let Verdict::Withdraw(reason) = verdict(&at(Some(Duration::ZERO), second(100))) else {
        panic!("no grace is no grace");
    };
    assert!(
        !reason.container_is_down(),
        "nothing is known about the container"
    );
}

#[test]
fn what_was_never_seen_is_not_announced() {
    let at = Duration::from_secs(9);
    let judged = |view: &ContainerView| verdict(&judge(view, &rules(None, None), None, None, at));
    let never = ContainerView::unasked(Duration::from_secs(1));
    assert_eq!(judged(&never), Verdict::Withdraw(Reason::NeverAsked));
    let absent = ContainerView {
        observation: Observation::Absent,
        lost_since: None,
        ..never
    };
    let Verdict::Withdraw(reason) = judged(&absent) else {
        panic!("announced a ghost")
    };
    assert_eq!(reason.to_string(), "there is no container redis1");
}
