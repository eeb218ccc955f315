//! Each call that `announce` makes of the Docker Engine, made once, for `sidekick doctor`. Decides nothing.

use super::client::{CALL_DEADLINE, DockerHost, connect, inspect, list, since_1970};
use super::events::WatchScope;
use super::process::{PidfdProbe, shares_our_namespace};
use crate::announce::policy::container::{ContainerView, Observation};
use crate::announce::policy::process::{DeathSource, NoPidfd};
use crate::clock::now;
use bollard::Docker;
use bollard::errors::Error;
use bollard::models::SystemVersion;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::num::NonZeroI32;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// The most containers whose first process is looked for: one that runs is enough, and most do.
const CONTAINERS: usize = 8;

/// Why the engine gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineFault {
    /// There is no socket at the path.
    #[error("there is no socket")]
    NoSocket,
    /// The socket may not be opened by this user.
    #[error("this user may not open the socket")]
    NoRight,
    /// Nothing listens there.
    #[error("nothing listens there")]
    NotListening,
    /// The engine, or a proxy before it, answered with this HTTP status.
    #[error("refused with status {0}: {1}")]
    Refused(u16, String),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl From<Error> for EngineFault {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError {
                status_code,
                message,
            } => Self::Refused(status_code, message),
            other => Self::Other(format!("{:#}", anyhow::Error::from(other))),
        }
    }
}

impl From<anyhow::Error> for EngineFault {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast_ref() {
            Some(Error::DockerResponseServerError {
                status_code,
                message,
            }) => Self::Refused(*status_code, message.clone()),
            _ => Self::Other(format!("{error:#}")),
        }
    }
}

/// What the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineVersion {
    /// `Docker` or `Podman`.
    pub product: &'static str,
    /// Like `20.10.24+dfsg1`; empty where the engine doesn't tell it.
    pub version: String,
}

/// By what the death of a container would be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeathProbe {
    /// A pidfd on this container's first process is the container's init, and an inspect after it was opened shows the
    /// same process of the same life.
    Kernel(String, NonZeroI32),
    /// The container was started again while it was looked at, each time.
    Unsettled,
    /// There is no pidfd on the first process of this container.
    Events(String, NoPidfd),
    /// No container runs; whether the process that listens for the engine is in our pid namespace.
    NoContainer(Result<(), NoPidfd>),
}

/// The answers.
#[derive(Debug)]
pub struct EngineAnswers {
    /// `GET /version`.
    pub version: Result<EngineVersion, EngineFault>,
    /// `GET /info`: by how many seconds the engine's clock is ahead of ours; `None` where it doesn't tell the time.
    pub info: Result<Option<f64>, EngineFault>,
    /// `GET /events`, of a time that is past, so that the stream ends at once.
    pub events: Result<(), EngineFault>,
    /// `GET /containers/json`: how many containers there are, and how many of them have sidekick labels; `None` where
    /// one container is announced, which needs no list.
    pub list: Option<Result<(usize, usize), EngineFault>>,
    /// `GET /containers/NAME/json`: the name, and whether there is such a container.
    pub inspect: (String, Result<bool, EngineFault>),
    /// Whether deaths would be known from the kernel.
    pub deaths: DeathProbe,
}

/// Connects, and makes each call once. `no_container` is a name that no container has.
///
/// # Errors
/// Nothing answers at the address.
pub async fn ask_each(
    host: &DockerHost,
    scope: &WatchScope,
    no_container: &str,
) -> Result<EngineAnswers, EngineFault> {
    knock(host).await?;
    let docker = match connect(host).await {
        Ok(docker) => docker,
        // Without it sidekick asks for nothing else.
        Err(error) => return Err(error.into()),
    };
    let (version, info, events) = tokio::join!(
        within(docker.version()),
        within(docker.info()),
        past_events(&docker),
    );
    let (list, candidates) = match scope {
        WatchScope::One(name) => (None, vec![name.clone()]),
        WatchScope::Labelled | WatchScope::Registrator => match list(&docker).await {
            Ok(mut all) => {
                all.sort_by_key(|it| (it.state != "running", !it.labelled));
                let labelled = all.iter().filter(|it| it.labelled).count();
                let counts = (all.len(), labelled);
                let ids = all.into_iter().take(CONTAINERS).map(|it| it.id);
                (Some(Ok(counts)), ids.collect())
            }
            Err(error) => (Some(Err(error.into())), Vec::new()),
        },
    };
    let asked = candidates.first().map_or(no_container, String::as_str);
    let inspected = inspect(&docker, asked, scope)
        .await
        .map_err(EngineFault::from);
    let inspected = inspected.map(|seen| seen != Observation::Absent);
    Ok(EngineAnswers {
        version: version.map(named),
        info: info.map(|info| info.system_time.as_deref().and_then(ahead)),
        events,
        list,
        inspect: (asked.to_owned(), inspected),
        deaths: deaths(host, &docker, scope, &candidates).await,
    })
}

