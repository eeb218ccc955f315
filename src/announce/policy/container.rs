//! What sidekick knows of a container: our own snapshot, free of bollard's types. Pure.

pub use crate::endpoint::Protocol;

use crate::clock::Moment;
use crate::endpoint::Since;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

/// One container's state, as the Docker Engine told it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSnapshot {
    /// The full id, 64 hex digits.
    pub id: String,
    /// The name, without Docker's leading slash.
    pub name: String,
    /// The container's state.
    pub state: ContainerState,
    /// The result of the container's health check.
    pub health: ContainerHealth,
    /// When the container was started last; `None` if never.
    pub started_at: Option<Since>,
    /// Whether the container uses the host's network.
    pub host_network: bool,
    /// The published container ports and where each is bound on the host.
    pub ports: BTreeMap<ContainerPort, Vec<Binding>>,
    /// The container's `sidekick.*` labels.
    pub labels: BTreeMap<String, String>,
}

impl ContainerSnapshot {
    /// The first 12 hex digits of the id, as `docker ps` shows it and as etcd's value holds it; `None`
    /// where the engine tells nothing that is an id.
    #[must_use]
    pub fn short_id(&self) -> Option<String> {
        let id: String = self.id.chars().take(12).collect();
        let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit());
        is_id.then_some(id)
    }
}

/// A container's state, from `ContainerState` of `GET /containers/{id}/json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerState {
    /// Running, and neither paused nor about to be restarted. Docker's `Running` flag alone is true of
    /// a paused container as well.
    Running,
    /// Paused by `docker pause`.
    Paused,
    /// Ended, and about to be started again by a restart policy.
    Restarting,
    /// Created and never started.
    Created,
    /// Ended, with this status.
    Exited(i64),
    /// Being removed.
    Removing,
    /// Removed in part: the engine failed to remove the rest.
    Dead,
    /// A state that this sidekick doesn't know, from a newer engine.
    Other(String),
}

/// The result of a container's health check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerHealth {
    /// There is no health check, or the last one passed.
    Good,
    /// There is no result yet.
    Starting {
        /// Checks that failed in a row.
        failed: u32,
        /// Failures in a row that make it unhealthy.
        retries: u32,
    },
    /// The check failed as often as makes the container unhealthy.
    Unhealthy {
        /// Checks that failed in a row.
        failed: u32,
    },
}

/// A port inside the container: `6379` (tcp), `53/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerPort {
    /// 1–65535.
    pub number: NonZeroU16,
    /// The port's protocol.
    pub protocol: Protocol,
}

impl FromStr for ContainerPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number = number.parse().ok().filter(|_| digits);
        let protocol = match protocol {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "sctp" => Some(Protocol::Sctp),
            _ => None,
        };
        match (number, protocol) {
            (Some(number), Some(protocol)) => Ok(Self { number, protocol }),
            _ => Err(format!(
                "{text:?} is no container port; write 6379 or 53/udp, with a number from 1 to 65535"
            )),
        }
    }
}

impl fmt::Display for ContainerPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

/// Where Docker bound a container's port on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Binding {
    /// The host's address; `0.0.0.0` or `::` means all of that family.
    pub ip: IpAddr,
    /// The host's port.
    pub port: NonZeroU16,
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ip.is_unspecified() {
            write!(f, "{}", self.port)
        } else {
            write!(f, "{}", std::net::SocketAddr::new(self.ip, self.port.get()))
        }
    }
}

/// What the engine answered when the container was inspected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// The engine hasn't answered since sidekick started.
    NeverAsked,
    /// The engine knows no such container.
    Absent,
    /// The engine's answer.
    Present(Arc<ContainerSnapshot>),
}

/// What the engine's `die` event says: the main process of a container has ended.
///
/// The only event that is taken as a fact, and not as a hint: a life ends once, and the engine answers no
/// inspect until it has cleaned up behind a dead container (0.1 s and more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The container's full id.
    pub id: String,
    /// The exit status of its main process.
    pub code: i64,
}

impl Observation {
    /// The observation, corrected by the deaths that were told after the inspect began: a container that had died
    /// is no longer running. Which life has ended is told by the order of events and inspects, never by clocks:
    /// an engine's may step back between a death and the next start.
    #[must_use]
    pub fn after(mut self, deaths: &[Death]) -> Self {
        if let Self::Present(container) = &mut self
            && matches!(
                container.state,
                ContainerState::Running | ContainerState::Paused
            )
            && let Some(death) = deaths.iter().find(|death| death.id == container.id)
        {
            Arc::make_mut(container).state = ContainerState::Exited(death.code);
        }
        self
    }

    /// The container's id and start, which identify its life, and its state; `None` without a container.
    fn life(&self) -> Option<((&str, Option<Since>), &ContainerState)> {
        match self {
            Self::Present(c) => Some(((&c.id, c.started_at), &c.state)),
            Self::Absent | Self::NeverAsked => None,
        }
    }
}

/// What the watcher knows of one container, and whether the engine still answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// The engine's latest answer.
    pub observation: Observation,
    /// Since when the engine doesn't answer; `None` while it does.
    pub lost_since: Option<Moment>,
    /// Since when the container is paused, if it was seen running before; `None` where it isn't paused, or may have
    /// been for any time.
    pub paused_since: Option<Moment>,
    /// The Docker host's own name (`Name` of `GET /info`), where the engine tells it.
    pub engine_name: Option<Arc<str>>,
}

