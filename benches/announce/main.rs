//! `make bench`: sidekick beside the shell loop that it replaces and beside the floor, a bare client
//! that on a Docker event does one inspect and one put, or one delete; all on one etcd and one engine, in
//! one run. Prints; asserts nothing about speed.
//!
//! A latency begins at the moment that Docker itself stamps on the event (`timeNano`) and ends when
//! a watch of the bench's own sees the key change, by the same wall clock. A row that begins at a process's
//! death counts from the kernel's word for it, which comes before the engine's.
//! `cargo bench --features real --bench announce -- kernel` runs the deaths by pidfd and by event alone, `-- death`
//! these first and then the starts and deaths, `-- stops` the stops on purpose.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

mod death;
mod floor;
mod kernel;
mod leaving;
mod stage;
mod stops;

use floor::{Floor, STARTS_AND_DEATHS};
use futures_util::StreamExt;
use sidekick_harness::bench::usage::{self, Usage};
use sidekick_harness::bench::{Samples, header};
use sidekick_harness::{Container, Engine, Etcd, Sidekick, eventually, secs};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::process::Command;

/// Rounds of death and start for sidekick and for the floor each.
const ROUNDS: usize = 100;
/// Rounds of the slower measurements.
const FEW: usize = 30;
/// The shell loop's rounds; each waits for a TTL.
const LOOPS: u32 = 6;
/// The shell loop runs this much faster than it did (TTL 60 s, every 45 s), to be done today.
const SCALE: u32 = 10;
/// How long the steady state is looked at.
const STEADY: Duration = Duration::from_secs(60);

const HOST: &str = "worker-1.test";

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let engine = Engine::start().await;
    let etcd = Etcd::start().await;
    let (cores, load) = usage::machine();
    println!(
        "sidekick {}, {cores} cores, load {load}, one etcd member, loopback\n",
        env!("CARGO_PKG_VERSION")
    );
    let bench = Bench {
        moments: Moments::record(&engine.host(), &etcd).await,
        engine: &engine,
        etcd: &etcd,
    };
    println!("{}", header());
    // Cargo's own `--bench` is among the arguments.
    let asked = |what: &str| std::env::args().any(|it| it == what);
    if asked("stops") {
        return stops::measure(&etcd).await;
    }
    bench.deaths_by_the_kernel().await;
    if asked("kernel") {
        return;
    }
    bench.start_and_death().await;
    death::measure(&etcd).await;
    if asked("death") {
        return;
    }
    stops::measure(&etcd).await;
    bench.healing().await;
    bench.sigterm().await;
    bench.shell_loop().await;
    bench.steady_state().await;
}

struct Bench<'e> {
    engine: &'e Engine,
    etcd: &'e Etcd,
    moments: Moments,
}

