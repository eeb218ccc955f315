//! The watcher: asks the Docker Engine about one container, again whenever an event hints at a
//! change, and tells what it sees. Bollard's types stop here.
//!
//! Only GETs: /version, /info, /events and /containers/{name}/json; a read-only socket proxy suffices.

use super::container::{Binding, ContainerPort, ContainerSnapshot, Health, Sighting, State, View};
use super::rules::parse_binding;
use crate::backoff::{Backoff, DOCKER, Outage};
use crate::clock::now;
use crate::endpoint::Since;
use crate::systemd::Pulse;
use bollard::models::{
    ContainerInspectResponse, ContainerStateStatusEnum, EventMessage, HealthStatusEnum, PortMap,
};
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use std::collections::{BTreeMap, HashMap};
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
        let (mark, mut marked) = watch::channel(());
        let mut reader = JoinSet::new();
        reader.spawn(read_events(docker.clone(), self.name.to_owned(), mark));
        let mut hinted = true;
        loop {
            let looked_at = now();
            marked.mark_unchanged();
            let sighting = inspect(&docker, self.name).await?;
            let silent = !hinted && another_life(&self.view.borrow().sighting, &sighting);
            backoff.reset();
            if let Some(notice) = outage.recovered(now()) {
                let ms = notice.lasted.as_millis();
                info!(docker = %host, "Docker answers again after {ms} ms");
            }
            self.publish(sighting, engine_name.as_ref());
            anyhow::ensure!(!silent, "GET /events: a change came without an event");
            hinted = loop {
                self.pulse.beat();
                // Cancel-safe: a mark stays, the join set keeps its task, a sleep has no effect.
                tokio::select! {
                    biased;
                    Some(ended) = reader.join_next() => return Err(ended.unwrap_or_else(Into::into)),
                    Ok(()) = marked.changed() => break true,
                    () = sleep(TICK) => {}
                }
                if now().saturating_sub(looked_at) >= RELIST {
                    break false;
                }
            };
        }
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
async fn read_events(docker: Docker, name: String, mark: watch::Sender<()>) -> anyhow::Error {
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
                mark.send_replace(());
            }
            Ok(_) => {}
            Err(error) => return anyhow::Error::from(error).context("GET /events"),
        }
    }
    anyhow::anyhow!("GET /events: the stream ended")
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

