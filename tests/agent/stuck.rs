//! A control loop that is stuck, while the listener's thread runs.

use crate::listen::started;
use sidekick_harness::HeldThread;
use sidekick_harness::agent::*;
use sidekick_harness::http::{answers, get};
use std::time::Instant;
use tokio::process::Command;

/// From when on a loop counts as stuck (src/http/server.rs).
const STUCK: std::time::Duration = secs(30);

#[tokio::test]
async fn healthz_is_red_while_the_control_loop_is_stuck() {
    let (scene, address) = started(Supervised).await;
    let healthcheck = async || {
        let mut healthcheck = Command::new(&scene.program);
        output_of(healthcheck.args(["healthcheck", &address.to_string()])).await
    };
    let began = Instant::now();
    let held = HeldThread::of(scene.agent_pid());
    let red = async || {
        let answer = get(address, "/healthz").await?;
        (answer.status != 200).then_some(answer)
    };
    let answer = eventually(STUCK + secs(5), "/healthz is red", red).await;
    let after = began.elapsed();
    // The loop came round up to 1 s before it was held.
    assert!(after > STUCK - secs(2), "{after:?}");
    assert_eq!(answer.status, 503);
    assert!(
        answer.body.starts_with("the loop came round 30 s ago"),
        "{answer:?}"
    );
    let (out, _, code) = healthcheck().await;
    assert!(out.starts_with("the loop came round 3"), "{out}");
    assert_eq!(code, Some(1));
    // The listener has a thread of its own: all else answers.
    for path in ["/metrics", "/"] {
        answers(address, path, 200).await;
    }
    drop(held);
    answers(address, "/healthz", 200).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene.serves_redis(&[&a]).await;
}