impl Bench<'_> {
    async fn container(&self, name: &str) -> Container<'_> {
        self.engine.container(name).publish("6379").run().await
    }

    fn announce(&self, name: &str, key: &str) -> Sidekick {
        Sidekick::announce(name, key)
            .etcd(self.etcd)
            .docker(self.engine)
            .host(HOST)
            .spawn()
    }

    /// Turn by turn, so that both see the same machine.
    async fn start_and_death(&self) {
        let (ours, floors) = ("/services/bench/sidekick", "/services/bench/floor");
        let (a, b) = (self.container("ours").await, self.container("floors").await);
        let _sidekick = self.announce("ours", ours);
        let _floor = Floor::spawn(
            &self.engine.host(),
            self.etcd,
            "floors",
            floors,
            STARTS_AND_DEATHS,
        )
        .await;
        self.etcd_has(ours).await;
        let mut samples: [Samples; 4] = [
            Samples::named("start event → key visible", "sidekick"),
            Samples::named("", "floor"),
            Samples::named("die event → key gone", "sidekick"),
            Samples::named("", "floor"),
        ];
        // The floor's first key comes with its first start event.
        for (container, key, at) in [(&a, ours, 0), (&b, floors, 1)]
            .into_iter()
            .cycle()
            .take(2 * ROUNDS + 2)
        {
            let mark = self.moments.mark();
            container.kill().await;
            let died = self.moments.event(mark, container.id(), "die").await;
            if self.moments.knows(key) {
                let gone = self.moments.change(mark, key, false).await;
                samples[2 + at].add(gone.saturating_sub(died));
            }
            let mark = self.moments.mark();
            container.start().await;
            let started = self.moments.event(mark, container.id(), "start").await;
            let shown = self.moments.change(mark, key, true).await;
            samples[at].add(shown.saturating_sub(started));
        }
        let ratio = |i: usize| samples[i].median() / samples[i + 1].median();
        let ratios = (ratio(0), ratio(2));
        for sample in &samples {
            println!("{sample}");
        }
        println!(
            "  median, sidekick : floor    start {:.2}, death {:.2}\n",
            ratios.0, ratios.1
        );
    }

    async fn healing(&self) {
        let key = "/services/bench/healed";
        let _redis = self.container("healed").await;
        let _sidekick = self.announce("healed", key);
        let mut samples = Samples::named("key deleted by hand → key back", "sidekick");
        for _ in 0..FEW {
            self.etcd_has(key).await;
            let mark = self.moments.mark();
            self.etcd.delete(key).await;
            let gone = self.moments.change(mark, key, false).await;
            let back = self.moments.change(mark, key, true).await;
            samples.add(back.saturating_sub(gone));
            // A second deletion within a second would wait for that second to pass, as it should.
            eventually(secs(5), "a second passes", async || {
                back + secs(1) < wall_clock()
            })
            .await;
        }
        println!("{samples}");
    }

    async fn sigterm(&self) {
        let key = "/services/bench/stopped";
        let _redis = self.container("stopped").await;
        let mut gone_after = Samples::named("SIGTERM → key gone", "sidekick");
        let mut exit_after = Samples::named("SIGTERM → exit", "sidekick");
        let mut start_after = Samples::named("process start → key visible", "sidekick");
        for _ in 0..FEW {
            let (mark, begun) = (self.moments.mark(), wall_clock());
            let mut sidekick = self.announce("stopped", key);
            let shown = self.moments.change(mark, key, true).await;
            start_after.add(shown.saturating_sub(begun));
            let (mark, told, at) = (self.moments.mark(), wall_clock(), Instant::now());
            sidekick.term();
            let gone = self.moments.change(mark, key, false).await;
            gone_after.add(gone.saturating_sub(told));
            sidekick.wait_exit(secs(5)).await;
            exit_after.add(at.elapsed());
        }
        println!("{gone_after}\n{exit_after}\n{start_after}");
    }

    /// The seed's loop with v3's words for it: no TTL on a key, so a lease for each heartbeat.
    async fn shell_loop(&self) {
        let key = "/services/bench/loop";
        let script = format!(
            r#"while :; do lease=$(etcdctl lease grant {ttl} | cut -d' ' -f2)
etcdctl put {key} '{{"host":"{HOST}","port":6379}}' --lease="$lease" >/dev/null; sleep {interval}; done"#,
            ttl = 60 / SCALE,
            interval = 45.0 / f64::from(SCALE),
        );
        let mut shown_after = Samples::named("", "shell loop");
        let mut gone_after = Samples::named("", "shell loop");
        let mut back_after = Samples::named("", "shell loop");
        let before = self.etcd.revision().await;
        let begun = Instant::now();
        let start = || {
            let mut command = Command::new("sh");
            command
                .args(["-c", &script])
                .env("ETCDCTL_API", "3")
                .env("ETCDCTL_ENDPOINTS", self.etcd.url())
                .kill_on_drop(true);
            (Instant::now(), command.spawn().expect("no shell"))
        };
        // Each time at another moment of the loop's interval.
        let moment = |round: u32| secs(5) / LOOPS * round;
        for round in 0..LOOPS {
            let (mark, told) = (self.moments.mark(), wall_clock());
            let (started, mut child) = start();
            let shown = self.moments.change(mark, key, true).await;
            shown_after.add(shown.saturating_sub(told));
            let lives = async || started.elapsed() >= moment(round);
            eventually(secs(10), "the loop has lived", lives).await;
            // The unit's ExecStop removed a wrong key, so that only the TTL took the right one away.
            let (mark, died) = (self.moments.mark(), wall_clock());
            child.kill().await.expect("the loop can be ended");
            let gone = self.moments.change(mark, key, false).await;
            gone_after.add(gone.saturating_sub(died));
        }
        for round in 0..LOOPS {
            let mark = self.moments.mark();
            let (started, mut child) = start();
            self.moments.change(mark, key, true).await;
            let lives = async || started.elapsed() >= moment(round);
            eventually(secs(10), "the loop has lived", lives).await;
            let mark = self.moments.mark();
            self.etcd.delete(key).await;
            let gone = self.moments.change(mark, key, false).await;
            let back = self.moments.change(mark, key, true).await;
            back_after.add(back.saturating_sub(gone));
            child.kill().await.expect("the loop can be ended");
            self.etcd.delete(key).await;
        }
        let puts = self.etcd.revision().await - before;
        println!(
            "\nthe shell loop, {SCALE} times as fast as it ran (TTL {} s):",
            60 / SCALE
        );
        println!("{}", shown_after.called("loop's start → key visible"));
        println!("{}", gone_after.called("death or SIGTERM → key gone"));
        println!("{}", back_after.called("key deleted by hand → key back"));
        let as_it_ran = |samples: &Samples| samples.median() * f64::from(SCALE) / 1000.0;
        println!(
            "  as it ran (TTL 60 s): gone after {:.1} s, back after {:.1} s (medians)\n",
            as_it_ran(&gone_after),
            as_it_ran(&back_after)
        );
        println!(
            "  etcdctl's peak memory {} KiB; {puts} revisions in {:.0} s",
            usage::peak_of_etcdctl(self.etcd.url()),
            begun.elapsed().as_secs_f64()
        );
        let heartbeat = Usage::of_etcdctl(self.etcd.url()).await;
        // Else its lease would end in the steady state.
        self.etcd.delete(usage::COST_KEY).await;
        println!(
            "  one heartbeat (a grant and a put): {:.0} ms of CPU, so {:.1} s of CPU and 80 puts and 160 processes per hour\n",
            heartbeat.as_secs_f64() * 1000.0,
            heartbeat.as_secs_f64() * 80.0
        );
    }

    async fn steady_state(&self) {
        let key = "/services/bench/steady";
        let _redis = self.container("steady").await;
        let sidekick = self.announce("steady", key);
        self.etcd_has(key).await;
        let quick = self.container("quick").await;
        let hurried = Sidekick::announce("quick", "/services/bench/quick")
            .etcd(self.etcd)
            .docker(self.engine)
            .host(HOST)
            .times(3, 1)
            .spawn();
        self.etcd_has("/services/bench/quick").await;
        eventually(secs(5), "the start is over", async || {
            wall_clock().subsec_millis() < 100
        })
        .await;
        let (before, calm, hasty) = (
            self.etcd.revision().await,
            Usage::of(sidekick.pid()),
            Usage::of(hurried.pid()),
        );
        let begun = Instant::now();
        eventually(STEADY + secs(5), "a minute passes", async || {
            begun.elapsed() >= STEADY
        })
        .await;
        let revisions = self.etcd.revision().await - before;
        let hours = begun.elapsed().as_secs_f64() / 3600.0;
        println!(
            "steady state, {:.0} s, two announcers (TTL 60 s every 45 s; TTL 3 s every 1 s):",
            begun.elapsed().as_secs_f64()
        );
        println!(
            "  etcd revisions per hour      {:.0}",
            f64::from(i32::try_from(revisions).expect("few")) / hours
        );
        let row = |name: &str, pid: u32, then: Usage| {
            let now = Usage::of(pid);
            println!(
                "  {name}  {:.2} s of CPU per hour, {} KiB resident, {} KiB at its peak",
                (now.cpu - then.cpu).as_secs_f64() / hours,
                now.resident,
                now.peak
            );
        };
        row("TTL 60 s", sidekick.pid(), calm);
        row("TTL  3 s", hurried.pid(), hasty);
        println!(
            "  binary                       {} bytes",
            usage::size_of_binary()
        );
        drop(quick);
    }

    async fn etcd_has(&self, key: &str) {
        eventually(secs(10), format!("{key} is there"), async || {
            self.etcd.get(key).await.is_some()
        })
        .await;
    }
}

