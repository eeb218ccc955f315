//! Variables of etcdctl and of docker that sidekick doesn't use: it says so once, where that matters.

use crate::usage::Usage;

/// Asks an etcd that isn't there, and ends.
fn list() -> Usage {
    Usage::of(&["list"]).with("--etcd-endpoints", "http://127.0.0.1:1")
}

fn list_over_tls() -> Usage {
    Usage::of(&["list"]).with("--etcd-endpoints", "https://127.0.0.1:1")
}

/// Asks an engine that isn't there, and ends.
fn explain() -> Usage {
    Usage::of(&["explain", "redis1"])
}

#[test]
fn a_variable_of_etcdctl_that_is_not_used_is_told_once() {
    for (variable, value) in [
        ("ETCDCTL_DISCOVERY_SRV", "example.test"),
        ("ETCDCTL_DIAL_TIMEOUT", "10s"),
        ("ETCDCTL_COMMAND_TIMEOUT", "30s"),
        ("ETCDCTL_KEEPALIVE_TIME", "2s"),
        ("ETCDCTL_KEEPALIVE_TIMEOUT", "6s"),
        ("ETCDCTL_CA_FILE", "/etc/ca.pem"),
        ("ETCDCTL_USERNAME", "root:hunter2"),
    ] {
        let line = list().environment(variable, value).warns_once_of(variable);
        assert!(!line.contains("hunter2"), "{line}");
        let announce = Usage::announce().environment(variable, value);
        announce.goes_to_work();
        list().environment(variable, "").warns_of_nothing();
    }
    // etcdctl of the v2 API knew other names; who has both sets is served by the newer.
    for variable in ["ETCDCTL_PEERS", "ETCDCTL_ENDPOINT"] {
        let alone = Usage::of(&["list"]).environment(variable, "http://127.0.0.1:1");
        alone.warns_once_of(variable);
        let both = list().environment(variable, "http://a:2379");
        both.warns_of_nothing();
    }
}

#[test]
fn certificates_are_verified_whatever_etcdctl_is_told_and_that_is_said() {
    const SKIP: &str = "ETCDCTL_INSECURE_SKIP_TLS_VERIFY";
    for yes in ["true", "1", "TRUE"] {
        let line = list_over_tls().environment(SKIP, yes).warns_once_of(SKIP);
        assert!(line.contains("verified"), "{line}");
    }
    for no in ["false", "0", ""] {
        list_over_tls().environment(SKIP, no).warns_of_nothing();
    }
    // In the clear there is nothing to verify.
    list().environment(SKIP, "true").warns_of_nothing();
}

#[test]
fn what_changes_nothing_is_no_warning() {
    for (variable, value) in [
        ("ETCDCTL_API", "3"),
        ("ETCDCTL_DEBUG", "true"),
        ("ETCDCTL_WRITE_OUT", "json"),
        ("ETCDCTL_INSECURE_TRANSPORT", "true"),
        ("ETCDCTL_INSECURE_DISCOVERY", "true"),
        // `list` asks no engine.
        ("DOCKER_CONTEXT", "remote"),
    ] {
        list().environment(variable, value).warns_of_nothing();
    }
}

/// etcdctl speaks TLS then, also to an endpoint that names no scheme.
#[test]
fn a_secure_transport_is_never_plain_text_instead() {
    const VARIABLE: &str = "ETCDCTL_INSECURE_TRANSPORT";
    let usage = Usage::list();
    let bare = usage.address();
    let plain = format!("http://{bare}");
    let secure = |endpoints: &str| {
        let usage = Usage::list().with("--etcd-endpoints", endpoints);
        usage.environment(VARIABLE, "false")
    };
    secure(&plain).complains_of("--etcd-endpoints");
    secure("https://127.0.0.1:1").fails_with("https://127.0.0.1:1");
    secure("127.0.0.1:1").fails_with("https://127.0.0.1:1");
    let junk = Usage::list().environment(VARIABLE, "perhaps");
    junk.complains_of(VARIABLE);
}

#[test]
fn a_context_of_docker_is_not_used_and_that_is_said() {
    let in_context = |usage: Usage, name| usage.environment("DOCKER_CONTEXT", name);
    let line = in_context(explain(), "remote").warns_once_of("DOCKER_CONTEXT");
    assert!(line.contains("unix:///var/run/docker.sock"), "{line}");
    // In docker, too, a host takes precedence over a context.
    let named = explain().with("--docker-host", "unix:///no/docker.sock");
    in_context(named, "remote").warns_of_nothing();
    let named = explain().environment("DOCKER_HOST", "unix:///no/docker.sock");
    in_context(named, "remote").warns_of_nothing();
    for same in ["default", ""] {
        in_context(explain(), same).warns_of_nothing();
    }
}
