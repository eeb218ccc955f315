//! Reads the command line and the environment: what is empty, and what may not be said there.

use super::Cli;
use crate::etcd::Secret;
use clap::builder::Resettable;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

impl Cli {
    /// Reads the command line and the environment. An empty variable is an unset one, as etcdctl and
    /// docker have it, and as compose's `${X:-}` makes it.
    ///
    /// # Errors
    /// Wrong usage; an empty option on the command line; and a password there, which every user who
    /// lists processes would see.
    pub fn read() -> Result<Self, clap::Error> {
        let matches = match without_empty_variables(Self::command()).try_get_matches() {
            // The help names the empty variables, too.
            Err(help) if !help.use_stderr() => Self::command().try_get_matches(),
            read => read,
        }?;
        if let Some((name, job)) = matches.subcommand() {
            let wrong =
                |problem: String| Self::command().error(ErrorKind::ValueValidation, problem);
            if let Some(option) = empty_option(name, job) {
                let problem = format!("{option}: is empty; give it a value, or leave it out");
                return Err(wrong(problem));
            }
            if tells_password(job) {
                let problem = "--etcd-user: no password on the command line, where everybody sees it; \
                     give --etcd-password-file, or ETCDCTL_USER and ETCDCTL_PASSWORD";
                return Err(wrong(problem.to_owned()));
            }
        }
        Self::from_arg_matches(&matches)
    }
}

/// clap takes an empty variable for a value; so the options of such variables have none.
fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) {
            arg.env(Resettable::Reset)
        } else {
            arg
        }
    });
    command.mut_subcommands(without_empty_variables)
}

/// The first option on the command line whose value is empty: `--host "$HOST"`, where HOST is not set,
/// is a slip that would announce another address.
fn empty_option(name: &str, job: &ArgMatches) -> Option<String> {
    let command = Cli::command();
    let is_empty = |arg: &&Arg| {
        let id = arg.get_id().as_str();
        let mut values = job.get_raw(id).into_iter().flatten();
        arg.get_action().takes_values()
            && job.value_source(id) == Some(ValueSource::CommandLine)
            && values.all(|value| value.is_empty())
    };
    let arg = command
        .find_subcommand(name)?
        .get_arguments()
        .find(is_empty)?;
    Some(match arg.get_long() {
        Some(long) => format!("--{long}"),
        None => arg.get_id().as_str().to_uppercase(),
    })
}

fn tells_password(job: &ArgMatches) -> bool {
    // Not every subcommand asks etcd.
    let Ok(user) = job.try_get_one::<Secret>("etcd_user") else {
        return false;
    };
    let typed = |id| job.value_source(id) == Some(ValueSource::CommandLine);
    (typed("etcd_user") && user.is_some_and(|user| user.0.contains(&b':')))
        || typed("etcd_password")
}

/// clap's error without its usage text: one line that names the option.
#[must_use]
pub fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let words: Vec<_> = text
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    words.join(" ").trim_start_matches("error: ").to_owned()
}
