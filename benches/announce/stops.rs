//! Stops on purpose as clients see them, of one of two instances: how many requests they cost, and for how long a server
//! that is to stop still gets new ones.
//! `cargo bench --features real --bench announce -- stops` runs this alone.

use crate::floor::{DEATHS, Floor};
use crate::stage::{Agent, LATE, PREFIX, PublishingEngine, Redis, machine};
use crate::{Moments, wall_clock};
use sidekick_harness::bench::Samples;
use sidekick_harness::{Etcd, Sidekick, millis, secs};
use std::time::Duration;

/// Stops in each way.
const ROUNDS: usize = 25;

/// Of a server that still accepts: each takes more than a second.
const ACCEPTING_ROUNDS: usize = 20;

/// So long after a stop's end requests are looked at; where HAProxy's checks are alone they take some seconds.
const AFTERMATH: Duration = millis(500);
const UNTIL_CHECKED: Duration = secs(5);

/// `docker run` for a container of which no event tells that it is stopped: its stop signal is another than what it gets.
const UNTOLD: &[&str] = &["--stop-signal=USR1"];

/// `docker run` for a Redis that accepts for a second after its signal, which it doesn't feel.
const ACCEPTING: &[&str] = &["--stop-signal=USR1", "--stop-timeout=1"];

/// How an instance is taken away.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// As `systemctl stop redis@1` does: its sidekick drains, then comes the signal.
    Drain,
    /// `docker stop`: the engine tells of the signal.
    KillEvent,
    /// The same, and nothing tells of it before the death does.
    DeathAlone,
    /// The key hangs on the lease of a loop: it outlives the stop, and HAProxy's checks are alone.
    Loop,
}

/// Prints both tables.
pub async fn measure(etcd: &Etcd) {
    let engine = PublishingEngine::start().await;
    let bench = Stops {
        moments: Moments::record(&engine.host(), etcd).await,
        agent: Agent::start(etcd).await,
        engine,
        etcd,
    };
    let other = bench.engine.redis("stays-up").await;
    etcd.put(&format!("{PREFIX}/stays-up"), &other.value())
        .await;
    bench.still_accepts().await;
    println!(
        "\nrequests failed; and these with those later than {} ms, per 100 stops (of 2 instances, a request each ms, n {ROUNDS} each):",
        LATE.as_millis()
    );
    for (way, what) in [
        (Way::Drain, "sidekick --drain, before the signal"),
        (Way::KillEvent, "sidekick, by the kill event"),
        (Way::DeathAlone, "sidekick, by the death alone"),
        (Way::Loop, "a loop with a TTL; HAProxy's checks"),
    ] {
        bench.stops(way, what).await;
    }
    println!();
}

struct Stops<'e> {
    moments: Moments,
    agent: Agent,
    engine: PublishingEngine,
    etcd: &'e Etcd,
}

