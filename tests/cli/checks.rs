//! The checks of `announce` and `explain`: what is no check says what to write instead.

use crate::usage::Usage;

/// Options, which of them is refused, and in which words.
type Example = (
    &'static [(&'static str, &'static str)],
    &'static str,
    &'static str,
);

const WRONG: &[Example] = &[
    (
        &[("--check", "grpc")],
        "--check",
        "\"grpc\" is no check: write tcp, redis, or http:/PATH",
    ),
    (&[("--check", "http:health")], "--check", "http:/PATH"),
    (
        &[("--check", "tcp redis:6379")],
        "--check",
        "\"redis:6379\"",
    ),
    (
        &[("--check", "tcp none")],
        "--check",
        "\"none\" stands alone: write it without other checks",
    ),
    (
        &[("--check", "tcp tcp tcp tcp tcp tcp tcp tcp tcp")],
        "--check",
        "a service has 8 at most",
    ),
    (
        &[("--check", "tcp"), ("--port", "53/udp")],
        "--check",
        "a check asks a TCP port, and 53/udp is none",
    ),
    (
        &[("--check-interval", "99ms")],
        "--check-interval",
        "from 100ms to 1h",
    ),
    (
        &[("--check-interval", "61m")],
        "--check-interval",
        "from 100ms to 1h",
    ),
    (
        &[("--check-interval", "soon")],
        "--check-interval",
        "write 60, 60s or 1m30s",
    ),
    (
        &[("--check-timeout", "0")],
        "--check-timeout",
        "from 100ms to 1h",
    ),
    (
        &[("--rise", "0")],
        "--rise",
        "\"0\" is no number from 1 to 100",
    ),
    (
        &[("--fall", "101")],
        "--fall",
        "\"101\" is no number from 1 to 100",
    ),
];

#[test]
fn a_wrong_check_is_refused_with_what_to_write() {
    for (options, culprit, words) in WRONG {
        for usage in [Usage::announce(), Usage::explain()] {
            let options = options.iter();
            let usage = options.fold(usage, |usage, (name, value)| usage.with(name, value));
            let complaint = usage.complains_of(culprit);
            assert!(complaint.contains(words), "{complaint}");
        }
    }
    let twice = Usage::announce().word("--check=none").word("--check=tcp");
    let complaint = twice.complains_of("--check");
    assert!(complaint.contains("\"none\" stands alone"), "{complaint}");
    let usage = Usage::announce().environment("SIDEKICK_CHECK", "grpc");
    usage.complains_of("--check");
    let usage = Usage::announce_all().environment("SIDEKICK_FALL", "x");
    usage.complains_of("--fall");
}

#[test]
fn good_checks_go_to_work() {
    let all = [
        ("--check", "redis"),
        ("--check-interval", "10"),
        ("--check-timeout", "100ms"),
        ("--rise", "2"),
        ("--fall", "100"),
    ];
    for usage in [Usage::announce(), Usage::announce_all(), Usage::explain()] {
        let options = all.iter();
        let usage = options.fold(usage, |usage, (name, value)| usage.with(name, value));
        usage.word("--check=http:/health?a,b").goes_to_work();
    }
    let usage = Usage::announce().environment("SIDEKICK_CHECK", " tcp  redis ");
    usage.goes_to_work();
    // What checks nothing asks no port.
    let usage = Usage::announce().with("--port", "53/udp");
    usage.with("--check", "none").goes_to_work();
}
