//! What sidekick knows of a container: our own snapshot, free of bollard's types. Pure.

use crate::clock::Moment;
use crate::endpoint::Since;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

/// What the Docker Engine says of one container at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSnapshot {
    /// The whole id, 64 hex digits.
    pub id: String,
    /// The name, without Docker's leading slash.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// What its health check says.
    pub health: Health,
    /// When it was started last; `None` if never.
    pub started_at: Option<Since>,
    /// Whether it uses the host's own network.
    pub host_network: bool,
    /// The published container ports and where each is bound on the host.
    pub ports: BTreeMap<ContainerPort, Vec<Binding>>,
    /// Its `sidekick.*` labels.
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

/// What a container is doing, from `State` of `GET /containers/{id}/json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Up, and neither paused nor about to be restarted. Docker's `Running` flag alone is true of
    /// a paused container as well.
    Running,
    /// Frozen by `docker pause`.
    Paused,
    /// Between two lives under a restart policy.
    Restarting,
    /// Made and never started.
    Created,
    /// Ended, with this status.
    Exited(i64),
    /// Being removed.
    Removing,
    /// Couldn't be removed wholly.
    Dead,
    /// Anything that a newer engine may come to say.
    Other(String),
}

/// What a container's health check says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It has none, or the last check passed.
    Good,
    /// No verdict yet.
    Starting {
        /// Checks that failed in a row.
        failed: u32,
        /// Failures in a row that make it unhealthy.
        retries: u32,
    },
    /// The verdict is bad.
    Unhealthy {
        /// Checks that failed in a row.
        failed: u32,
    },
}

/// A transport protocol that Docker publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// The one meant when none is named.
    Tcp,
    /// `53/udp`.
    Udp,
    /// `9999/sctp`.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port inside the container: `6379` (tcp), `53/udp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerPort {
    /// 1–65535.
    pub number: NonZeroU16,
    /// Its protocol.
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

/// Whether the wanted container is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sighting {
    /// The engine hasn't answered since sidekick started.
    NeverAsked,
    /// The engine knows no such container.
    Absent,
    /// There it is.
    Present(Arc<ContainerSnapshot>),
}

/// What the engine's `die` event says: the main process of a container has ended.
///
/// The one event that is believed and not only a hint: a life ends once, and the engine answers no
/// inspect until it has cleaned up behind a dead container (0.1 s and more).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// The container's whole id.
    pub id: String,
    /// By the engine's clock, which `StartedAt` is by too.
    pub at: Since,
    /// Its exit status.
    pub code: i64,
}

impl Sighting {
    /// What is to be believed once that death is known: an answer about the life that it ended is
    /// out of date, one about a later life isn't.
    #[must_use]
    pub fn after(mut self, death: Option<&Death>) -> Self {
        if let (Self::Present(container), Some(death)) = (&mut self, death)
            && container.id == death.id
            && matches!(container.state, State::Running | State::Paused)
            && container.started_at.is_some_and(|start| start < death.at)
        {
            Arc::make_mut(container).state = State::Exited(death.code);
        }
        self
    }
}

/// The watcher's latest word on one container: what was last seen, and whether it still can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What the engine said last.
    pub sighting: Sighting,
    /// Since when the engine doesn't answer; `None` while it does.
    pub lost_since: Option<Moment>,
    /// The Docker host's own name (`Name` of `GET /info`), where the engine tells it.
    pub engine_name: Option<Arc<str>>,
}

/// The watcher's latest word on all that it watches.
#[derive(Debug, Clone)]
pub struct Views {
    /// By the container's name where one is watched, by id where all with labels are.
    pub containers: BTreeMap<String, View>,
    /// Since when the engine doesn't answer; `None` while it does. A single container can be past
    /// asking all the same.
    pub lost_since: Option<Moment>,
}

impl Views {
    /// Before the first question to the engine.
    #[must_use]
    pub const fn unasked(now: Moment) -> Self {
        Self {
            containers: BTreeMap::new(),
            lost_since: Some(now),
        }
    }
}

impl View {
    /// Before the first question to the engine.
    #[must_use]
    pub const fn unasked(now: Moment) -> Self {
        Self {
            sighting: Sighting::NeverAsked,
            lost_since: Some(now),
            engine_name: None,
        }
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

    #[test]
    fn a_death_ends_the_life_it_belongs_to_and_no_later_one() {
        let at = |second: i128| Since::from_unix_nanos(second * 1_000_000_000).unwrap();
        let seen = |started, state| {
            Sighting::Present(Arc::new(ContainerSnapshot {
                id: "aa".to_owned(),
                name: "redis1".to_owned(),
                state,
                health: Health::Good,
                started_at: Some(at(started)),
                host_network: false,
                ports: BTreeMap::new(),
                labels: BTreeMap::new(),
            }))
        };
        let death = |id: &str| Death {
            id: id.to_owned(),
            at: at(20),
            code: 137,
        };
        let ended = seen(10, State::Exited(137));
        assert_eq!(seen(10, State::Running).after(Some(&death("aa"))), ended);
        assert_eq!(seen(10, State::Paused).after(Some(&death("aa"))), ended);
        for untouched in [seen(21, State::Running), seen(10, State::Restarting)] {
            assert_eq!(untouched.clone().after(Some(&death("aa"))), untouched);
            assert_eq!(untouched.clone().after(None), untouched);
        }
        let other = seen(10, State::Running);
        assert_eq!(other.clone().after(Some(&death("bb"))), other);
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