impl Stops<'_> {
    fn announce(&self, redis: &Redis, drain: &str) -> Sidekick {
        let key = format!("{PREFIX}/{}", redis.name);
        Sidekick::announce(&redis.name, &key)
            .etcd(self.etcd)
            .option("--docker-host", &self.engine.host())
            .option("--drain", drain)
            .host(&machine())
            .spawn()
    }

    async fn stops(&self, way: Way, what: &str) {
        let options = if way == Way::DeathAlone { UNTOLD } else { &[] };
        let victim = self.engine.redis_with("victim", options).await;
        let drain = if way == Way::Drain { "10s" } else { "0" };
        let key = format!("{PREFIX}/victim");
        let announce = || (way != Way::Loop).then(|| self.announce(&victim, drain));
        let mut sidekick = announce();
        if way == Way::Loop {
            self.etcd.put(&key, &victim.value()).await;
        }
        let mut took = Samples::named("stop begun → container gone", "");
        let (mut lost, mut failed, mut of) = (0, 0, 0);
        for _ in 0..ROUNDS {
            self.agent.serves(&["victim", "stays-up"]).await;
            let client = self.agent.client();
            let begun = wall_clock();
            if let (Way::Drain, Some(sidekick)) = (way, &mut sidekick) {
                sidekick.term();
                sidekick.wait_exit(secs(15)).await;
            }
            if way == Way::DeathAlone {
                self.engine
                    .docker(&["kill", "--signal=TERM", "victim"])
                    .await;
                self.engine.docker(&["wait", "victim"]).await;
            } else {
                self.engine.docker(&["stop", "victim"]).await;
            }
            let gone = wall_clock();
            took.add(gone - begun);
            let aftermath = if way == Way::Loop {
                UNTIL_CHECKED
            } else {
                AFTERMATH
            };
            let suffered = client.ends(gone + aftermath, begun).await;
            lost += suffered.requests;
            failed += suffered.failed;
            of += suffered.of;
            self.engine.docker(&["start", "victim"]).await;
            victim.says_its_name().await;
            if way == Way::Drain {
                sidekick = announce();
            }
        }
        drop(sidekick);
        self.engine.docker(&["rm", "--force", "victim"]).await;
        self.forget(&key).await;
        println!(
            "  {what:<38}{:>7.0}{:>7.0}   ({failed} and {lost} of {of} requests; a stop takes {:.0} ms, median)",
            failed as f64 * 100.0 / ROUNDS as f64,
            lost as f64 * 100.0 / ROUNDS as f64,
            took.median()
        );
    }

    /// Whoever put the key may have deleted it by now.
    async fn forget(&self, key: &str) {
        let mut client = self.etcd.client().clone();
        client.delete(key, None).await.expect("etcd takes it");
    }

    /// From `docker stop` on, a server that still accepts gets new connections for so long.
    async fn still_accepts(&self) {
        let victim = self.engine.redis_with("victim", ACCEPTING).await;
        let key = format!("{PREFIX}/victim");
        let mut told = Samples::named("docker stop begun → kill event", "Docker");
        let mut ours = Samples::named("docker stop → no new connection", "sidekick");
        let mut floors = Samples::named("", "die event");
        let sidekick = self.announce(&victim, "0");
        for _ in 0..ACCEPTING_ROUNDS {
            let (event, last) = self.last_connection(&victim).await;
            told.add(event);
            ours.add(last);
        }
        drop(sidekick);
        // The least that goes by the death: a bare client that deletes the key at the `die` event.
        let floor = Floor::spawn(&self.engine.host(), self.etcd, "victim", &key, DEATHS).await;
        self.etcd.put(&key, &victim.value()).await;
        for _ in 0..ACCEPTING_ROUNDS / 2 {
            floors.add(self.last_connection(&victim).await.1);
            self.etcd.put(&key, &victim.value()).await;
        }
        drop(floor);
        for samples in [&told, &ours, &floors] {
            println!("{samples}");
        }
        self.engine.docker(&["rm", "--force", "victim"]).await;
        self.forget(&key).await;
    }

    /// Stops and starts it. After the beginning of the stop: when the engine told of the signal, and when the last
    /// request began that the victim answered.
    async fn last_connection(&self, victim: &Redis) -> (Duration, Duration) {
        self.agent.serves(&["victim", "stays-up"]).await;
        let (mark, client, begun) = (self.moments.mark(), self.agent.client(), wall_clock());
        self.engine.docker(&["stop", "victim"]).await;
        let told = self.moments.event(mark, &victim.id, "kill").await;
        let suffered = client.ends(wall_clock() + AFTERMATH, begun).await;
        let answers = suffered.answers.iter();
        let last = answers
            .filter(|(_, who)| who == "victim")
            .map(|(at, _)| *at);
        self.engine.docker(&["start", "victim"]).await;
        victim.says_its_name().await;
        (told.saturating_sub(begun), last.max().unwrap_or_default())
    }
}
