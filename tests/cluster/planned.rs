//! Stops on purpose, with another instance up and clients of three habits: what they cost.
//!
//! `ROUNDS` in the environment says how many of each, 5 unless it is set; reboots are a tenth of them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Clients, Cluster, Habit, Machine, Outcome, SOON, unix_seconds};
use sidekick_harness::blocking::eventually;
use sidekick_harness::{measured, secs};

/// The promise in docs/guarantees.md.
const PROMISE: u8 = 13;

/// The instance on worker2.
const OTHER: &str = "redis@2";

/// Of 1,000 idle sessions that the agent ends so many clients may have asked something in the same moment: between the
/// look that found a session idle and its end lie some ms, in which one in so many of the pool's connections has an
/// end of its pause.
const RACES_PER_1000_CUTS: usize = 60;

const HABITS: [Habit; 3] = [Habit::Anew, Habit::Slow, Habit::Pooled];

const HAPROXY_PORT: u16 = 80;

/// The container of the scenarios without a unit of its own, on worker2.
const BY_HAND: &str = "by-hand";
const LABELS: &str = "--label=sidekick.service=redis --label=sidekick.instance=by-hand";

/// How fast Redis looks whether it has got a signal; 2 ms.
const LOOKS_OFTEN: &str = "redis-server --protected-mode no --save \"\" --hz 500";

fn rounds() -> usize {
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

/// What the clients met with.
struct Loss {
    what: &'static str,
    rounds: usize,
    outcomes: [Outcome; 3],
}

impl Loss {
    fn of(&self, habit: Habit) -> &Outcome {
        &self.outcomes[habit as usize]
    }

    /// Whoever connects for each request loses none, and of the pool's connections some meet the end of an idle one.
    #[track_caller]
    fn is_within_the_promise(&self) {
        for habit in [Habit::Anew, Habit::Slow] {
            self.counts(habit, 0);
        }
        let cuts = self.of(Habit::Pooled).cuts;
        self.counts(Habit::Pooled, (cuts * RACES_PER_1000_CUTS).div_ceil(1_000));
    }

    #[track_caller]
    fn counts(&self, habit: Habit, limit: usize) {
        let Loss { what, rounds, .. } = self;
        let Outcome {
            requests,
            failures,
            cuts,
        } = self.of(habit);
        let mut line = format!("{what}, {rounds} times: requests failed of {requests} of {habit}");
        if *cuts > 0 {
            line += &format!(", of whose idle connections {cuts} were ended");
        }
        measured::counted(PROMISE, line, failures.len(), limit);
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
    let lost = lost(cluster, what, rounds, &both, || stop(&cluster.worker1));
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
    machine.start("sidekick");
    let lost = lost(cluster, what, rounds(), &["redis@1", BY_HAND], || {
        let began = Instant::now();
        for command in commands {
            machine.run_words(command);
        }
        began.elapsed()
    });
    machine.run(&["docker", "rm", "--force", BY_HAND]);
    machine.stop("sidekick");
    lost
}

fn lost(
    cluster: &Cluster,
    what: &'static str,
    rounds: usize,
    instances: &[&str],
    round: impl Fn() -> Duration,
) -> Loss {
    serves(cluster, instances);
    let mut clients = Clients::of(&format!("{}:{HAPROXY_PORT}", cluster.haproxy.address));
    let mut begun = Vec::new();
    let mut took = Vec::new();
    for _ in 0..rounds {
        serves(cluster, instances);
        begun.push(Instant::now());
        took.push(round());
    }
    serves(cluster, instances);
    clients.end();
    took.sort_unstable();
    let (median, longest) = (took[rounds / 2], took[rounds - 1]);
    println!("    {what}: {median:.1?}, {longest:.1?} at most, n {rounds}");
    let outcomes = HABITS.map(|it| clients.outcome(it));
    for (habit, outcome) in HABITS.iter().zip(&outcomes) {
        println!("        {habit}: {}", told(outcome, &begun));
    }
    let failures = outcomes[..2].iter().flat_map(|it| &it.failures);
    explain(cluster, failures.map(|(at, _)| *at).collect(), &begun);
    Loss {
        what,
        rounds,
        outcomes,
    }
}

/// In a line: how many, why, and in which rounds.
fn told(outcome: &Outcome, begun: &[Instant]) -> String {
    let Outcome {
        requests,
        failures,
        cuts,
    } = outcome;
    let mut reasons: BTreeMap<&str, BTreeMap<usize, Vec<Duration>>> = BTreeMap::new();
    for (at, why) in failures {
        let round = round_of(*at, begun);
        let after = *at - begun[round];
        let rounds = reasons.entry(why).or_default();
        rounds.entry(round).or_default().push(after);
    }
    let mut text = format!("{} of {requests} failed, {cuts} idle ended", failures.len());
    for (why, rounds) in reasons {
        text += &format!("; {why}:");
        for (round, times) in rounds {
            let (n, [first, last]) = (times.len(), [times[0], times[times.len() - 1]]);
            text += &format!(" {n} in round {round} after {first:.2?} to {last:.2?},");
        }
    }
    text
}

/// The round that had begun last.
fn round_of(at: Instant, begun: &[Instant]) -> usize {
    let begun_before = begun.iter().filter(|begun| **begun <= at).count();
    begun_before.saturating_sub(1)
}

/// What the agent and HAProxy said around the failures, for the first rounds that have some.
fn explain(cluster: &Cluster, mut failures: Vec<Instant>, begun: &[Instant]) {
    failures.sort_unstable();
    let rounds = failures.chunk_by(|a, b| round_of(*a, begun) == round_of(*b, begun));
    let unix = |at: Instant| unix_seconds() - at.elapsed().as_secs_f64();
    for failures in rounds.take(3) {
        let round = round_of(failures[0], begun);
        let (from, first) = (unix(begun[round]), unix(failures[0]));
        let (n, last) = (failures.len(), unix(failures[failures.len() - 1]));
        println!("--- round {round} from {from:.3}: {n} failures from {first:.3} to {last:.3}");
        let [since, until] = [from - 3.0, last + 1.0].map(|it| format!("@{it:.6}"));
        let units = [
            "--unit=haproxy",
            "--unit=sidekick-agent",
            "--unit=redis-discovery@1",
        ];
        let span = ["--output=short-unix", "--since", &since, "--until", &until];
        let journal = [&["journalctl", "--no-pager"], &units[..], &span].concat();
        for machine in [&cluster.haproxy, &cluster.worker1] {
            println!(
                "{}",
                machine.try_run(&journal).unwrap_or_else(|error| error)
            );
        }
    }
}

/// Waits until HAProxy has these instances up, and no others.
#[track_caller]
fn serves(cluster: &Cluster, instances: &[&str]) {
    let list =
        ". /etc/default/sidekick; export ETCDCTL_ENDPOINTS; exec sidekick list redis --output json";
    eventually(SOON, format!("HAProxy serves {instances:?}"), || {
        let said = cluster.haproxy.try_run(&["sh", "-c", list])?;
        let rows: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
        let is_up = |row: &&Value| row["haproxy"]["state"] == "up" && row["status"] == "serving";
        let mut up: Vec<_> = rows.iter().filter(is_up).collect();
        up.retain(|row| instances.iter().any(|name| row["instance"] == *name));
        let all = up.len() == instances.len() && rows.len() == instances.len();
        if all { Ok(()) } else { Err(said) }
    });
}
