//! What is empty: a variable is then an unset one (compose's `${X:-}` makes such), an option on the
//! command line is a slip.

use clap::{Arg, CommandFactory};
use sidekick::cli::Cli;

use crate::usage::Usage;

/// All arguments of one of the subcommands, as clap knows them; one that is added later is among them.
fn arguments(job: &str) -> Vec<Arg> {
    let command = Cli::command();
    let job = command.find_subcommand(job).expect("a subcommand");
    job.get_arguments().cloned().collect()
}

fn variables(job: &str) -> Vec<String> {
    let name = |arg: &Arg| Some(arg.get_env()?.to_str().expect("ASCII").to_owned());
    arguments(job).iter().filter_map(name).collect()
}

/// A subcommand, and good usage of it, which needs no variable.
type Example = (&'static str, fn() -> Usage);

fn usages() -> Vec<Example> {
    vec![
        ("announce", Usage::announce),
        ("announce", Usage::announce_all),
        ("explain", Usage::explain),
        ("explain", || Usage::explain_all()),
        ("agent", Usage::agent),
        ("list", Usage::list),
    ]
}

#[test]
fn an_empty_variable_is_an_unset_one_for_every_option_of_every_command() {
    for (job, usage) in usages() {
        let variables = variables(job);
        assert!(variables.len() > 8, "{job} has variables: {variables:?}");
        for variable in &variables {
            usage().environment(variable, "").goes_to_work();
        }
        let all = variables.iter();
        let all = all.fold(usage(), |usage, variable| usage.environment(variable, ""));
        all.goes_to_work();
    }
}

/// tracing takes an empty level for `error`.
#[test]
fn an_empty_log_level_silences_no_warning() {
    let usage = Usage::of(&["list"]).environment("SIDEKICK_LOG_LEVEL", "");
    let usage = usage.environment("ETCDCTL_DISCOVERY_SRV", "example.test");
    usage
        .with("--etcd-endpoints", "http://127.0.0.1:1")
        .warns_once_of("ETCDCTL_DISCOVERY_SRV");
}

#[test]
fn what_is_needed_is_missing_where_its_variable_is_empty() {
    let usage = Usage::announce().without("--key");
    usage.environment("SIDEKICK_KEY", "").complains_of("--key");
    for job in ["announce", "explain"] {
        let usage = Usage::of(&[job]).with("--key", "/services/redis/redis@1");
        usage
            .environment("SIDEKICK_CONTAINER", "")
            .complains_of("CONTAINER");
    }
}

#[test]
fn an_empty_option_on_the_command_line_is_named() {
    for (job, usage) in usages() {
        for arg in arguments(job) {
            if let Some(long) = arg.get_long()
                && arg.get_action().takes_values()
            {
                let option = format!("--{long}");
                usage().with(&option, "").complains_of(&option);
            }
        }
    }
    Usage::of(&["explain", ""]).complains_of("CONTAINER");
    Usage::of(&["list", ""]).complains_of("SERVICE");
}

#[test]
fn help_names_the_variables_that_are_empty() {
    for job in ["announce", "explain", "agent", "list"] {
        let usage = Usage::of(&[job, "--help"]);
        let text = |usage: &Usage| String::from_utf8_lossy(&usage.run().stdout).into_owned();
        let unset = text(&usage);
        let all = variables(job).into_iter();
        let empty = text(&all.fold(usage, |usage, name| usage.environment(&name, "")));
        for arg in arguments(job).iter().filter(|arg| !arg.is_hide_set()) {
            let variable = arg.get_env().and_then(|name| name.to_str());
            let variable = variable.unwrap_or_default();
            assert!(
                unset.contains(variable) && empty.contains(variable),
                "{empty}"
            );
        }
    }
}
