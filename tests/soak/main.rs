//! `make soak`: `CONTAINERS` that start and die at random under one `announce --all`, an agent that
//! serves them, and whatever makes either of them reconnect, restart and try again, for `MINUTES`.
//! What both take is printed as it goes; in the end the early part is held against the late one, and
//! the run fails where something grew. `SEED` is an environment variable too.

// A failed set-up ends it.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub
)]

use futures_util::{StreamExt, stream};
use sidekick_harness::agent::{AgentScene, Supervised, host};
use sidekick_harness::{
    Container, Engine, Footprint, Footprints, Proxy, Sidekick, Wire, eventually, free_port, millis,
    never_for, secs,
};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two lines of the table; less in a short run, for there have to be some to compare.
const SAMPLE: Duration = Duration::from_secs(10);
const SAMPLES: u32 = 30;

/// Starts and deaths at a time, so that 200 containers are up within a minute on two cores.
const AT_ONCE: usize = 4;

/// What happens beside starts and deaths, each as often as it stands here.
const FAULTS: [Fault; 16] = {
    use Fault::*;
    [
        AnnouncerCut,
        AnnouncerCut,
        AgentCut,
        AgentCut,
        DockerCut,
        DockerCut,
        EventCut,
        EventCut,
        KeyDeleted,
        Junk,
        Compacted,
        Structure,
        HaproxyKilled,
        DockerRefuses,
        EtcdKilled,
        BlackHole,
    ]
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// The announcer's connections to etcd are reset.
    AnnouncerCut,
    /// The agent's are.
    AgentCut,
    /// The connections to the engine are reset.
    DockerCut,
    /// They end in the middle of an event.
    EventCut,
    /// By hand.
    KeyDeleted,
    /// A key that is no instance comes, and goes.
    Junk,
    Compacted,
    /// A service comes or goes, which is a reload.
    Structure,
    HaproxyKilled,
    /// The engine's socket has no listener for a moment.
    DockerRefuses,
    /// And started again.
    EtcdKilled,
    /// Nothing gets through to etcd for longer than a call may take.
    BlackHole,
}

/// Everything that takes part.
struct Stage<'e> {
    containers: Vec<(Container<'e>, bool)>,
    sidekick: Sidekick,
    /// The agent, its HAProxy, and the etcd of both.
    scene: AgentScene,
    to_docker: Proxy,
    announcers: Proxy,
    agents: Proxy,
    fleeting: bool,
}

