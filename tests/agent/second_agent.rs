//! Two agents that were given the same file or the same HAProxy: the second changes nothing and ends.

use sidekick_harness::agent::*;
use std::process::Output;
use tokio::time::timeout;

both_ways! {
    a_second_agent_on_the_same_file_ends_at_once_and_harms_nothing
    the_lock_of_an_agent_that_was_killed_is_free_at_once
}

/// What a second agent with these arguments printed, and its exit status.
async fn second(scene: &AgentScene, arguments: &[&str]) -> Output {
    let mut second = scene.agent();
    let end = timeout(PATIENCE, second.args(arguments).output()).await;
    end.expect("the second agent goes on beside the first")
        .unwrap()
}

/// It ended with status 1 and one line that names `what` and the first agent.
fn is_told(scene: &AgentScene, second: &Output, what: &str) {
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let first = format!("another agent (process {}) uses {what};", scene.agent_pid());
    assert!(said.contains(&first), "{said}");
}

/// The two reloaded against each other twice a second, and the second's end was that of the first's HAProxy.
async fn a_second_agent_on_the_same_file_ends_at_once_and_harms_nothing(mode: HaproxyMode) {
    let (scene, a) = AgentScene::serving(mode, &[]).await;
    let mut kept = Connection::to_backend(scene.port, "a").await;
    let state = async || {
        (
            scene.master_pid().await,
            scene.reloads().await,
            scene.config(),
        )
    };
    let before = state().await;

    let file = scene.file().display().to_string();
    // Without the lock a second agent would write another fingerprint and another listener.
    let bind = format!("--bind=web=:{}", free_port());
    is_told(&scene, &second(&scene, &[&bind]).await, &file);
    // The same HAProxy from another file.
    let other = scene.dir.path().join("other.cfg").display().to_string();
    let socket = scene.socket().display().to_string();
    let mut through = scene.command("agent");
    through.args(["--haproxy-config", &other, "--stats=off"]);
    through.args(["--haproxy", haproxy()]);
    if mode == Attached {
        through.args(["--haproxy-master", &socket]);
    }
    let through = timeout(PATIENCE, through.output()).await.unwrap().unwrap();
    is_told(&scene, &through, &socket);
    assert!(!std::path::Path::new(&other).exists());
    // A dry run writes nothing, and needs no lock.
    let dry = second(&scene, &["--dry-run"]).await;
    assert_eq!(dry.status.code(), Some(0), "{dry:?}");

    assert_eq!(before, state().await);
    assert!(kept.lives().await);
    scene.serves_redis(&[&a]).await;
}

/// Its HAProxy lives on, and has not inherited the lock.
async fn the_lock_of_an_agent_that_was_killed_is_free_at_once(mode: HaproxyMode) {
    let (mut scene, a) = AgentScene::serving(mode, &[]).await;
    let master = scene.master_pid().await;
    scene.kill_agent().await;
    scene.start_agent();
    scene.put("redis", "redis@2", &a.value()).await;
    scene.serves_redis(&[&a, &a]).await;
    assert_eq!(scene.master_pid().await, master);
    assert_eq!(scene.stop_agent().await, Some(0));
}