/// The engine also takes any prefix of an id for a name, so `db` might find a stranger whose id
/// begins with db. Only the name itself, or 12 digits of the id and more, is the one we want.
fn sighting(answer: ContainerInspectResponse, wanted: &str) -> Sighting {
    let snapshot = snapshot(answer);
    let by_id = wanted.len() >= 12 && snapshot.id.starts_with(wanted);
    if snapshot.name == wanted || by_id {
        Sighting::Present(Box::new(snapshot))
    } else {
        Sighting::Absent
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

fn snapshot(answer: ContainerInspectResponse) -> ContainerSnapshot {
    let state = answer.state.unwrap_or_default();
    let config = answer.config.unwrap_or_default();
    let retries = config
        .healthcheck
        .and_then(|h| h.retries)
        .and_then(|n| u32::try_from(n).ok())
        // Docker's default.
        .filter(|n| *n > 0)
        .unwrap_or(3);
    let network_mode = answer.host_config.and_then(|h| h.network_mode);
    ContainerSnapshot {
        id: answer.id.unwrap_or_default(),
        name: answer
            .name
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned(),
        health: health(state.health.as_ref(), retries),
        started_at: state.started_at.as_deref().and_then(Since::parse),
        state: state_of(&state),
        host_network: network_mode.as_deref() == Some("host"),
        ports: published(answer.network_settings.and_then(|n| n.ports)),
        labels: config
            .labels
            .unwrap_or_default()
            .into_iter()
            .filter(|(label, _)| label.starts_with("sidekick."))
            .collect(),
    }
}

fn state_of(state: &bollard::models::ContainerState) -> State {
    use ContainerStateStatusEnum as Status;
    let flag = |flag: Option<bool>| flag == Some(true);
    let status = state.status.unwrap_or(Status::EMPTY);
    // The flags first: the status may be older than they are, never the other way round.
    if flag(state.paused) || status == Status::PAUSED {
        State::Paused
    } else if flag(state.restarting) || status == Status::RESTARTING {
        State::Restarting
    } else if flag(state.dead) || status == Status::DEAD {
        State::Dead
    } else {
        match status {
            Status::RUNNING if state.running != Some(false) => State::Running,
            Status::CREATED => State::Created,
            Status::REMOVING => State::Removing,
            Status::EXITED | Status::RUNNING => State::Exited(state.exit_code.unwrap_or_default()),
            other => State::Other(other.to_string()),
        }
    }
}

fn health(health: Option<&bollard::models::Health>, retries: u32) -> Health {
    let Some(health) = health else {
        return Health::Good;
    };
    let failed = health
        .failing_streak
        .and_then(|n| u32::try_from(n).ok())
        .unwrap_or_default();
    match health.status {
        Some(HealthStatusEnum::STARTING) => Health::Starting { failed, retries },
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy { failed },
        _ => Health::Good,
    }
}

fn published(ports: Option<PortMap>) -> BTreeMap<ContainerPort, Vec<Binding>> {
    let mut published = BTreeMap::new();
    for (port, bound) in ports.unwrap_or_default() {
        let (Ok(port), Some(bound)) = (port.parse::<ContainerPort>(), bound) else {
            continue;
        };
        let mut bindings: Vec<_> = bound
            .iter()
            .filter_map(|b| parse_binding(b.host_ip.as_deref(), b.host_port.as_deref()))
            .collect();
        bindings.sort();
        bindings.dedup();
        published.insert(port, bindings);
    }
    published
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(json: &str) -> ContainerInspectResponse {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_stranger_whose_id_begins_with_the_name_is_not_taken() {
        let id = format!("db{}", "0".repeat(62));
        let answer = inspected(&format!(r#"{{"Id":"{id}","Name":"/other"}}"#));
        assert_eq!(sighting(answer.clone(), "db"), Sighting::Absent);
        assert!(matches!(
            sighting(answer.clone(), &id[..12]),
            Sighting::Present(_)
        ));
        assert!(matches!(sighting(answer, "other"), Sighting::Present(_)));
    }

    #[test]
    fn paused_and_restarting_count_before_running() {
        let state = |json: &str| state_of(&serde_json::from_str(json).unwrap());
        assert_eq!(
            state(r#"{"Status":"running","Running":true}"#),
            State::Running
        );
        assert_eq!(
            state(r#"{"Status":"running","Running":true,"Paused":true}"#),
            State::Paused
        );
        assert_eq!(
            state(r#"{"Status":"paused","Running":true,"Paused":true}"#),
            State::Paused
        );
        assert_eq!(
            state(r#"{"Status":"restarting","Running":true,"Restarting":true}"#),
            State::Restarting
        );
        assert_eq!(
            state(r#"{"Status":"exited","Running":false,"ExitCode":137}"#),
            State::Exited(137)
        );
        assert_eq!(
            state(r#"{"Status":"running","Running":false,"ExitCode":1}"#),
            State::Exited(1)
        );
        assert_eq!(
            state(r#"{"Status":"stopping"}"#),
            State::Other("stopping".to_owned())
        );
        assert_eq!(state("{}"), State::Other(String::new()));
    }

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

    #[test]
    fn ports_that_are_exposed_and_not_published_have_no_binding() {
        let ports = published(Some(
            serde_json::from_str(
                r#"{"6379/tcp":[{"HostIp":"::","HostPort":"32769"},{"HostIp":"0.0.0.0","HostPort":"32768"}],
                    "80/tcp":null,"53/udp":[{"HostIp":"","HostPort":"53"}],"x":[]}"#,
            )
            .unwrap(),
        ));
        let shown: Vec<_> = ports.iter().map(|(p, b)| format!("{p}={b:?}")).collect();
        assert_eq!(ports.len(), 2, "{shown:?}");
        assert_eq!(ports[&"6379".parse().unwrap()].len(), 2);
        assert_eq!(ports[&"53/udp".parse().unwrap()][0].port.get(), 53);
    }
}
