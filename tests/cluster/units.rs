//! The shipped units on one machine: who pulls whom in, who stops first, and who comes back.

use std::time::Instant;

use crate::harness::{Cluster, Machine, SOON, TTL, unix_seconds};
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
    cluster.is_announced_by(worker);
    let mut new = active_services(worker);
    new.retain(|unit| !before.contains(unit));
    let both = ["redis-discovery@1.service", "redis@1.service"];
    assert_eq!(new, both, "what redis-discovery@1 brought");
}

/// The host is the machine's own name, by which another machine finds Redis.
pub fn starts_both(cluster: &Cluster) {
    let worker = &cluster.worker1;
    worker.stop("redis@1");
    assert_eq!(cluster.key(), None, "the key outlived systemctl stop");
    let from = cluster.etcd.revision();
    worker.start("redis@1");
    eventually(SOON, "both are active", || both_active(worker));
    cluster.is_announced_by(worker);
    let status = worker.property("redis-discovery@1", "StatusText");
    println!("    {}; {status}", cluster.key().unwrap_or_default());
    let ping = cluster.worker2.ping("worker1", 6379);
    assert_eq!(ping.as_deref(), Ok("+PONG"), "from worker2");
    let changes = cluster.history(from).len();
    assert_eq!(changes, 1, "changes of the key from one start");
}

/// What `sidekick doctor` says on a machine where all is well, and once the pair has too little time to drain.
pub fn the_doctor_judges_the_pair(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let ask = || -> Vec<(String, String, String)> {
        // As the units have it: the same variables.
        let command =
            "set -a; . /etc/default/sidekick; sidekick doctor announce --output json || true";
        let found: serde_json::Value =
            serde_json::from_str(&worker.run(&["sh", "-c", command])).expect("JSON");
        let found = found.as_array().expect("an array").iter();
        let word =
            |it: &serde_json::Value, field: &str| it[field].as_str().unwrap_or_default().to_owned();
        let found = found.map(|it| (word(it, "subject"), word(it, "check"), word(it, "grade")));
        found.collect()
    };
    let bad = |found: Vec<(String, String, String)>| -> Vec<String> {
        let bad = found.into_iter().filter(|(_, _, grade)| grade != "ok");
        bad.map(|it| format!("{} {} {}", it.0, it.1, it.2))
            .collect()
    };
    let unit = "unit redis-discovery@1.service";
    let found = ask();
    for check in ["BindsTo", "After", "TimeoutStopSec"] {
        let ok = (unit.to_owned(), check.to_owned(), "ok".to_owned());
        assert!(found.contains(&ok), "{check}: {found:?}");
    }
    let members = found
        .iter()
        .filter(|it| it.0.starts_with("etcd ") && it.1 == "write");
    assert_eq!(members.count(), 3, "{found:?}");
    assert_eq!(bad(found), [""; 0], "all is well");

    // As docs/doctor.md has it: the rights of a user who is not root.
    let as_the_unit = "systemd-run --pipe --quiet --property=DynamicUser=yes --property=SupplementaryGroups=docker \
                       --property=EnvironmentFile=-/etc/default/sidekick /usr/local/bin/sidekick doctor announce";
    let said = worker.run_words(as_the_unit);
    println!("    {}", said.lines().last().unwrap_or_default());

    let directory = "/etc/systemd/system/redis-discovery@.service.d";
    worker.run(&["mkdir", directory]);
    let give = |time: &str| {
        let file = format!("{directory}/hasty.conf");
        worker.write(&file, &format!("[Service]\nTimeoutStopSec={time}\n"));
        // `docker cp` cuts the time of a file to seconds, by which systemd sees that it changed.
        worker.run(&["touch", &file]);
    };
    give("5s");
    worker.run(&["systemctl", "daemon-reload"]);
    let too_short = format!("{unit} TimeoutStopSec fail");
    assert_eq!(bad(ask()), [too_short.as_str()]);
    give("60s");
    let changed = format!("{unit} file warn");
    assert_eq!(bad(ask()), [changed, too_short], "before daemon-reload");
    worker.run(&["rm", "-r", directory]);
    worker.run(&["systemctl", "daemon-reload"]);
    assert_eq!(bad(ask()), [""; 0], "as before");
}

