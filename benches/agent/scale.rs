//! What ten thousand instances cost: a full start, and memory and CPU at rest.

use crate::stage::Stage;
use sidekick_harness::agent::haproxy;
use sidekick_harness::bench::Samples;
use sidekick_harness::bench::usage::Usage;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::time::sleep;

const STARTS: usize = 5;

/// Two of the agent's audits fall into it.
const REST: Duration = Duration::from_secs(60);

/// From the agent's start, with nothing on disk and no HAProxy, until HAProxy has everything. Beside
/// it HAProxy alone, with the finished file. The agent runs in the end.
pub async fn full_start(stage: &mut Stage) {
    let all = stage.table.instances();
    let mut ours = Samples::named("start → all instances served", "sidekick");
    let mut floor = Samples::named("", "HAProxy");
    for _ in 0..STARTS {
        _ = std::fs::remove_file(stage.scene.file());
        let begun = Instant::now();
        stage.scene.start_agent();
        stage.has(all).await;
        ours.add(begun.elapsed());
        // Its file is complete when it has ended.
        stage.stop_agent().await;

        let begun = Instant::now();
        let mut haproxy = Command::new(haproxy())
            .arg("-db")
            .arg("-f")
            .arg(stage.scene.file())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("haproxy can be started");
        stage.has(all).await;
        floor.add(begun.elapsed());
        haproxy.kill().await.expect("haproxy can be ended");
    }
    stage.scene.start_agent();
    stage.has(all).await;
    println!("{ours}\n{floor}");
}

/// Both agents beside each other, with nothing changing.
pub async fn at_rest(stages: [&Stage; 2]) {
    let pids = stages.map(|stage| stage.scene.agent_pid());
    let (before, begun) = (pids.map(Usage::of), Instant::now());
    sleep(REST).await;
    let hours = begun.elapsed().as_secs_f64() / 3600.0;
    let after = pids.map(Usage::of);
    println!("the agent at rest, {} s", REST.as_secs());
    println!(
        "{:<12}{:>16}{:>12}{:>20}",
        "instances", "resident KiB", "peak KiB", "CPU s per hour"
    );
    for ((stage, before), after) in stages.iter().zip(before).zip(after) {
        let cpu = (after.cpu - before.cpu).as_secs_f64() / hours;
        println!(
            "{:<12}{:>16}{:>12}{cpu:>20.1}",
            stage.table.instances(),
            after.resident,
            after.peak
        );
    }
}
