//! The engine's events: which container is inspected again, and which one has died.

use crate::announce::policy::container::Death;
use crate::announce::policy::labels::PREFIX;
use crate::announce::policy::stop::parse_signal;
use crate::announce::policy::target::Target;
use bollard::Docker;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::debug;

/// The capacity of the channel to the watcher. A watcher that falls behind by more has to inspect everything
/// anyway.
pub(super) const EVENTS_WAITING: usize = 1024;

/// Which containers are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchScope {
    /// The container of this name, or with this id.
    One(String),
    /// All containers with sidekick labels.
    Labelled,
    /// These, and all with labels or environment variables of registrator.
    Registrator,
}

impl From<&Target> for WatchScope {
    fn from(target: &Target) -> Self {
        match target {
            Target::One { container, .. } => Self::One(container.clone()),
            Target::All {
                registrator: true, ..
            } => Self::Registrator,
            Target::All { .. } => Self::Labelled,
        }
    }
}

/// What an event says of a container, which is named as it is watched: by its name, or by its id.
#[derive(Debug)]
pub(super) enum ContainerEvent {
    /// The container is inspected again.
    Inspect(String),
    /// The container's main process has ended.
    Died(String, Death),
    /// The container's pause is over.
    Unpaused(String),
    /// The engine has sent the container with this id a signal.
    Signalled {
        /// As it is watched.
        subject: String,
        /// The full id.
        id: String,
        /// The signal's number.
        signal: u8,
    },
    /// The container with this id was connected to a network, or disconnected. It may not be a watched one: such
    /// an event has neither its name nor its labels.
    Connected(String),
}

/// Reads events from `since` on (the engine's clock, since 1970), so that those that happen before the engine has
/// subscribed us are read too. Returns why the stream ended.
pub(super) async fn read_events(
    docker: Docker,
    scope: WatchScope,
    since: Duration,
    sender: mpsc::Sender<ContainerEvent>,
) -> anyhow::Error {
    let filters = HashMap::from([("type", vec!["container", "network"])]);
    let options = EventsOptionsBuilder::default()
        .since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
        .filters(&filters)
        .build();
    let mut events = std::pin::pin!(docker.events(Some(options)));
    while let Some(event) = events.next().await {
        let decoded = match event {
            Ok(event) => decode_event(event, &scope),
            Err(error) => return anyhow::Error::from(error).context("GET /events"),
        };
        // Never waits: the engine keeps 256 events for a slow reader, and drops the rest.
        match decoded.map(|event| sender.try_send(event)) {
            Some(Err(TrySendError::Full(_))) => {
                return anyhow::anyhow!("GET /events: more events than sidekick can handle");
            }
            Some(Err(TrySendError::Closed(_))) => {
                return anyhow::anyhow!("the watcher has stopped");
            }
            Some(Ok(())) | None => {}
        }
    }
    anyhow::anyhow!("GET /events: the stream ended")
}

pub(super) fn decode_event(event: EventMessage, scope: &WatchScope) -> Option<ContainerEvent> {
    if event.typ == Some(EventMessageTypeEnum::NETWORK) {
        return connected(event).map(ContainerEvent::Connected);
    }
    let subject = subject(&event, scope)?;
    debug!(action = event.action, subject, "event");
    if event.action.as_deref() == Some("unpause") {
        return Some(ContainerEvent::Unpaused(subject));
    }
    if let Some((id, signal)) = signal_of(&event) {
        return Some(ContainerEvent::Signalled {
            subject,
            id,
            signal,
        });
    }
    Some(match death(event) {
        Some(death) => ContainerEvent::Died(subject, death),
        None => ContainerEvent::Inspect(subject),
    })
}

/// The id of the container in a network event. Docker has it in the attributes, because the actor is the
/// network; Podman has it as the actor.
fn connected(event: EventMessage) -> Option<String> {
    if !matches!(event.action.as_deref(), Some("connect" | "disconnect")) {
        return None;
    }
    let actor = event.actor?;
    let attributes = actor.attributes.unwrap_or_default();
    attributes.get("container").cloned().or(actor.id)
}

/// The container that an event may be about, if that may be a watched one.
///
/// The exec events of health checks come every few seconds and change nothing; any other event, known or not,
/// is worth an inspect.
fn subject(event: &EventMessage, scope: &WatchScope) -> Option<String> {
    let action = event.action.as_deref().unwrap_or_default();
    if action.starts_with("exec_") || action == "top" {
        return None;
    }
    let actor = event.actor.as_ref();
    let attributes = actor.and_then(|actor| actor.attributes.as_ref());
    let id = actor.and_then(|actor| actor.id.as_ref());
    match scope {
        // By its name, its id, or a rename.
        WatchScope::One(name) => {
            let named = attributes.and_then(|a| a.get("name"));
            let concerns = action == "rename"
                || named.is_none_or(|n| n == name)
                || id.is_none_or(|id| id.starts_with(name));
            concerns.then(|| name.clone())
        }
        // An event carries the container's labels. Where it doesn't, the next list finds the container.
        WatchScope::Labelled => {
            let ours = attributes?.keys().any(|key| key.starts_with(PREFIX));
            id.filter(|_| ours).cloned()
        }
        // No event carries the environment.
        WatchScope::Registrator => id.cloned(),
    }
}