fn number(name: &str, default: u64) -> u64 {
    let given = std::env::var(name).ok().filter(|text| !text.is_empty());
    given.map_or(default, |text| text.parse().expect(name))
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let (minutes, count) = (number("MINUTES", 10), number("CONTAINERS", 200));
    let seed = number("SEED", fastrand::u64(..1_000_000));
    println!("soak: MINUTES={minutes} CONTAINERS={count} SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let engine = Engine::start().await;
    let mut stage = Stage::set(&engine, count).await;
    let (mut announcer, mut agent) = (Footprints::default(), Footprints::default());
    println!("             announce --all                                        agent");
    println!(" seconds events {0}  {0}", Footprints::HEAD);
    let (began, mut events, mut due) = (Instant::now(), 0, Duration::ZERO);
    let mut faults: BTreeMap<Fault, usize> = BTreeMap::new();
    let time = Duration::from_secs(60 * minutes);
    while began.elapsed() < time {
        if began.elapsed() >= due {
            due = began.elapsed() + SAMPLE.min(time / SAMPLES);
            stage.is_calm().await;
            let log = stage.sidekick.log().join("\n");
            announcer.add(Footprint::of(stage.sidekick.pid(), &log));
            agent.add(Footprint::of(stage.scene.agent_pid(), &stage.scene.log()));
            let seconds = began.elapsed().as_secs();
            println!(
                "{seconds:8} {events:6} {}  {}",
                announcer.row(),
                agent.row()
            );
        }
        let fault = FAULTS[rng.usize(0..FAULTS.len())];
        *faults.entry(fault).or_default() += 1;
        stage.suffers(fault).await;
        events += stage.turn_some(&mut rng).await;
        // It was cut at the first event.
        stage.to_docker.pass();
    }
    stage.is_calm().await;
    println!(
        "\n{events} starts and deaths; {} faults: {faults:?}",
        faults.values().sum::<usize>()
    );
    println!("\nannounce --all\n{announcer}\nagent\n{agent}");
    let grown = [announcer.growth(), agent.growth()].concat();
    for what in &grown {
        println!("GREW: {what}");
    }
    if !grown.is_empty() {
        println!("{}\n{}", stage.sidekick.log().join("\n"), stage.scene.log());
    }
    let left = (
        stage.sidekick.leaves().await,
        stage.scene.stop_agent().await,
    );
    println!(
        "a stop took {:?}; the agent ended with {:?}",
        left.0, left.1
    );
    drop(stage);
    drop(engine);
    std::process::exit(i32::from(!grown.is_empty()));
}

impl<'e> Stage<'e> {
    async fn set(engine: &'e Engine, count: u64) -> Stage<'e> {
        let arguments = ["--hold=0", "--forget=0s", "--log-level=debug"];
        let mut scene = AgentScene::new(Supervised, &arguments).await;
        let (announcers, agents) = (
            Proxy::before(scene.etcd.url()).await,
            Proxy::before(scene.etcd.url()).await,
        );
        let to_docker = Proxy::before_engine(&engine.host()).await;
        scene.endpoints = agents.url();
        scene.begin().await;
        let sidekick = Sidekick::announce_all()
            .option("--etcd-endpoints", &announcers.url())
            .option("--docker-host", &to_docker.url())
            .option("--log-level", "debug")
            .host(&host())
            .spawn();
        let began = Instant::now();
        let run = |number| {
            let run = engine.container(&format!("redis{number}")).publish("6379");
            run.label("sidekick.service=redis").run()
        };
        let containers = stream::iter((0..count).map(run)).buffered(AT_ONCE);
        let containers = containers
            .map(|container| (container, true))
            .collect()
            .await;
        let seconds = began.elapsed().as_secs();
        println!("{count} containers are up after {seconds} s");
        let stage = Stage {
            containers,
            sidekick,
            scene,
            to_docker,
            announcers,
            agents,
            fleeting: false,
        };
        stage.is_calm().await;
        stage
    }

    /// Waits until each that is up has a key and a server, and no other container has.
    async fn is_calm(&self) {
        let up = self.containers.iter().filter(|(_, is_up)| *is_up).count();
        let there = up + usize::from(self.fleeting);
        let numbers = async || {
            let keys = self.scene.etcd.keys().await.len();
            (keys, self.scene.servers().await.len())
        };
        eventually(secs(60), format!("{there} keys and servers"), async || {
            let found = numbers().await;
            if found == (there, there) {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
    }

    /// Some start that are down, and some die that are up.
    async fn turn_some(&mut self, rng: &mut fastrand::Rng) -> usize {
        let chosen = rng.choose_multiple(self.containers.iter_mut(), AT_ONCE);
        let turned = stream::iter(chosen).map(|(container, is_up)| async move {
            if *is_up {
                container.kill().await;
            } else {
                container.start().await;
            }
            *is_up = !*is_up;
        });
        turned.buffer_unordered(AT_ONCE).count().await
    }

    async fn suffers(&mut self, fault: Fault) {
        let etcd = &mut self.scene.etcd;
        match fault {
            Fault::AnnouncerCut => self.announcers.cut().await,
            Fault::AgentCut => self.agents.cut().await,
            Fault::DockerCut => self.to_docker.cut().await,
            Fault::EventCut => {
                // What starts or dies next is cut short, and what comes after that too.
                self.to_docker.set(Wire::CutEvent);
            }
            Fault::DockerRefuses => {
                self.to_docker.refuse();
                pass_time(millis(300)).await;
                self.to_docker.pass();
            }
            Fault::BlackHole => {
                self.announcers.black_hole();
                self.agents.black_hole();
                pass_time(millis(2500)).await;
                self.announcers.pass();
                self.agents.pass();
            }
            Fault::EtcdKilled => {
                etcd.kill9().await;
                etcd.restart().await;
            }
            Fault::Compacted => etcd.compact().await,
            Fault::KeyDeleted => {
                let mut keys = etcd.keys().await;
                keys.retain(|key| key.starts_with("/services/redis/"));
                if let Some(key) = keys.first() {
                    etcd.delete_all(key).await;
                }
            }
            Fault::Junk => {
                etcd.put("/services/redis/a b", "{}").await;
                etcd.delete("/services/redis/a b").await;
            }
            Fault::Structure if self.fleeting => {
                etcd.delete("/services/fleeting/i").await;
                self.fleeting = false;
            }
            Fault::Structure => {
                let value = format!(r#"{{"host":"{}","port":{}}}"#, host(), free_port());
                etcd.put("/services/fleeting/i", &value).await;
                self.fleeting = true;
            }
            Fault::HaproxyKilled => self.scene.kill_haproxy().await,
        }
    }
}

/// The wire is to be so for a while; nothing is waited for.
async fn pass_time(time: Duration) {
    never_for(time, "", async || false).await;
}
