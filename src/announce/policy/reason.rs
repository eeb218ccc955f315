//! Why a container is not announced, in words for a person. Pure.

use super::check_settings::CheckKind;
use super::container::{Binding, ContainerHealth, ContainerPort, ContainerState};
use super::host_source::HostSource;
use crate::endpoint::{HostError, Key, KeyError};
use std::time::Duration;

/// The first reason against announcing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Docker has not answered yet.
    #[error("Docker has not answered yet")]
    NeverAsked,
    /// Docker doesn't answer, and this grace period is over.
    #[error("Docker has not answered for longer than --docker-grace ({} s)", .0.as_secs())]
    EngineLost(Duration),
    /// There is no such container.
    #[error("there is no container {0}")]
    Absent(String),
    /// The container is not running.
    #[error("{name} {}", state_words(.state))]
    NotRunning {
        /// The container's name.
        name: String,
        /// The container's state.
        state: ContainerState,
    },
    /// The container's health check has no result yet, or failed.
    #[error("health: {}", health_words(.0))]
    ContainerHealth(ContainerHealth),
    /// The requested port isn't published.
    #[error("{wanted} is not published; published: {}", list(.published))]
    NotPublished {
        /// The requested container port.
        wanted: ContainerPort,
        /// The published ports.
        published: Vec<(ContainerPort, Vec<Binding>)>,
    },
    /// No port is published, and none was requested.
    #[error("no port is published; publish one with -p, or name one with --port")]
    NothingPublished,
    /// Several ports are published, and none was requested.
    #[error("several ports are published; name one with --port: {}", list(.0))]
    SeveralPublished(Vec<(ContainerPort, Vec<Binding>)>),
    /// The container is on the host's network, and no port was requested.
    #[error(
        "{0} is on the host's own network, where no port is published; name the port with --port"
    )]
    HostNetworkNeedsPort(String),
    /// The port is published on loopback addresses only.
    #[error("{port} is published on loopback only ({}); other machines can't reach it", bindings(.bound))]
    LoopbackOnly {
        /// The container port.
        port: ContainerPort,
        /// The port's bindings.
        bound: Vec<Binding>,
    },
    /// A label can't be parsed.
    #[error("label {label} {problem}")]
    BadLabel {
        /// The label's name.
        label: String,
        /// What is wrong with the value.
        problem: String,
    },
    /// What the container tells registrator can't be done.
    #[error("{metadata} {problem}")]
    BadMetadata {
        /// The label or variable: `label SERVICE_NAME`.
        metadata: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A check is asked for of a port that can't be checked.
    #[error("a check asks a TCP port, and {0} is none")]
    Uncheckable(ContainerPort),
    /// The service's check has no result yet.
    #[error("its check {0} has not passed yet")]
    CheckPending(CheckKind),
    /// The service's check fails.
    #[error("its check {kind} fails: {why}")]
    CheckFailing {
        /// What is asked.
        kind: CheckKind,
        /// What was wrong with the answer.
        why: String,
    },
    /// There are sidekick labels, but none that names a service.
    #[error("no label names a service: sidekick.service=NAME, or sidekick.PORT.service=NAME")]
    NoService,
    /// The labels and the container's name make no valid key.
    #[error("{key:?} {problem}; name the instance by the label sidekick.instance")]
    BadKey {
        /// The invalid key.
        key: String,
        /// What is wrong with the value.
        problem: KeyError,
    },
    /// Another container of this machine claims the same key, and has precedence.
    #[error("{winner} has the key {key}, because it started later")]
    Outranked {
        /// The key.
        key: Key,
        /// The other container's name.
        winner: String,
    },
    /// No address is configured, and none is known.
    #[error("no address is known for this machine; pass --host")]
    NoHost,
    /// The last source of an address gave one that clients can't dial.
    #[error("{rule} {problem}; pass --host")]
    UnusableHost {
        /// The source of the address.
        rule: HostSource,
        /// What is wrong with the value.
        problem: HostError,
    },
}

impl Reason {
    /// The kinds of reasons, for `/metrics`: there are no others.
    pub const KINDS: [&str; 10] = [
        "engine",
        "absent",
        "down",
        "paused",
        "health",
        "check",
        "port",
        "address",
        "label",
        "outranked",
    ];

    /// What kind of reason it is: one of [`Reason::KINDS`].
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::NeverAsked | Self::EngineLost(_) => "engine",
            Self::Absent(_) => "absent",
            Self::NotRunning {
                state: ContainerState::Paused,
                ..
            } => "paused",
            Self::NotRunning { .. } => "down",
            Self::ContainerHealth(_) => "health",
            Self::CheckPending(_) | Self::CheckFailing { .. } => "check",
            Self::NotPublished { .. }
            | Self::NothingPublished
            | Self::SeveralPublished(_)
            | Self::HostNetworkNeedsPort(_) => "port",
            Self::LoopbackOnly { .. } | Self::NoHost | Self::UnusableHost { .. } => "address",
            Self::BadLabel { .. }
            | Self::BadMetadata { .. }
            | Self::Uncheckable(_)
            | Self::NoService
            | Self::BadKey { .. } => "label",
            Self::Outranked { .. } => "outranked",
        }
    }

    /// Whether the engine is about to say more of the same.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::NotRunning {
                state: ContainerState::Ended,
                ..
            }
        )
    }

    /// Whether the container itself is down, rather than unknown or misconfigured. Only then may a key be deleted
    /// that an earlier process of ours left behind.
    #[must_use]
    pub const fn container_is_down(&self) -> bool {
        matches!(
            self,
            Self::NotRunning { .. } | Self::ContainerHealth(_) | Self::CheckFailing { .. }
        )
    }
}

fn state_words(state: &ContainerState) -> String {
    match state {
        ContainerState::Running => "is running".to_owned(),
        ContainerState::Paused => "is paused".to_owned(),
        ContainerState::Restarting => "is restarting".to_owned(),
        ContainerState::Created => "was never started".to_owned(),
        ContainerState::Ended => "has ended, with a status that Docker has not told yet".to_owned(),
        ContainerState::Exited(code) => format!("has exited with status {code}"),
        ContainerState::Removing => "is being removed".to_owned(),
        ContainerState::Dead => "is dead".to_owned(),
        ContainerState::Other(word) => format!("is {word:?}"),
    }
}

/// A health check's verdict in words.
#[must_use]
pub fn health_words(health: &ContainerHealth) -> String {
    match health {
        ContainerHealth::Good => "good".to_owned(),
        ContainerHealth::Starting { failed, retries } => {
            format!("starting ({failed} of {retries} checks)")
        }
        ContainerHealth::Unhealthy { failed } => {
            format!("unhealthy ({failed} checks failed in a row)")
        }
    }
}

fn bindings(bound: &[Binding]) -> String {
    let words: Vec<_> = bound.iter().map(Binding::to_string).collect();
    words.join(", ")
}

fn list(published: &[(ContainerPort, Vec<Binding>)]) -> String {
    if published.is_empty() {
        return "nothing".to_owned();
    }
    let words: Vec<_> = published
        .iter()
        .map(|(port, bound)| format!("{port} → {}", bindings(bound)))
        .collect();
    words.join(", ")
}
