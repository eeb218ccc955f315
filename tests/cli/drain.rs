//! Draining: `announce --drain`, `drain`, `undrain` and `wait`.

use super::usage::Usage;

#[test]
fn a_drain_is_a_duration_and_ready_one_of_two_words() {
    for duration in ["soon", "1 potato", "-5"] {
        Usage::announce()
            .word(&format!("--drain={duration}"))
            .complains_of("--drain");
    }
    Usage::announce()
        .with("--ready", "sometime")
        .complains_of("--ready");
    for prefix in ["sidekick", "/side kick", "//", "/a/../b"] {
        Usage::announce()
            .with("--control-prefix", prefix)
            .complains_of("--control-prefix");
        Usage::list()
            .with("--control-prefix", prefix)
            .complains_of("--control-prefix");
        Usage::explain()
            .with("--control-prefix", prefix)
            .complains_of("--control-prefix");
    }
}

#[test]
fn drain_and_undrain_take_an_instance_of_a_service() {
    for job in ["drain", "undrain"] {
        for instance in ["redis", "redis/", "/redis@1", "a/b/c", "a b/c", "redis/.."] {
            let usage = Usage::instance(&[job, instance]);
            usage.complains_of("SERVICE/INSTANCE");
        }
    }
    let drain = || Usage::instance(&["drain", "redis/redis@1"]);
    for duration in ["soon", "1s", "0", "2500ms"] {
        drain().with("--for", duration).complains_of("--for");
    }
    let reason = "ä".repeat(201);
    let complaint = drain().with("--reason", &reason).complains_of("--reason");
    let words = "has 201 characters; 200 are the most";
    assert!(complaint.contains(words), "{complaint}");
    drain().with("--timeout", "5s").complains_of("--wait");
    drain()
        .word("--wait")
        .with("--timeout", "soon")
        .complains_of("--timeout");
}

#[test]
fn wait_takes_a_service_and_how_many_of_it() {
    for target in ["", "a/b/c", "a b", "redis/"] {
        Usage::instance(&["wait", target]).complains_of("SERVICE");
    }
    let wait = || Usage::instance(&["wait", "redis"]);
    for count in ["0", "-1", "two"] {
        wait()
            .word(&format!("--count={count}"))
            .complains_of("--count");
    }
    Usage::instance(&["wait", "redis/redis@1"])
        .with("--count", "2")
        .complains_of("--count");
    wait().with("--timeout", "soon").complains_of("--timeout");
}
