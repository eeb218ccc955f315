//! What a death costs by the kernel's word and by the engine's: seen by a sidekick in the engine's pid namespace, by one
//! that goes by events, and by the least that a client of each kind can do; until the key is gone, and until the agent's
//! HAProxy sends no more connections there.
//!
//! Two containers die in turn, one of the sidekicks' and one of the bare clients': of two deletes for one death the second
//! waits in etcd until the first is on the disk, and sidekick's was mostly the second.
//! `cargo bench --features real --bench announce -- kernel` runs this alone.

use crate::floor::{Floor, STARTS_AND_DEATHS};
use crate::leaving::Servers;
use crate::stage::{Agent, first_process_of, machine};
use crate::{Bench, wall_clock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use sidekick_harness::bench::Samples;
use sidekick_harness::{Etcd, Sidekick, eventually, secs};
use std::os::fd::OwnedFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// Deaths for each row; the engine's events are of both containers.
const ROUNDS: usize = 100;

const BY_KERNEL: &str = "/services/bench/by-kernel";
const BY_EVENTS: &str = "/services/bench/by-events";
const BY_PIDFD: &str = "/services/bench/by-pidfd";
const BY_FLOOR: &str = "/services/bench/by-floor";

/// The agent's names for the first three; a value of the floor names no machine that there is.
const SERVERS: [&str; 3] = ["by-kernel", "by-pidfd", "by-events"];

impl Bench<'_> {
    pub async fn deaths_by_the_kernel(&self) {
        let ours = self.container("announced").await;
        let bare = self.container("bare").await;
        let announce = |key| {
            let announce = Sidekick::announce("announced", key).host(&machine());
            announce.etcd(self.etcd).docker(self.engine)
        };
        let debug = announce(BY_KERNEL).option("--log-level", "debug");
        let kernel = debug.within(&self.engine.beside()).spawn();
        let _events = announce(BY_EVENTS).spawn();
        let _floor = Floor::spawn(
            &self.engine.host(),
            self.etcd,
            "bare",
            BY_FLOOR,
            STARTS_AND_DEATHS,
        )
        .await;
        let agent = Agent::start(self.etcd).await;
        let servers = Servers::follow(agent.socket());
        let mut rows = [
            Samples::named("process dead → die event", "Docker"),
            Samples::named("process dead → key gone", "sidekick"),
            Samples::named("", "bare pidfd"),
            Samples::named("", "by events"),
            Samples::named("", "bare events"),
            Samples::named("process dead → out of HAProxy", "sidekick"),
            Samples::named("", "bare pidfd"),
            Samples::named("", "by events"),
        ];
        for round in 1..=ROUNDS {
            self.etcd_has(BY_KERNEL).await;
            self.etcd_has(BY_EVENTS).await;
            eventually(secs(10), "the pidfd counts", async || {
                kernel.times_logged("its death is known by the kernel") >= round
            })
            .await;
            let value = bare.at(&machine(), bare.host_port("6379/tcp").await).await;
            self.etcd.put(BY_PIDFD, &value.text()).await;
            servers.serve(&SERVERS).await;

            let (mark, serving) = (self.moments.mark(), servers.mark());
            let dead = dies(first_process_of(ours.id())).await;
            let since = |at: Duration| at.saturating_sub(dead);
            rows[0].add(since(self.moments.event(mark, ours.id(), "die").await));
            for (row, key) in [(1, BY_KERNEL), (3, BY_EVENTS)] {
                rows[row].add(since(self.moments.change(mark, key, false).await));
            }
            for (row, server) in [(5, "by-kernel"), (7, "by-events")] {
                rows[row].add(since(servers.left(serving, server).await));
            }

            let (mark, serving) = (self.moments.mark(), servers.mark());
            let pid = first_process_of(bare.id());
            let deleted = delete_at_the_death(self.etcd, pid);
            let dead = dies(pid).await;
            let since = |at: Duration| at.saturating_sub(dead);
            rows[0].add(since(self.moments.event(mark, bare.id(), "die").await));
            rows[2].add(since(self.moments.change(mark, BY_PIDFD, false).await));
            // The floor's first key comes with its first start event.
            if self.moments.knows(BY_FLOOR) {
                rows[4].add(since(self.moments.change(mark, BY_FLOOR, false).await));
            }
            rows[6].add(since(servers.left(serving, "by-pidfd").await));
            deleted.await.expect("the bare client goes on");

            let mark = self.moments.mark();
            ours.start().await;
            bare.start().await;
            self.moments.change(mark, BY_FLOOR, true).await;
        }
        for row in &rows {
            println!("{row}");
        }
        let [_, kernel, bare, events, ..] = &rows;
        println!(
            "  median, sidekick : bare pidfd {:.2}; by events − by the kernel {:.1} ms\n",
            kernel.median() / bare.median(),
            events.median() - kernel.median()
        );
    }
}

fn pidfd(pid: Pid) -> OwnedFd {
    pidfd_open(pid, PidfdFlags::empty()).expect("a process that lives")
}

/// The least: a pidfd, and a delete.
fn delete_at_the_death(etcd: &Etcd, pid: Pid) -> JoinHandle<()> {
    let mut client = etcd.client().clone();
    // The file stays open, and the same.
    #[allow(deprecated)]
    let pidfd =
        AsyncFd::with_interest(pidfd(pid), Interest::READABLE).expect("epoll takes a pidfd");
    tokio::spawn(async move {
        drop(pidfd.readable().await);
        client.delete(BY_PIDFD, None).await.expect("etcd takes it");
    })
}

/// Kills a process; returns the moment at which the kernel says that it is dead.
async fn dies(pid: Pid) -> Duration {
    let process = pidfd(pid);
    let dead = tokio::task::spawn_blocking(move || {
        let mut dead = [PollFd::new(&process, PollFlags::IN)];
        poll(&mut dead, None).expect("a pidfd tells of a death");
        wall_clock()
    });
    kill_process(pid, Signal::KILL).expect("it can be killed");
    dead.await.expect("a thread that waits")
}
