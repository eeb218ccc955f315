//! Docker Swarm in fleet's place: it decides where Redis runs, `sidekick announce --all` on each worker tells etcd.

use std::path::Path;
use std::time::{Instant, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::harness::{Cluster, Machine, SOON};
use crate::loss::{Stops, serves_so_many};
use crate::planned::{PER_SECOND_OF_ENGINES, rounds};
use sidekick_harness::blocking::eventually;
use sidekick_harness::secs;

/// Instances of redis, whoever announces them.
const REDIS: &str = "/services/redis/";

/// Beside deploy/swarm.yml: what a service has that can be updated without a loss. The delay is for the newcomer to be
/// announced, and found by HAProxy's clients, before the other one goes.
const ROLLING: &str = r#"
services:
  redis:
    labels: {sidekick.check: tcp}
    stop_signal: SIGUSR1
    stop_grace_period: 1s
    deploy:
      replicas: 2
      update_config:
        order: stop-first
        parallelism: 1
        delay: 3s
"#;

/// deploy/swarm.yml on the two workers, etcd1 as the manager. The worker that runs Redis loses its power.
pub fn swarm_moves_redis_and_its_key_follows(cluster: &Cluster) {
    cluster.worker1.stop("redis@1");
    let manager = &cluster.members[0];
    form_a_swarm(cluster, manager);
    deploy(cluster, manager, "");
    let workers = [&cluster.worker1, &cluster.worker2];
    let (key, lost) = eventually(SOON, "one of the workers announces Redis", || {
        announced_by(cluster, &workers)
    });
    println!("    {key} {}", cluster.etcd.get(&key).unwrap_or_default());
    cluster.prints_bar(Instant::now());

    let (off, off_at) = (Instant::now(), SystemTime::now());
    lost.power_off();
    let other = workers[usize::from(lost.name == workers[0].name)];
    let state = format!(
        "docker node inspect --format={{{{.Status.State}}}} {}",
        lost.name
    );
    eventually(secs(90), "Swarm sees that it is down", || {
        manager.run_words(&state) == "down"
    });
    let seen = off.elapsed();
    let (key, _) = eventually(SOON, "the other worker announces Redis", || {
        announced_by(cluster, &[other])
    });
    let since = member(&cluster.etcd.get(&key).unwrap_or_default(), "since");
    let started = OffsetDateTime::parse(&since, &Rfc3339).expect("since is a time")
        - OffsetDateTime::from(off_at);
    let put = cluster.history_of(&key, 0)[0].instant - off;
    cluster.prints_bar(Instant::now());
    println!(
        "    {} lost its power; Swarm noticed after {:.1} s and had Redis on {} after {:.2} s, its key was there after \
         {:.2} s; worker without bar for {:.1} s",
        lost.name,
        seen.as_secs_f32(),
        other.name,
        started.as_seconds_f32(),
        put.as_secs_f32(),
        cluster.worker().longest_without_bar(off).as_secs_f32(),
    );
    eventually(SOON, "the lost worker's key is gone", || {
        cluster.etcd.keys(REDIS) == [key.as_str()]
    });

    lost.power_on();
    disband(cluster, manager);
    cluster.worker1.start("redis@1");
}

const UPDATE_STATE: &str = "docker service inspect --format {{.UpdateStatus.State}} redis_redis";

/// deploy/swarm.yml with two replicas, one on each worker, of a server that goes on accepting for a second after its
/// signal. Swarm replaces one after the other.
pub fn a_rolling_update_costs_no_request(cluster: &Cluster) {
    cluster.worker1.stop("redis@1");
    let manager = &cluster.members[0];
    form_a_swarm(cluster, manager);
    deploy(cluster, manager, ROLLING);
    let stops = Stops {
        cluster,
        what: "a rolling update of two replicas by Swarm, accept for 1 s",
        rounds: rounds(),
        per_second: PER_SECOND_OF_ENGINES,
    };
    let lost = stops.lost(
        || serves_so_many(cluster, 2),
        || {
            let began = Instant::now();
            let keys = cluster.etcd.keys(REDIS);
            manager.run_words("docker service update --quiet --force redis_redis");
            eventually(SOON, "both are other containers", || {
                let now = cluster.etcd.keys(REDIS);
                now.len() == 2 && now.iter().all(|key| !keys.contains(key))
            });
            let took = began.elapsed();
            // Swarm notes the update's end in the service itself, and refuses an update that has read the one before.
            eventually(SOON, "Swarm has noted that the update is over", || {
                manager.run_words(UPDATE_STATE).trim() == "completed"
            });
            took
        },
    );
    disband(cluster, manager);
    cluster.worker1.start("redis@1");
    lost.is_within_the_promise();
}

/// The heartbeat is Swarm's 5 s unless told otherwise; a node that missed three is down.
fn form_a_swarm(cluster: &Cluster, manager: &Machine) {
    let address = manager.address;
    let init = "docker swarm init --dispatcher-heartbeat=1s";
    manager.run_words(&format!("{init} --advertise-addr={address}"));
    let token = manager.run(&["docker", "swarm", "join-token", "--quiet", "worker"]);
    for worker in [&cluster.worker1, &cluster.worker2] {
        worker.load_image(&cluster.sidekick_image());
        worker.run_words(&format!("docker swarm join --token {token} {address}:2377"));
        let label = "docker node update --label-add=role=worker";
        manager.run_words(&format!("{label} {}", worker.name));
    }
}

/// As its comment says, and with what `further` says of its services, with a TTL that no test has to wait a minute for.
fn deploy(cluster: &Cluster, manager: &Machine, further: &str) {
    manager.copy_in(Path::new("deploy/swarm.yml"), "/srv/swarm.yml");
    manager.copy_in(&cluster.swarm_settings(), "/srv/settings.yml");
    let endpoints = format!("ETCDCTL_ENDPOINTS={}", cluster.endpoints().join(","));
    let deploy = "docker stack deploy --resolve-image=never";
    manager.write("/srv/further.yml", &format!("version: \"3.8\"\n{further}"));
    let files = ["swarm", "settings", "further"].map(|it| format!("--compose-file=/srv/{it}.yml"));
    let files = files.join(" ");
    manager.run_words(&format!("env {endpoints} {deploy} {files} redis"));
}

fn disband(cluster: &Cluster, manager: &Machine) {
    manager.run(&["docker", "stack", "rm", "redis"]);
    for worker in [&cluster.worker1, &cluster.worker2] {
        eventually(SOON, "its containers are gone", || {
            worker.run(&["docker", "ps", "--quiet"]).is_empty()
        });
        worker.run(&["docker", "swarm", "leave", "--force"]);
    }
    manager.run(&["docker", "swarm", "leave", "--force"]);
    eventually(SOON, "no key is left", || {
        cluster.etcd.keys(REDIS).is_empty()
    });
}

/// A key of Redis, and the one of these machines that it names.
fn announced_by<'m>(cluster: &Cluster, machines: &[&'m Machine]) -> Option<(String, &'m Machine)> {
    cluster.etcd.keys(REDIS).into_iter().find_map(|key| {
        let host = member(&cluster.etcd.get(&key)?, "host");
        let machine = machines.iter().find(|machine| machine.name == host)?;
        Some((key, *machine))
    })
}

fn member(value: &str, name: &str) -> String {
    let value: Value = serde_json::from_str(value).unwrap_or_default();
    value[name].as_str().unwrap_or_default().to_owned()
}
