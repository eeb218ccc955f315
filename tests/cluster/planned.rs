//! Stops on purpose, with another instance up and clients of three habits: what they cost.
//!
//! `ROUNDS` in the environment says how many of each, 5 unless it is set; reboots are a tenth of them.

use std::cell::Cell;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Cluster, Machine, OpenEngine, finish};
use crate::loss::{HABITS, Loss, PROMISE, Stops, serves};
use sidekick_harness::{measured, secs};

/// The instance on worker2.
const OTHER: &str = "redis@2";

/// The container of the scenarios without a unit of its own, on worker2.
const BY_HAND: &str = "by-hand";
/// With a check: the engine's proxy accepts connections before the server in the container does.
const LABELS: &str =
    "--label=sidekick.service=redis --label=sidekick.instance=by-hand --label=sidekick.check=tcp";

/// The same container as compose's, which goes on accepting for a second after its signal.
const COMPOSE_FILE: &str = r#"version: "3"
services:
  redis:
    container_name: by-hand
    image: ${IMAGE}
    labels: {sidekick.service: redis, sidekick.instance: by-hand, sidekick.check: tcp}
    network_mode: bridge
    ports: ["6379:6379"]
    stop_signal: USR1
    stop_grace_period: 1s
"#;

/// Requests a second of the clients that connect anew: where systemd stops, and where the engine is told to.
const PER_SECOND: u32 = 200;
pub const PER_SECOND_OF_ENGINES: u32 = 500;

/// How fast Redis looks whether it has got a signal; 2 ms.
const LOOKS_OFTEN: &str = "redis-server --protected-mode no --save \"\" --hz 500";

/// How many stops of each kind.
pub fn rounds() -> usize {
    let rounds = std::env::var("ROUNDS").unwrap_or_default();
    let number = || rounds.parse().expect("ROUNDS is a number");
    if rounds.is_empty() { 5 } else { number() }
}

