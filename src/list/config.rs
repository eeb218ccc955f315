//! What `list` takes.

use crate::config::{Checked, DEFAULT_PREFIX, control_prefix, prefix, wrong};
use crate::endpoint::check_part;
use crate::endpoint::control::ControlPrefix;
use crate::etcd::EtcdConfig;
use crate::etcd::config::{EtcdArgs, etcd};
use crate::telemetry::LogArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// Where an agent's HAProxy has its master socket: under our unit, started by hand, and Debian's own.
const MASTERS: [&str; 3] = [
    "/run/sidekick/haproxy-master.sock",
    "/var/lib/sidekick/haproxy-master.sock",
    "/run/haproxy-master.sock",
];

/// How `sidekick list` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A table for people.
    Table,
    /// One JSON array of objects.
    Json,
    /// Prometheus' targets, as `sidekick export` writes them.
    Prometheus,
}

/// `sidekick list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only this service
    pub service: Option<String>,

    /// The prefix of the keys, which are PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// What the drain wishes stand below [default: /sidekick and the prefix of the keys]
    #[arg(long, env = "SIDEKICK_CONTROL_PREFIX", value_name = "PREFIX")]
    pub control_prefix: Option<String>,

    /// The output format
    #[arg(short, long, default_value = "table", value_name = "FORMAT")]
    pub output: Output,

    /// Print again at every change, until interrupted
    #[arg(short, long)]
    pub watch: bool,

    /// The master socket of the HAProxy on this machine whose check results are shown; no column where none
    /// answers [default: /run/sidekick/haproxy-master.sock,
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

/// `sidekick list`, checked.
#[derive(Debug, Clone)]
pub struct ListConfig {
    /// The prefix of the keys; no slash at its end.
    pub prefix: String,
    /// Where the drain wishes stand.
    pub control: ControlPrefix,
    /// The only service to print; `None`: all of them.
    pub service: Option<String>,
    /// How it is printed.
    pub output: Output,
    /// Prints again at every change.
    pub watch: bool,
    /// Master sockets of a HAProxy on this machine; the first that answers is asked.
    pub haproxy: Vec<PathBuf>,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

impl ListConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: ListArgs) -> Checked<Self> {
        if let Some(service) = &args.service {
            check_part(service).map_err(|e| wrong("SERVICE", format!("{service:?} {e}")))?;
        }
        let prefix = prefix(&args.prefix)?;
        Ok(Self {
            control: control_prefix(args.control_prefix.as_deref(), &prefix)?,
            prefix,
            service: args.service,
            output: args.output,
            watch: args.watch,
            haproxy: match args.haproxy_master {
                Some(socket) => vec![socket.into()],
                None => MASTERS.map(PathBuf::from).to_vec(),
            },
            etcd: etcd(&args.etcd)?,
        })
    }
}
