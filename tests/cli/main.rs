//! Wrong usage: one line that names the option, exit status 2, and no connection to etcd or Docker.
//!
//! Needs no server: two sockets without one show whether sidekick connects.

// A test that can't go on panics, and says where.
#![allow(clippy::expect_used, clippy::panic, unreachable_pub)]

mod checks;
mod doctor;
mod drain;
mod empty;
mod files;
mod ignored;
mod numbers;
mod readers;
mod usage;

use files::Files;
use usage::Usage;

fn announce_refuses(option: &str, value: &str) {
    Usage::announce().with(option, value).complains_of(option);
}

fn explain_refuses(option: &str, value: &str) {
    Usage::explain().with(option, value).complains_of(option);
}

/// `sidekick announce` with these options.
fn announce_with(options: &[(&str, &str)]) -> Usage {
    let options = options.iter();
    options.fold(Usage::announce(), |usage, (name, value)| {
        usage.with(name, value)
    })
}

#[test]
fn an_interval_must_be_shorter_than_the_ttl() {
    for (ttl, interval) in [("60s", "60s"), ("60", "61"), ("1m", "1m1s"), ("45s", "45s")] {
        announce_with(&[("--ttl", ttl), ("--interval", interval)]).complains_of("--interval");
    }
    // The default interval is 45 s.
    announce_with(&[("--ttl", "30s")]).complains_of("--interval");
}

#[test]
fn a_ttl_has_two_seconds_at_least() {
    for ttl in ["1s", "1", "0", "1999ms"] {
        announce_with(&[("--ttl", ttl), ("--interval", "1s")]).complains_of("--ttl");
    }
}

#[test]
fn an_address_to_listen_on_has_a_port() {
    for address in [
        "9469",
        "localhost:9469",
        "127.0.0.1",
        "127.0.0.1:0",
        ":",
        "http://127.0.0.1:9469",
    ] {
        announce_refuses("--listen", address);
    }
}

#[test]
fn a_health_check_has_to_know_whom_to_ask() {
    Usage::of(&["healthcheck"]).complains_of("SIDEKICK_LISTEN");
    Usage::of(&["healthcheck", "9469"]).complains_of("ADDRESS");
    Usage::of(&["healthcheck", "https://127.0.0.1:9469"]).complains_of("ADDRESS");
    let hasty = Usage::of(&["healthcheck", "127.0.0.1:9469"]);
    hasty.with("--timeout", "soon").complains_of("--timeout");
}

#[test]
fn a_duration_must_be_one() {
    for duration in ["soon", "", "1 potato", "99999999999999999999s"] {
        for option in ["--ttl", "--interval", "--docker-grace"] {
            announce_refuses(option, duration);
        }
    }
    Usage::announce().word("--ttl=-5s").complains_of("--ttl");
}

#[test]
fn a_key_has_no_empty_part_no_space_no_control_character_and_no_dots() {
    for key in [
        "",
        "/",
        "//redis/redis@1",
        "/services//redis@1",
        "/services/redis/",
        "/services/redis/redis 1",
        "/services/redis/redis\t1",
        "/services/redis/redis\n1",
        "/services/redis/\u{7f}",
        "/services/redis/\u{85}",
        "/services/../redis@1",
        "/services/redis/..",
    ] {
        announce_refuses("--key", key);
        explain_refuses("--key", key);
    }
}

#[test]
fn all_goes_with_no_container_no_key_and_no_port() {
    Usage::announce_all().goes_to_work();
    Usage::announce_all().word("redis1").complains_of("--all");
    let with = |option, value| Usage::announce_all().with(option, value);
    with("--key", "/services/redis/redis@1").complains_of("--key");
    with("--port", "6379").complains_of("--port");
    let set = |name, value| Usage::announce_all().environment(name, value);
    set("SIDEKICK_KEY", "/services/redis/redis@1").complains_of("--key");
    set("SIDEKICK_CONTAINER", "redis1").complains_of("--all");
    let explain = || Usage::explain().word("--all");
    explain().complains_of("--all");
    for prefix in ["services", "/", "/a b", "/services//"] {
        with("--prefix", prefix).complains_of("--prefix");
        set("SIDEKICK_PREFIX", prefix).complains_of("--prefix");
    }
    with("--prefix", "/other/place/").goes_to_work();
}

#[test]
fn registrators_labels_are_for_all() {
    let (labels, variable) = ("--registrator-labels", "SIDEKICK_REGISTRATOR_LABELS");
    for usage in [Usage::announce_all, Usage::explain_all] {
        usage().word(labels).goes_to_work();
        for truth in ["true", "1", "false", "0"] {
            usage().environment(variable, truth).goes_to_work();
        }
        usage().environment(variable, "some").complains_of(labels);
    }
    // The variable may be set for all units of a machine.
    Usage::announce()
        .environment(variable, "true")
        .goes_to_work();
}

#[test]
fn a_container_is_needed_unless_all_are_meant() {
    let usage = Usage::of(&["announce", "--key", "/services/redis/redis@1"]);
    usage.complains_of("CONTAINER");
    Usage::of(&["explain"]).complains_of("CONTAINER");
}

