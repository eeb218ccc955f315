//! What sidekick knows of a container: our own snapshot, free of bollard's types. Pure.

use super::first_look::FirstLook;
use super::life::Life;
use super::refusal::MetadataRefusal;
use super::stop::{StopProgress, StopSettings, StopUnderWay};
use crate::clock::Moment;
pub use crate::endpoint::Protocol;
use crate::endpoint::Since;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroI32, NonZeroU16};
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
    /// Its first process, as the engine's pid namespace counts; `None` while it doesn't run.
    pub pid: Option<NonZeroI32>,
    /// The result of the container's health check.
    pub health: ContainerHealth,
    /// When the container was started last; `None` if never.
    pub started_at: Option<Since>,
    /// How the engine stops it.
    pub stop: StopSettings,
    /// Whether the container uses the host's network.
    pub host_network: bool,
    /// The published container ports and where each is bound on the host.
    pub ports: BTreeMap<ContainerPort, Vec<Binding>>,
    /// Its own addresses in its networks, each with the network's gateway.
    pub addresses: Vec<(IpAddr, IpAddr)>,
    /// The container's `sidekick.*` labels, and those that say what its metadata for registrator asks for.
    pub labels: BTreeMap<String, String>,
    /// Why that metadata could not be translated; `None` where it was, or isn't read.
    pub refusal: Option<MetadataRefusal>,
}

impl ContainerSnapshot {
    /// The life that the snapshot shows; `None` for a container that was never started.
    #[must_use]
    pub fn life(&self) -> Option<Life> {
        Some(Life {
            container: self.id.clone(),
            started_at: self.started_at?,
        })
    }

    /// Whether it asks to be announced, however wrongly.
    #[must_use]
    pub fn asks(&self) -> bool {
        let refused = matches!(self.refusal, Some(MetadataRefusal::Refused { .. }));
        refused || !self.labels.is_empty()
    }

    /// Whether its processes exist: it runs, or is paused.
    #[must_use]
    pub const fn has_processes(&self) -> bool {
        matches!(self.state, ContainerState::Running | ContainerState::Paused)
    }

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
    /// Its first process is dead, by the kernel, or got SIGKILL; the engine hasn't told with which status.
    Ended,
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
            && container.has_processes()
            && let Some(death) = deaths.iter().find(|death| death.id == container.id)
        {
            Arc::make_mut(container).state = ContainerState::Exited(death.code);
        }
        self
    }

    /// The container, where there is one.
    #[must_use]
    pub fn present(&self) -> Option<&ContainerSnapshot> {
        match self {
            Self::Present(container) => Some(container),
            Self::Absent | Self::NeverAsked => None,
        }
    }

    /// Whether the container is in a state that this sidekick doesn't know.
    #[must_use]
    pub fn is_puzzling(&self) -> bool {
        let is_other = |it: &ContainerSnapshot| matches!(it.state, ContainerState::Other(_));
        self.present().is_some_and(is_other)
    }

    /// Whether the answer is about that life of the container.
    #[must_use]
    pub fn shows(&self, life: &Life) -> bool {
        self.present().and_then(ContainerSnapshot::life).as_ref() == Some(life)
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
    /// The life that the engine's answer shows, where its first process is dead by the kernel. It outranks every
    /// answer about that life: an engine goes on saying Running for some 30 ms, and for ever with a stuck shim.
    pub ended: Option<Life>,
    /// The stop that was begun last, of the life that the engine's answer shows or of the next.
    pub stop: Option<StopUnderWay>,
    /// Since when the container is paused, if it was seen running before; `None` where it isn't paused, or may have
    /// been for any time.
    pub paused_since: Option<Moment>,
    /// The Docker host's own name (`Name` of `GET /info`), where the engine tells it.
    pub engine_name: Option<Arc<str>>,
}

