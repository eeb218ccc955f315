//! `make bench BENCH=all`: `announce --all` with 1, 100 and 1,000 keys on one host. Real containers up
//! to 100; for 1,000 a stand-in for Docker's API, which answers at once, as no engine would with so
//! many. Prints; asserts nothing about speed.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

use etcd_client::{EventType, WatchOptions};
use futures_util::{StreamExt, stream};
use sidekick_harness::bench::usage::{self, Usage};
use sidekick_harness::bench::{Samples, header};
use sidekick_harness::{Engine, Etcd, Idle, Sidekick, StandIn, eventually, secs};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Rounds of a death and a start among the others.
const ROUNDS: u16 = 30;
/// Rounds of announcing all and withdrawing all.
const FEW: usize = 5;
/// How many intervals the steady state is looked at, and how long one is.
const INTERVALS: u32 = 10;
const INTERVAL: u32 = 2;
const TTL: u32 = 2 * INTERVAL;

const HOST: &str = "worker-1.test";

/// Two threads: the stand-in answers while the bench looks.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (cores, load) = usage::machine();
    println!(
        "sidekick announce --all {}, {cores} cores, load {load}, one etcd member, loopback\n",
        env!("CARGO_PKG_VERSION")
    );
    println!("{}", header());
    let engine = Engine::start().await;
    let mut containers = Vec::new();
    for count in [1, 100] {
        let missing = containers.len()..count;
        let run = |number: usize| {
            let run = engine.container(&format!("real-{number}")).publish("6379");
            run.label("sidekick.service=real").run()
        };
        let new: Vec<_> = stream::iter(missing.map(run)).buffered(4).collect().await;
        containers.extend(new);
        measure(&format!("{count} real"), count, &engine.host(), None).await;
    }
    drop(containers);
    drop(engine);
    for count in [1, 100, 1000] {
        let docker = StandIn::start();
        (0..count).for_each(|number| docker.run(number));
        let title = format!("{count} (stand-in)");
        measure(&title, count.into(), &docker.host(), Some(&docker)).await;
    }
    deaths_at_once().await;
    println!("\n(stand-in): Docker's API without an engine, which answers at once.");
}

/// Everything about one host with so many keys.
async fn measure(title: &str, count: usize, docker: &str, stand_in: Option<&StandIn>) {
    let etcd = Etcd::start().await;
    let keys = Keys::record(&etcd).await;
    let announce = || {
        let announce = Sidekick::announce_all().etcd(&etcd).host(HOST);
        announce.option("--docker-host", docker)
    };
    let mut all = Samples::named(&format!("{title}: announce all"), "");
    let mut none = Samples::named(&format!("{title}: withdraw all"), "");
    let mut transactions = 0;
    for _ in 0..FEW {
        let (before, begun) = (etcd.asked("Txn").await, Instant::now());
        let mut sidekick = announce().spawn();
        all.add(keys.reach(count, begun).await);
        transactions = etcd.asked("Txn").await - before;
        let begun = Instant::now();
        sidekick.term();
        none.add(keys.reach(0, begun).await);
        sidekick.wait_exit(secs(5)).await;
    }
    println!("{all}\n{none}");
    let sidekick = announce().times(TTL, INTERVAL).spawn();
    keys.reach(count, Instant::now()).await;
    if let Some(docker) = stand_in {
        one_among_them(title, docker, &etcd).await;
    }
    steady(title, &etcd, &sidekick, transactions).await;
}

/// One container's death and start among the others.
async fn one_among_them(title: &str, docker: &StandIn, etcd: &Etcd) {
    let mut gone = Samples::named(&format!("{title}: one dies → key gone"), "");
    let mut back = Samples::named(&format!("{title}: one starts → key there"), "");
    let key = StandIn::key(0, HOST);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        docker.die(0);
        until(async || etcd.get(&key).await.is_none()).await;
        gone.add(begun.elapsed());
        let begun = Instant::now();
        docker.run(0);
        until(async || etcd.get(&key).await.is_some()).await;
        back.add(begun.elapsed());
    }
    println!("{gone}\n{back}");
}