#[test]
fn a_key_is_needed() {
    Usage::announce().without("--key").complains_of("--key");
}

#[test]
fn a_port_is_from_1_to_65535() {
    for port in [
        "0", "65536", "x", "", "6379/", "/tcp", "6379/ftp", "1e3", " 6379",
    ] {
        announce_refuses("--port", port);
        explain_refuses("--port", port);
    }
    Usage::announce().word("--port=-1").complains_of("--port");
}

#[test]
fn a_host_is_not_loopback_not_empty_and_holds_no_white_space() {
    for host in [
        "127.0.0.1",
        "127.8.9.10",
        "::1",
        "::ffff:127.0.0.1",
        "localhost",
        "LocalHost",
        "localhost.",
        "",
        " ",
        "a b",
        "worker\t1",
        "worker\n1",
    ] {
        announce_refuses("--host", host);
        explain_refuses("--host", host);
    }
}

#[test]
fn a_certificate_must_be_readable() {
    let files = Files::new();
    let https = || Usage::announce().with("--etcd-endpoints", "https://127.0.0.1:2379");
    for unreadable in [&files.missing, &files.directory, &files.junk] {
        https()
            .with("--etcd-cacert", unreadable)
            .cannot_use_the_file_of("--etcd-cacert");
        https()
            .with("--etcd-cert", unreadable)
            .with("--etcd-key", &files.key)
            .cannot_use_the_file_of("--etcd-cert");
        https()
            .with("--etcd-cert", &files.certificate)
            .with("--etcd-key", unreadable)
            .cannot_use_the_file_of("--etcd-key");
    }
}

#[test]
fn a_certificate_and_its_key_come_together() {
    let files = Files::new();
    let https = || Usage::announce().with("--etcd-endpoints", "https://127.0.0.1:2379");
    https()
        .with("--etcd-cert", &files.certificate)
        .complains_of("--etcd-key");
    https()
        .with("--etcd-key", &files.key)
        .complains_of("--etcd-cert");
}

#[test]
fn a_password_file_must_be_readable() {
    let files = Files::new();
    for unreadable in [&files.missing, &files.directory] {
        Usage::announce()
            .with("--etcd-user", "root")
            .with("--etcd-password-file", unreadable)
            .cannot_use_the_file_of("--etcd-password-file");
    }
}

#[test]
fn an_endpoint_is_a_url() {
    for endpoints in [
        ",",
        "http://",
        "http://a b:2379",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "ftp://127.0.0.1:2379",
        "http://127.0.0.1:2379,",
        "http://127.0.0.1:2379,no url",
    ] {
        announce_refuses("--etcd-endpoints", endpoints);
    }
}

#[test]
fn docker_over_tls_is_refused_and_never_plain_text_instead() {
    let url = |usage: &Usage| format!("tcp://{}", usage.address());
    // The second is docker's own variable for TLS without a verification.
    for variable in ["DOCKER_TLS_VERIFY", "DOCKER_TLS"] {
        let usage = Usage::announce().without("--docker-host");
        let host = url(&usage);
        let usage = usage.environment("DOCKER_HOST", &host);
        usage.environment(variable, "1").complains_of(variable);
    }
    let usage = Usage::announce().without("--docker-host");
    let host = url(&usage);
    let usage = usage.environment("DOCKER_TLS_VERIFY", "1");
    usage
        .with("--docker-host", &host)
        .complains_of("DOCKER_TLS_VERIFY");
}

#[test]
fn a_docker_host_is_a_socket_or_an_address() {
    for host in [
        "unix://",
        "/var/run/docker.sock",
        "ssh://root@machine",
        "tcp://",
        "tcp://127.0.0.1",
    ] {
        announce_refuses("--docker-host", host);
    }
}

#[test]
fn a_bad_variable_names_its_option() {
    for (variable, value, option) in [
        ("SIDEKICK_TTL", "1s", "--ttl"),
        ("SIDEKICK_INTERVAL", "2m", "--interval"),
        ("SIDEKICK_PORT", "0", "--port"),
        ("SIDEKICK_DOCKER_GRACE", "never", "--docker-grace"),
        ("SIDEKICK_LOG_FORMAT", "xml", "--log-format"),
        ("SIDEKICK_LOG_LEVEL", "loud", "--log-level"),
    ] {
        let usage = Usage::announce().environment(variable, value);
        usage.complains_of(option);
    }
    for (variable, value, option) in [
        ("SIDEKICK_HOST", "localhost", "--host"),
        ("SIDEKICK_KEY", "/a//b", "--key"),
        ("ETCDCTL_ENDPOINTS", "no url", "--etcd-endpoints"),
        ("DOCKER_HOST", "ssh://a", "--docker-host"),
    ] {
        let usage = Usage::announce().without(option);
        usage.environment(variable, value).complains_of(option);
    }
    let usage = Usage::announce().environment("ETCDCTL_CACERT", "/nowhere/ca.crt");
    usage.cannot_use_the_file_of("--etcd-cacert");
}