/// What the watcher knows of all containers that it watches.
#[derive(Debug, Clone, Default)]
pub struct ContainerViews {
    /// By the container's name where one is watched, by id where all with labels are.
    pub containers: BTreeMap<String, ContainerView>,
    /// Since when the engine doesn't answer; `None` while it does. The inspect of a single container may fail all
    /// the same.
    pub lost_since: Option<Moment>,
    /// Which containers that were there at the start have to be asked about.
    pub first_look: FirstLook,
    /// When what changed a view happened: the death or signal that it shows, or the first event that the inspect behind
    /// it answers. Nothing is decided by it.
    pub changed_at: BTreeMap<String, Moment>,
}

impl ContainerViews {
    /// Changes the view of one container because of what happened at `at`. Returns whether that changes anything.
    pub fn change(
        &mut self,
        subject: &str,
        at: Moment,
        change: impl FnOnce(&mut ContainerView) -> bool,
    ) -> bool {
        let changed = self.containers.get_mut(subject).is_some_and(change);
        if changed {
            self.changed_at.insert(subject.to_owned(), at);
        }
        changed
    }
}

impl ContainerView {
    /// Before the first answer of the engine.
    #[must_use]
    pub const fn unasked(now: Moment) -> Self {
        Self {
            observation: Observation::NeverAsked,
            lost_since: Some(now),
            ended: None,
            stop: None,
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
        let ended = before.and_then(|before| before.ended.clone());
        let stop = before.and_then(|before| before.stop.clone());
        Self {
            ended: ended.filter(|life| observation.shows(life)),
            stop: observation
                .present()
                .and_then(|c| stop?.after(c.life(), c.has_processes())),
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

    /// The first process of this life is dead, by the kernel. Returns whether that changes anything.
    pub fn process_died(&mut self, life: &Life) -> bool {
        let changed = self.ended.as_ref() != Some(life) && self.observation.shows(life);
        if changed {
            self.ended = Some(life.clone());
        }
        changed
    }

    /// The engine has sent the container with this id a signal. Returns whether that changes anything.
    pub fn signalled(&mut self, id: &str, signal: u8, now: Moment) -> bool {
        let Some(container) = self.observation.present().filter(|c| c.id == id) else {
            return false;
        };
        let life = container.life().filter(|_| container.has_processes());
        let Some(stop) = StopUnderWay::begun(container.stop, signal, life, now) else {
            return false;
        };
        let is_news = self
            .stop
            .as_ref()
            .is_none_or(|known| stop.supersedes(known));
        if is_news {
            self.stop = Some(stop);
        }
        is_news
    }

    /// Whether the container's life is over although the engine still says that it runs: its first process is dead, by
    /// the kernel, or got SIGKILL.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let stop = self.stop_of_this_life();
        self.ended.is_some() || stop.is_some_and(StopUnderWay::is_kill)
    }

    /// How far the stop of the container's present life is, which has not ended it.
    #[must_use]
    pub fn stop_progress(&self, now: Moment) -> Option<StopProgress> {
        Some(self.stop_of_this_life()?.progress(now))
    }

    /// When the container will have outlived its stop; `None` where it isn't stopped, or that moment has passed.
    #[must_use]
    pub fn stop_outlived_at(&self, now: Moment) -> Option<Moment> {
        self.stop_of_this_life()?.outlived_at(now)
    }

    /// The stop of the container's present life.
    #[must_use]
    pub fn stop_of_this_life(&self) -> Option<&StopUnderWay> {
        let life = self.observation.present()?.life()?;
        self.stop.as_ref().filter(|stop| stop.is_of(&life))
    }

    /// A container has died, perhaps this one. Returns whether that changes anything.
    pub fn died(&mut self, death: &Death) -> bool {
        if self.observation.present().is_some_and(|c| c.id == death.id) {
            self.stop = None;
        }
        let observation = self.observation.clone().after(std::slice::from_ref(death));
        let changed = self.observation != observation;
        if changed {
            (self.observation, self.paused_since) = (observation, None);
        }
        changed
    }
}

#[cfg(test)]
mod tests;
