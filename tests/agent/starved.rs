//! Keys that are put again as they are, without a pause: there is nothing to tell HAProxy, and it is looked at
//! all the same.

use sidekick_harness::agent::*;
use std::cell::Cell;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two puts: far less than between two looks.
const STEP: Duration = Duration::from_millis(20);

/// Promise 7.
const LIMIT: Duration = secs(5);

both_ways! {
    a_worker_replaced_by_hand_under_constant_puts_is_noticed
}

async fn a_worker_replaced_by_hand_under_constant_puts_is_noticed(way: Way) {
    let scene = Scene::start(way, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "redis@1", &a.value()).await;
    scene
        .serves(&[("redis/redis::1", a.port.to_string())])
        .await;
    let puts = Cell::new(0);
    let constantly = async {
        loop {
            puts.set(puts.get() + 1);
            scene.put("redis", "redis@1", &a.value()).await;
            sleep(STEP).await;
        }
    };
    let replaced = async {
        // A start is full of looks; two seconds later they are over.
        eventually(PATIENCE, "there were many puts", async || puts.get() > 100).await;
        // From the same file but for the instance, as somebody might write it by hand.
        let ours = scene.config();
        let without = ours
            .lines()
            .filter(|line| !line.contains("server redis::1"));
        let without: String = without.map(|line| format!("{line}\n")).collect();
        std::fs::write(scene.file(), without).unwrap();
        let reloads = scene.reloads().await;
        scene.master("reload").await;
        eventually(PATIENCE, "it is reloaded", async || {
            scene.reloads().await > reloads
        })
        .await;
        let since = Instant::now();
        scene
            .serves(&[("redis/redis::1", a.port.to_string())])
            .await;
        assert!(since.elapsed() < LIMIT, "{:?}", since.elapsed());
    };
    // Cancel-safe: both end with the test.
    tokio::select! {
        () = constantly => {}
        () = replaced => {}
    }
}
