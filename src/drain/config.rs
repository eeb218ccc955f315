//! What `drain` and `undrain` take.

use crate::config::{Checked, DEFAULT_PREFIX, control_prefix, duration, prefix, wrong};
use crate::endpoint::Key;
use crate::endpoint::control::{ControlPrefix, InstanceName, MAX_REASON};
use crate::etcd::EtcdConfig;
use crate::etcd::config::{EtcdArgs, etcd};
use crate::telemetry::LogArgs;
use clap::Args;
use std::time::Duration;

/// The shortest time of a wish: etcd's own minimum for a lease follows its election timeout.
const SHORTEST_WISH: Duration = Duration::from_secs(2);

/// Which instance, and where its wish stands.
#[derive(Debug, Args)]
pub struct InstanceArgs {
    /// The instance, like redis/redis@1
    #[arg(value_name = "SERVICE/INSTANCE")]
    pub instance: String,

    /// The prefix of the keys, which are PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// What the drain wishes and the agents' words stand below [default: /sidekick and the prefix of the keys]
    #[arg(long, env = "SIDEKICK_CONTROL_PREFIX", value_name = "PREFIX")]
    pub control_prefix: Option<String>,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sidekick drain`.
#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Which instance.
    #[command(flatten)]
    pub instance: InstanceArgs,

    /// Forget the wish after this time; whole seconds, at least 2 s [default: it stands until `undrain`]
    #[arg(long = "for", value_name = "DURATION")]
    pub lasts: Option<String>,

    /// Wait until the instance is drained
    #[arg(long)]
    pub wait: bool,

    /// With --wait: how long to wait
    #[arg(
        long,
        default_value = "60s",
        value_name = "DURATION",
        requires = "wait"
    )]
    pub timeout: String,

    /// Why, in words that `list`, `explain` and the log show; 200 characters at most
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `sidekick undrain`.
#[derive(Debug, Args)]
pub struct UndrainArgs {
    /// Which instance.
    #[command(flatten)]
    pub instance: InstanceArgs,
}

/// Which instance, checked.
#[derive(Debug, Clone)]
pub struct InstanceConfig {
    /// The instance.
    pub name: InstanceName,
    /// Its key.
    pub key: Key,
    /// The prefix of the keys; no slash at its end.
    pub prefix: String,
    /// Where its wish stands.
    pub control: ControlPrefix,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

/// `sidekick drain`, checked.
#[derive(Debug, Clone)]
pub struct DrainConfig {
    /// Which instance.
    pub instance: InstanceConfig,
    /// The wish is forgotten after this time; whole seconds. `None`: it stands until it is taken back.
    pub lasts: Option<Duration>,
    /// How long to wait until the instance is drained; `None`: not at all.
    pub wait: Option<Duration>,
    /// The operator's words.
    pub reason: Option<String>,
}

impl InstanceConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: &InstanceArgs) -> Checked<Self> {
        let text = &args.instance;
        let name = InstanceName::parse(text).ok_or_else(|| {
            let problem = format!("{text:?} is no SERVICE/INSTANCE, like redis/redis@1");
            wrong("SERVICE/INSTANCE", problem)
        })?;
        let prefix = prefix(&args.prefix)?;
        let key = format!("{prefix}/{name}");
        Ok(Self {
            key: key
                .parse()
                .map_err(|e| wrong("SERVICE/INSTANCE", format!("{key:?} {e}")))?,
            name,
            control: control_prefix(args.control_prefix.as_deref(), &prefix)?,
            prefix,
            etcd: etcd(&args.etcd)?,
        })
    }
}

impl DrainConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: &DrainArgs) -> Checked<Self> {
        let lasts = args.lasts.as_deref();
        let lasts = lasts.map(|text| duration("--for", text)).transpose()?;
        if lasts.is_some_and(|lasts| lasts < SHORTEST_WISH || lasts.subsec_nanos() != 0) {
            let least = SHORTEST_WISH.as_secs();
            let problem = format!("is not a whole number of seconds from {least} up");
            return Err(wrong("--for", problem));
        }
        let length = args.reason.as_ref().map_or(0, |it| it.chars().count());
        if length > MAX_REASON {
            let problem = format!("has {length} characters; {MAX_REASON} are the most");
            return Err(wrong("--reason", problem));
        }
        let timeout = duration("--timeout", &args.timeout)?;
        Ok(Self {
            instance: InstanceConfig::new(&args.instance)?,
            lasts,
            wait: args.wait.then_some(timeout),
            reason: args.reason.clone(),
        })
    }
}
