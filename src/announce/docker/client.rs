//! Requests to the Docker Engine, each with a deadline. Bollard's types stop here, in events.rs and in
//! inspect.rs.
//!
//! Only GETs: /version, /info, /events, /containers/{name}/json, and /containers/json where all
//! containers are watched; a read-only socket proxy suffices.

use super::events::WatchScope;
use super::inspect::{ListedContainer, listed, listed_leniently, observation};
use super::inspect_queue::AT_A_TIME;
use crate::announce::policy::container::{ContainerView, Observation};
use crate::announce::policy::refusal::MetadataRefusal;
use crate::clock::now;
use anyhow::Context as _;
use bollard::errors::Error;
use bollard::models::SystemInfo;
use bollard::query_parameters::{InspectContainerOptions, ListContainersOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;
use tracing::debug;

/// The deadline of one request. A busy engine takes seconds to inspect a container that it is starting; after
/// ten it hangs.
pub(super) const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// The address of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DockerHost {
    /// A socket's path.
    Unix(String),
    /// `tcp://host:port`, without TLS: a socket proxy, for example.
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

/// What the engine tells of the containers that are asked for.
#[derive(Debug)]
pub struct InspectedContainers {
    /// By name where one is asked for, by id where all with sidekick labels are; or why the inspect failed.
    pub views: Vec<(String, anyhow::Result<ContainerView>)>,
    /// The number of containers that don't ask to be announced; `None` where one container is asked for.
    pub unlabelled: Option<usize>,
    /// The names of those of them that ask registrator to be ignored.
    pub ignored: Vec<String>,
}

/// Inspects one container, or all with sidekick labels, once.
///
/// # Errors
/// The engine does not answer, or refuses.
pub async fn look(host: &DockerHost, scope: &WatchScope) -> anyhow::Result<InspectedContainers> {
    let docker = reach(host).await?;
    let engine_name = engine_info(&docker).await.name;
    let (ids, mut unlabelled) = match scope {
        WatchScope::One(name) => (vec![name.clone()], None),
        WatchScope::Labelled | WatchScope::Registrator => {
            let all = list(&docker).await?.into_iter();
            let (asked, others): (Vec<_>, Vec<_>) = all.partition(|c| c.may_ask(scope));
            let ids = asked.into_iter().map(|listed| listed.id);
            (ids.collect(), Some(others.len()))
        }
    };
    let (docker, engine_name) = (&docker, &engine_name);
    let looks = ids.into_iter().map(|id| async move {
        let seen = |seen| ContainerView::seen(seen, engine_name.clone(), None, now());
        let view = inspect(docker, &id, scope).await.map(seen);
        (id, view)
    });
    let looks = futures_util::stream::iter(looks).buffered(AT_A_TIME);
    let mut views: Vec<_> = looks.collect().await;
    // A listed container may have been removed since.
    let is_absent = |view: &ContainerView| view.observation == Observation::Absent;
    views.retain(|(_, view)| unlabelled.is_none() || !view.as_ref().is_ok_and(is_absent));
    let mut ignored = Vec::new();
    if let Some(unlabelled) = &mut unlabelled {
        let asks = |(_, view): &(_, anyhow::Result<ContainerView>)| {
            let container = view
                .as_ref()
                .ok()
                .and_then(|view| view.observation.present());
            let stranger = container.filter(|container| !container.asks());
            *unlabelled += usize::from(stranger.is_some());
            let asks_to_be = stranger.filter(|it| it.refusal == Some(MetadataRefusal::Ignored));
            ignored.extend(asks_to_be.map(|container| container.name.clone()));
            stranger.is_none()
        };
        views.retain(asks);
    }
    Ok(InspectedContainers {
        views,
        unlabelled,
        ignored,
    })
}

async fn within<T>(
    what: &str,
    call: impl Future<Output = Result<T, Error>>,
) -> anyhow::Result<Result<T, Error>> {
    match timeout(CALL_DEADLINE, call).await {
        Ok(result) => Ok(result),
        Err(_) => anyhow::bail!("{what}: no answer within {} s", CALL_DEADLINE.as_secs()),
    }
}

fn about(what: &str) -> impl FnOnce(Error) -> anyhow::Error {
    move |error| anyhow::Error::from(error).context(what.to_owned())
}

/// Connects; the error names the engine's address.
async fn reach(host: &DockerHost) -> anyhow::Result<Docker> {
    let docker = connect(host).await;
    docker.with_context(|| format!("cannot reach Docker at {host}"))
}

/// # Errors
/// The engine does not answer, or refuses.
pub(super) async fn connect(host: &DockerHost) -> anyhow::Result<Docker> {
    let seconds = CALL_DEADLINE.as_secs();
    let docker = match host {
        DockerHost::Unix(path) => Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION)?,
        DockerHost::Tcp(url) => Docker::connect_with_http(url, seconds, API_DEFAULT_VERSION)?,
    };
    // At every reconnect: the engine may be of another version than before.
    const WHAT: &str = "GET /version";
    within(WHAT, docker.negotiate_version())
        .await?
        .map_err(about(WHAT))
}

