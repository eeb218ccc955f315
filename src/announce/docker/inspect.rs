//! Decodes the engine's answers: an inspect into our own snapshot, and a list.

use super::events::WatchScope;
use crate::announce::policy::container::{
    Binding, ContainerHealth, ContainerPort, ContainerSnapshot, ContainerState, ContainerView,
    Observation,
};
use crate::announce::policy::eligibility::parse_binding;
use crate::announce::policy::labels::{PREFIX, name_a_service};
use crate::announce::policy::refusal::MetadataRefusal;
use crate::announce::policy::registrator;
use crate::announce::policy::stop::StopSettings;
use crate::endpoint::Since;
use bollard::models::ContainerSummary;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroI32;
use std::sync::Arc;

/// A line of `GET /containers/json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedContainer {
    /// The full id.
    pub(super) id: String,
    /// The name, without Docker's leading slash.
    pub(super) name: String,
    /// The state, in Docker's word.
    pub(super) state: String,
    /// Whether the container has a sidekick label.
    pub(super) labelled: bool,
}

impl ListedContainer {
    /// Whether an inspect may find that it asks to be announced; a list shows no environment.
    pub(super) fn may_ask(&self, scope: &WatchScope) -> bool {
        self.labelled || *scope == WatchScope::Registrator
    }
}

/// `None` for an entry without an id.
pub(super) fn listed(container: ContainerSummary) -> Option<ListedContainer> {
    let names = container.names.unwrap_or_default();
    let labels = container.labels.unwrap_or_default();
    Some(ListedContainer {
        id: container.id?,
        name: own_name(names.iter().map(String::as_str)),
        state: container.state.map(|s| s.to_string()).unwrap_or_default(),
        labelled: labels.keys().any(|label| label.starts_with(PREFIX)),
    })
}

/// The same for a list that holds unknown words. `None` where it is no list at all.
pub(super) fn listed_leniently(json: &str) -> Option<Vec<ListedContainer>> {
    let all: Vec<Value> = serde_json::from_str(json).ok()?;
    let listed = all.iter().filter_map(|container| {
        let names = container["Names"].as_array();
        let names = names.into_iter().flatten().filter_map(|name| name.as_str());
        let labels = container["Labels"].as_object();
        Some(ListedContainer {
            id: container["Id"].as_str()?.to_owned(),
            name: own_name(names),
            state: match container["State"].as_str().unwrap_or_default() {
                STOPPED => "exited".to_owned(),
                state => state.to_owned(),
            },
            labelled: labels.is_some_and(|l| l.keys().any(|label| label.starts_with(PREFIX))),
        })
    });
    Some(listed.collect())
}

/// Links of other containers are names too: `/web/db`.
fn own_name<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut names = names.map(|name| name.trim_start_matches('/'));
    names
        .find(|name| !name.contains('/'))
        .unwrap_or_default()
        .to_owned()
}

/// The word that a list has for a state.
pub(super) fn word(state: &ContainerState) -> &str {
    match state {
        ContainerState::Running => "running",
        ContainerState::Paused => "paused",
        ContainerState::Restarting => "restarting",
        ContainerState::Created => "created",
        ContainerState::Ended | ContainerState::Exited(_) => "exited",
        ContainerState::Removing => "removing",
        ContainerState::Dead => "dead",
        ContainerState::Other(word) => word,
    }
}

/// Podman's word for a container that has ended and isn't cleaned up yet.
const STOPPED: &str = "stopped";

/// `None` for JSON that is no answer about a container. Each field is decoded apart from the others, so that a word that
/// bollard doesn't know (Podman has some, and a newer engine may) doesn't spoil the others.
///
/// The engine also takes any prefix of an id for a name, so that `db` might find another container whose id
/// begins with db. Only the name itself, or 12 digits of the id and more, means the container.
pub(super) fn observation(answer: &Value, wanted: &str, scope: &WatchScope) -> Option<Observation> {
    let snapshot = snapshot(answer, scope)?;
    let by_id = wanted.len() >= 12 && snapshot.id.starts_with(wanted);
    Some(if snapshot.name == wanted || by_id {
        Observation::Present(Arc::new(snapshot))
    } else {
        Observation::Absent
    })
}

