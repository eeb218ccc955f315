//! Workers that a reload left behind, each with its connections.

use sidekick_harness::agent::*;
use std::time::Instant;

both_ways! {
    an_instance_that_ends_loses_its_connections_in_old_workers_too
    held_connections_make_the_pauses_between_reloads_grow
}

async fn an_instance_that_ends_loses_its_connections_in_old_workers_too(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &["--hold=0"]).await;
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    scene.put("redis", "a", &a.value()).await;
    scene.put("redis", "b", &b.value()).await;
    let redis = [("redis/a", &a), ("redis/b", &b)];
    let redis = redis.map(|(name, it)| (name.to_owned(), it.port.to_string()));
    let mut expected = Servers::from(redis);
    scene.serves_all(&expected).await;
    let mut to_a = Vec::new();
    let mut to_b = Vec::new();
    // One of each in each of three workers.
    for service in ["one", "two", "three"] {
        to_a.push(Connection::to_backend(scene.port, "a").await);
        to_b.push(Connection::to_backend(scene.port, "b").await);
        if service != "three" {
            let port = free_port();
            scene.put(service, "i", &elsewhere(port)).await;
            expected.insert(format!("{service}/i"), port.to_string());
            scene.serves_all(&expected).await;
        }
    }
    // The worker of before the agent's first reload has none, and may take a moment to end.
    let old = async || scene.old_workers().await;
    becomes(PATIENCE, "how many old workers live", 2, old).await;
    scene.delete("redis", "a").await;
    for mut connection in to_a {
        connection.ends_within(secs(1)).await;
    }
    for mut connection in to_b {
        assert!(connection.lives().await, "a connection to b was cut");
    }
}

async fn held_connections_make_the_pauses_between_reloads_grow(mode: HaproxyMode) {
    let scene = AgentScene::start(mode, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "a", &a.value()).await;
    let mut expected = Servers::from([("redis/a".to_owned(), a.port.to_string())]);
    scene.serves_all(&expected).await;
    let mut kept = vec![Connection::to_backend(scene.port, "a").await];
    let (begun, before) = (Instant::now(), scene.reloads().await);
    let mut reloads = 0;
    // Services come one after another, and each worker gets a connection.
    for n in 0.. {
        let port = free_port();
        scene.put(&format!("s{n}"), "i", &elsewhere(port)).await;
        expected.insert(format!("s{n}/i"), port.to_string());
        let due = begun + millis(500) * (n + 1);
        while Instant::now() < due {
            let now = scene.reloads().await - before;
            if now > reloads {
                reloads = now;
                kept.push(Connection::to_backend(scene.port, "a").await);
            }
            tokio::task::yield_now().await;
        }
        if begun.elapsed() > secs(12) {
            break;
        }
    }
    // After 0, 1, 3 and 7 s, and the next after 15.
    assert!((3..=4).contains(&reloads), "{reloads} reloads in 12 s");
    // One reload takes all that came meanwhile.
    scene.serves_all(&expected).await;
    for connection in &mut kept {
        assert!(connection.lives().await, "a connection was cut");
    }
    assert!(scene.config().contains("mworker-max-reloads"));
}
