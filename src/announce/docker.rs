//! The watcher: asks the Docker Engine about one container, again whenever an event hints at a
//! change, and tells what it sees. Bollard's types stop here and in inspection.rs.
//!
//! Only GETs: /version, /info, /events and /containers/{name}/json; a read-only socket proxy suffices.

use super::container::{Death, Sighting, View};
use super::inspection::sighting;
use crate::backoff::{Backoff, DOCKER, Outage};
use crate::clock::now;
use crate::endpoint::Since;
use crate::systemd::Pulse;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

/// One question to the engine. A busy engine takes seconds to inspect a container that it is
/// starting; ten are a sign that it hangs.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// How often the container is looked at although no event came: the engine keeps 256 events for a
/// slow reader and drops the rest, and a proxy may let the stream fall silent.
const RELIST: Duration = Duration::from_secs(30);

/// How often an idle loop shows that it lives.
const TICK: Duration = Duration::from_secs(10);

/// Events from so long before the subscription are asked for too: they only make it look once
/// more, and close the gap between subscribing and looking. Covers a clock that is a little off.
const LOOK_BACK: Duration = Duration::from_secs(5);

/// Where the engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerHost {
    /// A socket's path.
    Unix(String),
    /// `tcp://host:port`, in the clear: a socket proxy, say.
    Tcp(String),
}

impl std::fmt::Display for DockerHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(url) => f.write_str(url),
        }
    }
}

/// Watches the container called `name` until it is dropped, and publishes every change of view.
///
/// The engine may be down at the start, restart, or come back on a new socket: it is asked again
/// for ever.
pub async fn watch(host: DockerHost, name: String, view: watch::Sender<View>, pulse: Pulse) {
    let mut backoff = Backoff::new(DOCKER);
    let mut outage = Outage::default();
    loop {
        let session = Session {
            name: &name,
            view: &view,
            pulse: &pulse,
        };
        let error = session.run(&host, &mut backoff, &mut outage).await;
        let now = now();
        view.send_if_modified(|v| {
            let first = v.lost_since.is_none();
            v.lost_since.get_or_insert(now);
            first
        });
        if let Some(notice) = outage.failed(now) {
            let (n, s) = (notice.failures, notice.lasted.as_secs());
            warn!(docker = %host, "Docker unreachable for {s} s ({n} tries), retrying: {error:#}");
        }
        pulse.beat();
        sleep(backoff.next_pause(fastrand::f64())).await;
    }
}

/// Looks once.
///
/// # Errors
/// The engine can't be asked.
pub async fn look(host: &DockerHost, name: &str) -> anyhow::Result<View> {
    let docker = connect(host).await?;
    Ok(View {
        sighting: inspect(&docker, name).await?,
        lost_since: None,
        engine_name: engine_name(&docker).await,
    })
}

struct Session<'a> {
    name: &'a str,
    view: &'a watch::Sender<View>,
    pulse: &'a Pulse,
}

impl Session<'_> {
    /// One connection's life; returns why it ended.
    async fn run(
        &self,
        host: &DockerHost,
        backoff: &mut Backoff,
        outage: &mut Outage,
    ) -> anyhow::Error {
        match self.try_run(host, backoff, outage).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_run(
        &self,
        host: &DockerHost,
        backoff: &mut Backoff,
        outage: &mut Outage,
    ) -> anyhow::Result<std::convert::Infallible> {
        let docker = connect(host).await?;
        self.pulse.beat();
        let engine_name = engine_name(&docker).await;
        self.pulse.beat();
        // Subscribed before the first look. The reader only marks; nothing that this loop does
        // can make it slow. It ends with the session.
        let (mark, mut marked) = watch::channel(None);
        let mut reader = JoinSet::new();
        reader.spawn(read_events(docker.clone(), self.name.to_owned(), mark));
        let mut hinted = true;
        loop {
            let looked_at = now();
            self.bury(marked.borrow_and_update().as_ref());
            let mut look = std::pin::pin!(inspect(&docker, self.name));
            let mut again = false;
            let sighting = loop {
                // Cancel-safe: the look goes on at the next turn, a mark stays.
                tokio::select! {
                    answer = &mut look => break answer?,
                    Ok(()) = marked.changed() => {
                        again = true;
                        self.bury(marked.borrow_and_update().as_ref());
                    }
                }
            };
            let sighting = sighting.after(marked.borrow().as_ref());
            let silent = !hinted && another_life(&self.view.borrow().sighting, &sighting);
            backoff.reset();
            if let Some(notice) = outage.recovered(now()) {
                let ms = notice.lasted.as_millis();
                info!(docker = %host, "Docker answers again after {ms} ms");
            }
            self.publish(sighting, engine_name.as_ref());
            anyhow::ensure!(!silent, "GET /events: a change came without an event");
            hinted = again;
            while !hinted {
                self.pulse.beat();
                // Cancel-safe: a mark stays, the join set keeps its task, a sleep has no effect.
                tokio::select! {
                    biased;
                    Some(ended) = reader.join_next() => return Err(ended.unwrap_or_else(Into::into)),
                    Ok(()) = marked.changed() => hinted = true,
                    () = sleep(TICK) => {}
                }
                if now().saturating_sub(looked_at) >= RELIST {
                    break;
                }
            }
        }
    }

    /// A death that is told by its event is believed at once.
    fn bury(&self, death: Option<&Death>) {
        self.view.send_if_modified(|view| {
            let sighting = view.sighting.clone().after(death);
            let changed = view.sighting != sighting;
            view.sighting = sighting;
            changed
        });
    }

    fn publish(&self, sighting: Sighting, engine_name: Option<&String>) {
        self.view.send_if_modified(|view| {
            let new = View {
                sighting,
                lost_since: None,
                engine_name: engine_name.cloned(),
            };
            let changed = *view != new;
            *view = new;
            changed
        });
    }
}