/// The part of `GET /info` that sidekick uses.
#[derive(Debug)]
pub(super) struct EngineInfo {
    /// The engine host's name; `None` where the engine, or a proxy before it, doesn't tell it.
    pub(super) name: Option<Arc<str>>,
    /// The engine's clock, since 1970; this machine's where the engine doesn't tell it.
    pub(super) clock: Duration,
}

pub(super) async fn engine_info(docker: &Docker) -> EngineInfo {
    const WHAT: &str = "GET /info";
    let info = match within(WHAT, docker.info()).await {
        Ok(Ok(info)) => info,
        Ok(Err(error)) => {
            debug!("{WHAT}: {error}; continuing without the Docker host's name");
            SystemInfo::default()
        }
        Err(error) => {
            debug!("{error:#}; continuing without the Docker host's name");
            SystemInfo::default()
        }
    };
    let clock = info.system_time.as_deref().and_then(since_1970);
    let own = || SystemTime::now().duration_since(UNIX_EPOCH);
    EngineInfo {
        name: info.name.filter(|name| !name.is_empty()).map(Into::into),
        clock: clock.unwrap_or_else(|| own().unwrap_or_default()),
    }
}

pub(super) fn since_1970(date: &str) -> Option<Duration> {
    let nanos = OffsetDateTime::parse(date, &Rfc3339).ok()?;
    let nanos = u64::try_from(nanos.unix_timestamp_nanos()).ok()?;
    Some(Duration::from_nanos(nanos))
}

/// # Errors
/// The engine does not answer, or refuses.
pub(super) async fn list(docker: &Docker) -> anyhow::Result<Vec<ListedContainer>> {
    const WHAT: &str = "GET /containers/json";
    let options = ListContainersOptionsBuilder::default().all(true).build();
    match within(WHAT, docker.list_containers(Some(options))).await? {
        Ok(all) => Ok(all.into_iter().filter_map(listed).collect()),
        // One container in a state that this bollard doesn't know must not hide the others.
        Err(Error::JsonDataError {
            contents, message, ..
        }) => listed_leniently(&contents).ok_or_else(|| anyhow::anyhow!("{WHAT}: {message}")),
        Err(error) => Err(about(WHAT)(error)),
    }
}

/// # Errors
/// The engine does not answer, or refuses.
pub(super) async fn inspect(
    docker: &Docker,
    name: &str,
    scope: &WatchScope,
) -> anyhow::Result<Observation> {
    let what = format!("inspecting {name}");
    let call = docker.inspect_container(name, None::<InspectContainerOptions>);
    let answer = match within(&what, call).await? {
        Ok(answer) => serde_json::to_value(answer)?,
        // One word that this bollard doesn't know must not make the whole answer unusable.
        Err(Error::JsonDataError { contents, .. }) => {
            serde_json::from_str(&contents).with_context(|| what.clone())?
        }
        Err(Error::DockerResponseServerError {
            status_code: 404, ..
        }) => return Ok(Observation::Absent),
        Err(error) => return Err(about(&what)(error)),
    };
    observation(&answer, name, scope)
        .with_context(|| format!("{what}: the answer is about no container: it has no Id or Name"))
}
