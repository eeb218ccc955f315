//! The command line: raw input only. `config` says whether it makes sense.

mod hidden;
mod reading;

pub use hidden::Hidden;
pub use reading::one_line;

use crate::telemetry::LogFormat;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

/// Where etcd listens if nothing is said; etcdctl's own default.
pub const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:2379";
/// Where Docker listens if nothing is said; docker's own default.
pub const DEFAULT_DOCKER_HOST: &str = "unix:///var/run/docker.sock";

/// Below which keys services are looked for if nothing is said.
pub const DEFAULT_PREFIX: &str = "/services";
/// How long a crowd that left is kept if nothing is said.
pub const DEFAULT_HOLD: &str = "30s";
/// How long the connections of an instance go on whose key is gone.
pub const DEFAULT_DRAIN_TIMEOUT: &str = "30s";
/// How long a service without any instance is remembered if nothing is said.
pub const DEFAULT_FORGET: &str = "1h";

/// Keeps a Docker container's etcd key true while the container is up, and not a moment longer.
///
/// Every option has an environment variable: etcd's are etcdctl's own, Docker's are Docker's. An
/// empty variable is an unset one.
/// Durations: 60, 60s, 1m30s (a bare number is seconds). Exit status: 0 stopped as asked, 1 failed
/// (also where a file that is named can't be used now), 2 wrong usage.
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
    /// Watch etcd and keep a HAProxy in step, so that clients dial one fixed name
    Agent(AgentArgs),
    /// Print what is registered in etcd
    List(ListArgs),
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
    #[arg(
        long,
        env = "SIDEKICK_KEY",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub key: Option<String>,

    /// With --all: where keys are put, PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = "/services")]
    pub prefix: String,

    /// How long the key outlives a dead sidekick; whole seconds, 2 s at least
    #[arg(
        long,
        env = "SIDEKICK_TTL",
        default_value = "60s",
        value_name = "DURATION"
    )]
    pub ttl: String,

    /// How often the key is read back and put right; 1 s at least, shorter than the TTL, at each third of
    /// which the lease is renewed
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
    #[arg(long, env = "SIDEKICK_KEY", conflicts_with = "all")]
    pub key: Option<String>,

    /// Where keys are looked for if no key is given
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sidekick agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Where services are looked for: PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// Where clients dial a service, like redis=:80 or redis=127.0.0.1:80; repeatable [default: the
    /// port of its instances (the lowest, when it is first seen) on all addresses, IPv4 and IPv6]
    #[arg(
        long,
        env = "SIDEKICK_BIND",
        value_name = "SERVICE=ADDRESS",
        value_delimiter = ','
    )]
    pub bind: Vec<String>,

    /// Serve only instances in this network, like 10.0.0.0/8; repeatable [default: every address that
    /// another machine can reach; never loopback or link-local]
    #[arg(
        long,
        env = "SIDEKICK_ALLOW",
        value_name = "CIDR",
        value_delimiter = ','
    )]
    pub allow: Vec<String>,

    /// The HAProxy to run, or to check files with [default: /usr/sbin/haproxy]
    #[arg(long, env = "SIDEKICK_HAPROXY", value_name = "PATH")]
    pub haproxy: Option<String>,

    /// Don't run a HAProxy, use the one whose master socket this is (haproxy -Ws -S SOCKET)
    #[arg(long, env = "SIDEKICK_HAPROXY_MASTER", value_name = "SOCKET")]
    pub haproxy_master: Option<String>,

    /// The file to write [default: /etc/haproxy/haproxy.cfg with --haproxy-master, else
    /// /var/lib/sidekick/haproxy.cfg]
    #[arg(long, env = "SIDEKICK_HAPROXY_CONFIG", value_name = "FILE")]
    pub haproxy_config: Option<String>,

    /// A file with your own global and defaults sections (and whatever else), instead of the built-in
    #[arg(long, env = "SIDEKICK_HAPROXY_BASE", value_name = "FILE")]
    pub haproxy_base: Option<String>,

    /// Where HAProxy's statistics page is, or `off` [default: 127.0.0.1:1936; off with --haproxy-base]
    #[arg(long, env = "SIDEKICK_STATS", value_name = "ADDRESS")]
    pub stats: Option<String>,

    /// How long instances are kept that leave etcd in a crowd (over half of a service of 4 or more,
    /// or all of 2 services or more, within 2 s); 0: not at all
    #[arg(
        long,
        env = "SIDEKICK_HOLD",
        default_value = DEFAULT_HOLD,
        value_name = "DURATION"
    )]
    pub hold: String,

    /// How long the front of a service without any instance stays bound, and refuses
    #[arg(
        long,
        env = "SIDEKICK_FORGET",
        default_value = DEFAULT_FORGET,
        value_name = "DURATION"
    )]
    pub forget: String,

    /// How long the connections of an instance that leaves etcd go on; it takes no new ones, and they end
    /// sooner where HAProxy's check says that it is down; 0: they end with its key
    #[arg(
        long,
        env = "SIDEKICK_DRAIN_TIMEOUT",
        default_value = DEFAULT_DRAIN_TIMEOUT,
        value_name = "DURATION"
    )]
    pub drain_timeout: String,

    /// Print the configuration that would be written, and on stderr what is left out; change nothing
    #[arg(long)]
    pub dry_run: bool,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// How `sidekick list` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// One array of objects.
    Json,
}

