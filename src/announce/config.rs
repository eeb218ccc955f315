//! What `announce` takes, and of it what `explain` takes too.

use super::check_args::CheckArgs;
use super::docker::client::DockerHost;
use super::lease::registrar::LeaseSettings;
use super::policy::check_settings::CheckOptions;
use super::policy::eligibility::AddressOptions;
use super::policy::layouts::Layouts;
use super::policy::target::Target;
use super::readiness::ReadyWhen;
use crate::config::{Checked, check_url, control_prefix, duration, listen, prefix, wrong};
use crate::endpoint::control::ControlPrefix;
use crate::etcd::EtcdConfig;
use crate::etcd::config::{EtcdArgs, etcd};
use crate::telemetry::LogArgs;
use clap::Args;
use clap::builder::BoolishValueParser;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

/// The default address of the Docker Engine, which is docker's own.
pub const DEFAULT_DOCKER_HOST: &str = "unix:///var/run/docker.sock";

/// The least TTL. etcd's own minimum follows its election timeout (1.5 × 1 s by default, rounded up).
const MIN_TTL: Duration = Duration::from_secs(2);

/// The least interval: at each one all keys are read back from etcd. In between a watch heals at once,
/// so that a shorter interval gains nothing.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

/// `sidekick announce`.
#[derive(Debug, Args)]
pub struct AnnounceArgs {
    /// Which container, and how it is reached.
    #[command(flatten)]
    pub container: ContainerArgs,

    /// The key to keep, like /services/redis/redis@1
    #[arg(
        long,
        env = "SIDEKICK_KEY",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub key: Option<String>,

    /// With --all: the prefix of the keys, which are PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = "/services")]
    pub prefix: String,

    /// The lease's TTL: how long the key outlives a dead sidekick; whole seconds, at least 2 s
    #[arg(
        long,
        env = "SIDEKICK_TTL",
        default_value = "60s",
        value_name = "DURATION"
    )]
    pub ttl: String,

    /// How often the key is read back and corrected; at least 1 s, shorter than the TTL (the lease is renewed
    /// at each third of the TTL)
    #[arg(
        long,
        env = "SIDEKICK_INTERVAL",
        default_value = "45s",
        value_name = "DURATION"
    )]
    pub interval: String,

    /// How long to keep the key while Docker does not answer, or `forever` [default: the TTL]
    #[arg(long, env = "SIDEKICK_DOCKER_GRACE", value_name = "DURATION")]
    pub docker_grace: Option<String>,

    /// On SIGTERM, and while `sidekick drain` says so, the instance drains before it goes: how long the agents have
    /// for that at most. 0: it goes at once, and no drain wish is read
    #[arg(
        long,
        env = "SIDEKICK_DRAIN",
        default_value = "0",
        value_name = "DURATION"
    )]
    pub drain: String,

    /// What the drain wishes and the agents' words stand below [default: /sidekick and the prefix of the keys]
    #[arg(long, env = "SIDEKICK_CONTROL_PREFIX", value_name = "PREFIX")]
    pub control_prefix: Option<String>,

    /// Put each instance in another reader's layout too: skydns:DOMAIN, grpc:PREFIX, traefik-tcp, traefik-http,
    /// registrator:PREFIX, or a template KEY=VALUE with {service} {instance} {host} {port} {hostport} {container};
    /// repeatable, or several with blanks between them
    #[arg(
        long,
        env = "SIDEKICK_ALSO",
        value_name = "LAYOUT",
        value_delimiter = ' '
    )]
    pub also: Vec<String>,

    /// When systemd is told that it is ready: once it has started, or once the key stands
    #[arg(
        long,
        env = "SIDEKICK_READY",
        default_value = "started",
        value_name = "WHEN"
    )]
    pub ready: ReadyWhen,

    /// Serve metrics, health and readiness over HTTP there, like 127.0.0.1:9469, or :9469 for all addresses
    /// [default: not at all]
    #[arg(long, env = "SIDEKICK_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<String>,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Which container, and how it is reached.
#[derive(Debug, Args)]
pub struct ContainerArgs {
    /// The container's name, or 12 or more digits of its id; it need not exist yet
    #[arg(
        env = "SIDEKICK_CONTAINER",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub container: Option<String>,

    /// Every running container with the label sidekick.service=NAME or sidekick.PORT.service=NAME
    #[arg(long)]
    pub all: bool,

