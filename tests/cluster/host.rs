//! systemd/sidekick.service: one sidekick for all containers of a machine, by their labels.

use std::time::{Instant, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{Cluster, Machine, SOON, TTL};
use sidekick_harness::blocking::{eventually, never_for};
use sidekick_harness::secs;

const KEYS: [&str; 2] = ["/services/redis/redis@2", "/services/cache/two@worker2"];

/// Two containers on worker2, which nobody but Docker and sidekick.service looks after.
pub fn one_sidekick_for_a_whole_host(cluster: &Cluster) {
    let machine = &cluster.worker2;
    run_redis(
        machine,
        "one",
        "6379:6379",
        &[
            "--label=sidekick.service=redis",
            "--label=sidekick.instance=redis@2",
        ],
    );
    run_redis(
        machine,
        "two",
        "6380:6379",
        &["--label=sidekick.service=cache"],
    );
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
        KEYS.iter()
            .all(|key| !cluster.history_of(key, from).is_empty())
    });
    // Past the end of the lease that the killed one had.
    never_for(TTL + secs(2), "a key is gone", || there(cluster) != KEYS);

    let (from, rebooted) = (cluster.etcd.revision(), Instant::now());
    machine.reboot();
    announced(cluster, &KEYS);
    println!(
        "    both keys back {:.1} s after a reboot was asked for",
        rebooted.elapsed().as_secs_f32()
    );
    gone_before_it_ended(cluster, machine, from);

    machine.run(&["docker", "rm", "--force", "one", "two"]);
    eventually(secs(5), "both keys are gone", || there(cluster).is_empty());
    machine.stop("sidekick");
    machine.systemctl("disable", "sidekick");
}

fn run_redis(machine: &Machine, name: &str, port: &str, labels: &[&str]) {
    let run = [
        "docker",
        "run",
        "--detach",
        "--restart=always",
        "--name",
        name,
        "--publish",
        port,
    ];
    machine.run(&[&run, labels, &["redis"]].concat());
}

/// Those of [`KEYS`] that are there.
fn there(cluster: &Cluster) -> Vec<&'static str> {
    KEYS.into_iter()
        .filter(|key| cluster.etcd.get(key).is_some())
        .collect()
}

#[track_caller]
fn announced(cluster: &Cluster, keys: &[&str]) {
    eventually(SOON, "each key names worker2", || {
        let values = keys
            .iter()
            .map(|key| cluster.etcd.get(key).unwrap_or_default());
        values
            .into_iter()
            .all(|value| value.contains(r#""host":"worker2""#))
    });
}

/// On the way down the sidekick goes before docker.service, and so the key before the container.
#[track_caller]
fn gone_before_it_ended(cluster: &Cluster, machine: &Machine, from: i64) {
    let ended = machine.run(&["docker", "inspect", "--format={{.State.FinishedAt}}", "one"]);
    let ended = OffsetDateTime::parse(&ended, &Rfc3339).expect("FinishedAt is a time");
    let ended = (ended - OffsetDateTime::from(UNIX_EPOCH)).as_seconds_f64();
    let history = cluster.history_of(KEYS[0], from);
    let gone = history
        .iter()
        .find(|change| change.put.is_none())
        .expect("the key was gone in between");
    let gone = gone
        .at
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970")
        .as_secs_f64();
    assert!(gone < ended, "key gone at {gone}, container at {ended}");
    println!(
        "    key gone {:.0} ms before its container",
        (ended - gone) * 1e3
    );
}
