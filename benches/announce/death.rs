//! A death as a client sees it. Everything counts from the moment at which the container's first process is
//! dead, by the kernel (a pidfd), and not from the engine's event, which comes later.

use crate::floor::{Floor, STARTS_AND_DEATHS};
use crate::stage::{Agent, LATE, PREFIX, PublishingEngine, machine};
use crate::{Moments, wall_clock};
use sidekick_harness::bench::Samples;
use sidekick_harness::{Etcd, Sidekick, secs};
use std::time::Duration;

/// Deaths for each row.
const ROUNDS: usize = 30;

/// And of hosts that fall silent: each takes some ten seconds.
const SILENT_ROUNDS: usize = 10;

/// So long after the key has gone (or the engine has told of the death) requests are looked at.
const AFTERMATH: Duration = Duration::from_millis(500);

/// The floor's key is one that the agent doesn't serve.
const FLOORS: &str = "/services/bench/floor/victim";

/// Prints the table.
pub async fn measure(etcd: &Etcd) {
    let engine = PublishingEngine::start().await;
    let moments = Moments::record(&engine.host(), etcd).await;
    let (victim, other) = (engine.redis("victim").await, engine.redis("stays-up").await);
    let agent = Agent::start(etcd).await;
    let mut table = [
        Samples::named("process dead → die event", "Docker"),
        Samples::named("process dead → key gone", "sidekick"),
        Samples::named("", "floor"),
        Samples::named("process dead → no request lost", "sidekick"),
        Samples::named("", "checks"),
    ];
    let mut lost = [0, 0];

    let value = other.value();
    etcd.put(&format!("{PREFIX}/stays-up"), &value).await;
    let floor = Floor::spawn(
        &engine.host(),
        etcd,
        &victim.name,
        FLOORS,
        STARTS_AND_DEATHS,
    )
    .await;
    let key = format!("{PREFIX}/victim");
    let sidekick = Sidekick::announce(&victim.name, &key)
        .etcd(etcd)
        .option("--docker-host", &engine.host())
        .host(&machine())
        .spawn();
    for _ in 0..ROUNDS {
        agent.serves(&["victim", "stays-up"]).await;
        let mark = moments.mark();
        let client = agent.client();
        let dead = victim.dies();
        let told = moments.event(mark, &victim.id, "die").await;
        let gone = moments.change(mark, &key, false).await;
        table[0].add(told.saturating_sub(dead));
        table[1].add(gone.saturating_sub(dead));
        // The floor's first key comes with its first start event.
        if moments.knows(FLOORS) {
            let gone = moments.change(mark, FLOORS, false).await;
            table[2].add(gone.saturating_sub(dead));
        }
        let suffered = client.ends(gone + AFTERMATH, dead).await;
        table[3].add(suffered.last);
        lost[0] += suffered.requests;
        engine.docker(&["start", &victim.name]).await;
        victim.says_its_name().await;
    }
    drop((sidekick, floor));
    // The key stays, as that of a loop does until its TTL ends: HAProxy's own checks are all there is.
    etcd.put(&key, &victim.value()).await;
    for _ in 0..ROUNDS {
        agent.serves(&["victim", "stays-up"]).await;
        let mark = moments.mark();
        let client = agent.client();
        let dead = victim.dies();
        let told = moments.event(mark, &victim.id, "die").await;
        // A second between checks, half a second to the next one, and two of them have to fail.
        let suffered = client.ends(told + secs(5), dead).await;
        table[4].add(suffered.last);
        lost[1] += suffered.requests;
        engine.docker(&["start", &victim.name]).await;
        victim.says_its_name().await;
    }
    // Its host no longer answers: the worst case, for a check waits as long as it may.
    let mut silent = Samples::named("host silent → no request lost", "checks");
    for _ in 0..SILENT_ROUNDS {
        agent.serves(&["victim", "stays-up"]).await;
        let client = agent.client();
        victim.falls_silent(true);
        let since = wall_clock();
        let suffered = client.ends(since + secs(8), since).await;
        silent.add(suffered.last);
        victim.falls_silent(false);
    }
    for samples in table.iter().chain([&silent]) {
        println!("{samples}");
    }
    let each = |lost: usize| lost as f64 / ROUNDS as f64;
    println!(
        "  requests failed, or later than {} ms, per death (of 2 instances, a request each ms): \
         sidekick {:.1}, HAProxy's checks alone {:.1}\n",
        LATE.as_millis(),
        each(lost[0]),
        each(lost[1])
    );
}
