//! systemd/sidekick.service: one sidekick for all containers of a machine, by their labels.

use std::time::{Instant, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{Cluster, Machine, SOON, TTL};
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

const KEYS: [&str; 2] = ["/services/redis/redis@2", "/services/cache/two@worker2"];

/// Two containers on worker2, with a restart policy and without units.
pub fn one_sidekick_for_a_whole_host(cluster: &Cluster) {
    let machine = &cluster.worker2;
    let run = "docker run --detach --restart=always";
    let one = "--label=sidekick.service=redis --label=sidekick.instance=redis@2";
    machine.run_words(&format!("{run} --name one --publish 6379:6379 {one} redis"));
    let two = "--label=sidekick.service=cache";
    machine.run_words(&format!("{run} --name two --publish 6380:6379 {two} redis"));
    machine.systemctl("enable", "sidekick");
    machine.start("sidekick"); // returns when it said READY=1
    announced(cluster, &KEYS);
    println!("    {}", machine.property("sidekick", "StatusText"));

    machine.run(&["docker", "stop", "two"]);
    eventually(secs(5), "its key is gone, and only its", || {
        there(cluster) == KEYS[..1]
    });
    machine.run(&["docker", "start", "two"]);
    announced(cluster, &KEYS);

    let from = cluster.etcd.revision();
    machine.signal("sidekick", "KILL");
    eventually(SOON, "it has taken both over", || {
        let put = |key: &&str| !cluster.history_of(key, from).is_empty();
        KEYS.iter().all(put)
    });
    // Past the end of the lease that the killed one had.
    never_for(TTL + secs(2), "a key is gone", || there(cluster) != KEYS);

    let (from, rebooted) = (cluster.etcd.revision(), Instant::now());
    machine.reboot();
    announced(cluster, &KEYS);
    let seconds = rebooted.elapsed().as_secs_f32();
    println!("    both keys back {seconds:.1} s after a reboot was asked for");
    gone_before_it_ended(cluster, machine, from);

    machine.run(&["docker", "rm", "--force", "one", "two"]);
    eventually(secs(5), "both keys are gone", || there(cluster).is_empty());
    machine.stop("sidekick");
    machine.systemctl("disable", "sidekick");
}

/// Those of [`KEYS`] that are there.
fn there(cluster: &Cluster) -> Vec<&'static str> {
    let there = |key: &&str| cluster.etcd.get(key).is_some();
    KEYS.into_iter().filter(there).collect()
}

#[track_caller]
fn announced(cluster: &Cluster, keys: &[&str]) {
    eventually(SOON, "each key names worker2", || {
        let values = keys.iter().filter_map(|key| cluster.etcd.get(key));
        let named = values.filter(|value| value.contains(r#""host":"worker2""#));
        named.count() == keys.len()
    });
}

/// On the way down the sidekick drains, and goes before docker.service, and so the key before the container.
#[track_caller]
fn gone_before_it_ended(cluster: &Cluster, machine: &Machine, from: i64) {
    let ended = machine.run(&["docker", "inspect", "--format={{.State.FinishedAt}}", "one"]);
    let ended = OffsetDateTime::parse(&ended, &Rfc3339).expect("FinishedAt is a time");
    let ended = (ended - OffsetDateTime::from(UNIX_EPOCH)).as_seconds_f64();
    let history = cluster.history_of(KEYS[0], from);
    let first = history.first().and_then(|change| change.put.as_deref());
    let drained = first.is_some_and(|value| value.contains("draining"));
    assert!(drained, "a shutdown drains: {history:?}");
    let gone = history.iter().find(|change| change.put.is_none());
    let gone = gone.expect("the key was gone in between").unix_seconds();
    assert!(gone < ended, "key gone at {gone}, container at {ended}");
    let ms = (ended - gone) * 1e3;
    println!("    key gone {ms:.0} ms before its container");
}
