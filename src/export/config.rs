//! What `export` takes.

use crate::agent::config::DEFAULT_HOLD;
use crate::config::{Checked, DEFAULT_PREFIX, duration, prefix, unusable_file};
use crate::etcd::EtcdConfig;
use crate::etcd::config::{EtcdArgs, etcd};
use crate::telemetry::LogArgs;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// Whose format is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// Prometheus' targets, for `file_sd_configs` and `http_sd_configs`
    Prometheus,
    /// Envoy's endpoints (EDS), for a filesystem subscription
    Envoy,
}

/// `sidekick export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Whose format is written
    #[arg(long, env = "SIDEKICK_EXPORT_FORMAT", value_name = "FORMAT")]
    pub format: ExportFormat,

    /// Keep this file in step with etcd until stopped; each change replaces it as a whole (rename), and while etcd is
    /// away it stays as it is [default: print once to stdout]
    #[arg(long, env = "SIDEKICK_EXPORT_FILE", value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The prefix of the keys, which are PREFIX/SERVICE/INSTANCE
    #[arg(long, env = "SIDEKICK_PREFIX", default_value = DEFAULT_PREFIX)]
    pub prefix: String,

    /// How long instances stay in the file that disappear from etcd at once (over half of a service of 4 or more,
    /// or all of 2 services or more, within 2 s); 0: not at all
    #[arg(
        long,
        env = "SIDEKICK_HOLD",
        default_value = DEFAULT_HOLD,
        value_name = "DURATION"
    )]
    pub hold: String,

    /// How etcd is reached.
    #[command(flatten)]
    pub etcd: EtcdArgs,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogArgs,
}

/// `sidekick export`, checked.
#[derive(Debug, Clone)]
pub struct ExportConfig {
    /// Whose format is written.
    pub format: ExportFormat,
    /// The file that follows etcd; `None`: print once.
    pub file: Option<PathBuf>,
    /// The prefix of the keys; no slash at its end.
    pub prefix: String,
    /// How long instances that disappeared at once stay in the file.
    pub hold: Duration,
    /// How to reach etcd.
    pub etcd: EtcdConfig,
}

impl ExportConfig {
    /// Checks everything.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: ExportArgs) -> Checked<Self> {
        let directory = args.file.as_ref().and_then(|file| file.parent());
        if let Some(it) = directory.filter(|it| !it.as_os_str().is_empty() && !it.is_dir()) {
            let it = it.display();
            return Err(unusable_file(
                "--file",
                format!("there is no directory {it}; make it, or name a file elsewhere"),
            ));
        }
        Ok(Self {
            format: args.format,
            file: args.file,
            prefix: prefix(&args.prefix)?,
            hold: duration("--hold", &args.hold)?,
            etcd: etcd(&args.etcd)?,
        })
    }
}
