//! `make bench BENCH=agent`: the agent beside the same commands by hand, and beside the article's
//! way, a poll of etcd every five seconds and `haproxy -sf`. Prints; asserts nothing about speed.
//! `cargo bench --features real --bench agent -- latency` (or `load`, `sizes`, `drain`) runs one part of it, `-- agrees` a change's own row alone.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub
)]

mod agrees;
mod article;
mod changes;
mod drain;
mod latency;
mod load;
mod log;
mod scale;
mod sizes;
mod stage;
mod view;

use sidekick_harness::bench::{header, usage};
use stage::{Stage, Table};
use std::time::Instant;

const SMALL: Table = Table {
    services: 2,
    each: 5,
};
const LARGE: Table = Table {
    services: 1000,
    each: 10,
};

// Two threads: HAProxy's clients and backends go on while the bench looks.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let begun = Instant::now();
    let (cores, load) = usage::machine();
    println!(
        "sidekick agent {}, HAProxy {}, {cores} cores, load {load}, one etcd member, loopback\n",
        env!("CARGO_PKG_VERSION"),
        stage::haproxy_version().await
    );
    // Cargo's own `--bench` is among the arguments.
    let part = std::env::args().skip(1).find(|it| !it.starts_with('-'));
    if part.as_deref().is_none_or(|part| part == "latency") {
        latencies_and_rest().await;
    }
    if part.as_deref() == Some("agrees") {
        let small = Stage::start(SMALL).await;
        println!("{SMALL}; one more comes and goes\n{}", header());
        agrees::measure(&small).await;
    }
    if part.as_deref().is_none_or(|part| part == "sizes") {
        sizes::measure().await;
    }
    if part.as_deref().is_none_or(|part| part == "drain") {
        println!("an instance drains\n{}", header());
        drain::measure().await;
    }
    if part.as_deref().is_none_or(|part| part == "load") {
        under_load().await;
    }
    let (_, load) = usage::machine();
    println!("\nload {load} after {:.0} s", begun.elapsed().as_secs_f64());
}

async fn latencies_and_rest() {
    let small = Stage::start(SMALL).await;
    println!("{SMALL}; one more comes and goes\n{}", header());
    latency::measure(&small).await;
    agrees::measure(&small).await;

    let mut large = Stage::set(LARGE).await;
    println!("{LARGE}; one more comes and goes\n{}", header());
    scale::full_start(&mut large).await;
    latency::measure(&large).await;
    scale::at_rest([&small, &large]).await;
}

async fn under_load() {
    let (ours, kinds) = changes::measure().await;
    let (theirs, [put, delete]) = article::measure().await;
    println!("instances change under load: {}", load::WORDS);
    println!("sidekick: {kinds}");
    load::print([("sidekick", &ours), ("poll, -sf", &theirs)]);
    println!("\n{}\n{put}\n{delete}", header());
}