fn snapshot(answer: &Value, scope: &WatchScope) -> Option<ContainerSnapshot> {
    let (state, config) = (&answer["State"], &answer["Config"]);
    let retries = config["Healthcheck"]["Retries"].as_u64();
    let retries = retries
        .and_then(|n| u32::try_from(n).ok())
        // Docker's default.
        .filter(|n| *n > 0)
        .unwrap_or(3);
    let (labels, refusal) = labels_of(answer, scope);
    Some(ContainerSnapshot {
        id: answer["Id"].as_str()?.to_owned(),
        name: answer["Name"].as_str()?.trim_start_matches('/').to_owned(),
        health: health(&state["Health"], retries),
        started_at: state["StartedAt"].as_str().and_then(Since::parse),
        state: state_of(state),
        pid: state["Pid"]
            .as_i64()
            .and_then(|pid| NonZeroI32::new(i32::try_from(pid).ok()?))
            .filter(|pid| pid.get() > 0),
        stop: StopSettings::of(
            config["StopSignal"].as_str(),
            config["StopTimeout"].as_i64(),
        ),
        host_network: answer["HostConfig"]["NetworkMode"] == "host",
        ports: published(&answer["NetworkSettings"]["Ports"]),
        addresses: addresses(&answer["NetworkSettings"]["Networks"]),
        labels,
        refusal,
    })
}

/// Sidekick's labels; and those that say what registrator's metadata asks for, where that counts, or why none do. Of
/// all other labels, and of the environment, nothing is kept.
fn labels_of(
    answer: &Value,
    scope: &WatchScope,
) -> (BTreeMap<String, String>, Option<MetadataRefusal>) {
    let config = &answer["Config"];
    let labels = || {
        let labels = config["Labels"].as_object().into_iter().flatten();
        labels.filter_map(|(label, text)| Some((label.as_str(), text.as_str()?)))
    };
    let own = labels().filter(|(label, _)| label.starts_with(PREFIX));
    let own: BTreeMap<_, _> = own
        .map(|(label, text)| (label.to_owned(), text.to_owned()))
        .collect();
    if *scope != WatchScope::Registrator || name_a_service(&own) {
        return (own, None);
    }
    let environment = config["Env"].as_array().into_iter().flatten();
    let environment = environment.filter_map(Value::as_str);
    match registrator::as_labels(labels(), environment, &ports_to_publish(answer)) {
        Ok(mut translated) => {
            translated.extend(own);
            (translated, None)
        }
        Err(refusal) => (own, Some(refusal)),
    }
}

/// The ports that the container publishes whenever it runs: what `NetworkSettings.Ports` shows, but also while it
/// doesn't run. On the host's network those that it exposes, for there `docker run -p` exposes them, no more.
fn ports_to_publish(answer: &Value) -> BTreeSet<ContainerPort> {
    let host = &answer["HostConfig"];
    let exposed = host["PublishAllPorts"] == true || host["NetworkMode"] == "host";
    let exposed = exposed.then(|| answer["Config"]["ExposedPorts"].as_object());
    let bound = host["PortBindings"].as_object();
    let ports = bound.into_iter().chain(exposed.flatten()).flatten();
    ports.filter_map(|(port, _)| port.parse().ok()).collect()
}

fn state_of(state: &Value) -> ContainerState {
    let flag = |flag: &str| state[flag].as_bool();
    let status = state["Status"].as_str().unwrap_or_default();
    // The flags come first: the status may be older than they are, never the other way round.
    if flag("Paused") == Some(true) || status == "paused" {
        ContainerState::Paused
    } else if flag("Restarting") == Some(true) || status == "restarting" {
        ContainerState::Restarting
    } else if flag("Dead") == Some(true) || status == "dead" {
        ContainerState::Dead
    } else {
        match status {
            "running" if flag("Running") != Some(false) => ContainerState::Running,
            "created" => ContainerState::Created,
            "removing" => ContainerState::Removing,
            "exited" | STOPPED | "running" => {
                ContainerState::Exited(state["ExitCode"].as_i64().unwrap_or_default())
            }
            other => ContainerState::Other(other.to_owned()),
        }
    }
}

