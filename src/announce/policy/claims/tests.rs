//! Labels → keys, or why not: the grammar, whose key it is, and what a lost engine does to many.

mod checked;
mod several;
mod stopped;

use crate::announce::lease::protocol::{DesiredKey, KeyStatus};
use crate::announce::policy::check::CheckResults;
use crate::announce::policy::check_settings::CheckOptions;
use crate::announce::policy::claims::{Claim, Evaluation, Evaluator, assign_keys};
use crate::announce::policy::container::{
    ContainerHealth, ContainerSnapshot, ContainerState, ContainerView, Observation,
};
use crate::announce::policy::eligibility::{AddressOptions, Verdict, parse_binding};
use crate::announce::policy::labels::{MAX_META, services};
use crate::announce::policy::stop::StopSettings;
use crate::announce::policy::target::Target;
use crate::announce::status::AnnounceStatus;
use crate::clock::Moment;
use crate::endpoint::{Endpoint, Since};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::num::NonZeroI32;
use std::sync::Arc;
use std::time::Duration;

const NOW: Moment = Duration::from_secs(100);

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
    labels.iter().map(owned).collect()
}

/// A running web1 that publishes 80 → 8080 and 443 → 8443 and has these labels.
fn web(given: &[(&str, &str)]) -> ContainerSnapshot {
    let all = |port| vec![parse_binding(Some("0.0.0.0"), Some(port)).expect("a binding")];
    ContainerSnapshot {
        id: "a".repeat(64),
        name: "web1".to_owned(),
        state: ContainerState::Running,
        health: ContainerHealth::Good,
        started_at: Since::parse("2026-11-23T05:06:06Z"),
        pid: NonZeroI32::new(4711),
        stop: StopSettings::default(),
        host_network: false,
        ports: BTreeMap::from([
            ("80".parse().expect("a port"), all("8080")),
            ("443".parse().expect("a port"), all("8443")),
        ]),
        labels: labels(given),
        refusal: None,
        addresses: Vec::new(),
    }
}

fn seen(container: ContainerSnapshot) -> ContainerView {
    ContainerView {
        observation: Observation::Present(Arc::new(container)),
        lost_since: None,
        engine_name: Some("worker-1".into()),
        ..ContainerView::unasked(Moment::ZERO)
    }
}

fn judged_after(view: &ContainerView, before: Option<&Evaluation>, now: Moment) -> Evaluation {
    let target = Target::All {
        registrator: false,
        prefix: "/services".to_owned(),
    };
    let judge = Evaluator {
        target: &target,
        rules: &AddressOptions::default(),
        grace: Some(Duration::from_secs(60)),
        checks: &CheckResults::new(),
        check_options: &CheckOptions::default(),
    };
    judge.judge("the-id", view, before, now)
}

fn judged(container: ContainerSnapshot) -> Evaluation {
    judged_after(&seen(container), None, NOW)
}

fn claims(judged: &Evaluation) -> &[Claim] {
    judged.claims.as_deref().unwrap_or_default()
}

fn refusal(judged: &Evaluation) -> String {
    let reason = judged.claims.as_ref().err();
    reason
        .unwrap_or_else(|| panic!("not refused: {:?}", shown(judged)))
        .to_string()
}

/// `key = host:port` of each that is announced, and `key: reason` of each that isn't.
fn shown(judged: &Evaluation) -> Vec<String> {
    let shown = claims(judged).iter().map(|claim| match &claim.verdict {
        Verdict::Announce(decision) => format!("{} = {}", claim.key, decision.endpoint),
        Verdict::Withdraw(reason) => format!("{}: {reason}", claim.key),
    });
    let refused = judged.claims.as_ref().err();
    shown.chain(refused.map(ToString::to_string)).collect()
}

fn web_shows(given: &[(&str, &str)]) -> Vec<String> {
    shown(&judged(web(given)))
}

#[test]
fn a_service_and_a_port_are_enough() {
    assert_eq!(
        web_shows(&[("sidekick.service", "web"), ("sidekick.port", "80")]),
        ["/services/web/web1@worker-1 = worker-1:8080"]
    );
}