/// After= stops in reverse: the key is gone before Redis hears of it.
pub fn stops_the_sidekick_first(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let (from, began) = (cluster.etcd.revision(), unix_seconds());
    worker.stop("redis@1");
    assert_eq!(cluster.key(), None, "the key outlived systemctl stop");
    let active = worker.is_active("redis-discovery@1");
    assert!(!active, "the sidekick outlived systemctl stop");
    let signalled = engine_event(worker, "kill", began);
    let history = cluster.history(from);
    let [drains, gone] = &history[..] else {
        panic!("two changes were to be: {history:?}")
    };
    let says_so = |value: &String| value.contains(r#""status":"draining""#);
    assert!(drains.put.as_ref().is_some_and(says_so), "{drains:?}");
    assert_eq!(gone.put, None);
    let ms = (signalled - gone.unix_seconds()) * 1e3;
    assert!(ms > 0.0, "key gone {ms} ms before Redis got its signal");
    println!("    key gone {ms:.0} ms before Redis got its signal");
    worker.start("redis@1");
}

/// The container dies: the key goes at once; systemd brings Redis back, and with it the sidekick.
pub fn comes_back_after_docker_kill(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let (from, began) = (cluster.etcd.revision(), unix_seconds());
    let container = worker.container("redis1");
    worker.run(&["docker", "kill", "redis1"]);
    announces_another(cluster, container);
    let (died, history) = (engine_event(worker, "die", began), cluster.history(from));
    let in_order = history.len() >= 2 && history[0].put.is_none();
    assert!(in_order, "gone first, then another: {history:?}");
    let gone = (history[0].unix_seconds() - died) * 1e3;
    let back = history[history.len() - 1].instant - history[0].instant;
    let back = back.as_secs_f64() * 1e3;
    println!("    key gone {gone:.0} ms after the death, back {back:.0} ms later");
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

/// A killed docker client leaves its container up, which redis@1 removes before it runs another one.
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
    let active = || worker.is_active("redis-discovery@1");
    eventually(SOON, "it is ready", active);
    let put = || !cluster.history(from).is_empty();
    eventually(SOON, "it has put the key", put);
    assert!(cluster.announced_by(worker), "the key is another's");
    // Past the end of the lease that the killed one had: the key hangs on the new one's.
    cluster.keeps_the_key(TTL + secs(2));
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
    has_another_container(worker, container.as_ref());
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
    has_another_container(worker, than.as_ref());
    cluster.is_announced_by(worker);
    eventually(SOON, "both are active", || both_active(worker));
}

#[track_caller]
fn has_another_container(machine: &Machine, than: Option<&String>) {
    eventually(SOON, "there is another container", || {
        let now = machine.container("redis1");
        now.is_some() && now.as_ref() != than
    });
}

fn both_active(machine: &Machine) -> bool {
    BOTH.iter().all(|unit| machine.is_active(unit))
}

fn active_services(machine: &Machine) -> Vec<String> {
    let list = "systemctl list-units --type=service --state=active --plain --no-legend";
    let list = machine.run_words(list);
    let units = list.lines().filter_map(|line| line.split(' ').next());
    units.map(str::to_owned).collect()
}

/// When the engine told of something, in seconds since 1970: the first time since `from`.
fn engine_event(machine: &Machine, what: &str, from: f64) -> f64 {
    let span = format!("--since {from:.6} --until {:.6}", unix_seconds());
    let events = format!("docker events {span} --filter event={what} --format {{{{.TimeNano}}}}");
    let events = machine.run_words(&events);
    let first = events
        .lines()
        .next()
        .and_then(|time| time.parse::<f64>().ok());
    first.unwrap_or_else(|| panic!("the engine told of no {what}")) / 1e9
}
