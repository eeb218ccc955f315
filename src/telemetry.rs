//! Logs: on stderr, as text or JSON, ours only down to the level asked for.

pub use crate::log_writer::flush;

use crate::log_writer;
use clap::{Args, ValueEnum};
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people, and for journald.
    Text,
    /// One JSON object a line.
    Json,
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

    /// The format of a line
    #[arg(
        long,
        env = "SIDEKICK_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,
}

/// Sets the process's logging up, on the log's thread, which runs. Logging never waits for what reads stderr. Later
/// calls change no format.
pub fn init(level: LevelFilter, format: LogFormat) {
    std::panic::set_hook(Box::new(|panic| {
        let mut text = format!("sidekick {panic}\n");
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            text += &trace.to_string();
        }
        log_writer::log().push(text.as_bytes());
        // A release build aborts now.
        log_writer::flush();
    }));
    // Others' debug output is about their own insides, and may show what was sent.
    let filter = Targets::new().with_target("sidekick", level);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(log_writer::log)
        .with_target(false);
    let done = match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        // Under systemd the journal has the time already.
        LogFormat::Text if std::env::var_os("JOURNAL_STREAM").is_some() => registry
            .with(layer.with_ansi(false).without_time())
            .try_init(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            registry.with(layer.with_ansi(colours)).try_init()
        }
    };
    drop(done);
}