fn health(health: &Value, retries: u32) -> ContainerHealth {
    let failed = health["FailingStreak"].as_u64();
    let failed = failed
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or_default();
    match health["Status"].as_str().unwrap_or_default() {
        "" | "none" | "healthy" => ContainerHealth::Good,
        "unhealthy" => ContainerHealth::Unhealthy { failed },
        // Podman has `reset` and `stopped` too, while there is no result.
        _ => ContainerHealth::Starting { failed, retries },
    }
}

/// Each with its network's gateway; IPv4 before IPv6.
fn addresses(networks: &Value) -> Vec<(IpAddr, IpAddr)> {
    let networks = networks.as_object().into_iter().flatten();
    let addresses = networks.flat_map(|(_, network)| {
        let ip = |field: &str| network[field].as_str()?.parse().ok();
        [
            ip("IPAddress").zip(ip("Gateway")),
            ip("GlobalIPv6Address").zip(ip("IPv6Gateway")),
        ]
    });
    addresses.flatten().collect()
}

fn published(ports: &Value) -> BTreeMap<ContainerPort, Vec<Binding>> {
    let mut published = BTreeMap::new();
    for (port, bound) in ports.as_object().into_iter().flatten() {
        let (Ok(port), Some(bound)) = (port.parse::<ContainerPort>(), bound.as_array()) else {
            continue;
        };
        let mut bindings: Vec<_> = bound
            .iter()
            .filter_map(|b| parse_binding(b["HostIp"].as_str(), b["HostPort"].as_str()))
            .collect();
        bindings.sort();
        bindings.dedup();
        published.insert(port, bindings);
    }
    published
}

/// Whether a list's line differs from the last inspect.
// see below
pub(super) fn differs(view: &ContainerView, listed: &ListedContainer) -> bool {
    match &view.observation {
        Observation::Present(container) => {
            container.name != listed.name || word(&container.state) != listed.state
        }
        Observation::Absent | Observation::NeverAsked => true,
    }
}

