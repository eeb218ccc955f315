//! The command line: subcommands, whose options are each job's own (`config`).

mod ignored;
mod parse;

pub use ignored::ignored_variables;
pub use parse::one_line;

use crate::agent::AgentArgs;
use crate::announce::AnnounceArgs;
use crate::doctor::DoctorArgs;
use crate::drain::{DrainArgs, UndrainArgs};
use crate::explain::ExplainArgs;
use crate::export::ExportArgs;
use crate::healthcheck::HealthcheckArgs;
use crate::list::ListArgs;
use crate::telemetry::LogArgs;
use crate::wait::WaitArgs;
use clap::{Parser, Subcommand};

/// Keeps a Docker container's etcd key true while the container is up, and not a moment longer.
///
/// Every option has an environment variable: etcd's are etcdctl's own, Docker's are Docker's. An
/// empty variable is an unset one.
/// Durations: 60, 60s, 1m30s (a bare number is seconds). Exit status: 0 stopped as asked, 1 failed
/// (also where a named file can't be used now), 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "sidekick", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Watch a container and keep its key in etcd while the container is up
    Announce(AnnounceArgs),
    /// Watch etcd and keep HAProxy in sync, so that clients dial one fixed name
    Agent(AgentArgs),
    /// Print what is registered in etcd
    List(ListArgs),
    /// Explain why a container is, or is not, announced; write nothing
    ///
    /// Exit status: 0 if it is announceable, 1 if it is not.
    Explain(ExplainArgs),
    /// Take an instance out: it gets no new connections until `undrain`
    ///
    /// Its announcer obeys, if it was started with --drain, and keeps the key, also across restarts. Exit status
    /// with --wait: 0 once each agent has let go of the instance, 1 if not in time.
    Drain(DrainArgs),
    /// Take back what `drain` wished
    Undrain(UndrainArgs),
    /// Write what is registered in the format of another reader: Prometheus, Envoy
    ///
    /// Without --file it prints once, and exits with status 1 where etcd doesn't answer. With --file it goes on, keeps
    /// the file in step with etcd, and waits for an etcd that is not there yet.
    Export(ExportArgs),
    /// Wait until instances of a service are registered, and take connections
    ///
    /// Exit status: 0 once they are, 1 if not in time.
    Wait(WaitArgs),
    /// Ask a sidekick that was started with --listen whether it is alive
    ///
    /// Exit status: 0 if it is, 1 if it is not, or does not answer.
    Healthcheck(HealthcheckArgs),
    /// Look for what keeps announce or agent from working on this machine, and say what to do; write nothing
    ///
    /// Takes all options of both, and asks the Docker Engine, each member of etcd, HAProxy and systemd. Exit status: 0 if
    /// nothing fails, 1 if something does.
    Doctor(Box<DoctorArgs>),
}

impl Cli {
    /// The logging options, wherever they stand.
    #[must_use]
    pub const fn log(&self) -> &LogArgs {
        match &self.command {
            CliCommand::Agent(args) => &args.log,
            CliCommand::Announce(args) => &args.log,
            CliCommand::List(args) => &args.log,
            CliCommand::Explain(args) => &args.log,
            CliCommand::Export(args) => &args.log,
            CliCommand::Drain(args) => &args.instance.log,
            CliCommand::Undrain(args) => &args.instance.log,
            CliCommand::Wait(args) => &args.log,
            CliCommand::Healthcheck(args) => &args.log,
            CliCommand::Doctor(args) => args.log(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_in_no_debug_output() {
        let line = ["sidekick", "list", "--etcd-user", "root:hunter2"];
        let more = ["--etcd-password-from-environment", "hunter2"];
        let cli = Cli::try_parse_from(line.into_iter().chain(more)).unwrap();
        let shown = format!("{cli:?}");
        assert!(
            !shown.contains("hunter2") && shown.contains("***"),
            "{shown}"
        );
    }
}
