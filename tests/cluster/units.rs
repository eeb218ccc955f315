//! The shipped units on one machine: who pulls whom in, who stops first, and who comes back.

use std::time::{Instant, UNIX_EPOCH};

use crate::harness::{Cluster, Machine, SOON};
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

const BOTH: [&str; 2] = ["redis@1", "redis-discovery@1"];

/// As tests/units.sh asks this machine's systemd; here it is the one that runs them.
pub fn understands_the_units(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let units = ["redis@1.service", "redis-discovery@1.service"];
    let said = worker.run(&[&["systemd-analyze", "--man=no", "verify"], &units[..]].concat());
    assert_eq!(said, "", "systemd-analyze verify has something to say");
    let exposure =
        worker.run(&[&["systemd-analyze", "security", "--no-pager"], &units[..]].concat());
    for line in exposure.lines().filter(|line| line.contains("Overall")) {
        println!("    {}", line.trim_start_matches(['→', ' ']));
    }
}

/// redis-discovery@1 is bound to redis@1: started alone, it brings that, and no other service.
pub fn sidekick_pulls_in_its_redis_and_nothing_else(cluster: &Cluster) {
    let worker = &cluster.worker1;
    worker.stop("redis@1");
    let before = active_services(worker);
    worker.start("redis-discovery@1");
    eventually(SOON, "both are active", || both_active(worker));
    eventually(SOON, "the key is there", || cluster.announced_by(worker));
    let mut new = active_services(worker);
    new.retain(|unit| !before.contains(unit));
    assert_eq!(
        new,
        ["redis-discovery@1.service", "redis@1.service"],
        "what redis-discovery@1 brought"
    );
}

/// The host is the machine's own name, by which another machine finds Redis.
pub fn starts_both(cluster: &Cluster) {
    let worker = &cluster.worker1;
    worker.stop("redis@1");
    assert_eq!(cluster.key(), None, "the key outlived systemctl stop");
    let from = cluster.etcd.revision();
    worker.start("redis@1");
    eventually(SOON, "both are active", || both_active(worker));
    eventually(SOON, "the key is there", || cluster.announced_by(worker));
    println!(
        "    {}; {}",
        cluster.key().unwrap_or_default(),
        worker.property("redis-discovery@1", "StatusText")
    );
    assert_eq!(
        cluster.worker2.ping("worker1", 6379).as_deref(),
        Ok("+PONG"),
        "from worker2"
    );
    assert_eq!(
        cluster.history(from).len(),
        1,
        "changes of the key from one start"
    );
}

/// After= stops in reverse: the key is gone before Redis hears of it.
pub fn stops_the_sidekick_first(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let (from, began) = (cluster.etcd.revision(), unix_seconds());
    worker.stop("redis@1");
    assert_eq!(cluster.key(), None, "the key outlived systemctl stop");
    assert!(
        !worker.is_active("redis-discovery@1"),
        "the sidekick outlived systemctl stop"
    );
    let signalled = engine_event(worker, "kill", began);
    let history = cluster.history(from);
    let [gone] = &history[..] else {
        panic!("one change was to be: {history:?}")
    };
    let gone = gone
        .at
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970")
        .as_secs_f64();
    assert!(
        gone < signalled,
        "key gone at {gone}, Redis signalled at {signalled}"
    );
    println!(
        "    key gone {:.0} ms before Redis got its signal",
        (signalled - gone) * 1e3
    );
    worker.start("redis@1");
}

/// The container dies: the key goes at once; systemd brings Redis back, and with it the sidekick.
pub fn comes_back_after_docker_kill(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let (from, began, container) = (
        cluster.etcd.revision(),
        unix_seconds(),
        worker.container("redis1"),
    );
    worker.run(&["docker", "kill", "redis1"]);
    announces_another(cluster, container);
    let (died, history) = (engine_event(worker, "die", began), cluster.history(from));
    assert!(
        history.len() >= 2 && history[0].put.is_none(),
        "gone first, then another: {history:?}"
    );
    let gone = history[0]
        .at
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970")
        .as_secs_f64();
    let back = history[history.len() - 1].instant - history[0].instant;
    println!(
        "    key gone {:.0} ms before the engine told of the death, back {:.0} ms later",
        (died - gone) * 1e3,
        back.as_secs_f64() * 1e3
    );
}

/// With all of its unit's hardening the sidekick sees the process end, although the engine tells nothing.
pub fn knows_a_death_under_a_frozen_engine(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let container = worker.container("redis1");
    let pid = worker.run(&["docker", "inspect", "--format={{.State.Pid}}", "redis1"]);
    worker.signal("docker", "STOP");
    let died = Instant::now();
    worker.run(&["kill", "-KILL", &pid]);
    eventually(secs(2), "the key is gone", || cluster.key().is_none());
    println!(
        "    key gone {:.0} ms after the death, `docker exec` and etcdctl included",
        died.elapsed().as_secs_f64() * 1e3
    );
    worker.signal("docker", "CONT");
    announces_another(cluster, container);
}

