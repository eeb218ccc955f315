//! The files that call themselves pure are pure: no runtime, no client, no log, no file, no
//! environment, no clock.

// A scene that can't be set is a failed test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, missing_docs)]

use std::path::Path;

/// Every file whose first lines say "Pure." (lib.rs tells which folders ought to).
const ROOMS: &[&str] = &[
    "agent/haproxy/base_config.rs",
    "agent/haproxy/bind_errors.rs",
    "agent/haproxy/health.rs",
    "agent/haproxy/parse.rs",
    "agent/haproxy/process_list.rs",
    "agent/haproxy/render.rs",
    "agent/haproxy/running_config.rs",
    "agent/haproxy/runtime.rs",
    "agent/haproxy/server_defaults.rs",
    "agent/haproxy/sessions.rs",
    "agent/haproxy/shared_text.rs",
    "agent/model/allow.rs",
    "agent/model/backends.rs",
    "agent/model/bind.rs",
    "agent/model/bind_backoff.rs",
    "agent/model/host_addresses.rs",
    "agent/model/listeners.rs",
    "agent/model/membership.rs",
    "agent/model/membership/service_history.rs",
    "agent/reconcile/reload_pause.rs",
    "agent/reconcile/report.rs",
    "agent/resolver/lookups.rs",
    "agent/schedule.rs",
    "agent/status.rs",
    "announce/docker/inspect_queue.rs",
    "announce/lease/audit.rs",
    "announce/lease/batch.rs",
    "announce/lease/grant.rs",
    "announce/lease/history.rs",
    "announce/lease/key_state.rs",
    "announce/lease/ownership.rs",
    "announce/lease/protocol.rs",
    "announce/lease/registrar.rs",
    "announce/lease/shutdown_report.rs",
    "announce/policy/caveat.rs",
    "announce/policy/claims.rs",
    "announce/policy/container.rs",
    "announce/policy/eligibility.rs",
    "announce/policy/host_source.rs",
    "announce/policy/labels.rs",
    "announce/policy/mod.rs",
    "announce/policy/reason.rs",
    "announce/status.rs",
    "announce/verdict_log.rs",
    "catalog.rs",
    "catalog/instance.rs",
    "catalog/limits.rs",
    "catalog/quarantine.rs",
    "cli/ignored.rs",
    "config.rs",
    "endpoint/host.rs",
    "endpoint/key.rs",
    "endpoint/mod.rs",
    "endpoint/protocol.rs",
    "endpoint/since.rs",
    "log_throttle.rs",
    "retry.rs",
    "watchdog.rs",
];

const FORBIDDEN: &[&str] = &[
    "tokio",
    "bollard",
    "etcd_client",
    "tracing",
    "std::fs",
    "std::env",
    "std::process",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant",
    "SystemTime",
    "clock::now",
    "fastrand",
    "println!",
    "async ",
    ".await",
];

fn source() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))
}

fn code(room: &str) -> String {
    let path = source().join(room);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    // Comments may speak of anything, and tests may use anything.
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn pure_rooms_hold_no_outside_world() {
    for room in ROOMS {
        let code = code(room);
        for word in FORBIDDEN {
            assert!(!code.contains(word), "{room} is pure and mentions {word}");
        }
    }
}

/// Every room below that folder of src, by its path from src.
fn rooms(folder: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    let mut folders = vec![source().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src is readable") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let room = path.strip_prefix(source()).expect("below src");
                rooms.push(room.to_string_lossy().into_owned());
            }
        }
    }
    rooms.sort();
    rooms
}

#[test]
fn every_room_that_calls_itself_pure_is_on_the_list_and_the_other_way_round() {
    let calls_itself_pure = |room: &String| {
        let text = std::fs::read_to_string(source().join(room)).expect("a source file");
        let header = text.lines().take_while(|l| l.starts_with("//!"));
        header.collect::<String>().contains("Pure")
    };
    let calling: Vec<_> = rooms("").into_iter().filter(calls_itself_pure).collect();
    let mut listed: Vec<_> = ROOMS.iter().map(ToString::to_string).collect();
    listed.sort();
    assert_eq!(calling, listed);
}

#[test]
fn the_two_jobs_never_name_each_other() {
    for (job, other) in [("announce", "agent"), ("agent", "announce")] {
        for room in rooms(job) {
            let names_it = code(&room).contains(&format!("{other}::"));
            assert!(!names_it, "{room} names {other}");
        }
    }
}
