//! `make bench BENCH=agent`: the agent beside the same commands by hand, and beside the article's
//! way, a poll of etcd every five seconds and `haproxy -sf`. Prints; asserts nothing about speed.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    dead_code,
    missing_docs,
    unreachable_pub
)]

mod article;
mod changes;
#[path = "../../tests/agent/harness.rs"]
mod harness;
mod latency;
mod load;
mod log;
#[path = "../samples.rs"]
mod samples;
mod scale;
mod stage;
#[path = "../usage.rs"]
mod usage;
mod view;

use samples::header;
use stage::{Stage, Table};

const SMALL: Table = Table {
    services: 2,
    each: 5,
};
const LARGE: Table = Table {
    services: 1000,
    each: 10,
};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let (cores, load) = usage::machine();
    println!(
        "sidekick agent {}, {cores} cores, load {load}, one etcd member, loopback\n",
        env!("CARGO_PKG_VERSION")
    );
    let only = std::env::args().nth(1).filter(|a| !a.starts_with('-'));
    let t = std::time::Instant::now();
    if only.as_deref().is_none_or(|o| o == "load") {
        let (ours, kinds) = changes::measure().await;
        println!("{kinds}");
        let (theirs, [come, go]) = article::measure().await;
        load::print([("sidekick", &ours), ("poll, -sf", &theirs)]);
        println!(
            "{}\n{}\n{}",
            header(),
            come.called("put"),
            go.called("delete")
        );
        println!("{:?}", t.elapsed());
    }
    if only.as_deref().is_none_or(|o| o == "lat") {
        let small = Stage::start(SMALL).await;
        latency::measure(&small).await;
        println!("{:?}", t.elapsed());
        let mut large = Stage::start(LARGE).await;
        println!("{:?}", t.elapsed());
        scale::full_start(&mut large).await;
        println!("{:?}", t.elapsed());
        latency::measure(&large).await;
        println!("{:?}", t.elapsed());
        scale::at_rest([&small, &large]).await;
        println!("{:?}", t.elapsed());
    }
}
