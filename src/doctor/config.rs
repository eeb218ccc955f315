//! What `doctor` takes: every option of `announce` and of `agent`, none of them required.

use crate::agent::{AgentArgs, AgentConfig};
use crate::announce::{AnnounceArgs, AnnounceConfig};
use crate::config::Checked;
use crate::etcd::config::EtcdArgs;
use crate::telemetry::LogArgs;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, ValueEnum};
use std::collections::BTreeSet;

/// The job whose surroundings are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DoctorJob {
    /// The Docker Engine, etcd, and the units of `announce`.
    Announce,
    /// etcd, HAProxy, and the unit of `agent`.
    Agent,
}

/// How `sidekick doctor` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DoctorFormat {
    /// Lines for people.
    Text,
    /// One JSON array of objects.
    Json,
}

/// The options that are `doctor`'s own.
#[derive(Debug, Args)]
struct OwnArgs {
    /// Whose surroundings are looked at [default: both]
    job: Option<DoctorJob>,

    /// The output format
    #[arg(
        short,
        long,
        env = "SIDEKICK_DOCTOR_OUTPUT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    output: DoctorFormat,
}

/// `sidekick doctor`.
#[derive(Debug)]
pub struct DoctorArgs {
    own: OwnArgs,
    announce: AnnounceArgs,
    agent: AgentArgs,
}

impl DoctorArgs {
    /// What is logged, and how.
    #[must_use]
    pub const fn log(&self) -> &LogArgs {
        &self.announce.log
    }

    /// How etcd is reached.
    #[must_use]
    pub const fn etcd(&self) -> &EtcdArgs {
        &self.announce.etcd
    }

    /// Which container, and how the engine is reached.
    #[must_use]
    pub const fn container(&self) -> &crate::announce::config::ContainerArgs {
        &self.announce.container
    }
}

/// The jobs' own options, so that a job's command line can be tried behind `sidekick doctor`. An option that both have
/// means the same to both.
impl Args for DoctorArgs {
    fn augment_args(command: Command) -> Command {
        let command = OwnArgs::augment_args(command);
        let announce = AnnounceArgs::augment_args(Command::new("announce"));
        let agent = AgentArgs::augment_args(Command::new("agent"));
        let mut known = BTreeSet::new();
        let all = announce.get_arguments().chain(agent.get_arguments());
        let args: Vec<_> = all
            .filter(|arg| known.insert(arg.get_id().clone()))
            .map(|arg| fit(arg.clone()))
            .collect();
        command.args(args)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn fit(arg: Arg) -> Arg {
    match arg.get_id().as_str() {
        "container" => optional("container", "CONTAINER", "SIDEKICK_CONTAINER")
            .index(2)
            .help("announce: the container [default: all with sidekick labels]"),
        "key" => optional("key", "KEY", "SIDEKICK_KEY")
            .long("key")
            .help("announce: the key to keep"),
        "prefix" => arg.help("The prefix of the keys, which are PREFIX/SERVICE/INSTANCE"),
        "control_prefix" => arg.help(
            "What the control keys stand below [default: /sidekick and the prefix of the keys]",
        ),
        // Nothing is served or changed.
        "listen" | "dry_run" => arg.hide(true),
        // What the log would say of a member that doesn't answer, the report says.
        "log_level" => arg.default_value("error"),
        _ => arg,
    }
}

/// The same option, which nothing requires. (clap has no way to take `required_unless_present` back.)
fn optional(id: &'static str, value_name: &'static str, variable: &'static str) -> Arg {
    let arg = Arg::new(id).value_name(value_name).env(variable);
    arg.conflicts_with("all")
}

impl FromArgMatches for DoctorArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self {
            own: OwnArgs::from_arg_matches(matches)?,
            announce: AnnounceArgs::from_arg_matches(matches)?,
            agent: AgentArgs::from_arg_matches(matches)?,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `sidekick doctor`, checked.
#[derive(Debug, Clone)]
pub struct DoctorConfig {
    /// As `announce` would have it; `None`: it is not asked for.
    pub announce: Option<AnnounceConfig>,
    /// As `agent` would have it; `None`: it is not asked for.
    pub agent: Option<AgentConfig>,
    /// How it is printed.
    pub output: DoctorFormat,
    /// Variables of etcdctl and docker that are set and not used, a line each.
    pub ignored_variables: Vec<String>,
}

impl DoctorConfig {
    /// Checks everything, as the jobs do.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn new(args: DoctorArgs) -> Checked<Self> {
        let DoctorArgs {
            own,
            mut announce,
            mut agent,
        } = args;
        let container = &mut announce.container;
        // Without a container and a key the whole machine is meant, as with `--all`.
        match (&container.container, &announce.key) {
            (None, None) => container.all = true,
            (Some(_), None) => {
                let prefix = announce.prefix.trim_end_matches('/');
                announce.key = Some(format!("{prefix}/{DRY_KEY}"));
            }
            (None, Some(_)) => container.container = Some(ANY_CONTAINER.to_owned()),
            (Some(_), Some(_)) => {}
        }
        // The program and the directory of the file are findings, and no wrong usage.
        agent.dry_run = true;
        let is_for = |job| own.job.is_none_or(|only| only == job);
        Ok(Self {
            announce: match is_for(DoctorJob::Announce) {
                true => Some(AnnounceConfig::new(announce)?),
                false => None,
            },
            agent: match is_for(DoctorJob::Agent) {
                true => Some(AgentConfig::new(agent)?),
                false => None,
            },
            output: own.output,
            ignored_variables: Vec::new(),
        })
    }
}

/// Stands for a key below the prefix that no instance has.
pub(super) const DRY_KEY: &str = "sidekick-doctor/dry-run";

/// Stands for a container that no engine has.
pub(super) const ANY_CONTAINER: &str = "sidekick-doctor";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::policy::target::Target;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: DoctorArgs,
    }

    fn config(words: &[&str]) -> DoctorConfig {
        let words = ["sidekick"].iter().chain(words);
        DoctorConfig::new(Line::try_parse_from(words).unwrap().args).unwrap()
    }

    #[test]
    fn a_command_line_of_either_job_is_taken() {
        let both = config(&[]);
        assert!(both.announce.is_some() && both.agent.is_some());
        let one = config(&[
            "announce",
            "redis1",
            "--key=/services/redis/redis@1",
            "--host=a",
            "--drain=10s",
            "--also=traefik-tcp",
            "--log-level=debug",
        ]);
        let target = one.announce.unwrap().target;
        assert!(matches!(target, Target::One { container, .. } if container == "redis1"));
        assert!(one.agent.is_none());
        let agent = config(&[
            "agent",
            "--bind=redis=:80",
            "--haproxy=/nowhere",
            "-o",
            "json",
        ]);
        assert!(agent.announce.is_none());
        assert_eq!(agent.agent.unwrap().rules.binds.len(), 1);
        assert_eq!(agent.output, DoctorFormat::Json);
    }

    #[test]
    fn what_is_left_out_stands_for_the_whole_machine() {
        let target = |words: &[&str]| config(words).announce.unwrap().target;
        let all = Target::All {
            prefix: "/services".to_owned(),
            registrator: false,
        };
        assert_eq!(target(&[]), all);
        assert_eq!(target(&["announce", "--all"]), all);
        let one = target(&["announce", "redis1", "--prefix=/here/"]);
        assert!(
            matches!(&one, Target::One { key, .. } if key.as_str() == "/here/sidekick-doctor/dry-run")
        );
        let keyed = target(&["announce", "--key=/services/a/b"]);
        assert!(matches!(keyed, Target::One { container, .. } if container == ANY_CONTAINER));
    }
}
