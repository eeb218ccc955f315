//! Restarts that hand over, told apart from stops by the shipped units.

use std::time::{Duration, Instant};

use crate::harness::{Cluster, Machine, SOON, TTL};
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

const KEYS: [&str; 2] = ["/services/redis/redis@2", "/services/cache/two@worker2"];

const BINARY: &str = "/usr/local/bin/sidekick";

/// The TTL of the lease on which keys wait for the next process, and what etcd takes to notice that one has expired.
const GONE_BY: Duration = secs(14);

/// `systemctl restart sidekick`, as after an upgrade, and `systemctl try-restart`: no reader and no client misses anything.
pub fn a_restart_of_the_hosts_sidekick_hands_over(cluster: &Cluster) {
    let machine = &cluster.worker2;
    let from = host_announces(cluster);
    let began = Instant::now();
    let restarts = |verb| {
        let process = machine.property("sidekick", "MainPID");
        machine.systemctl(verb, "sidekick");
        assert_ne!(machine.property("sidekick", "MainPID"), process);
        announced(cluster);
    };
    restarts("restart");
    // The unit asks systemd, and not the system bus.
    machine.run_words("systemctl --quiet stop dbus.socket dbus.service");
    restarts("try-restart");
    machine.start("dbus.socket");
    // From the last process to this one, and past the end of the short lease.
    never_for(TTL + secs(3), "a key is gone", || there(cluster) != KEYS);
    for key in KEYS {
        let values = values(cluster, key, from);
        println!("    {key}: {} puts, no delete", values.len());
        // One by the process that leaves and one by the next, twice.
        assert_eq!(values.len(), 4, "{values:?}");
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
        assert!(!values[0].contains("draining"), "{values:?}");
    }
    let complaints = cluster.worker().complaints(began);
    assert!(complaints.is_empty(), "{complaints:?}");
    host_leaves(cluster);
}

/// `systemctl stop sidekick` drains.
pub fn a_stop_of_the_hosts_sidekick_drains(cluster: &Cluster) {
    let from = host_announces(cluster);
    cluster.worker2.stop("sidekick");
    drained(cluster, from);
    host_leaves(cluster);
}

/// An upgrade to a binary that doesn't start: what it can't take over is gone in seconds.
pub fn a_restart_into_a_broken_sidekick_lets_the_keys_go(cluster: &Cluster) {
    let machine = &cluster.worker2;
    host_announces(cluster);
    let from = cluster.etcd.revision();
    machine.run(&["mv", BINARY, "/usr/local/bin/sidekick.good"]);
    machine.run(&["cp", "/bin/false", BINARY]);
    let began = Instant::now();
    let restarted = machine.try_run(&["systemctl", "restart", "sidekick"]);
    restarted.expect_err("it doesn't start");
    eventually(GONE_BY, "both keys are gone", || there(cluster).is_empty());
    let seconds = began.elapsed().as_secs_f32();
    println!("    both keys gone {seconds:.1} s after the restart was asked for");
    for key in KEYS {
        let history = cluster.history_of(key, from);
        let gone = history.iter().position(|change| change.put.is_none());
        // Put on the short lease, then expired with it.
        assert_eq!((history.len(), gone), (2, Some(1)), "{history:?}");
    }
    machine.run(&["mv", "/usr/local/bin/sidekick.good", BINARY]);
    announced(cluster);
    host_leaves(cluster);
}

/// redis-discovery@1 alone: Redis runs on, and so does its key.
pub fn a_restart_of_one_containers_sidekick_hands_over(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let (from, began) = (cluster.etcd.revision(), Instant::now());
    worker.systemctl("restart", "redis-discovery@1");
    let put = || cluster.history(from).len() >= 2;
    eventually(SOON, "the next process has the key", put);
    cluster.keeps_the_key(TTL + secs(3));
    assert!(!cluster.was_gone(from), "the key was gone in between");
    cluster.no_reader_missed_it_since(began);
    let complaints = cluster.worker().complaints(began);
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// `systemctl restart redis@1` restarts the sidekick that is bound to it, by a job of the same type.
pub fn a_restart_of_redis_itself_drains_first(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let (from, container) = (cluster.etcd.revision(), worker.container("redis1"));
    worker.systemctl("restart", "redis@1");
    eventually(SOON, "another container is announced", || {
        worker.container("redis1") != container && cluster.announced_by(worker)
    });
    let history = cluster.history(from);
    let gone = history.iter().position(|change| change.put.is_none());
    assert_eq!(gone, Some(1), "draining, then gone: {history:?}");
    let draining = history[0].put.as_deref().unwrap_or_default();
    assert!(draining.contains("draining"), "{history:?}");
}

/// Two containers on worker2 and one sidekick for both; as of which revision.
fn host_announces(cluster: &Cluster) -> i64 {
    let machine = &cluster.worker2;
    let one =
        "--publish 6379:6379 --label=sidekick.service=redis --label=sidekick.instance=redis@2";
    let two = "--publish 6380:6379 --label=sidekick.service=cache";
    for (name, options) in [("one", one), ("two", two)] {
        machine.run_words(&format!(
            "docker run --detach --name {name} {options} redis"
        ));
    }
    machine.start("sidekick");
    announced(cluster);
    cluster.etcd.revision()
}

fn host_leaves(cluster: &Cluster) {
    let machine = &cluster.worker2;
    machine.run(&["docker", "rm", "--force", "--volumes", "one", "two"]);
    eventually(secs(5), "both keys are gone", || there(cluster).is_empty());
    machine.stop("sidekick");
}

/// Those of [`KEYS`] that are there.
fn there(cluster: &Cluster) -> Vec<&'static str> {
    let there = |key: &&str| cluster.etcd.get(key).is_some();
    KEYS.into_iter().filter(there).collect()
}

#[track_caller]
fn announced(cluster: &Cluster) {
    let machine: &Machine = &cluster.worker2;
    eventually(SOON, "each key serves, and its sidekick is ready", || {
        let values = KEYS.iter().filter_map(|key| cluster.etcd.get(key));
        let serving = values.filter(|value| !value.contains("draining"));
        serving.count() == KEYS.len() && machine.is_active("sidekick")
    });
}

/// Each key had a draining value, and then it was deleted.
#[track_caller]
fn drained(cluster: &Cluster, from: i64) {
    for key in KEYS {
        let history = cluster.history_of(key, from);
        let draining =
            |put: &Option<String>| put.as_ref().is_some_and(|it| it.contains("draining"));
        let drains = history.iter().position(|change| draining(&change.put));
        let gone = history.iter().position(|change| change.put.is_none());
        assert_eq!((drains, gone), (Some(0), Some(1)), "{key}: {history:?}");
    }
}

/// What was put since then; fails the scenario where the key was gone.
#[track_caller]
fn values(cluster: &Cluster, key: &str, from: i64) -> Vec<String> {
    let history = cluster.history_of(key, from).into_iter();
    let values = history.map(|change| change.put.expect("the key was gone"));
    values.collect()
}