/// Whether the two differ by a change that the engine has an event for. (A health check's count of failures has
/// none.)
pub(super) fn another_life(before: &Observation, after: &Observation) -> bool {
    let life = |observation: &Observation| match observation {
        Observation::Present(c) => Some((c.id.clone(), c.state.clone(), c.started_at)),
        Observation::Absent | Observation::NeverAsked => None,
    };
    life(before) != life(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    fn seen(answer: &Value, name: &str) -> Option<Observation> {
        observation(answer, name, &WatchScope::One(name.to_owned()))
    }

    #[test]
    fn a_stranger_whose_id_begins_with_the_name_is_not_taken() {
        let id = format!("db{}", "0".repeat(62));
        let answer = inspected(&format!(r#"{{"Id":"{id}","Name":"/other"}}"#));
        assert_eq!(seen(&answer, "db"), Some(Observation::Absent));
        assert!(matches!(
            seen(&answer, &id[..12]),
            Some(Observation::Present(_))
        ));
        assert!(matches!(
            seen(&answer, "other"),
            Some(Observation::Present(_))
        ));
        for nonsense in ["{}", "[]", r#"{"Id":"aa","Name":7}"#] {
            assert_eq!(seen(&inspected(nonsense), "db"), None, "not gone");
        }
    }

    #[test]
    fn a_word_that_bollard_does_not_know_spoils_no_inspect() {
        let shown = |state: &str| {
            let json = format!(
                r#"{{"Id":"aa","Name":"/db","State":{state},"Mounts":[{{"Type":"ethereal"}}]}}"#
            );
            match seen(&inspected(&json), "db") {
                Some(Observation::Present(container)) => {
                    (container.state.clone(), container.health)
                }
                other => panic!("{other:?}"),
            }
        };
        let no_verdict = ContainerHealth::Starting {
            failed: 0,
            retries: 3,
        };
        let (good, other) = (ContainerHealth::Good, |word: &str| {
            ContainerState::Other(word.to_owned())
        });
        for (json, state, health) in [
            (
                r#"{"Status":"stopped","ExitCode":137}"#,
                ContainerState::Exited(137),
                good,
            ),
            (r#"{"Status":"stopping"}"#, other("stopping"), good),
            (r#"{"Status":"unknown"}"#, other("unknown"), good),
            (
                r#"{"Status":"running","Health":{"Status":"reset"}}"#,
                ContainerState::Running,
                no_verdict,
            ),
            (
                r#"{"Status":"running","Health":{"Status":"stopped"}}"#,
                ContainerState::Running,
                no_verdict,
            ),
            (
                r#"{"Status":"running","Health":{"Status":""}}"#,
                ContainerState::Running,
                good,
            ),
        ] {
            assert_eq!(shown(json), (state, health), "{json}");
        }
    }

    #[test]
    fn one_container_in_an_unknown_state_spoils_no_list() {
        let json = r#"[
            {"Id":"aa","Names":["/web/db","/db"],"State":"running","Labels":{"sidekick.service":"db"}},
            {"Id":"bb","Names":["/odd"],"State":"hibernating","Labels":{"sidekick.service":"odd"},
             "Ports":[{"PrivatePort":1,"Type":"quic"}]},
            {"Id":"cc","Names":["/plain"],"State":"exited","Labels":{}}]"#;
        assert!(serde_json::from_str::<Vec<ContainerSummary>>(json).is_err());
        let all = listed_leniently(json).unwrap();
        let line =
            |l: &ListedContainer| (l.id.clone(), l.name.clone(), l.state.clone(), l.labelled);
        let shown: Vec<_> = all.iter().map(line).collect();
        let text = str::to_owned;
        assert_eq!(
            shown,
            [
                (text("aa"), text("db"), text("running"), true),
                (text("bb"), text("odd"), text("hibernating"), true),
                (text("cc"), text("plain"), text("exited"), false),
            ]
        );
        let strict: ContainerSummary = serde_json::from_str(
            r#"{"Id":"aa","Names":["/web/db","/db"],"State":"running","Labels":{"sidekick.service":"db"}}"#,
        )
        .unwrap();
        assert_eq!(listed(strict).as_ref(), all.first());
        assert_eq!(listed_leniently("{}"), None);
    }

    #[test]
    fn paused_and_restarting_count_before_running() {
        let state = |json: &str| state_of(&inspected(json));
        assert_eq!(
            state(r#"{"Status":"running","Running":true}"#),
            ContainerState::Running
        );
        assert_eq!(
            state(r#"{"Status":"running","Running":true,"Paused":true}"#),
            ContainerState::Paused
        );
        assert_eq!(
            state(r#"{"Status":"paused","Running":true,"Paused":true}"#),
            ContainerState::Paused
        );
        assert_eq!(
            state(r#"{"Status":"restarting","Running":true,"Restarting":true}"#),
            ContainerState::Restarting
        );
        assert_eq!(
            state(r#"{"Status":"exited","Running":false,"ExitCode":137}"#),
            ContainerState::Exited(137)
        );
        assert_eq!(
            state(r#"{"Status":"running","Running":false,"ExitCode":1}"#),
            ContainerState::Exited(1)
        );
        assert_eq!(
            state(r#"{"Status":"stopping"}"#),
            ContainerState::Other("stopping".to_owned())
        );
        assert_eq!(state("{}"), ContainerState::Other(String::new()));
    }

    #[test]
    fn ports_that_are_exposed_and_not_published_have_no_binding() {
        let ports = published(&inspected(
            r#"{"6379/tcp":[{"HostIp":"::","HostPort":"32769"},{"HostIp":"0.0.0.0","HostPort":"32768"}],
                    "80/tcp":null,"53/udp":[{"HostIp":"","HostPort":"53"}],"x":[]}"#,
        ));
        let shown: Vec<_> = ports.iter().map(|(p, b)| format!("{p}={b:?}")).collect();
        assert_eq!(ports.len(), 2, "{shown:?}");
        assert_eq!(ports[&"6379".parse().unwrap()].len(), 2);
        assert_eq!(ports[&"53/udp".parse().unwrap()][0].port.get(), 53);
    }
}