/// Each agent says at once that it lets the last instance of a service alone.
pub fn a_sole_instance_restarts_as_fast_as_without_draining(cluster: &Cluster) {
    let worker = &cluster.worker1;
    let median = || {
        let mut times: Vec<_> = (0..5)
            .map(|_| {
                cluster.is_announced_by(worker);
                serves(cluster, &["redis@1"]);
                let began = Instant::now();
                worker.systemctl("restart", "redis@1");
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[2]
    };
    let draining = median();
    worker.run(&["cp", "/etc/default/sidekick", "/root/settings"]);
    let none = "echo SIDEKICK_DRAIN=0 >>/etc/default/sidekick";
    worker.run(&["sh", "-c", none]);
    worker.systemctl("restart", "redis@1"); // still drains
    let at_once = median();
    worker.run(&["mv", "/root/settings", "/etc/default/sidekick"]);
    worker.systemctl("restart", "redis@1");
    println!("    systemctl restart redis@1: {draining:.2?}; with SIDEKICK_DRAIN=0 {at_once:.2?}");
    measured::took(
        PROMISE,
        "systemctl restart redis@1 of a sole instance, longer than without draining",
        draining.saturating_sub(at_once),
        secs(1),
    );
}

/// `systemctl stop`, and later `systemctl start`.
pub fn stop_and_start_cost_no_request(cluster: &Cluster) {
    with_two_units(cluster, "systemctl stop and start", rounds(), |worker| {
        let began = Instant::now();
        worker.stop("redis@1");
        let took = began.elapsed();
        worker.start("redis@1");
        took
    });
}

/// `systemctl restart`.
pub fn restart_costs_no_request(cluster: &Cluster) {
    with_two_units(cluster, "systemctl restart", rounds(), |worker| {
        let began = Instant::now();
        worker.systemctl("restart", "redis@1");
        began.elapsed()
    });
}

/// The machine goes down in good order, and comes back.
pub fn reboot_costs_no_request(cluster: &Cluster) {
    cluster.worker1.systemctl("enable", "redis@1");
    let rounds = rounds().div_ceil(10);
    with_two_units(cluster, "reboot of the machine", rounds, |worker| {
        let began = Instant::now();
        worker.reboot();
        began.elapsed()
    });
    cluster.worker1.systemctl("disable", "redis@1");
}

/// A server that goes on accepting for a second after its signal: Redis, which as a container's first process doesn't
/// feel the one that stops it here, until its stop timeout is over.
pub fn docker_stop_of_a_server_that_still_accepts_costs_no_request(cluster: &Cluster) {
    let accepting = ("--stop-signal=USR1 --stop-timeout=1", "");
    let stop = ["docker stop by-hand", "docker start by-hand"];
    let what = "docker stop and start, accepts for 1 s";
    by_hand(cluster, what, accepting, &stop).is_within_the_promise();
    let what = "docker restart, accepts for 1 s";
    let restart = ["docker restart by-hand"];
    by_hand(cluster, what, accepting, &restart).is_within_the_promise();
}

/// `docker-compose up --detach` with another image than before, each time: compose stops the container, and makes
/// another one of the same name.
pub fn compose_up_with_a_changed_image_costs_no_request(cluster: &Cluster) {
    let machine = &cluster.worker2;
    let images = ["redis", "redis:changed"];
    machine.run_words("docker create --name source redis");
    let label = ["--change", "LABEL changed=1"];
    let commit = [
        &["docker", "commit"],
        &label[..],
        &["source", "redis:changed"],
    ];
    machine.run(&commit.concat());
    machine.run_words("docker rm source");
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("docker-compose.yml"), COMPOSE_FILE).expect("a file");
    let engine = machine.open_engine();
    compose(&engine, directory.path(), images[1]);
    let rounds = Cell::new(0);
    let what = "docker-compose up with a changed image, accepts for 1 s";
    let lost = beside_redis_1(cluster, what, || {
        let began = Instant::now();
        let before = machine.container(BY_HAND);
        compose(&engine, directory.path(), images[rounds.get() % 2]);
        rounds.set(rounds.get() + 1);
        assert_ne!(
            machine.container(BY_HAND),
            before,
            "it is another container"
        );
        began.elapsed()
    });
    machine.run_words("docker image rm redis:changed");
    lost.is_within_the_promise();
}

/// One that is gone within milliseconds: its backlog is reset, and nothing can ask again for its clients. Printed beside
/// the same by the death alone: a stop whose signal is not the container's own, so that no event tells of it.
pub fn docker_stop_of_a_server_that_is_gone_at_once(cluster: &Cluster) {
    let stop = ["docker stop by-hand", "docker start by-hand"];
    let what = "docker stop, gone at once";
    let known = by_hand(cluster, what, ("", LOOKS_OFTEN), &stop);
    let other = ("--stop-signal=USR1", LOOKS_OFTEN);
    let stop = [
        "docker kill --signal=TERM by-hand",
        "docker wait by-hand",
        "docker start by-hand",
    ];
    let what = "the same, known by the death alone";
    let alone = by_hand(cluster, what, other, &stop);
    for habit in HABITS {
        let [known, alone] = [&known, &alone].map(|it| it.of(habit).failures.len());
        println!("    failed among {habit}: {known} by the kill event, {alone} by the death alone");
    }
}

/// redis@1 on worker1 is stopped so many times, while redis@2 on worker2 stays up. `stop` returns how long the stop took.
fn with_two_units(
    cluster: &Cluster,
    what: &'static str,
    rounds: usize,
    stop: impl Fn(&Machine) -> Duration,
) {
    cluster.worker2.start(OTHER);
    let both = ["redis@1", OTHER];
    let stops = Stops {
        cluster,
        what,
        rounds,
        per_second: PER_SECOND,
    };
    let lost = stops.lost(|| serves(cluster, &both), || stop(&cluster.worker1));
    cluster.worker2.stop(OTHER);
    lost.is_within_the_promise();
}

/// A container on worker2 with these options and that command, announced by `sidekick announce --all`, is stopped and
/// started by these commands, while redis@1 on worker1 stays up.
fn by_hand(
    cluster: &Cluster,
    what: &'static str,
    (options, command): (&str, &str),
    commands: &[&str],
) -> Loss {
    let machine = &cluster.worker2;
    let run = format!(
        "docker run --detach --name {BY_HAND} --publish 6379:6379 {LABELS} {options} redis {command}"
    );
    machine.run(&["sh", "-c", &run]);
    beside_redis_1(cluster, what, || {
        let began = Instant::now();
        for command in commands {
            machine.run_words(command);
        }
        began.elapsed()
    })
}

/// The container by-hand on worker2 is announced by `sidekick announce --all`, and stopped and started by `round`, while
/// redis@1 on worker1 stays up. In the end it is removed.
fn beside_redis_1(cluster: &Cluster, what: &'static str, round: impl Fn() -> Duration) -> Loss {
    let machine = &cluster.worker2;
    machine.start("sidekick");
    let stops = Stops {
        cluster,
        what,
        rounds: rounds(),
        per_second: PER_SECOND_OF_ENGINES,
    };
    let lost = stops.lost(|| serves(cluster, &["redis@1", BY_HAND]), round);
    machine.run(&["docker", "rm", "--force", BY_HAND]);
    machine.stop("sidekick");
    lost
}

/// `docker-compose up --detach` on this machine, of the file in the working directory, with that engine.
fn compose(engine: &OpenEngine, directory: &std::path::Path, image: &str) {
    let mut up = Command::new("docker-compose");
    up.args(["--project-name=by-hand", "up", "--detach"])
        .current_dir(directory)
        .env("DOCKER_HOST", &engine.host)
        .env("IMAGE", image);
    finish("docker-compose up", &mut up).unwrap_or_else(|error| panic!("{error}"));
}