/// What Docker's events and etcd's watch said, and when.
struct Moments {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Container id, action, Docker's own time stamp.
    events: Vec<(String, String, Duration)>,
    /// Key, whether it was put, when the watch told it.
    changes: Vec<(String, bool, Duration)>,
}

#[derive(Clone, Copy)]
struct Mark {
    events: usize,
    changes: usize,
}

impl Moments {
    async fn record(docker: &str, etcd: &Etcd) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let docker = floor::connect(docker);
        let events = seen.clone();
        tokio::spawn(async move {
            let filters = HashMap::from([("type", vec!["container"])]);
            let options = bollard::query_parameters::EventsOptionsBuilder::default()
                .filters(&filters)
                .build();
            let mut stream = docker.events(Some(options));
            while let Some(Ok(event)) = stream.next().await {
                let id = event.actor.and_then(|a| a.id).unwrap_or_default();
                let nanos = u64::try_from(event.time_nano.unwrap_or_default()).unwrap_or_default();
                let moment = (
                    id,
                    event.action.unwrap_or_default(),
                    Duration::from_nanos(nanos),
                );
                events.lock().expect("unpoisoned").events.push(moment);
            }
        });
        let options = etcd_client::WatchOptions::new().with_prefix();
        let mut watch = etcd
            .client()
            .clone()
            .watch("/services/bench/", Some(options))
            .await
            .expect("a watch");
        let changes = seen.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = watch.message().await {
                let now = wall_clock();
                for event in message.events() {
                    let put = event.event_type() == etcd_client::EventType::Put;
                    let key = event
                        .kv()
                        .map(|kv| kv.key_str().unwrap_or_default().to_owned())
                        .unwrap_or_default();
                    changes
                        .lock()
                        .expect("unpoisoned")
                        .changes
                        .push((key, put, now));
                }
            }
        });
        Self { seen }
    }

    fn mark(&self) -> Mark {
        let seen = self.seen.lock().expect("unpoisoned");
        Mark {
            events: seen.events.len(),
            changes: seen.changes.len(),
        }
    }

    fn knows(&self, key: &str) -> bool {
        let seen = self.seen.lock().expect("unpoisoned");
        seen.changes.iter().any(|(k, _, _)| k == key)
    }

    async fn event(&self, mark: Mark, id: &str, action: &str) -> Duration {
        self.wait(format!("{action} of {id}"), |seen| {
            let mut new = seen.events[mark.events..].iter();
            new.find(|(i, a, _)| i == id && a == action)
                .map(|(_, _, at)| *at)
        })
        .await
    }

    async fn change(&self, mark: Mark, key: &str, put: bool) -> Duration {
        self.wait(format!("{key} put: {put}"), |seen| {
            let mut new = seen.changes[mark.changes..].iter();
            new.find(|(k, p, _)| k == key && *p == put)
                .map(|(_, _, at)| *at)
        })
        .await
    }

    async fn wait(&self, what: String, find: impl Fn(&Seen) -> Option<Duration>) -> Duration {
        eventually(secs(20), what, async || {
            find(&self.seen.lock().expect("unpoisoned"))
        })
        .await
    }
}

fn wall_clock() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970")
}