#[test]
fn instance_host_and_words_are_said_by_labels() {
    let judged = judged(web(&[
        ("sidekick.service", "web"),
        ("sidekick.port", "443/tcp"),
        ("sidekick.instance", "web@7"),
        ("sidekick.host", "10.0.0.9"),
        ("sidekick.meta.zone", "a"),
        ("sidekick.meta.tier.one", ""),
        ("com.example.sidekick.service", "ignored"),
    ]));
    assert_eq!(shown(&judged), ["/services/web/web@7 = 10.0.0.9:8443"]);
    let Verdict::Announce(decision) = &claims(&judged)[0].verdict else {
        panic!("not announced");
    };
    let meta = labels(&[("zone", "a"), ("tier.one", "")]);
    assert_eq!(decision.endpoint.meta, meta);
    let value = decision.endpoint.encode();
    assert_eq!(
        Endpoint::decode(value.as_bytes()).as_ref(),
        Ok(&*decision.endpoint)
    );
}

#[test]
fn the_instance_is_named_after_the_container_and_the_host_that_is_announced() {
    assert_eq!(
        web_shows(&[
            ("sidekick.service", "web"),
            ("sidekick.port", "80"),
            ("sidekick.host", "10.0.0.9"),
        ]),
        ["/services/web/web1@10.0.0.9 = 10.0.0.9:8080"]
    );
}

#[test]
fn several_ports_are_services_of_their_own() {
    assert_eq!(
        web_shows(&[
            ("sidekick.80.service", "web"),
            ("sidekick.443/tcp.service", "web-tls"),
            ("sidekick.443/tcp.host", "tls.example"),
            ("sidekick.instance", "one"),
        ]),
        [
            "/services/web/one = worker-1:8080",
            "/services/web-tls/one = tls.example:8443"
        ]
    );
}

#[test]
fn several_ports_in_one_service_have_a_key_each() {
    assert_eq!(
        web_shows(&[
            ("sidekick.80.service", "web"),
            ("sidekick.443.service", "web")
        ]),
        [
            "/services/web/web1@worker-1:80 = worker-1:8080",
            "/services/web/web1@worker-1:443 = worker-1:8443"
        ]
    );
    assert_eq!(
        web_shows(&[
            ("sidekick.80.service", "web"),
            ("sidekick.443.service", "web"),
            ("sidekick.443.instance", "tls"),
        ]),
        [
            "/services/web/web1@worker-1:80 = worker-1:8080",
            "/services/web/tls = worker-1:8443"
        ]
    );
}

#[test]
fn one_port_that_is_not_published_does_not_hold_up_the_other() {
    assert_eq!(
        web_shows(&[
            ("sidekick.80.service", "web"),
            ("sidekick.53/udp.service", "dns")
        ]),
        [
            "/services/dns/web1@worker-1: 53/udp is not published; published: 80/tcp → 8080, 443/tcp → 8443",
            "/services/web/web1@worker-1 = worker-1:8080"
        ]
    );
}

#[test]
fn a_bad_label_refuses_the_container_and_is_named() {
    for (bad, value) in [
        ("sidekick.service", ""),
        ("sidekick.service", "a/b"),
        ("sidekick.service", "a b"),
        ("sidekick.service", ".."),
        ("sidekick.port", "0"),
        ("sidekick.port", "http"),
        ("sidekick.instance", ""),
        ("sidekick.instance", "a\n"),
        ("sidekick.host", "localhost"),
        ("sidekick.host", ""),
        ("sidekick.meta.", "x"),
        ("sidekick.serivce", "web"),
        ("sidekick.", "web"),
        ("sidekick.80", "web"),
        ("sidekick.80.", "web"),
        ("sidekick.80.port", "80"),
        ("sidekick.80.host", "a"),
        ("sidekick.0.service", "web"),
        ("sidekick.http.service", "web"),
        ("sidekick.80/icmp.service", "web"),
    ] {
        let mut given = labels(&[("sidekick.service", "web")]);
        given.insert(bad.to_owned(), value.to_owned());
        let mut container = web(&[]);
        container.labels = given;
        let judged = judged(container);
        let reason = refusal(&judged);
        let named = bad.trim_end_matches("host").trim_end_matches('.');
        assert!(
            reason.starts_with(&format!("label {named}")),
            "{bad}: {reason}"
        );
    }
}

