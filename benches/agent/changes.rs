//! A thousand changes of instances under load.

use crate::load::{Load, Outcome, resident};
use crate::stage::{Stage, Table};
use etcd_client::Client;
use sidekick_harness::agent::{Backend, PATIENCE, eventually};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::{MissedTickBehavior, interval};

const CHANGES: usize = 1000;

/// From one change to the next.
const PACE: Duration = Duration::from_millis(20);

/// Instances that stay as they are. More than those that may leave within two seconds, or the agent
/// would take it for a mishap and hold them.
pub const STAYING: usize = 12;

/// Instances that come, move, drain and go.
pub const CHANGING: usize = 10;

/// The same changes in every run.
const SEED: u64 = 42;

/// One instance that changes.
struct ChangingInstance {
    name: String,
    backends: Vec<Backend>,
    /// Which of the backends it is, and whether it drains.
    now: Option<(usize, bool)>,
}

/// A thousand changes; says in words what they were.
pub async fn measure() -> (Outcome, String) {
    let mut stage = Stage::set(Table {
        services: 0,
        each: 0,
    })
    .await;
    let staying = several("staying", STAYING).await;
    for (i, backend) in staying.iter().enumerate() {
        let key = key(&format!("staying{i}"));
        stage
            .etcd
            .put(key, backend.value(), None)
            .await
            .expect("etcd takes it");
    }
    stage.scene.start_agent();
    stage.has(STAYING).await;
    // When its worker runs, the master executes itself again, and closes the connections of its socket.
    let answers = async || !stage.haproxies().await.is_empty();
    eventually(PATIENCE, "HAProxy's master answers", answers).await;
    let mut instances = ChangingInstance::several().await;
    let reloads = stage.scene.reloads().await;
    let load = Load::start(stage.scene.port).await;
    let begun = Instant::now();
    let kinds = change(&mut stage.etcd, &mut instances).await;
    // It is over when HAProxy and its file have the last of them.
    let staying = (0..)
        .zip(&staying)
        .map(|(i, it)| (format!("redis/staying{i}"), it.port.to_string()));
    let changing = instances
        .iter()
        .filter_map(|instance| Some((format!("redis/{}", instance.name), instance.port()?)));
    let expected: Vec<_> = staying.chain(changing).collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(name, port)| (name.as_str(), port.clone()))
        .collect();
    stage.scene.serves(&expected).await;
    let took = begun.elapsed();
    let outcome = Outcome {
        changes: CHANGES,
        took,
        processes: resident(stage.haproxies().await),
        tally: load.stop().await.judged_by(&stage.log, "sidekick"),
        reloads: (stage.scene.reloads().await - reloads) as usize,
    };
    (outcome, kinds)
}

async fn change(etcd: &mut Client, instances: &mut [ChangingInstance]) -> String {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut kinds = BTreeMap::new();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for _ in 0..CHANGES {
        pace.tick().await;
        let at = random.usize(..instances.len());
        let instance = &mut instances[at];
        *kinds.entry(instance.change(&mut random)).or_insert(0) += 1;
        match instance.value() {
            Some(value) => etcd.put(key(&instance.name), value, None).await.map(drop),
            None => etcd.delete(key(&instance.name), None).await.map(drop),
        }
        .expect("etcd takes it");
    }
    let kinds: Vec<_> = kinds
        .iter()
        .map(|(kind, n)| format!("{n} {kind}"))
        .collect();
    kinds.join(", ")
}

/// Backends of the same name.
pub async fn several(name: &'static str, count: usize) -> Vec<Backend> {
    let mut backends = Vec::new();
    for _ in 0..count {
        backends.push(Backend::start(name).await);
    }
    backends
}

pub fn key(instance: &str) -> String {
    format!("/services/redis/{instance}")
}

impl ChangingInstance {
    async fn several() -> Vec<Self> {
        let mut instances = Vec::new();
        for i in 0..CHANGING {
            let backends = several("changing", 2).await;
            instances.push(Self {
                name: format!("changing{i}"),
                backends,
                now: None,
            });
        }
        instances
    }

    /// Changes it, and says how.
    fn change(&mut self, random: &mut fastrand::Rng) -> &'static str {
        let (next, kind) = match self.now {
            None => (Some((random.usize(..2), false)), "added"),
            Some((at, draining)) => match random.u8(..3) {
                0 => (None, "removed"),
                1 => (Some((1 - at, draining)), "moved"),
                _ if draining => (Some((at, false)), "drained no more"),
                _ => (Some((at, true)), "drained"),
            },
        };
        self.now = next;
        kind
    }

    fn value(&self) -> Option<String> {
        let (at, draining) = self.now?;
        let backend = &self.backends[at];
        Some(if draining {
            backend.draining()
        } else {
            backend.value()
        })
    }

    /// As `AgentScene::servers` shows it.
    fn port(&self) -> Option<String> {
        let (at, draining) = self.now?;
        Some(format!(
            "{}{}",
            self.backends[at].port,
            if draining { " drain" } else { "" }
        ))
    }
}