    /// With --all: also every running container with a label or an environment variable of registrator that gives a
    /// name, SERVICE_NAME or SERVICE_PORT_NAME
    #[arg(
        long,
        env = "SIDEKICK_REGISTRATOR_LABELS",
        value_parser = BoolishValueParser::new()
    )]
    pub registrator_labels: bool,

    /// The address to announce: an IP or a name [default: the label sidekick.host, else the address
    /// the port is bound on, else the Docker host's name, else this machine's]
    #[arg(long, env = "SIDEKICK_HOST")]
    pub host: Option<String>,

    /// The container port to announce, like 6379 or 53/udp [default: the label sidekick.port, else
    /// the only published one]
    #[arg(long, env = "SIDEKICK_PORT", conflicts_with = "all")]
    pub port: Option<String>,

    /// What has to answer before it is announced.
    #[command(flatten)]
    pub check: CheckArgs,

    /// Where the Docker Engine listens: unix://PATH or tcp://HOST:PORT [default:
    /// unix:///var/run/docker.sock]
    #[arg(long, env = "DOCKER_HOST", hide_env_values = true, value_name = "URL")]
    pub docker_host: Option<String>,

    /// Docker's own variable; rejected, because sidekick has no TLS to Docker
    #[arg(long, env = "DOCKER_TLS_VERIFY", hide = true, value_name = "ANY")]
    pub docker_tls_verify: Option<String>,

    /// Docker's own variable for TLS without verification; rejected like `DOCKER_TLS_VERIFY`
    #[arg(long, env = "DOCKER_TLS", hide = true, value_name = "ANY")]
    pub docker_tls: Option<String>,
}

/// `sidekick announce`, checked.
#[derive(Debug, Clone)]
pub struct AnnounceConfig {
    /// Which containers, and at which keys.
    pub target: Target,
    /// Which address and port to announce.
    pub rules: AddressOptions,
    /// The checks of services whose labels say nothing of them.
    pub checks: CheckOptions,
    /// The lease's time to live; whole seconds.
    pub ttl: Duration,
    /// Between two looks at the keys; shorter than `ttl`.
    pub interval: Duration,
    /// How long the key is kept while Docker can't be asked; `None`: for ever.
    pub docker_grace: Option<Duration>,
    /// How long the instances drain at most before they go; 0: not at all.
    pub drain: Duration,
    /// Where the drain wishes and the agents' words stand.
    pub control: ControlPrefix,
    /// The further keys of each instance.
    pub layouts: Layouts,
    /// When systemd is told that it is ready.
    pub ready: ReadyWhen,
    /// Where metrics, health and readiness are served; `None`: not at all.
    pub listen: Option<SocketAddr>,
    /// Where the Docker Engine listens.
    pub docker: DockerHost,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

impl AnnounceConfig {
    /// What the registrar is told of the lease.
    pub(super) const fn lease_settings(&self) -> LeaseSettings {
        LeaseSettings {
            ttl: self.ttl,
            interval: self.interval,
        }
    }

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
        let target = target(&args.container, args.key.as_deref(), &args.prefix)?;
        let below = match &target {
            Target::One { key, .. } => key.prefix(),
            Target::All { prefix, .. } => prefix,
        };
        let rules = rules(&args.container)?;
        Ok(Self {
            checks: args.container.check.options(rules.port)?,
            drain: duration("--drain", &args.drain)?,
            control: control_prefix(args.control_prefix.as_deref(), below)?,
            layouts: Layouts::parse(&args.also, hostname()).map_err(|e| wrong("--also", e))?,
            ready: args.ready,
            listen: listen(args.listen.as_deref())?,
            target,
            ttl,
            interval,
            docker_grace,
            rules,
            docker: docker(&args.container)?,
            etcd: etcd(&args.etcd)?,
        })
    }
}

/// `key` is the single container's.
pub(crate) fn target(args: &ContainerArgs, key: Option<&str>, all_below: &str) -> Checked<Target> {
    let prefix = prefix(all_below)?;
    if args.all {
        return Ok(Target::All {
            prefix,
            registrator: args.registrator_labels,
        });
    }
    let key = key.unwrap_or_default();
    Ok(Target::One {
        key: key
            .parse()
            .map_err(|e| wrong("--key", format!("{key:?} {e}")))?,
        container: container(args)?,
    })
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

pub(crate) fn rules(args: &ContainerArgs) -> Checked<AddressOptions> {
    let host = args.host.as_deref().map(str::parse).transpose();
    let port = args.port.as_deref().map(str::parse).transpose();
    Ok(AddressOptions {
        host: host.map_err(|e| wrong("--host", e))?,
        port: port.map_err(|e: String| wrong("--port", e))?,
        hostname: hostname(),
    })
}

/// This machine's name. In a container it would be the container's id, which no client can dial.
fn hostname() -> Option<String> {
    let contained = ["/.dockerenv", "/run/.containerenv"]
        .iter()
        .any(|file| Path::new(file).exists());
    if contained {
        return None;
    }
    hostname::get().ok()?.into_string().ok()
}

pub(crate) fn docker(args: &ContainerArgs) -> Checked<DockerHost> {
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