/// A thousand first processes are killed at once, and nothing but the kernel tells of it. Counted from the last death, for the
/// kernel takes its time to end so many pid namespaces.
async fn deaths_at_once() {
    const COUNT: u16 = 1000;
    let title = format!("{COUNT} (stand-in): die at once → keys gone");
    let mut gone = Samples::named(&title, "");
    for _ in 0..FEW {
        let (etcd, docker) = (Etcd::start().await, StandIn::start());
        let keys = Keys::record(&etcd).await;
        let processes: Vec<_> = (0..COUNT).map(|_| Idle::init()).collect();
        for (number, process) in (0..).zip(&processes) {
            docker.run_as(number, process);
        }
        let announce = Sidekick::announce_all().etcd(&etcd).host(HOST);
        let announce = announce.option("--docker-host", &docker.host());
        // What sidekick.service gives it.
        let limited = announce.within(&["prlimit", "--nofile=16384:16384"].map(str::to_owned));
        let sidekick = limited.option("--log-level", "debug").spawn();
        keys.reach(COUNT.into(), Instant::now()).await;
        let known = "its death is known by the kernel";
        until(async || sidekick.times_logged(known) == usize::from(COUNT)).await;
        docker.keep_silent();
        processes.iter().for_each(Idle::kill);
        until(async || processes.iter().all(Idle::is_dead)).await;
        gone.add(keys.reach(0, Instant::now()).await);
    }
    println!("{gone}");
}

/// What it costs while nothing changes.
async fn steady(title: &str, etcd: &Etcd, sidekick: &Sidekick, transactions: u64) {
    let look = async || {
        let asked = (etcd.asked("LeaseKeepAlive").await, etcd.asked("Txn").await);
        (asked, etcd.revision().await, Usage::of(sidekick.pid()))
    };
    // Not in the same moment as a renewal.
    let (asked, _, _) = look().await;
    until(async || look().await.0.1 > asked.1).await;
    let begun = Instant::now();
    until(async || begun.elapsed() >= Duration::from_millis(500)).await;
    let ((renewals, reads), revision, before) = look().await;
    let begun = Instant::now();
    until(async || begun.elapsed() >= secs((INTERVAL * INTERVALS).into())).await;
    let ((renewals_after, reads_after), revision_after, after) = look().await;
    let per_interval = |n: u64| n as f64 / f64::from(INTERVALS);
    let per_ttl = |n: u64| per_interval(n) * f64::from(TTL / INTERVAL);
    println!(
        "  {title}: {:.1} renewals per TTL; per interval {:.1} reads of {} keys at most; {} writes; {transactions} \
         transactions to announce all; {} KiB resident, {} KiB at its peak; {:.2} ms of CPU per interval\n",
        per_ttl(renewals_after - renewals),
        per_interval(reads_after - reads),
        sidekick::announce::lease::protocol::MAX_OPS,
        revision_after - revision,
        after.resident,
        after.peak,
        (after.cpu - before.cpu).as_secs_f64() * 1000.0 / f64::from(INTERVALS),
    );
}

/// Looks as fast as it can.
async fn until(mut look: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !look().await {
        assert!(begun.elapsed() < secs(60), "it never comes true");
        tokio::task::yield_now().await;
    }
}

/// How many keys stand in etcd, as a watch tells it, and since when.
struct Keys {
    now: Arc<Mutex<(usize, Instant)>>,
}

impl Keys {
    async fn record(etcd: &Etcd) -> Keys {
        let options = Some(WatchOptions::new().with_prefix());
        let mut client = etcd.client().watch_client();
        let mut watch = client.watch("/services/", options).await.expect("a watch");
        watch.message().await.expect("a watch").expect("a watch");
        let now = Arc::new(Mutex::new((0, Instant::now())));
        let counted = Arc::clone(&now);
        tokio::spawn(async move {
            while let Ok(Some(answer)) = watch.message().await {
                let mut now = counted.lock().expect("no thread panics with it");
                for event in answer.events() {
                    match event.event_type() {
                        EventType::Put => now.0 += 1,
                        EventType::Delete => now.0 -= 1,
                    }
                    now.1 = Instant::now();
                }
            }
        });
        Keys { now }
    }

    /// Waits until there are so many; returns how long that took since `begun`.
    async fn reach(&self, count: usize, begun: Instant) -> Duration {
        let now = || *self.now.lock().expect("no thread panics with it");
        eventually(
            secs(60),
            format!("{count} keys stand in etcd"),
            async || {
                let there = now().0;
                if there == count {
                    Ok(())
                } else {
                    Err(there.to_string())
                }
            },
        )
        .await;
        now().1.saturating_duration_since(begun)
    }
}