/// What the watcher knows of all containers that it watches.
#[derive(Debug, Clone)]
pub struct ContainerViews {
    /// By the container's name where one is watched, by id where all with labels are.
    pub containers: BTreeMap<String, ContainerView>,
    /// Since when the engine doesn't answer; `None` while it does. The inspect of a single container may fail all
    /// the same.
    pub lost_since: Option<Moment>,
}

impl ContainerView {
    /// Before the first answer of the engine.
    #[must_use]
    pub const fn unasked(now: Moment) -> Self {
        Self {
            observation: Observation::NeverAsked,
            lost_since: Some(now),
            paused_since: None,
            engine_name: None,
        }
    }

    /// The view after an answer of the engine at `now`; `before` is the view until then.
    #[must_use]
    pub fn seen(
        observation: Observation,
        engine_name: Option<Arc<str>>,
        before: Option<&Self>,
        now: Moment,
    ) -> Self {
        let last = before.and_then(|before| Some((before, before.observation.life()?)));
        let paused_since = match (observation.life(), last) {
            (Some((life, ContainerState::Paused)), Some((before, (same, state))))
                if life == same =>
            {
                match state {
                    ContainerState::Running => Some(now),
                    ContainerState::Paused => before.paused_since,
                    _ => None,
                }
            }
            _ => None,
        };
        Self {
            observation,
            lost_since: None,
            paused_since,
            engine_name,
        }
    }

    /// The container's pause is over, so that the next pause counts from its own beginning, also where no inspect
    /// falls between the two. Returns whether that changes anything.
    pub fn unpaused(&mut self) -> bool {
        let Observation::Present(container) = &mut self.observation else {
            return false;
        };
        let was_paused = container.state == ContainerState::Paused;
        if was_paused {
            Arc::make_mut(container).state = ContainerState::Running;
            self.paused_since = None;
        }
        was_paused
    }

    /// A container has died, perhaps this one. Returns whether that changes anything.
    pub fn died(&mut self, death: &Death) -> bool {
        let observation = self.observation.clone().after(std::slice::from_ref(death));
        let changed = self.observation != observation;
        if changed {
            (self.observation, self.paused_since) = (observation, None);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn container_ports_are_written_as_docker_writes_them() {
        for (text, shown) in [
            ("6379", "6379/tcp"),
            ("53/udp", "53/udp"),
            ("9/sctp", "9/sctp"),
            ("1/tcp", "1/tcp"),
        ] {
            assert_eq!(text.parse::<ContainerPort>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "0",
            "65536",
            "-1",
            "+1",
            "x",
            "80/",
            "/tcp",
            "80/icmp",
            "80/tcp/udp",
            " 80",
            "8 0",
            "1e3",
        ] {
            assert!(text.parse::<ContainerPort>().is_err(), "{text:?}");
        }
    }

    fn seen(second: i128, state: ContainerState) -> Observation {
        Observation::Present(Arc::new(ContainerSnapshot {
            id: "aa".to_owned(),
            name: "redis1".to_owned(),
            state,
            health: ContainerHealth::Good,
            started_at: Since::from_unix_nanos(second * 1_000_000_000),
            host_network: false,
            ports: BTreeMap::new(),
            labels: BTreeMap::new(),
        }))
    }

    #[test]
    fn a_death_ends_its_container_whatever_the_clocks_say() {
        let death = |id: &str| {
            let id = id.to_owned();
            [Death { id, code: 137 }]
        };
        let ended = seen(10, ContainerState::Exited(137));
        assert_eq!(seen(10, ContainerState::Running).after(&death("aa")), ended);
        assert_eq!(seen(10, ContainerState::Paused).after(&death("aa")), ended);
        let restarting = seen(10, ContainerState::Restarting);
        assert_eq!(restarting.clone().after(&death("aa")), restarting);
        let other = seen(10, ContainerState::Running);
        assert_eq!(other.clone().after(&death("bb")), other);
        assert_eq!(other.clone().after(&[]), other);
    }

    #[test]
    fn a_pause_is_dated_only_where_the_same_life_was_seen_running() {
        let at = Moment::from_secs;
        let look = |observation, before: Option<&ContainerView>, second| {
            ContainerView::seen(observation, None, before, at(second))
        };
        let running = look(seen(10, ContainerState::Running), None, 1);
        let paused = look(seen(10, ContainerState::Paused), Some(&running), 2);
        assert_eq!(paused.paused_since, Some(at(2)));
        let still = look(seen(10, ContainerState::Paused), Some(&paused), 3);
        assert_eq!(still.paused_since, Some(at(2)));
        for (before, second) in [(None, 10), (Some(&running), 11), (Some(&paused), 11)] {
            let unknown = look(seen(second, ContainerState::Paused), before, 4);
            assert_eq!(unknown.paused_since, None);
        }
        let over = look(seen(10, ContainerState::Running), Some(&still), 5);
        assert_eq!(over.paused_since, None);
        // Five commits in a row were one pause of their whole length.
        let mut between = still;
        assert!(between.unpaused() && !between.unpaused());
        let again = look(seen(10, ContainerState::Paused), Some(&between), 6);
        assert_eq!(again.paused_since, Some(at(6)));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>()) {
            if let Ok(port) = text.parse::<ContainerPort>() {
                prop_assert_eq!(port.to_string().parse(), Ok(port));
            }
        }
    }
}
