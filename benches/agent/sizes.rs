//! What one change costs as the catalog grows: its way into HAProxy, and the processor time of the agent's
//! control loop and of HAProxy's worker. `SIDEKICK_BENCH_BASELINE=/path/to/an/older/sidekick` puts another build
//! beside this one, in the same run.

use crate::stage::{Stage, Table};
use crate::view::View;
use sidekick_harness::agent::Backend;
use sidekick_harness::bench::Samples;
use sidekick_harness::bench::usage::Usage;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often an instance comes and goes.
const ROUNDS: usize = 200;

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(25);

const PATIENCE: Duration = Duration::from_secs(20);

/// In one service, up to the most servers that a backend takes, and in many.
const TABLES: [Table; 7] = [
    Table {
        services: 1,
        each: 4,
    },
    Table {
        services: 1,
        each: 1_000,
    },
    Table {
        services: 1,
        each: 4_000,
    },
    Table {
        services: 5,
        each: 2,
    },
    Table {
        services: 100,
        each: 10,
    },
    Table {
        services: 1_000,
        each: 10,
    },
    Table {
        services: 1_500,
        each: 10,
    },
];

pub async fn measure() {
    println!(
        "an instance comes and goes\n{:<38}{:<10}{:>6}{:>10}{:>10}{:>10}{:>12}{:>12}",
        "instances; milliseconds", "", "n", "median", "p99", "max", "agent CPU", "worker CPU"
    );
    let baseline = std::env::var_os("SIDEKICK_BENCH_BASELINE").map(PathBuf::from);
    for table in TABLES {
        if let Some(program) = &baseline {
            let mut stage = Stage::set(table).await;
            stage.scene.program.clone_from(program);
            one(stage, "baseline").await;
        }
        one(Stage::set(table).await, "sidekick").await;
    }
}

async fn one(mut stage: Stage, who: &'static str) {
    stage.scene.start_agent();
    stage.has(stage.table.instances()).await;
    let backend = Backend::start("measured").await;
    let mut view = stage.view();
    let (key, value) = ("/services/service0000/measured", backend.value());
    let mut etcd = stage.etcd.clone();
    let mut samples = Samples::named(&stage.table.to_string(), who);
    // What follows a start is over: the file's check, the first looks.
    sleep(Duration::from_secs(3)).await;
    let worker = stage.haproxies().await[1];
    let pids = [stage.scene.agent_pid(), worker];
    let before = pids.map(|pid| Usage::of(pid).cpu);
    for _ in 0..ROUNDS {
        sleep(PAUSE).await;
        etcd.put(key, value.as_str(), None).await.expect("a put");
        let begun = Instant::now();
        until(&mut view, true);
        samples.add(begun.elapsed());
        sleep(PAUSE).await;
        etcd.delete(key, None).await.expect("a delete");
        until(&mut view, false);
    }
    let spent = pids.map(|pid| Usage::of(pid).cpu);
    let each = |i: usize| (spent[i] - before[i]).as_secs_f64() * 1000.0 / (2 * ROUNDS) as f64;
    println!("{}{:>12.2}{:>12.2}", samples.short(), each(0), each(1));
    stage.stop_agent().await;
}

/// Waits until the measured server takes connections, or takes none. Asks for that server alone: a list of
/// all would cost more than the change.
fn until(view: &mut View, takes: bool) {
    let begun = Instant::now();
    loop {
        let answer = view.tell("get weight service0000/measured");
        let answer = answer.expect("HAProxy answers");
        let weight = answer.split_whitespace().next().unwrap_or_default();
        if weight.parse().is_ok_and(|weight: u32| weight > 0) == takes {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer}");
        std::thread::sleep(Duration::from_micros(100));
    }
}
