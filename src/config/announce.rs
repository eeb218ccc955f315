//! What `announce` and `explain` take.

use super::etcd::etcd;
use super::{Checked, check_url, duration, prefix, wrong};
use crate::announce::claims::Target;
use crate::announce::docker::DockerHost;
use crate::announce::rules::Rules;
use crate::cli::{AnnounceArgs, ContainerArgs, DEFAULT_DOCKER_HOST, ExplainArgs};
use crate::endpoint::Key;
use crate::etcd::EtcdConfig;
use std::path::Path;
use std::time::Duration;

/// The least TTL. etcd's own minimum follows its election timeout (1.5 × 1 s by default, rounded up).
const MIN_TTL: Duration = Duration::from_secs(2);

/// The least interval: at each one all keys are read back from etcd. In between a watch heals at once,
/// so that a shorter interval gains nothing.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// `sidekick announce`, checked.
#[derive(Debug, Clone)]
pub struct AnnounceConfig {
    /// Which containers, and at which keys.
    pub target: Target,
    /// Which address and port to announce.
    pub rules: Rules,
    /// The lease's time to live; whole seconds.
    pub ttl: Duration,
    /// Between two looks at the keys; shorter than `ttl`.
    pub interval: Duration,
    /// How long the key is kept while Docker can't be asked; `None`: for ever.
    pub docker_grace: Option<Duration>,
    /// Where the Docker Engine listens.
    pub docker: DockerHost,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

impl AnnounceConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: AnnounceArgs) -> Checked<Self> {
        let ttl = duration("--ttl", &args.ttl)?;
        let interval = duration("--interval", &args.interval)?;
        if ttl < MIN_TTL || ttl.subsec_nanos() != 0 {
            let least = MIN_TTL.as_secs();
            return Err(wrong(
                "--ttl",
                format!(
                    "{} is not a whole number of seconds from {least} up",
                    args.ttl
                ),
            ));
        }
        if interval < MIN_INTERVAL {
            return Err(wrong(
                "--interval",
                format!(
                    "{} is shorter than {} s; each interval reads all keys back from etcd, and a watch \
                     mends them at once in between",
                    args.interval,
                    MIN_INTERVAL.as_secs()
                ),
            ));
        }
        if interval >= ttl {
            return Err(wrong(
                "--interval",
                format!(
                    "{} is not shorter than the TTL of {} s",
                    args.interval,
                    ttl.as_secs()
                ),
            ));
        }
        let docker_grace = match args.docker_grace.as_deref() {
            None => Some(ttl),
            Some("forever") => None,
            Some(text) => Some(duration("--docker-grace", text)?),
        };
        Ok(Self {
            target: target(&args)?,
            ttl,
            interval,
            docker_grace,
            rules: rules(&args.container)?,
            docker: docker(&args.container)?,
            etcd: etcd(&args.etcd)?,
        })
    }
}

fn target(args: &AnnounceArgs) -> Checked<Target> {
    let prefix = prefix(&args.prefix)?;
    if args.container.all {
        return Ok(Target::All { prefix });
    }
    let key = args.key.clone().unwrap_or_default();
    Ok(Target::One {
        key: key
            .parse()
            .map_err(|e| wrong("--key", format!("{key:?} {e}")))?,
        container: container(&args.container)?,
    })
}

/// `sidekick explain`, checked.
#[derive(Debug, Clone)]
pub struct ExplainConfig {
    /// As for announcing; `None`: all with labels of ours.
    pub container: Option<String>,
    /// The key to look at.
    pub key: Option<Key>,
    /// Where to look for keys if none is given.
    pub prefix: String,
    /// As for announcing.
    pub rules: Rules,
    /// Where the Docker Engine listens.
    pub docker: DockerHost,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

impl ExplainConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: ExplainArgs) -> Checked<Self> {
        let key = args.key.map(|key| {
            key.parse()
                .map_err(|e| wrong("--key", format!("{key:?} {e}")))
        });
        Ok(Self {
            key: key.transpose()?,
            prefix: prefix(&args.prefix)?,
            rules: rules(&args.container)?,
            docker: docker(&args.container)?,
            container: match args.container.all {
                true => None,
                false => Some(container(&args.container)?),
            },
            etcd: etcd(&args.etcd)?,
        })
    }
}

/// Docker's own rule for names; it also keeps the name from being anything else in a URL.
fn container(args: &ContainerArgs) -> Checked<String> {
    let name = args.container.clone().unwrap_or_default();
    let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fits {
        Ok(name)
    } else {
        let rule = "letters, digits and _ . - after a letter or a digit";
        Err(wrong(
            "CONTAINER",
            format!("{name:?} is no container name ({rule})"),
        ))
    }
}

fn rules(args: &ContainerArgs) -> Checked<Rules> {
    let host = args.host.as_deref().map(str::parse).transpose();
    let port = args.port.as_deref().map(str::parse).transpose();
    Ok(Rules {
        host: host.map_err(|e| wrong("--host", e))?,
        port: port.map_err(|e: String| wrong("--port", e))?,
        hostname: hostname(),
    })
}

/// This machine's name. In a container it would be the container's id, which nobody can dial.
fn hostname() -> Option<String> {
    let contained = ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|file| Path::new(file).exists());
    if contained {
        return None;
    }
    hostname::get().ok()?.into_string().ok()
}

fn docker(args: &ContainerArgs) -> Checked<DockerHost> {
    let url = args.docker_host.as_deref().unwrap_or(DEFAULT_DOCKER_HOST);
    if let Some(path) = url.strip_prefix("unix://") {
        return match path {
            "" => Err(wrong("--docker-host", format!("{url:?} names no socket"))),
            path => Ok(DockerHost::Unix(path.to_owned())),
        };
    }
    if url.contains('@') {
        return Err(wrong(
            "--docker-host",
            "is neither unix://PATH nor tcp://HOST:PORT, and no place for a user and a password",
        ));
    }
    let tls = args.docker_tls_verify.is_some() || args.docker_tls.is_some();
    if url.starts_with("https://") || tls {
        let option = match (&args.docker_tls_verify, &args.docker_tls) {
            (None, Some(_)) => "DOCKER_TLS",
            _ => "DOCKER_TLS_VERIFY",
        };
        return Err(wrong(
            option,
            "sidekick speaks no TLS to Docker, and won't fall back to plain text; use a unix:// socket on the Docker host",
        ));
    }
    if url.starts_with("tcp://") || url.starts_with("http://") {
        check_url("--docker-host", url, None)?;
        return Ok(DockerHost::Tcp(url.to_owned()));
    }
    Err(wrong(
        "--docker-host",
        format!("{url:?} is neither unix://PATH nor tcp://HOST:PORT"),
    ))
}
