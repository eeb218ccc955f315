//! What `explain` takes.

use crate::announce::config::{ContainerArgs, docker, rules, target};
use crate::announce::docker::client::DockerHost;
use crate::announce::policy::check_settings::CheckOptions;
use crate::announce::policy::eligibility::AddressOptions;
use crate::announce::policy::target::Target;
use crate::config::{Checked, DEFAULT_PREFIX, control_prefix, prefix};
use crate::endpoint::control::ControlPrefix;
use crate::etcd::EtcdConfig;
use crate::etcd::config::{EtcdArgs, etcd};
use crate::telemetry::LogArgs;
use clap::Args;

/// Stands for the key of a single container that is explained without one.
const ANY_KEY: &str = "/any/key/will-do";

/// `sidekick explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Which container, and how it is reached.
    #[command(flatten)]
    pub container: ContainerArgs,

    /// Show the value of this key [default: every key below the prefix that names the container]
    #[arg(long, env = "SIDEKICK_KEY", conflicts_with = "all")]
    pub key: Option<String>,

    /// The prefix of the keys that are read if no key is given
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// What the drain wishes stand below [default: /sidekick and the prefix of the keys]
    #[arg(long, env = "SIDEKICK_CONTROL_PREFIX", value_name = "PREFIX")]
    pub control_prefix: Option<String>,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sidekick explain`, checked.
#[derive(Debug, Clone)]
pub struct ExplainConfig {
    /// As for announcing.
    pub target: Target,
    /// No key is given for the single container: whatever key stands in `target`, the decision is the same, and all
    /// keys that name the container are looked at.
    pub any_key: bool,
    /// Where these keys are looked for, and those of all containers.
    pub prefix: String,
    /// Where the drain wishes stand.
    pub control: ControlPrefix,
    /// As for announcing.
    pub rules: AddressOptions,
    /// As for announcing.
    pub checks: CheckOptions,
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
        let key = args.key.as_deref();
        let target = target(&args.container, key.or(Some(ANY_KEY)), &args.prefix)?;
        let below = match (&target, key) {
            (Target::One { key, .. }, Some(_)) => key.prefix(),
            _ => &args.prefix,
        };
        let rules = rules(&args.container)?;
        Ok(Self {
            checks: args.container.check.options(rules.port)?,
            control: control_prefix(args.control_prefix.as_deref(), &prefix(below)?)?,
            target,
            any_key: key.is_none() && !args.container.all,
            prefix: prefix(&args.prefix)?,
            rules,
            docker: docker(&args.container)?,
            etcd: etcd(&args.etcd)?,
        })
    }
}
