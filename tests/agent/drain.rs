//! An instance whose key goes: no new connections at once, and its old ones for a while.

use sidekick_harness::agent::*;
use std::time::{Duration, Instant};

/// A new connection goes to no instance that is leaving after so long.
const AT_ONCE: Duration = secs(1);

both_ways! {
    a_key_that_blinks_for_200_ms_cuts_no_connection
    a_deleted_instance_takes_no_new_connection_and_its_old_ones_end_after_the_timeout
    connections_in_an_old_worker_end_after_the_timeout_too
}

/// `redis` with a and b, and a connection to each.
struct Stage {
    scene: AgentScene,
    a: Backend,
    b: Backend,
    to_a: Connection,
    to_b: Connection,
}

impl Stage {
    async fn start(mode: HaproxyMode, arguments: &[&str]) -> Stage {
        let scene = AgentScene::start(mode, arguments).await;
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        scene.put("redis", "a", &a.value()).await;
        scene.put("redis", "b", &b.value()).await;
        scene
            .serves(&[("redis/a", a.port), ("redis/b", b.port)])
            .await;
        let to_a = Connection::to_backend(scene.port, "a").await;
        let to_b = Connection::to_backend(scene.port, "b").await;
        Stage {
            scene,
            a,
            b,
            to_a,
            to_b,
        }
    }

    /// HAProxy's servers are b, and a in that state; `None`: it isn't there.
    async fn shows(&self, a: Option<&str>) {
        let mut servers = Servers::from([("redis/b".to_owned(), self.b.port.to_string())]);
        if let Some(state) = a {
            servers.insert("redis/a".to_owned(), format!("{}{state}", self.a.port));
        }
        self.scene.serves_all(&servers).await;
    }

    async fn all_dial_b(&self) {
        Connection::only_to(self.scene.port, "b").await;
    }

    /// The connection to a ends within two seconds after `timeout` since then, and the one to b lives.
    async fn a_ends_after(&mut self, timeout: Duration, since: Instant) {
        assert!(self.to_a.lives().await, "an old connection was cut");
        self.to_a.ends_within(timeout + secs(2)).await;
        let took = since.elapsed();
        let range = timeout..timeout + secs(2);
        assert!(range.contains(&took), "it ended after {took:?}");
        assert!(self.to_b.lives().await);
    }
}

/// As after a restart of the announcer, a lost lease, a withdrawal before the stop.
async fn a_key_that_blinks_for_200_ms_cuts_no_connection(mode: HaproxyMode) {
    let mut stage = Stage::start(mode, &["--drain-timeout=30s"]).await;
    for _ in 0..3 {
        stage.scene.delete("redis", "a").await;
        throughout(millis(200), "a carries on", async || {
            stage.to_a.lives().await
        })
        .await;
        let value = stage.a.value();
        stage.scene.put("redis", "a", &value).await;
        stage.shows(Some("")).await;
    }
    assert!(stage.to_a.lives().await && stage.to_b.lives().await);
    drop(Connection::to_backend(stage.scene.port, "a").await);
}

async fn a_deleted_instance_takes_no_new_connection_and_its_old_ones_end_after_the_timeout(
    mode: HaproxyMode,
) {
    let mut stage = Stage::start(mode, &["--drain-timeout=4s"]).await;
    let deleted = Instant::now();
    stage.scene.delete("redis", "a").await;
    let a = format!("{} drain", stage.a.port);
    becomes(AT_ONCE, "a's state", Some(a), async || {
        stage.scene.servers().await.remove("redis/a")
    })
    .await;
    stage.all_dial_b().await;
    stage.shows(Some(" drain")).await;
    stage.scene.file_boots().await;
    stage.a_ends_after(secs(4), deleted).await;
    stage.shows(None).await;
    // Where all instances are leaving, clients are refused.
    stage.scene.delete("redis", "b").await;
    eventually(PATIENCE, "clients are refused", async || {
        Connection::dial(stage.scene.port).await.is_none()
    })
    .await;
    assert!(stage.to_b.lives().await, "an old connection was cut");
}

async fn connections_in_an_old_worker_end_after_the_timeout_too(mode: HaproxyMode) {
    let mut stage = Stage::start(mode, &["--drain-timeout=8s"]).await;
    let deleted = Instant::now();
    stage.scene.delete("redis", "a").await;
    stage.shows(Some(" drain")).await;
    // After a reload while a is leaving, a drains in the new worker as well.
    let port = free_port();
    stage.scene.put("web", "i", &elsewhere(port)).await;
    let a = format!("{} drain", stage.a.port);
    let (b, web) = (stage.b.port.to_string(), port.to_string());
    let servers = [("redis/a", a), ("redis/b", b), ("web/i", web)];
    stage.scene.serves(&servers).await;
    stage.all_dial_b().await;
    assert_eq!(stage.scene.old_workers().await, 1);
    stage.a_ends_after(secs(8), deleted).await;
}

/// A dead instance answers no more: its connections would hang for the whole timeout.
#[tokio::test]
async fn connections_to_an_instance_that_left_end_when_haproxys_check_has_it_down() {
    let mut stage = Stage::start(Supervised, &["--drain-timeout=1h"]).await;
    stage.scene.delete("redis", "a").await;
    stage.shows(Some(" drain")).await;
    assert!(stage.to_a.lives().await, "an old connection was cut");
    stage.a.stops_listening();
    stage.to_a.ends_within(secs(10)).await;
    stage.shows(None).await;
    assert!(stage.to_b.lives().await);
}

#[tokio::test]
async fn with_a_drain_timeout_of_0_connections_end_with_their_key() {
    let mut stage = Stage::start(Supervised, &["--drain-timeout=0"]).await;
    stage.scene.delete("redis", "a").await;
    stage.to_a.ends_within(secs(1)).await;
    stage.shows(None).await;
    assert!(stage.to_b.lives().await);
}

/// In the file the server drains. The new agent finds no key, and gives the server the whole timeout.
#[tokio::test]
async fn an_agent_that_is_restarted_ends_what_was_leaving() {
    let mut stage = Stage::start(Attached, &["--drain-timeout=4s"]).await;
    stage.scene.delete("redis", "a").await;
    stage.shows(Some(" drain")).await;
    stage.scene.kill_agent().await;
    stage.scene.start_agent();
    stage.to_a.ends_within(secs(10)).await;
    stage.shows(None).await;
    assert!(stage.to_b.lives().await);
}
