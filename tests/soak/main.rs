//! `make soak`: containers start and die at random under one `announce --all`, for `MINUTES`; what it
//! uses is printed as it goes. `CONTAINERS` and `SEED` are environment variables too. Asserts nothing
//! but that the keys are right in the end.

// A scene that can't be set ends it. The harness is that of tests/real, of which this uses a part.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    missing_docs,
    unreachable_pub,
    unused_imports
)]

#[path = "../real/harness/mod.rs"]
mod harness;

use harness::{Container, Engine, Etcd, Sidekick, eventually, secs};
use std::time::{Duration, Instant};

/// Between two lines of the table.
const SAMPLE: Duration = Duration::from_secs(30);

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok().filter(|text| !text.is_empty());
    given.map_or(default, |text| text.parse().expect(name))
}

#[tokio::main]
async fn main() {
    let (minutes, count) = (number("MINUTES", 10), number("CONTAINERS", 200));
    let seed = number("SEED", fastrand::u64(..1_000_000));
    println!("soak: MINUTES={minutes} CONTAINERS={count} SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (engine, etcd) = tokio::join!(Engine::start(), Etcd::start());
    let mut sidekick = Sidekick::announce_all()
        .etcd(&etcd)
        .docker(&engine)
        .host(Engine::ADDRESS)
        .spawn();
    let began = Instant::now();
    let mut all = Vec::new();
    for number in 0..count {
        let run = engine.container(&format!("redis{number}")).publish("6379");
        all.push((run.label("sidekick.service=redis").run().await, true));
    }
    println!(
        "{count} containers are up after {} s",
        began.elapsed().as_secs()
    );
    eventually(secs(60), "each has a key", async || {
        etcd.keys().await.len() == all.len()
    })
    .await;

    println!(" seconds   events     RSS kB    peak kB   files  threads  log lines  an hour");
    let (began, mut events, mut due) = (Instant::now(), 0, Duration::ZERO);
    let lines_before = sidekick.log().len();
    loop {
        if began.elapsed() >= due {
            tell(&sidekick, began.elapsed(), events, lines_before);
            due += SAMPLE;
        }
        if began.elapsed() >= Duration::from_secs(60 * minutes) {
            break;
        }
        let which = rng.usize(0..all.len());
        let (container, is_up) = &mut all[which];
        turn(container, *is_up).await;
        *is_up = !*is_up;
        events += 1;
    }
    let up = all.iter().filter(|(_, is_up)| *is_up).count();
    eventually(
        secs(30),
        "each that is up has a key, and no other",
        async || etcd.keys().await.len() == up,
    )
    .await;
    let (leaves, revision) = (sidekick.leaves().await, etcd.revision().await);
    println!("{up} are up, with a key each; revision {revision}; a stop took {leaves:?}");
}

async fn turn(container: &Container<'_>, is_up: bool) {
    if is_up {
        container.kill().await;
    } else {
        container.start().await;
    }
}

fn tell(sidekick: &Sidekick, passed: Duration, events: u64, lines_before: usize) {
    let status = String::from_utf8(sidekick.proc("status")).expect("the kernel writes ASCII");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next())
            .unwrap_or("?")
            .to_owned()
    };
    let files = format!("/proc/{}/fd", sidekick.pid());
    let files = std::fs::read_dir(files).expect("sidekick runs").count();
    let lines = sidekick.log().len() - lines_before;
    let hourly = lines as f64 / passed.as_secs_f64().max(1.0) * 3600.0;
    println!(
        "{:8} {events:8} {:>10} {:>10} {files:7} {:>8} {lines:10} {hourly:8.0}",
        passed.as_secs(),
        field("VmRSS:"),
        field("VmHWM:"),
        field("Threads:"),
    );
}
