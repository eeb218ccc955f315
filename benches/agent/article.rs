//! The article's way under the same load: a poll every five seconds, and `haproxy -sf`.

use crate::changes::{CHANGING, STAYING, key, several};
use crate::load::{Load, Outcome, resident};
use crate::log::Log;
use crate::stage::{base, log_socket, worker_socket};
use crate::view::View;
use etcd_client::Client;
use nix::sys::signal::{Signal, killpg};
use sidekick_harness::agent::{Backend, Etcd, PATIENCE, eventually, free_port};
use sidekick_harness::bench::Samples;
use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{MissedTickBehavior, interval};

/// From one change to the next, so that they fall on all moments of the five seconds.
const PACE: Duration = Duration::from_millis(1500);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// The losses, and how long a put and a delete took.
pub async fn measure() -> (Outcome, [Samples; 2]) {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().clone();
    let staying = several("staying", STAYING).await;
    let leaving = several("changing", CHANGING).await;
    let coming = several("changing", CHANGING).await;
    put_all(&mut client, "staying", &staying).await;
    let port = free_port();
    let poller = Poller::start(&etcd, port);
    let has = |n| move |servers: BTreeMap<_, _>| servers.len() == n;
    eventually(PATIENCE, "HAProxy has them", async || {
        has(STAYING)(poller.servers())
    })
    .await;
    let load = Load::start(port).await;
    put_all(&mut client, "leaving", &leaving).await;
    let both = has(STAYING + CHANGING);
    eventually(PATIENCE, "HAProxy has them", async || {
        both(poller.servers())
    })
    .await;

    let (before, begun) = (poller.started().len(), Instant::now());
    let latencies = poller.change(&mut client, &coming).await;
    let took = begun.elapsed();
    // While the held connections live, so do the processes that hold them.
    let processes = resident(poller.started());
    let outcome = Outcome {
        changes: 2 * CHANGING,
        took,
        tally: load.stop().await.judged_by(&poller.log, "poll, -sf"),
        reloads: poller.started().len() - before,
        processes,
    };
    (outcome, latencies)
}

async fn put_all(etcd: &mut Client, name: &str, backends: &[Backend]) {
    for (i, backend) in backends.iter().enumerate() {
        let key = key(&format!("{name}{i}"));
        etcd.put(key, backend.value(), None)
            .await
            .expect("etcd takes it");
    }
}

/// The poller with all the HAProxies that it started: a process group of their own.
struct Poller {
    dir: TempDir,
    log: Log,
    process: Child,
}

impl Poller {
    fn start(etcd: &Etcd, port: u16) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("base.cfg"), base(dir.path())).expect("a file");
        let path = std::env::var("PATH").unwrap_or_default();
        let process = Command::new("sh")
            .args([
                "-c",
                include_str!("article.sh"),
                "article.sh",
                &port.to_string(),
            ])
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", etcd.url())
            .env("PATH", format!("{path}:/usr/sbin:/sbin"))
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("no shell");
        let log = Log::listen(&log_socket(dir.path()));
        Self { dir, log, process }
    }

    /// One after another: an instance comes, another goes.
    async fn change(&self, etcd: &mut Client, coming: &[Backend]) -> [Samples; 2] {
        let mut latencies = [
            "put → show servers state has it",
            "delete → show servers state hasn't",
        ]
        .map(|title| Samples::named(title, "poll, -sf"));
        let plan = (0..).zip(coming).flat_map(|(i, backend)| {
            [
                (format!("coming{i}"), Some(backend.value())),
                (format!("leaving{i}"), None),
            ]
        });
        let (mut plan, mut pending) = (plan, Vec::new());
        let (mut changes, mut looks) = (interval(PACE), interval(LOOK));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // Cancel-safe, both: a tick that isn't taken now is taken the next time.
            tokio::select! {
                _ = changes.tick() => match plan.next() {
                    Some((name, value)) => {
                        pending.push((format!("redis/{name}"), value.is_some(), Instant::now()));
                        match value {
                            Some(value) => etcd.put(key(&name), value, None).await.map(drop),
                            None => etcd.delete(key(&name), None).await.map(drop),
                        }
                        .expect("etcd takes it");
                    }
                    None if pending.is_empty() => return latencies,
                    None => {}
                },
                _ = looks.tick(), if !pending.is_empty() => {
                    let servers = self.servers();
                    pending.retain(|(name, there, since)| {
                        let waits = servers.is_empty() || servers.contains_key(name) != *there;
                        if !waits {
                            latencies[usize::from(!there)].add(since.elapsed());
                        }
                        waits
                    });
                }
            }
        }
    }

    /// The servers of the HAProxy that was started last; none while it doesn't answer.
    fn servers(&self) -> BTreeMap<String, bool> {
        let view = View::open(&worker_socket(self.dir.path()));
        view.and_then(|mut view| view.servers("redis"))
            .unwrap_or_default()
    }

    /// The HAProxies that were started so far.
    fn started(&self) -> Vec<u32> {
        let started = std::fs::read_to_string(self.dir.path().join("started"));
        let started = started.unwrap_or_default();
        started
            .lines()
            .filter_map(|line| line.parse().ok())
            .collect()
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = killpg(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}
