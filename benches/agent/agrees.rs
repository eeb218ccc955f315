//! What is sidekick's own of a change's way into HAProxy: from etcd's answer to `show servers state`, and the
//! floor, the same commands by hand. Looked at without a pause and without a client that dials, so that less than
//! a look (the floor has one too) goes by unseen.

use crate::stage::{Stage, address};
use crate::view::View;
use sidekick_harness::agent::Backend;
use sidekick_harness::bench::Samples;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often an instance comes and goes; a p99 of fewer says little.
const ROUNDS: usize = 1000;

/// Between two changes, so that each finds an agent that waits.
const PAUSE: Duration = Duration::from_millis(10);

/// Longer than this is no latency any more but a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// Puts with this table: sidekick beside commands by hand.
pub async fn measure(stage: &Stage) {
    let backend = Backend::start("agrees").await;
    let (mut view, mut hand) = (stage.view(), stage.view());
    let title = "etcd's answer → HAProxy agrees";
    let (mut ours, mut floor) = (
        Samples::named(title, "sidekick"),
        Samples::named("", "by hand"),
    );
    let (key, value) = ("/services/redis/measured", backend.value());
    let mut etcd = stage.etcd.clone();
    let (server, address) = ("byhand/measured", address());
    let come = format!(
        "add server {server} {address}:{} check inter 2s rise 3 fall 2; enable health {server}; enable server {server}",
        backend.port
    );
    for _ in 0..ROUNDS {
        sleep(PAUSE).await;
        etcd.put(key, value.as_str(), None).await.expect("a put");
        ours.add(agrees(&mut view, "redis", true));
        etcd.delete(key, None).await.expect("a delete");
        agrees(&mut view, "redis", false);

        sleep(PAUSE).await;
        let begun = Instant::now();
        hand.tell(&come).expect("HAProxy answers");
        agrees(&mut view, "byhand", true);
        floor.add(begun.elapsed());
        let go = format!("set server {server} state maint; del server {server}");
        hand.tell(&go).expect("HAProxy answers");
        agrees(&mut view, "byhand", false);
    }
    println!("{ours}\n{floor}\n");
}

/// How long it takes from now on until the backend's only server is there and takes connections, or is gone.
fn agrees(view: &mut View, backend: &str, there: bool) -> Duration {
    let begun = Instant::now();
    loop {
        let servers = view.servers(backend).expect("HAProxy answers");
        if servers.values().any(|takes| *takes) == there && (there || servers.is_empty()) {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "{backend}: {servers:?}");
    }
}
