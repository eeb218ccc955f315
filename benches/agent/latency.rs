//! From a change in etcd to HAProxy's having it, and the floor: the same commands by hand.

use crate::stage::{Stage, address};
use crate::view::{Seen, View, dial, watch};
use sidekick_harness::agent::Backend;
use sidekick_harness::bench::Samples;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often an instance comes and goes.
const ROUNDS: usize = 200;

/// Between two changes, so that each finds an agent that waits.
const PAUSE: Duration = Duration::from_millis(20);

const TITLES: [&str; 4] = [
    "put → show servers state has it",
    "put → a new client is served",
    "delete → show servers state hasn't",
    "delete → no new client is served",
];

/// Latencies with this table: sidekick beside commands by hand.
pub async fn measure(stage: &Stage) {
    let backend = Backend::start("measured").await;
    let mut view = stage.view();
    let (ours, etcds) = by_etcd(stage, &backend, &mut view).await;
    let floor = by_hand(stage, &backend, &mut view).await;
    for (i, title) in TITLES.iter().enumerate() {
        println!("{}\n{}", ours[i].called(title), floor[i].called(""));
    }
    println!("{etcds}\n{}", what_looking_costs(stage, &mut view));
    let ratio = |i: usize| ours[i].median() / floor[i].median();
    println!(
        "  median, sidekick : by hand    put {:.1}, delete {:.1}\n",
        ratio(0),
        ratio(3)
    );
}

/// Begins before the change is sent to etcd, so that etcd's own time is in it; it is told apart too.
async fn by_etcd(stage: &Stage, backend: &Backend, view: &mut View) -> ([Samples; 4], Samples) {
    let mut etcd = stage.etcd.clone();
    let (key, value) = ("/services/redis/measured", backend.value());
    let mut latencies = latencies("sidekick");
    let mut answers = Samples::named("  of it: etcd's own answer", "etcd");
    for _ in 0..ROUNDS {
        for there in [true, false] {
            sleep(PAUSE).await;
            let begun = Instant::now();
            if there {
                etcd.put(key, value.as_str(), None).await.map(drop)
            } else {
                etcd.delete(key, None).await.map(drop)
            }
            .expect("etcd takes it");
            answers.add(begun.elapsed());
            let seen = watch(view, "redis", stage.scene.port, there, begun);
            add(&mut latencies, there, &seen);
        }
    }
    (latencies, answers)
}

/// The fastest possible way: the commands, sent to the worker at the moment of the change.
async fn by_hand(stage: &Stage, backend: &Backend, view: &mut View) -> [Samples; 4] {
    let (server, address) = ("byhand/measured", address());
    let mut latencies = latencies("by hand");
    let mut hand = stage.view();
    let come = format!(
        "add server {server} {address}:{} check inter 1s fastinter 500ms downinter 1s rise 3 fall 2; enable health {server}; enable server {server}",
        backend.port
    );
    let go = format!("set server {server} state maint; shutdown sessions server {server}");
    for _ in 0..ROUNDS {
        for there in [true, false] {
            sleep(PAUSE).await;
            let begun = Instant::now();
            hand.tell(if there { &come } else { &go })
                .expect("HAProxy answers");
            // Sessions that were shut down end a moment later; until then it isn't deleted.
            while !there
                && !hand
                    .tell(&format!("del server {server}"))
                    .expect("HAProxy answers")
                    .contains("deleted")
            {}
            let seen = watch(view, "byhand", stage.byhand, there, begun);
            add(&mut latencies, there, &seen);
        }
    }
    latencies
}

fn latencies(who: &'static str) -> [Samples; 4] {
    std::array::from_fn(|_| Samples::named("", who))
}

fn add(latencies: &mut [Samples; 4], there: bool, seen: &Seen) {
    let [put_state, put_client, delete_state, delete_client] = latencies;
    let (state, client) = if there {
        (put_state, put_client)
    } else {
        (delete_state, delete_client)
    };
    state.add(seen.by_state);
    client.add(seen.by_client);
}

/// One look and one dial, with nothing going on.
fn what_looking_costs(stage: &Stage, view: &mut View) -> Samples {
    let mut samples = Samples::named("  of it: a look and a dial", "bench");
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        dial(stage.byhand);
        view.servers("byhand").expect("HAProxy answers");
        samples.add(begun.elapsed());
    }
    samples
}