/// What kind of failure a connection ends with is told by the kernel, and lost in the client's words.
async fn knock(host: &DockerHost) -> Result<(), EngineFault> {
    let connected = async {
        match host {
            DockerHost::Unix(path) => UnixStream::connect(path).await.map(drop),
            DockerHost::Tcp(url) => {
                let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
                let authority = authority.trim_end_matches('/');
                TcpStream::connect(authority).await.map(drop)
            }
        }
    };
    let connected = timeout(CALL_DEADLINE, connected).await;
    connected
        .map_err(|_| silence())?
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => EngineFault::NoSocket,
            ErrorKind::PermissionDenied => EngineFault::NoRight,
            ErrorKind::ConnectionRefused => EngineFault::NotListening,
            _ => EngineFault::Other(error.to_string()),
        })
}

fn silence() -> EngineFault {
    EngineFault::Other(format!("no answer within {} s", CALL_DEADLINE.as_secs()))
}

async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, EngineFault> {
    let answer = timeout(CALL_DEADLINE, call).await;
    Ok(answer.map_err(|_| silence())??)
}

fn named(version: SystemVersion) -> EngineVersion {
    let components = version.components.unwrap_or_default();
    let is_podman = components.iter().any(|it| it.name.contains("Podman"));
    EngineVersion {
        product: if is_podman { "Podman" } else { "Docker" },
        version: version.version.unwrap_or_default(),
    }
}

fn ahead(engine: &str) -> Option<f64> {
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since_1970(engine)?.as_secs_f64() - ours.as_secs_f64())
}

/// The same question as the event reader's, about the first seconds of 1970.
async fn past_events(docker: &Docker) -> Result<(), EngineFault> {
    let filters = HashMap::from([("type", vec!["container", "network"])]);
    let options = EventsOptionsBuilder::default()
        .since("1")
        .until("2")
        .filters(&filters)
        .build();
    let mut events = std::pin::pin!(docker.events(Some(options)));
    let first = timeout(CALL_DEADLINE, events.next()).await;
    match first.map_err(|_| silence())? {
        Some(Err(error)) => Err(error.into()),
        Some(Ok(_)) | None => Ok(()),
    }
}

async fn deaths(
    host: &DockerHost,
    docker: &Docker,
    scope: &WatchScope,
    candidates: &[String],
) -> DeathProbe {
    let mut pidfds = PidfdProbe::new(host).await;
    let mut last = None;
    for id in candidates {
        let Ok(seen) = inspect(docker, id, scope).await else {
            continue;
        };
        let before = seen.first_process();
        let name = seen.present().map_or(id.as_str(), |it| &it.name).to_owned();
        let view = ContainerView::seen(seen, None, None, now());
        match pidfds.source(&view) {
            Some(DeathSource::Kernel(pid)) => {
                let after = inspect(docker, id, scope).await.ok();
                if after.and_then(|after| after.first_process()) == before {
                    return DeathProbe::Kernel(name, pid);
                }
                last = Some(DeathProbe::Unsettled);
            }
            Some(DeathSource::Events(why)) => last = Some(DeathProbe::Events(name, why)),
            None => {}
        }
    }
    match last {
        Some(probe) => probe,
        None => DeathProbe::NoContainer(shares_our_namespace(host).await),
    }
}