/// The container's id and the signal that it got. (Podman tells none.)
fn signal_of(event: &EventMessage) -> Option<(String, u8)> {
    let kill = event.action.as_deref() == Some("kill");
    let actor = event.actor.as_ref().filter(|_| kill)?;
    let signal = actor.attributes.as_ref()?.get("signal")?;
    Some((actor.id.clone()?, parse_signal(signal)?))
}

fn death(event: EventMessage) -> Option<Death> {
    let actor = event
        .actor
        .filter(|_| event.action.as_deref() == Some("die"))?;
    let code = actor.attributes.as_ref().and_then(|a| a.get("exitCode"));
    Some(Death {
        id: actor.id?,
        code: code.and_then(|c| c.parse().ok()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(action: &str, attributes: &[(&str, &str)]) -> EventMessage {
        let attributes = attributes
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        EventMessage {
            action: Some(action.to_owned()),
            actor: Some(bollard::models::EventActor {
                id: Some("593ee5d76755".repeat(5)),
                attributes: Some(attributes.collect()),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn execs_of_a_health_check_are_no_reason_to_look() {
        let concerns = |event: &EventMessage, name: &str| {
            subject(event, &WatchScope::One(name.to_owned())).as_deref() == Some(name)
        };
        let event = |action, name| event(action, &[("name", name)]);
        assert!(!concerns(
            &event("exec_create: redis-cli ping", "redis1"),
            "redis1"
        ));
        assert!(concerns(
            &event("health_status: unhealthy", "redis1"),
            "redis1"
        ));
        assert!(concerns(&event("die", "redis1"), "redis1"));
        assert!(concerns(&event("something_new", "redis1"), "redis1"));
        assert!(!concerns(&event("die", "redis10"), "redis1"));
        assert!(concerns(&event("die", "redis10"), "593ee5d76755"));
        assert!(concerns(&event("rename", "redis10"), "redis1"));
        assert!(concerns(&EventMessage::default(), "redis1"));
    }

    #[test]
    fn a_kill_tells_its_signal_where_the_engine_does() {
        let signal = |attributes: &[(&str, &str)]| {
            let scope = WatchScope::One("redis1".to_owned());
            match decode_event(event("kill", attributes), &scope) {
                Some(ContainerEvent::Signalled { signal, .. }) => Some(signal),
                Some(ContainerEvent::Inspect(_)) => None,
                other => panic!("{other:?}"),
            }
        };
        let name = ("name", "redis1");
        assert_eq!(signal(&[name, ("signal", "15")]), Some(15));
        assert_eq!(signal(&[name, ("signal", "SIGRTMIN+3")]), Some(37));
        for unknown in ["", "0", "x"] {
            assert_eq!(signal(&[name, ("signal", unknown)]), None);
        }
        assert_eq!(signal(&[name]), None, "Podman's");
    }

    #[test]
    fn a_connection_to_a_network_names_the_container_alone() {
        let connected = |action: &str, attributes: &[(&str, &str)]| {
            let typ = Some(EventMessageTypeEnum::NETWORK);
            let event = event(action, attributes);
            match decode_event(EventMessage { typ, ..event }, &WatchScope::Labelled) {
                Some(ContainerEvent::Connected(id)) => Some(id),
                other => other.map(|event| panic!("{event:?}")),
            }
        };
        let docker = [("container", "aa"), ("name", "bridge"), ("type", "bridge")];
        for action in ["connect", "disconnect"] {
            assert_eq!(connected(action, &docker).as_deref(), Some("aa"));
            let actor = "593ee5d76755".repeat(5);
            assert_eq!(connected(action, &[("name", "podman")]), Some(actor));
        }
        assert_eq!(connected("destroy", &docker), None);
    }

    #[test]
    fn of_all_containers_those_with_labels_of_ours_are_looked_at() {
        let subject = |action, attributes: &[(&str, &str)]| {
            subject(&event(action, attributes), &WatchScope::Labelled)
        };
        let id = "593ee5d76755".repeat(5);
        let labelled = [("name", "redis1"), ("sidekick.6379.service", "redis")];
        assert_eq!(subject("start", &labelled), Some(id.clone()));
        assert_eq!(subject("rename", &labelled), Some(id));
        assert_eq!(subject("exec_start: true", &labelled), None);
        assert_eq!(subject("start", &[("name", "sidekick.service")]), None);
    }
}
