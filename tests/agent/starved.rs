//! An agent that is kept busy, or that gets little processor time, falls behind nowhere.

use sidekick_harness::agent::*;
use std::cell::Cell;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

/// The pause between two puts: far less than between two looks of the agent at HAProxy.
const STEP: Duration = Duration::from_millis(20);

/// The limit of promise 7.
const LIMIT: Duration = secs(5);

both_ways! {
    a_worker_replaced_by_hand_under_constant_puts_is_noticed
}

/// Busy processes on the processor that the agent has.
const HOGS: usize = 6;

/// Keys that are put again as they are, without a pause: there is nothing to tell HAProxy.
async fn a_worker_replaced_by_hand_under_constant_puts_is_noticed(mode: HaproxyMode) {
    let (scene, a) = AgentScene::serving(mode, &[]).await;
    let puts = Cell::new(0);
    let constantly = async {
        loop {
            puts.set(puts.get() + 1);
            scene.put("redis", "redis@1", &a.value()).await;
            sleep(STEP).await;
        }
    };
    let replaced = async {
        // After its start the agent looks at HAProxy often; two seconds later it no longer does.
        eventually(PATIENCE, "there were many puts", async || puts.get() > 100).await;
        // From the same file without the instance, as an operator might write it.
        let file = scene.config();
        let without = file
            .split_inclusive('\n')
            .filter(|line| !line.contains("server redis::1"));
        std::fs::write(scene.file(), without.collect::<String>()).unwrap();
        let reloads = scene.reloads().await;
        scene.master("reload").await;
        let reloaded = async || scene.reloads().await > reloads;
        eventually(PATIENCE, "HAProxy is reloaded", reloaded).await;
        let since = Instant::now();
        scene.serves_redis(&[&a]).await;
        assert!(since.elapsed() < LIMIT, "{:?}", since.elapsed());
    };
    // Cancel-safe: both end with the test.
    tokio::select! {
        () = constantly => {}
        () = replaced => {}
    }
}

/// The file is checked at a lower priority than the traffic has, but not at one that never gets its turn.
#[tokio::test]
async fn on_a_busy_processor_the_file_follows() {
    let scene = AgentScene::start(Supervised, &[]).await;
    let a = Backend::start("a").await;
    scene.put("redis", "a", &a.value()).await;
    scene.serves(&[("redis/a", a.port)]).await;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let (_, allowed) = status.split_once("Cpus_allowed_list:").unwrap();
    let digits = allowed
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit);
    let first: String = digits.collect();
    // Each ends after so many seconds of processor time, should this test be killed.
    let hog = || {
        let mut hog = Command::new("taskset");
        hog.args(["-c", &first, "sh", "-c"]);
        hog.arg("ulimit -t 60; while :; do :; done");
        hog.kill_on_drop(true).spawn().unwrap()
    };
    let _hogs: Vec<_> = (0..HOGS).map(|_| hog()).collect();
    let pid = scene.agent_pid().to_string();
    let mut pin = Command::new("taskset");
    pin.args(["-acp", &first, &pid]).stdout(Stdio::null());
    assert!(pin.status().await.unwrap().success());
    let b = Backend::start("b").await;
    scene.put("redis", "b", &b.value()).await;
    scene
        .serves(&[("redis/a", a.port), ("redis/b", b.port)])
        .await;
}
