//! Wrong usage: one line that names the option, exit status 2, and nobody is asked for anything.
//!
//! Needs no server: two sockets that nobody serves notice whether sidekick knocks.

// A test that can't go on panics, and says where.
#![allow(clippy::expect_used, clippy::panic, unreachable_pub)]

mod drain;
mod empty;
mod files;
mod ignored;
mod numbers;
mod usage;

use files::Files;
use usage::Usage;

#[test]
fn an_interval_must_be_shorter_than_the_ttl() {
    for (ttl, interval) in [("60s", "60s"), ("60", "61"), ("1m", "1m1s"), ("45s", "45s")] {
        Usage::announce()
            .with("--ttl", ttl)
            .with("--interval", interval)
            .complains_of("--interval");
    }
    // The default interval is 45 s.
    Usage::announce()
        .with("--ttl", "30s")
        .complains_of("--interval");
}

#[test]
fn a_ttl_has_two_seconds_at_least() {
    for ttl in ["1s", "1", "0", "1999ms"] {
        Usage::announce()
            .with("--ttl", ttl)
            .with("--interval", "1s")
            .complains_of("--ttl");
    }
}

#[test]
fn a_duration_must_be_one() {
    for duration in ["soon", "", "1 potato", "99999999999999999999s"] {
        Usage::announce()
            .with("--ttl", duration)
            .complains_of("--ttl");
        Usage::announce()
            .with("--interval", duration)
            .complains_of("--interval");
        Usage::announce()
            .with("--docker-grace", duration)
            .complains_of("--docker-grace");
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
        Usage::announce().with("--key", key).complains_of("--key");
        Usage::explain().with("--key", key).complains_of("--key");
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
        Usage::announce()
            .with("--port", port)
            .complains_of("--port");
        Usage::explain().with("--port", port).complains_of("--port");
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
        Usage::announce()
            .with("--host", host)
            .complains_of("--host");
        Usage::explain().with("--host", host).complains_of("--host");
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
        Usage::announce()
            .with("--etcd-endpoints", endpoints)
            .complains_of("--etcd-endpoints");
    }
}

#[test]
fn docker_over_tls_is_refused_and_never_plain_text_instead() {
    let url = |usage: &Usage| format!("tcp://{}", usage.address());
    let usage = Usage::announce().without("--docker-host");
    let host = url(&usage);
    usage
        .environment("DOCKER_TLS_VERIFY", "1")
        .environment("DOCKER_HOST", &host)
        .complains_of("DOCKER_TLS_VERIFY");
    let usage = Usage::announce().without("--docker-host");
    let host = url(&usage);
    usage
        .environment("DOCKER_TLS_VERIFY", "1")
        .with("--docker-host", &host)
        .complains_of("DOCKER_TLS_VERIFY");
    let usage = Usage::announce().without("--docker-host");
    let host = url(&usage);
    // docker's own variable for TLS without a verification.
    usage
        .environment("DOCKER_TLS", "1")
        .environment("DOCKER_HOST", &host)
        .complains_of("DOCKER_TLS");
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
        Usage::announce()
            .with("--docker-host", host)
            .complains_of("--docker-host");
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
        Usage::announce()
            .environment(variable, value)
            .complains_of(option);
    }
    Usage::announce()
        .without("--host")
        .environment("SIDEKICK_HOST", "localhost")
        .complains_of("--host");
    Usage::announce()
        .without("--key")
        .environment("SIDEKICK_KEY", "/a//b")
        .complains_of("--key");
    Usage::announce()
        .without("--etcd-endpoints")
        .environment("ETCDCTL_ENDPOINTS", "no url")
        .complains_of("--etcd-endpoints");
    Usage::announce()
        .without("--docker-host")
        .environment("DOCKER_HOST", "ssh://a")
        .complains_of("--docker-host");
    Usage::announce()
        .environment("ETCDCTL_CACERT", "/nowhere/ca.crt")
        .cannot_use_the_file_of("--etcd-cacert");
}

#[test]
fn an_unknown_option_is_named() {
    Usage::announce().with("--tll", "60s").complains_of("--tll");
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
        for url in [
            &format!("http://{login}"),
            &format!("https://{login}"),
            &login,
        ] {
            let as_option = Usage::announce().with("--etcd-endpoints", url);
            let as_variable = Usage::announce().without("--etcd-endpoints");
            let as_variable = as_variable.environment("ETCDCTL_ENDPOINTS", url);
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
        for variable in [
            "ETCDCTL_ENDPOINTS",
            "ETCDCTL_USER",
            "ETCDCTL_PASSWORD",
            "DOCKER_HOST",
        ] {
            usage = usage.environment(variable, "tcp://root:hunter2@a");
        }
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
        let complaint = Usage::announce()
            .with(option, value)
            .complains_of("--etcd-user");
        assert!(!complaint.contains("hunter2"), "{complaint}");
    }
}

#[test]
fn good_usage_goes_to_work() {
    Usage::announce().goes_to_work();
    Usage::announce()
        .with("--ttl", "60")
        .with("--interval", "45")
        .goes_to_work();
    Usage::announce()
        .with("--ttl", "1m30s")
        .with("--interval", "1m")
        .goes_to_work();
    Usage::announce()
        .with("--ttl", "2s")
        .with("--interval", "1s")
        .goes_to_work();
    Usage::announce()
        .with("--docker-grace", "forever")
        .goes_to_work();
    Usage::announce().with("--docker-grace", "0").goes_to_work();
    Usage::announce().with("--port", "1").goes_to_work();
    Usage::announce().with("--port", "65535/udp").goes_to_work();
    Usage::announce().with("--host", "10.0.0.1").goes_to_work();
    Usage::announce()
        .with("--host", "2001:db8::1")
        .goes_to_work();
    Usage::announce()
        .with("--etcd-endpoints", "127.0.0.1:1,http://[::1]:1,https.test")
        .goes_to_work();
    // A Unix socket needs no TLS, whatever a person's shell has set for other machines.
    Usage::announce()
        .environment("DOCKER_TLS_VERIFY", "1")
        .goes_to_work();
}

/// The last line of a command that asks once: a person gets no page of retries to read.
#[test]
fn who_cannot_be_asked_is_named() {
    let nobody = "http://127.0.0.1:1";
    for words in [&["list"][..], &["agent", "--dry-run"]] {
        let usage = Usage::of(words).with("--etcd-endpoints", nobody);
        usage.fails_with(&format!("cannot read from etcd ({nobody}): "));
    }
    for words in [&["explain", "redis1"][..], &["explain", "--all"]] {
        let usage = Usage::of(words).with("--docker-host", "unix:///no/docker.sock");
        usage.fails_with("cannot reach Docker at unix:///no/docker.sock: ");
    }
}

#[test]
fn help_and_version_are_no_mistakes() {
    for words in [
        &["--help"][..],
        &["--version"],
        &["announce", "--help"],
        &["explain", "--help"],
    ] {
        let output = Usage::of(words).run();
        assert_eq!(output.status.code(), Some(0), "sidekick {words:?}");
        assert!(
            !output.stdout.is_empty(),
            "sidekick {words:?} prints to stdout"
        );
        assert!(output.stderr.is_empty(), "sidekick {words:?} complains");
    }
}