/// A killed docker client leaves its container up, which redis@1 removes and makes anew.
pub fn comes_back_after_its_client_is_killed(cluster: &Cluster) {
    let container = cluster.worker1.container("redis1");
    cluster.worker1.signal("redis@1", "KILL");
    announces_another(cluster, container);
}

/// A sidekick that crashed leaves its key, and the next one takes it over: no reader ever misses it.
pub fn takes_its_own_key_over_after_sigkill(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let (from, began) = (cluster.etcd.revision(), Instant::now());
    let process = worker.property("redis-discovery@1", "MainPID");
    worker.signal("redis-discovery@1", "KILL");
    eventually(SOON, "there is another process", || {
        let now = worker.property("redis-discovery@1", "MainPID");
        now != "0" && now != process
    });
    eventually(SOON, "it is ready", || {
        worker.is_active("redis-discovery@1")
    });
    eventually(SOON, "it has put the key", || {
        !cluster.history(from).is_empty()
    });
    assert!(cluster.announced_by(worker), "the key is another's");
    // Past the end of the lease that the killed one had: the key hangs on the new one's.
    never_for(crate::harness::TTL + secs(2), "the key is gone", || {
        cluster.key().is_none()
    });
    assert!(!cluster.was_gone(from), "the key was gone in between");
    cluster.no_reader_missed_it_since(began);
}

/// `systemctl restart docker` kills the containers; both come back.
pub fn comes_back_after_docker_restart(cluster: &Cluster) {
    let container = cluster.worker1.container("redis1");
    cluster.worker1.systemctl("restart", "docker");
    announces_another(cluster, container);
}

/// An operator takes the instance out of service while Redis still runs: nothing may put it back.
pub fn stays_stopped_when_asked(cluster: &Cluster) {
    let worker = &cluster.worker1;
    worker.stop("redis-discovery@1");
    assert_eq!(cluster.key(), None, "the key outlived the sidekick");
    assert!(worker.is_active("redis@1"), "Redis went too");
    never_for(secs(3), "the sidekick is started behind our back", || {
        worker.is_active("redis-discovery@1")
    });
    worker.start("redis-discovery@1");
}

/// The hard case for the pulling back: the sidekick takes its 5 s to stop, Redis is back after 1.
pub fn comes_back_while_etcd_is_out_of_reach(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let container = worker.container("redis1");
    worker.cut_off();
    worker.run(&["docker", "kill", "redis1"]);
    eventually(SOON, "there is another container", || {
        worker
            .container("redis1")
            .is_some_and(|now| Some(now) != container)
    });
    eventually(SOON, "both are active", || both_active(worker));
    worker.reconnect();
    announces_another(cluster, container);
}

/// Enabled, both come back with the machine.
pub fn comes_back_after_a_reboot(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let container = worker.container("redis1");
    worker.systemctl("enable", "redis@1");
    worker.reboot();
    announces_another(cluster, container);
    worker.systemctl("disable", "redis@1");
}

#[track_caller]
fn announces_another(cluster: &Cluster, than: Option<String>) {
    let worker = &cluster.worker1;
    eventually(SOON, "there is another container", || {
        worker
            .container("redis1")
            .is_some_and(|now| Some(now) != than)
    });
    eventually(SOON, "its key is there", || cluster.announced_by(worker));
    eventually(SOON, "both are active", || both_active(worker));
}

fn both_active(machine: &Machine) -> bool {
    BOTH.iter().all(|unit| machine.is_active(unit))
}

fn active_services(machine: &Machine) -> Vec<String> {
    let list = [
        "systemctl",
        "list-units",
        "--type=service",
        "--state=active",
        "--plain",
        "--no-legend",
    ];
    let list = machine.run(&list);
    list.lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

/// When the engine told of something, in seconds since 1970: the first time since `from`.
fn engine_event(machine: &Machine, what: &str, from: f64) -> f64 {
    let (filter, since, until) = (
        format!("event={what}"),
        format!("{from:.6}"),
        format!("{:.6}", unix_seconds()),
    );
    let events = machine.run(&[
        "docker",
        "events",
        "--since",
        &since,
        "--until",
        &until,
        "--filter",
        &filter,
        "--format",
        "{{.TimeNano}}",
    ]);
    let first = events
        .lines()
        .next()
        .and_then(|time| time.parse::<f64>().ok());
    first.unwrap_or_else(|| panic!("the engine told of no {what}")) / 1e9
}

fn unix_seconds() -> f64 {
    UNIX_EPOCH
        .elapsed()
        .expect("a time after 1970")
        .as_secs_f64()
}