async fn within<T, E>(what: &str, call: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match timeout(CALL_DEADLINE, call).await {
        Ok(result) => result.map_err(|e| anyhow::Error::from(e).context(what.to_owned())),
        Err(_) => anyhow::bail!("{what}: no answer within {} s", CALL_DEADLINE.as_secs()),
    }
}

async fn connect(host: &DockerHost) -> anyhow::Result<Docker> {
    let seconds = CALL_DEADLINE.as_secs();
    let docker = match host {
        DockerHost::Unix(path) => Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION)?,
        DockerHost::Tcp(url) => Docker::connect_with_http(url, seconds, API_DEFAULT_VERSION)?,
    };
    // At every reconnect: it may be another version than before.
    within("GET /version", docker.negotiate_version()).await
}

/// `None` where the engine, or a proxy before it, won't say.
async fn engine_name(docker: &Docker) -> Option<String> {
    match within("GET /info", docker.info()).await {
        Ok(info) => info.name.filter(|name| !name.is_empty()),
        Err(error) => {
            debug!("{error:#}; doing without the Docker host's name");
            None
        }
    }
}

/// Reads events and marks that it is time to look. Returns why the stream ended.
async fn read_events(
    docker: Docker,
    name: String,
    mark: watch::Sender<Option<Death>>,
) -> anyhow::Error {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(LOOK_BACK);
    let filters = HashMap::from([("type", vec!["container"])]);
    let options = EventsOptionsBuilder::default()
        .since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()))
        .filters(&filters)
        .build();
    let mut events = std::pin::pin!(docker.events(Some(options)));
    while let Some(event) = events.next().await {
        match event {
            Ok(event) if concerns(&event, &name) => {
                debug!(action = event.action, "event");
                // A death stays until the next one: any answer that is older has to know it.
                mark.send_modify(|last| {
                    if let Some(death) = death(event) {
                        *last = Some(death);
                    }
                });
            }
            Ok(_) => {}
            Err(error) => return anyhow::Error::from(error).context("GET /events"),
        }
    }
    anyhow::anyhow!("GET /events: the stream ended")
}

fn death(event: EventMessage) -> Option<Death> {
    let actor = event
        .actor
        .filter(|_| event.action.as_deref() == Some("die"))?;
    let code = actor.attributes.as_ref().and_then(|a| a.get("exitCode"));
    Some(Death {
        id: actor.id?,
        at: Since::from_unix_nanos(event.time_nano?.into())?,
        code: code.and_then(|c| c.parse().ok()).unwrap_or_default(),
    })
}

/// Whether an event may be about the container called `name`, by its name, its id, or a rename.
///
/// What a health check's exec says comes every few seconds and changes nothing; anything else,
/// known or not, is worth a look.
fn concerns(event: &EventMessage, name: &str) -> bool {
    let action = event.action.as_deref().unwrap_or_default();
    if action.starts_with("exec_") || action == "top" {
        return false;
    }
    let Some(actor) = &event.actor else {
        return true;
    };
    let attribute = |key: &str| actor.attributes.as_ref().and_then(|a| a.get(key));
    action == "rename"
        || attribute("name").is_none_or(|n| n == name)
        || actor.id.as_ref().is_none_or(|id| id.starts_with(name))
}

async fn inspect(docker: &Docker, name: &str) -> anyhow::Result<Sighting> {
    let call = docker.inspect_container(name, None::<InspectContainerOptions>);
    match timeout(CALL_DEADLINE, call).await {
        Ok(Ok(answer)) => Ok(sighting(answer, name)),
        Ok(Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 404, ..
        })) => Ok(Sighting::Absent),
        Ok(Err(error)) => Err(anyhow::Error::from(error).context(format!("inspecting {name}"))),
        Err(_) => anyhow::bail!(
            "inspecting {name}: no answer within {} s",
            CALL_DEADLINE.as_secs()
        ),
    }
}

/// Whether something happened between the two that the engine has an event for. (A health check's
/// count of failures has none.)
fn another_life(before: &Sighting, after: &Sighting) -> bool {
    let life = |sighting: &Sighting| match sighting {
        Sighting::Present(c) => Some((c.id.clone(), c.state.clone(), c.started_at)),
        Sighting::Absent | Sighting::NeverAsked => None,
    };
    life(before) != life(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn execs_of_a_health_check_are_no_reason_to_look() {
        let event = |action: &str, name: &str| EventMessage {
            action: Some(action.to_owned()),
            actor: Some(bollard::models::EventActor {
                id: Some("593ee5d76755".repeat(5)),
                attributes: Some(HashMap::from([("name".to_owned(), name.to_owned())])),
            }),
            ..Default::default()
        };
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
}
