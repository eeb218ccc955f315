//! What `explain` takes.

use crate::announce::config::{ContainerArgs, container, docker, rules};
use crate::announce::docker::client::DockerHost;
use crate::announce::policy::eligibility::AddressOptions;
use crate::config::{Checked, DEFAULT_PREFIX, control_prefix, prefix, wrong};
use crate::endpoint::Key;
use crate::endpoint::control::ControlPrefix;
use crate::etcd::EtcdConfig;
use crate::etcd::config::{EtcdArgs, etcd};
use crate::telemetry::LogArgs;
use clap::Args;

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
    /// As for announcing; `None`: all with labels of ours.
    pub container: Option<String>,
    /// The key to look at.
    pub key: Option<Key>,
    /// Where to look for keys if none is given.
    pub prefix: String,
    /// What the drain wishes stand below; `None`: where they belong by default.
    pub control: Option<ControlPrefix>,
    /// As for announcing.
    pub rules: AddressOptions,
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
            control: {
                let given = args.control_prefix.as_deref();
                let checked = given.map(|given| control_prefix(Some(given), given));
                checked.transpose()?
            },
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
