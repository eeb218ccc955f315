//! Environment variables of etcdctl and docker that sidekick ignores, and what it does instead: a line each. Pure.

use super::CliCommand;
use crate::announce::config::{ContainerArgs, DEFAULT_DOCKER_HOST};
use crate::etcd::config::{DEFAULT_ENDPOINTS, EtcdArgs, truth};
use crate::etcd::members::CALL_DEADLINE;

/// etcdctl's deadlines (`etcdctl help` lists its global options; each is a variable, too).
const DEADLINES: [&str; 4] = [
    "ETCDCTL_DIAL_TIMEOUT",
    "ETCDCTL_COMMAND_TIMEOUT",
    "ETCDCTL_KEEPALIVE_TIME",
    "ETCDCTL_KEEPALIVE_TIMEOUT",
];

/// Lines for the log, none where a variable is empty, or comes to what sidekick does anyway. No line
/// repeats a value.
///
/// `variable` reads the environment.
#[must_use]
pub fn ignored_variables(
    command: &CliCommand,
    variable: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let (etcd, container) = match command {
        CliCommand::Announce(args) => (&args.etcd, Some(&args.container)),
        CliCommand::Explain(args) => (&args.etcd, Some(&args.container)),
        CliCommand::Doctor(args) => (args.etcd(), Some(args.container())),
        CliCommand::Agent(args) => (&args.etcd, None),
        CliCommand::List(args) => (&args.etcd, None),
        CliCommand::Export(args) => (&args.etcd, None),
        CliCommand::Drain(args) => (&args.instance.etcd, None),
        CliCommand::Undrain(args) => (&args.instance.etcd, None),
        CliCommand::Wait(args) => (&args.etcd, None),
        // It asks neither etcd nor Docker.
        CliCommand::Healthcheck(_) => return Vec::new(),
    };
    let mut lines = of_etcdctl(etcd, &set);
    lines.extend(container.and_then(|container| of_docker(container, &set)));
    lines
}

fn of_etcdctl(args: &EtcdArgs, set: &impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut lines = Vec::new();
    if set("ETCDCTL_DISCOVERY_SRV").is_some() {
        lines.push(format!(
            "ETCDCTL_DISCOVERY_SRV is not used: sidekick looks up no SRV records, and connects to {}; \
             name the members in ETCDCTL_ENDPOINTS",
            args.etcd_endpoints
        ));
    }
    let tls = args.etcd_endpoints.contains("https://")
        || args.etcd_cacert.is_some()
        || args.etcd_cert.is_some()
        || args.etcd_insecure_transport.as_deref().and_then(truth) == Some(false);
    let skip = set("ETCDCTL_INSECURE_SKIP_TLS_VERIFY");
    if tls && skip.as_deref().and_then(truth) == Some(true) {
        lines.push(
            "ETCDCTL_INSECURE_SKIP_TLS_VERIFY is not used: etcd's certificates are verified all the \
             same; name the file of their CA in ETCDCTL_CACERT"
                .to_owned(),
        );
    }
    let deadlines: Vec<_> = DEADLINES
        .into_iter()
        .filter(|name| set(name).is_some())
        .collect();
    if !deadlines.is_empty() {
        let (names, seconds) = (deadlines.join(", "), CALL_DEADLINE.as_secs());
        lines.push(format!(
            "not used: {names}; sidekick has deadlines of its own, and turns to the next member of etcd \
             after {seconds} s without an answer"
        ));
    }
    // What etcdctl's v2 API reads; where both names are set the machine serves both versions.
    let endpoints = args.etcd_endpoints != DEFAULT_ENDPOINTS;
    for (old, name, given) in [
        ("ETCDCTL_ENDPOINT", "ETCDCTL_ENDPOINTS", endpoints),
        ("ETCDCTL_PEERS", "ETCDCTL_ENDPOINTS", endpoints),
        (
            "ETCDCTL_CA_FILE",
            "ETCDCTL_CACERT",
            args.etcd_cacert.is_some(),
        ),
        (
            "ETCDCTL_CERT_FILE",
            "ETCDCTL_CERT",
            args.etcd_cert.is_some(),
        ),
        ("ETCDCTL_KEY_FILE", "ETCDCTL_KEY", args.etcd_key.is_some()),
        ("ETCDCTL_USERNAME", "ETCDCTL_USER", args.etcd_user.is_some()),
    ] {
        if !given && set(old).is_some() {
            lines.push(format!(
                "{old} is not used: it is a variable of etcd's v2 API; set {name} instead"
            ));
        }
    }
    lines
}

fn of_docker(args: &ContainerArgs, set: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let context = set("DOCKER_CONTEXT").filter(|context| context != "default");
    // docker itself prefers a host to a context.
    (context.is_some() && args.docker_host.is_none()).then(|| {
        format!(
            "DOCKER_CONTEXT is not used: the Docker Engine is asked at {DEFAULT_DOCKER_HOST}; name another \
             in DOCKER_HOST"
        )
    })
}