#[test]
fn an_unknown_option_is_named() {
    announce_refuses("--tll", "60s");
}

#[test]
fn an_unknown_command_is_named() {
    Usage::of(&["anounce", "redis1"]).complains_of("anounce");
}

#[test]
fn no_secret_is_repeated_in_a_complaint() {
    let usage = Usage::announce()
        .environment("ETCDCTL_USER", "root:hunter2")
        .with("--ttl", "1s");
    let complaint = usage.complains_of("--ttl");
    assert!(!complaint.contains("hunter2"), "{complaint}");
}

/// A complaint goes to the journal. With a comma in it a password is in two endpoints.
#[test]
fn a_password_in_a_url_is_refused_and_not_repeated() {
    for password in ["hunter2", "hun,hunter2", "http://hunter2", "hunter2@"] {
        let login = format!("root:{password}@127.0.0.1:2379");
        for scheme in ["http://", "https://", ""] {
            let url = format!("{scheme}{login}");
            let as_option = Usage::announce().with("--etcd-endpoints", &url);
            let as_variable = Usage::announce().without("--etcd-endpoints");
            let as_variable = as_variable.environment("ETCDCTL_ENDPOINTS", &url);
            for usage in [as_option, as_variable] {
                let complaint = usage.complains_of("--etcd-endpoints");
                assert!(!complaint.contains("hunter2"), "{complaint}");
            }
        }
        for scheme in ["tcp", "http", "https", "ssh"] {
            let url = format!("{scheme}://{login}");
            let as_option = Usage::announce().with("--docker-host", &url);
            let as_variable = Usage::explain().without("--docker-host");
            for usage in [as_option, as_variable.environment("DOCKER_HOST", &url)] {
                let complaint = usage.complains_of("--docker-host");
                assert!(!complaint.contains("hunter2"), "{complaint}");
            }
        }
    }
}

#[test]
fn help_shows_no_value_that_may_hold_a_password() {
    let mut shown = Vec::new();
    for job in ["announce", "agent", "list", "explain"] {
        let mut usage = Usage::of(&[job, "--help"]);
        for variable in ["ENDPOINTS", "USER", "PASSWORD"] {
            usage = usage.environment(&format!("ETCDCTL_{variable}"), "tcp://root:hunter2@a");
        }
        usage = usage.environment("DOCKER_HOST", "tcp://root:hunter2@a");
        shown.extend(usage.run().stdout);
    }
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("DOCKER_HOST") && shown.contains("ETCDCTL_USER"));
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_password_on_the_command_line_is_refused() {
    for (option, value) in [
        ("--etcd-user", "root:hunter2"),
        ("--etcd-password-from-environment", "hunter2"),
    ] {
        let usage = Usage::announce().with(option, value);
        let complaint = usage.complains_of("--etcd-user");
        assert!(!complaint.contains("hunter2"), "{complaint}");
    }
}

#[test]
fn good_usage_goes_to_work() {
    Usage::announce().goes_to_work();
    for (ttl, interval) in [("60", "45"), ("1m30s", "1m"), ("2s", "1s")] {
        announce_with(&[("--ttl", ttl), ("--interval", interval)]).goes_to_work();
    }
    for (option, value) in [
        ("--docker-grace", "forever"),
        ("--docker-grace", "0"),
        ("--port", "1"),
        ("--port", "65535/udp"),
        ("--host", "10.0.0.1"),
        ("--host", "2001:db8::1"),
        ("--etcd-endpoints", "127.0.0.1:1,http://[::1]:1,https.test"),
    ] {
        announce_with(&[(option, value)]).goes_to_work();
    }
    // A Unix socket needs no TLS, whatever a person's shell has set for other machines.
    let usage = Usage::announce().environment("DOCKER_TLS_VERIFY", "1");
    usage.goes_to_work();
}

/// The last line of a command that asks once: a person gets no page of retries to read.
#[test]
fn who_cannot_be_asked_is_named() {
    let closed = "http://127.0.0.1:1";
    for words in [&["list"][..], &["agent", "--dry-run"]] {
        let usage = Usage::of(words).with("--etcd-endpoints", closed);
        usage.fails_with(&format!("cannot read from etcd ({closed}): "));
    }
    for words in [&["explain", "redis1"][..], &["explain", "--all"]] {
        let usage = Usage::of(words).with("--docker-host", "unix:///no/docker.sock");
        usage.fails_with("cannot reach Docker at unix:///no/docker.sock: ");
    }
}

#[test]
fn help_and_version_are_no_mistakes() {
    for words in ["--help", "--version", "announce --help", "explain --help"] {
        let output = Usage::of(&words.split(' ').collect::<Vec<_>>()).run();
        assert_eq!(output.status.code(), Some(0), "sidekick {words}");
        assert!(!output.stdout.is_empty(), "no output of sidekick {words}");
        assert!(output.stderr.is_empty(), "sidekick {words} complains");
    }
}
