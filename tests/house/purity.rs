//! The files that call themselves pure are pure: no runtime, no client, no log, no file, no
//! environment, no clock.

use crate::source::files;

/// Every file whose first lines say "Pure." (lib.rs tells which folders ought to).
const ROOMS: &[&str] = &[
    "agent/drain/drain_state.rs",
    "agent/drain/idle_sessions.rs",
    "agent/drain/mod.rs",
    "agent/haproxy/base_config.rs",
    "agent/haproxy/bind_errors.rs",
    "agent/haproxy/file_content.rs",
    "agent/haproxy/health.rs",
    "agent/haproxy/last_speaker.rs",
    "agent/haproxy/parse.rs",
    "agent/haproxy/process_list.rs",
    "agent/haproxy/render.rs",
    "agent/haproxy/running_config.rs",
    "agent/haproxy/runtime.rs",
    "agent/haproxy/server_defaults.rs",
    "agent/haproxy/server_state.rs",
    "agent/haproxy/session_list.rs",
    "agent/haproxy/sessions.rs",
    "agent/model/allow.rs",
    "agent/model/backends.rs",
    "agent/model/backends/last_server.rs",
    "agent/model/bind.rs",
    "agent/model/bind_backoff.rs",
    "agent/model/host_addresses.rs",
    "agent/model/listeners.rs",
    "agent/page.rs",
    "agent/reconcile/reload_pause.rs",
    "agent/reconcile/report.rs",
    "agent/resolver/lookups.rs",
    "agent/schedule.rs",
    "agent/status.rs",
    "announce/counts.rs",
    "announce/docker/inspect_queue.rs",
    "announce/docker/relist.rs",
    "announce/drain/overlay.rs",
    "announce/drain/progress.rs",
    "announce/drain/shutdown_drain.rs",
    "announce/lease/audit.rs",
    "announce/lease/batch.rs",
    "announce/lease/grant.rs",
    "announce/lease/history.rs",
    "announce/lease/key_state.rs",
    "announce/lease/key_state/further.rs",
    "announce/lease/key_waits.rs",
    "announce/lease/ownership.rs",
    "announce/lease/protocol.rs",
    "announce/lease/registrar.rs",
    "announce/lease/registrar/further.rs",
    "announce/lease/registrar/handover.rs",
    "announce/lease/registrar/next_ops.rs",
    "announce/lease/shutdown_report.rs",
    "announce/policy/caveat.rs",
    "announce/policy/check.rs",
    "announce/policy/check_settings.rs",
    "announce/policy/claim_checks.rs",
    "announce/policy/claims.rs",
    "announce/policy/claims/life_so_far.rs",
    "announce/policy/container.rs",
    "announce/policy/eligibility.rs",
    "announce/policy/first_look.rs",
    "announce/policy/host_source.rs",
    "announce/policy/labels.rs",
    "announce/policy/layouts.rs",
    "announce/policy/life.rs",
    "announce/policy/mod.rs",
    "announce/policy/process.rs",
    "announce/policy/reason.rs",
    "announce/policy/redis_reply.rs",
    "announce/policy/refusal.rs",
    "announce/policy/registrator.rs",
    "announce/policy/stop.rs",
    "announce/readiness.rs",
    "announce/policy/target.rs",
    "announce/status.rs",
    "announce/verdict_log.rs",
    "catalog.rs",
    "catalog/instance.rs",
    "catalog/limits.rs",
    "catalog/quarantine.rs",
    "cli/ignored.rs",
    "config.rs",
    "doctor/engine.rs",
    "doctor/etcd.rs",
    "doctor/haproxy.rs",
    "doctor/report.rs",
    "doctor/units.rs",
    "doctor/version.rs",
    "endpoint/control.rs",
    "endpoint/host.rs",
    "endpoint/key.rs",
    "endpoint/mod.rs",
    "endpoint/protocol.rs",
    "endpoint/since.rs",
    "endpoint/status.rs",
    "export/envoy.rs",
    "export/prometheus.rs",
    "http/exposition.rs",
    "http/page.rs",
    "http/page_changes.rs",
    "list/screen.rs",
    "log_throttle.rs",
    "membership.rs",
    "membership/service_history.rs",
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

/// A file without its comments, which may speak of anything, and its tests, which may use anything.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn pure_rooms_hold_no_outside_world() {
    let files = files();
    for room in ROOMS {
        let code = code(
            files
                .get(*room)
                .unwrap_or_else(|| panic!("ROOMS: there is no {room}")),
        );
        for word in FORBIDDEN {
            assert!(
                !code.contains(word),
                "{room} is pure and mentions {word}: move what needs it to a file that is not"
            );
        }
    }
}

#[test]
fn every_room_that_calls_itself_pure_is_on_the_list_and_the_other_way_round() {
    let calls_itself_pure = |text: &str| {
        let header = text.lines().take_while(|line| line.starts_with("//!"));
        header.collect::<String>().contains("Pure")
    };
    let files = files();
    let calling = files.iter().filter(|(_, text)| calls_itself_pure(text));
    let calling: Vec<_> = calling.map(|(room, _)| room.as_str()).collect();
    let mut listed = ROOMS.to_vec();
    listed.sort_unstable();
    assert_eq!(calling, listed);
}

#[test]
fn the_two_jobs_never_name_each_other() {
    for (room, text) in files() {
        for (job, other) in [("announce", "agent"), ("agent", "announce")] {
            let names_it =
                room.starts_with(&format!("{job}/")) && code(&text).contains(&format!("{other}::"));
            assert!(!names_it, "{room} names {other}");
        }
    }
}
