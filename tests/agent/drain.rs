//! An instance whose key goes: no new connections at once, and its old ones for a while.

use sidekick_harness::agent::*;
use std::time::Instant;

/// A new connection goes to no instance that is leaving after so long.
const AT_ONCE: std::time::Duration = secs(1);

both_ways! {
    a_key_that_blinks_for_200_ms_cuts_no_connection
    a_deleted_instance_takes_no_new_connection_and_its_old_ones_end_after_the_timeout
    connections_in_an_old_worker_end_after_the_timeout_too
}

/// `redis` with a and b, and a connection to each.
struct Stage {
    scene: Scene,
    a: Backend,
    b: Backend,
    to_a: Connection,
    to_b: Connection,
}

impl Stage {
    async fn start(way: Way, arguments: &[&str]) -> Stage {
        let scene = Scene::start(way, arguments).await;
        let (a, b) = (Backend::start("a").await, Backend::start("b").await);
        scene.put("redis", "a", &a.value()).await;
        scene.put("redis", "b", &b.value()).await;
        let both = [
            ("redis/a", a.port.to_string()),
            ("redis/b", b.port.to_string()),
        ];
        scene.serves(&both).await;
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
        for _ in 0..10 {
            assert_eq!(Connection::dial(self.scene.port).await.unwrap().1, "b");
        }
    }
}

/// As after a restart of the announcer, a lost lease, a withdrawal before the stop.
async fn a_key_that_blinks_for_200_ms_cuts_no_connection(way: Way) {
    let mut stage = Stage::start(way, &["--drain-timeout=30s"]).await;
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
    way: Way,
) {
    let mut stage = Stage::start(way, &["--drain-timeout=4s"]).await;
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
    assert!(stage.to_a.lives().await, "an old connection was cut");
    stage.to_a.ends_within(secs(6)).await;
    let took = deleted.elapsed();
    assert!(
        (secs(4)..secs(6)).contains(&took),
        "it ended after {took:?}"
    );
    stage.shows(None).await;
    assert!(stage.to_b.lives().await);
    // With none but instances that are leaving there is none to serve.
    stage.scene.delete("redis", "b").await;
    eventually(PATIENCE, "clients are refused", async || {
        Connection::dial(stage.scene.port).await.is_none()
    })
    .await;
    assert!(stage.to_b.lives().await, "an old connection was cut");
}

async fn connections_in_an_old_worker_end_after_the_timeout_too(way: Way) {
    let mut stage = Stage::start(way, &["--drain-timeout=8s"]).await;
    let deleted = Instant::now();
    stage.scene.delete("redis", "a").await;
    stage.shows(Some(" drain")).await;
    // A reload while a is leaving: what is new has it draining as well.
    let port = free_port();
    let value = format!(r#"{{"host":"10.255.255.1","port":{port}}}"#);
    stage.scene.put("web", "i", &value).await;
    let servers = Servers::from([
        ("redis/a".to_owned(), format!("{} drain", stage.a.port)),
        ("redis/b".to_owned(), stage.b.port.to_string()),
        ("web/i".to_owned(), port.to_string()),
    ]);
    stage.scene.serves_all(&servers).await;
    stage.all_dial_b().await;
    assert_eq!(stage.scene.old_workers().await, 1);
    assert!(stage.to_a.lives().await, "an old connection was cut");
    stage.to_a.ends_within(secs(10)).await;
    let took = deleted.elapsed();
    assert!(
        (secs(8)..secs(10)).contains(&took),
        "it ended after {took:?}"
    );
    assert!(stage.to_b.lives().await);
}

/// Nothing comes back from there; a connection that hangs would hang for all of the timeout.
#[tokio::test]
async fn connections_to_an_instance_that_left_end_when_haproxys_check_has_it_down() {
    let mut stage = Stage::start(Way::Supervised, &["--drain-timeout=1h"]).await;
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
    let mut stage = Stage::start(Way::Supervised, &["--drain-timeout=0"]).await;
    stage.scene.delete("redis", "a").await;
    stage.to_a.ends_within(secs(1)).await;
    stage.shows(None).await;
    assert!(stage.to_b.lives().await);
}

/// What the file says of it: it drains. The new agent finds no key, and gives it the whole timeout.
#[tokio::test]
async fn an_agent_that_is_restarted_ends_what_was_leaving() {
    let mut stage = Stage::start(Way::Attached, &["--drain-timeout=4s"]).await;
    stage.scene.delete("redis", "a").await;
    stage.shows(Some(" drain")).await;
    stage.scene.kill_agent().await;
    stage.scene.start_agent();
    stage.to_a.ends_within(secs(10)).await;
    stage.shows(None).await;
    assert!(stage.to_b.lives().await);
}