/// `sidekick list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this service
    pub service: Option<String>,

    /// Where services are looked for: PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// How it looks
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,

    /// Go on, and print again whenever it changes
    #[arg(short, long)]
    pub watch: bool,

    /// Which HAProxy of this machine is asked what its checks have down, by its master socket; where none
    /// answers, that isn't shown [default: /run/sidekick/haproxy-master.sock,
    /// /var/lib/sidekick/haproxy-master.sock, /run/haproxy-master.sock]
    #[arg(long, env = "SIDEKICK_HAPROXY_MASTER", value_name = "SOCKET")]
    pub haproxy_master: Option<String>,

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

    /// The address to announce: an IP or a name [default: the label sidekick.host, else the address
    /// the port is bound on, else the Docker host's name, else this machine's]
    #[arg(long, env = "SIDEKICK_HOST")]
    pub host: Option<String>,

    /// The container port to announce, like 6379 or 53/udp [default: the label sidekick.port, else
    /// the only published one]
    #[arg(long, env = "SIDEKICK_PORT", conflicts_with = "all")]
    pub port: Option<String>,

    /// Where the Docker Engine listens: unix://PATH or tcp://HOST:PORT [default:
    /// unix:///var/run/docker.sock]
    #[arg(long, env = "DOCKER_HOST", hide_env_values = true, value_name = "URL")]
    pub docker_host: Option<String>,

    /// Docker's own variable; refused, for there is no TLS to Docker in here
    #[arg(long, env = "DOCKER_TLS_VERIFY", hide = true, value_name = "ANY")]
    pub docker_tls_verify: Option<String>,

    /// Docker's own variable for TLS without verification; refused like the other
    #[arg(long, env = "DOCKER_TLS", hide = true, value_name = "ANY")]
    pub docker_tls: Option<String>,
}

/// How etcd is reached.
#[derive(Debug, Args)]
#[command(next_help_heading = "etcd")]
pub struct EtcdArgs {
    /// The members, comma-separated, in the order in which they are tried
    #[arg(
        long,
        env = "ETCDCTL_ENDPOINTS",
        hide_env_values = true,
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

    /// etcdctl's own variable: `false` is https for endpoints that name no scheme, and no http
    #[arg(
        long,
        env = "ETCDCTL_INSECURE_TRANSPORT",
        hide = true,
        value_name = "BOOL"
    )]
    pub etcd_insecure_transport: Option<String>,

    /// User name; in the environment a password may follow after a colon, on the command line it
    /// may not
    #[arg(
        long,
        env = "ETCDCTL_USER",
        hide_env_values = true,
        value_name = "USER"
    )]
    pub etcd_user: Option<Hidden>,

    /// File whose first line is the user's password; with systemd's LoadCredential=
    /// $CREDENTIALS_DIRECTORY/NAME, in a unit %d/NAME
    #[arg(long, env = "SIDEKICK_ETCD_PASSWORD_FILE", value_name = "FILE")]
    pub etcd_password_file: Option<String>,

    /// Taken from the environment only
    #[arg(
        long = "etcd-password-from-environment",
        env = "ETCDCTL_PASSWORD",
        hide = true,
        hide_env_values = true
    )]
    pub etcd_password: Option<Hidden>,
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
            Command::Agent(args) => &args.log,
            Command::Announce(args) => &args.log,
            Command::List(args) => &args.log,
            Command::Explain(args) => &args.log,
        }
    }
}
