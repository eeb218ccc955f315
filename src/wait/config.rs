//! What `wait` takes.

use crate::config::{Checked, DEFAULT_PREFIX, duration, prefix, wrong};
use crate::endpoint::check_part;
use crate::etcd::EtcdConfig;
use crate::etcd::config::{EtcdArgs, etcd};
use crate::telemetry::LogArgs;
use clap::Args;
use std::time::Duration;

/// `sidekick wait`.
#[derive(Debug, Args)]
pub struct WaitArgs {
    /// The service, or one instance of it, like redis/redis@1
    #[arg(value_name = "SERVICE[/INSTANCE]")]
    pub service: String,

    /// How many instances have to serve
    #[arg(long, default_value = "1", value_name = "N")]
    pub count: u32,

    /// How long to wait at most [default: for ever]
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<String>,

    /// The prefix of the keys, which are PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sidekick wait`, checked.
#[derive(Debug, Clone)]
pub struct WaitConfig {
    /// The service.
    pub service: String,
    /// The only instance that counts; `None`: each.
    pub instance: Option<String>,
    /// How many instances have to serve, 1 at least.
    pub count: usize,
    /// How long to wait at most; `None`: for ever.
    pub timeout: Option<Duration>,
    /// The prefix of the keys; no slash at its end.
    pub prefix: String,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

impl WaitConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: WaitArgs) -> Checked<Self> {
        const TARGET: &str = "SERVICE[/INSTANCE]";
        let (service, instance) = match args.service.split_once('/') {
            Some((service, instance)) => (service, Some(instance)),
            None => (args.service.as_str(), None),
        };
        for part in [Some(service), instance].into_iter().flatten() {
            check_part(part).map_err(|e| wrong(TARGET, format!("{part:?} {e}")))?;
        }
        let most = if instance.is_some() { 1 } else { u32::MAX };
        if !(1..=most).contains(&args.count) {
            let problem = match args.count {
                0 => "0 instances are always there; the least is 1",
                _ => "of one instance there is one",
            };
            return Err(wrong("--count", problem));
        }
        let timeout = args.timeout.as_deref();
        Ok(Self {
            instance: instance.map(str::to_owned),
            service: service.to_owned(),
            count: usize::try_from(args.count).unwrap_or(usize::MAX),
            timeout: timeout
                .map(|text| duration("--timeout", text))
                .transpose()?,
            prefix: prefix(&args.prefix)?,
            etcd: etcd(&args.etcd)?,
        })
    }
}