#[test]
fn labels_that_contradict_each_other_are_refused() {
    for given in [
        &[
            ("sidekick.80.service", "a"),
            ("sidekick.80/tcp.service", "b"),
        ][..],
        &[("sidekick.80.service", "a"), ("sidekick.port", "80")],
        &[
            ("sidekick.80.service", "a"),
            ("sidekick.80.instance", "x"),
            ("sidekick.443.service", "a"),
            ("sidekick.443.instance", "x"),
        ],
    ] {
        let reason = refusal(&judged(web(given)));
        assert!(reason.starts_with("label sidekick."), "{reason}");
    }
}

#[test]
fn without_a_service_nothing_is_announced() {
    let words = web_shows(&[("sidekick.port", "80")]);
    assert!(
        words[0].starts_with("no label names a service"),
        "{words:?}"
    );
}

#[test]
fn words_have_a_limit_that_etcd_can_take() {
    let long = "x".repeat(MAX_META);
    let given = [("sidekick.service", "web"), ("sidekick.meta.a", &long)];
    let reason = services(&labels(&given)).expect_err("too long").to_string();
    assert!(reason.contains("8193 bytes"), "{reason}");
    let given = [("sidekick.service", "web"), ("sidekick.meta.a", &long[1..])];
    services(&labels(&given)).expect("just short enough");
}

#[test]
fn a_name_that_makes_no_key_is_refused_with_a_way_out() {
    let mut container = web(&[("sidekick.service", "web"), ("sidekick.port", "80")]);
    container.name = "x".repeat(128);
    let words = refusal(&judged(container));
    assert!(words.contains("sidekick.instance"), "{words}");
}

#[test]
fn a_container_that_is_down_keeps_its_key_for_what_a_past_life_left_there() {
    let mut container = web(&[("sidekick.service", "web"), ("sidekick.port", "80")]);
    container.state = ContainerState::Exited(137);
    container.ports.clear();
    let judged = judged(container);
    assert_eq!(
        shown(&judged),
        ["/services/web/web1@worker-1: web1 has exited with status 137"]
    );
    let all = BTreeMap::from([("a".to_owned(), judged)]);
    let desired = assign_keys(&all).desired;
    let wish = desired.values().next().expect("a wish");
    let DesiredKey::Withdraw { down: Some(down) } = wish else {
        panic!("{wish:?}");
    };
    assert_eq!(down.container.as_deref(), Some("aaaaaaaaaaaa"));
}

fn label_names() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(vec![
            "sidekick.service", "sidekick.port", "sidekick.instance", "sidekick.host",
            "sidekick.meta.a", "sidekick.80.service", "sidekick.80.instance", "sidekick.443.service",
            "sidekick.443.host", "sidekick.53/udp.service", "sidekick.80.meta.b",
        ]).prop_map(str::to_owned),
        1 => "sidekick\\.[a-z0-9./]{0,12}",
        1 => any::<String>(),
    ]
}

fn label_values() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["web", "redis", "80", "443", "10.0.0.9", "x"]).prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

proptest! {
    /// Whatever the labels hold: each key is a good one below the prefix, no two are the same, and
    /// who is refused is told why and claims nothing.
    #[test]
    fn any_labels_come_to_good_keys_or_to_a_reason(
        given in prop::collection::btree_map(label_names(), label_values(), 0..7)
    ) {
        let mut container = web(&[]);
        container.labels = given;
        let judged = judged(container);
        let mut keys: Vec<_> = claims(&judged).iter().map(|claim| claim.key.clone()).collect();
        prop_assert_eq!(keys.is_empty(), judged.claims.is_err());
        for key in &keys {
            prop_assert!(key.as_str().starts_with("/services/"));
            prop_assert_eq!(key.as_str().matches('/').count(), 3);
        }
        keys.dedup();
        prop_assert_eq!(keys.len(), claims(&judged).len());
    }
}
