//! The command line: raw input only. `config` says whether it makes sense.

use crate::telemetry::LogFormat;
use clap::{Args, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

/// Where etcd listens if nothing is said; etcdctl's own default.
pub const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:2379";
/// Where Docker listens if nothing is said; docker's own default.
pub const DEFAULT_DOCKER_HOST: &str = "unix:///var/run/docker.sock";

/// Keeps a Docker container's etcd key true while the container is up, and not a moment longer.
///
/// Every option has an environment variable: etcd's are etcdctl's own, Docker's are Docker's.
/// Durations: 60, 60s, 1m30s (a bare number is seconds). Exit status: 0 stopped as asked, 1 failed,
/// 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "sidekick", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Watch a container and keep its key in etcd while the container is up
    Announce(AnnounceArgs),
    /// Say why a container is, or is not, announceable; write nothing
    ///
    /// Exit status: 0 if it is announceable, 1 if it is not.
    Explain(ExplainArgs),
}

/// `sidekick announce`.
#[derive(Debug, Args)]
pub struct AnnounceArgs {
    /// Which container, and how it is reached.
    #[command(flatten)]
    pub container: ContainerArgs,

    /// The key to keep, like /services/redis/redis@1
    #[arg(long, env = "SIDEKICK_KEY")]
    pub key: String,

    /// How long the key outlives a dead sidekick; whole seconds, 2 s at least
    #[arg(
        long,
        env = "SIDEKICK_TTL",
        default_value = "60s",
        value_name = "DURATION"
    )]
    pub ttl: String,

    /// How often the lease is renewed and the key checked; shorter than the TTL
    #[arg(
        long,
        env = "SIDEKICK_INTERVAL",
        default_value = "45s",
        value_name = "DURATION"
    )]
    pub interval: String,

    /// How long to keep the key while Docker can't be asked, or `forever` [default: the TTL]
    #[arg(long, env = "SIDEKICK_DOCKER_GRACE", value_name = "DURATION")]
    pub docker_grace: Option<String>,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sidekick explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Which container, and how it is reached.
    #[command(flatten)]
    pub container: ContainerArgs,

    /// Show what stands at this key [default: every key below the prefix that names the container]
    #[arg(long, env = "SIDEKICK_KEY")]
    pub key: Option<String>,

    /// Where keys are looked for if no key is given
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = "/services")]
    pub prefix: String,

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
    #[arg(env = "SIDEKICK_CONTAINER")]
    pub container: String,

    /// The address to announce: an IP or a name [default: the label sidekick.host, else the address
    /// the port is bound on, else the Docker host's name, else this machine's]
    #[arg(long, env = "SIDEKICK_HOST")]
    pub host: Option<String>,

    /// The container port to announce, like 6379 or 53/udp [default: the label sidekick.port, else
    /// the only published one]
    #[arg(long, env = "SIDEKICK_PORT")]
    pub port: Option<String>,

    /// Where the Docker Engine listens: unix://PATH or tcp://HOST:PORT
    #[arg(
        long,
        env = "DOCKER_HOST",
        default_value = DEFAULT_DOCKER_HOST,
        value_name = "URL"
    )]
    pub docker_host: String,

    /// Docker's own variable; refused, for there is no TLS to Docker in here
    #[arg(long, env = "DOCKER_TLS_VERIFY", hide = true, value_name = "ANY")]
    pub docker_tls_verify: Option<String>,
}

/// How etcd is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "etcd")]
pub struct EtcdArgs {
    /// The members, comma-separated, in the order in which they are tried
    #[arg(
        long,
        env = "ETCDCTL_ENDPOINTS",
        default_value = DEFAULT_ENDPOINTS,
        value_name = "URL,…"
    )]
    pub etcd_endpoints: String,

    /// PEM file with the CAs to trust for https [default: the system's]
    #[arg(long, env = "ETCDCTL_CACERT", value_name = "FILE")]
    pub etcd_cacert: Option<String>,

    /// PEM file with our client certificate
    #[arg(long, env = "ETCDCTL_CERT", value_name = "FILE")]
    pub etcd_cert: Option<String>,

    /// PEM file with the client certificate's key
    #[arg(long, env = "ETCDCTL_KEY", value_name = "FILE")]
    pub etcd_key: Option<String>,

    /// User name; with a password after a colon it is seen by anyone who can list processes
    #[arg(
        long,
        env = "ETCDCTL_USER",
        hide_env_values = true,
        value_name = "USER[:PASSWORD]"
    )]
    pub etcd_user: Option<String>,

    /// File whose first line is the user's password
    #[arg(long, env = "SIDEKICK_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<String>,

    /// Taken from the environment only
    #[arg(
        long = "etcd-password-from-environment",
        env = "ETCDCTL_PASSWORD",
        hide = true,
        hide_env_values = true
    )]
    pub etcd_password: Option<String>,
}

/// What is logged, and how.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// error, warn, info, debug, trace or off
    #[arg(
        long,
        env = "SIDEKICK_LOG_LEVEL",
        default_value = "info",
        value_name = "LEVEL"
    )]
    pub log_level: LevelFilter,

    /// How a line looks
    #[arg(
        long,
        env = "SIDEKICK_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

impl Cli {
    /// The logging options, wherever they stand.
    #[must_use]
    pub const fn log(&self) -> &LogArgs {
        match &self.command {
            Command::Announce(args) => &args.log,
            Command::Explain(args) => &args.log,
        }
    }
}

/// clap's error without its usage text: one line that names the option.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let words: Vec<_> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}
