//! Clients of three habits while instances come and go on purpose: what it costs them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Clients, Cluster, Habit, Outcome, SOON, unix_seconds};
use sidekick_harness::blocking::eventually;
use sidekick_harness::measured;

/// The promise in docs/guarantees.md.
pub const PROMISE: u8 = 13;

/// Of 1,000 idle sessions that the agent ends so many clients may ask something in the same moment: a client of the pool that has
/// been silent for two looks (80 ms) ends its pause (20 to 500 ms) within any 11 ms with that probability, and so long may pass
/// from the look until the client sees that its connection is closed.
const RACES_PER_1000_CUTS: usize = 60;

pub const HABITS: [Habit; 3] = [Habit::Anew, Habit::Slow, Habit::Pooled];

const HAPROXY_PORT: u16 = 80;

/// What the clients met with.
pub struct Loss {
    what: &'static str,
    rounds: usize,
    outcomes: [Outcome; 3],
}

impl Loss {
    /// Those of one habit.
    pub fn of(&self, habit: Habit) -> &Outcome {
        &self.outcomes[habit as usize]
    }

    /// Whoever connects for each request loses none, and of the pool's connections some meet the end of an idle one.
    #[track_caller]
    pub fn is_within_the_promise(&self) {
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

/// Stops on purpose, while clients ask.
pub struct Stops<'c> {
    /// Where it happens; the clients dial its HAProxy.
    pub cluster: &'c Cluster,
    /// In words.
    pub what: &'static str,
    /// How many.
    pub rounds: usize,
    /// So many requests a second come from clients that connect anew.
    pub per_second: u32,
}

impl Stops<'_> {
    /// Calls `round` so many times, each time once `serves` has returned. `round` returns how long the stop took.
    #[track_caller]
    pub fn lost(&self, serves: impl Fn(), round: impl Fn() -> Duration) -> Loss {
        let Self {
            cluster,
            what,
            rounds,
            per_second,
        } = *self;
        serves();
        let listener = format!("{}:{HAPROXY_PORT}", cluster.haproxy.address);
        let (mut clients, asked_since) = (Clients::of(&listener, per_second), Instant::now());
        let (mut begun, mut took) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            serves();
            begun.push(Instant::now());
            took.push(round());
        }
        serves();
        clients.end();
        let seconds = asked_since.elapsed().as_secs_f64();
        took.sort_unstable();
        let (median, longest) = (took[rounds / 2], took[rounds - 1]);
        println!("    {what}: {median:.1?}, {longest:.1?} at most, n {rounds}");
        let outcomes = HABITS.map(|it| clients.outcome(it));
        for (habit, outcome) in HABITS.iter().zip(&outcomes) {
            let rate = outcome.requests as f64 / seconds;
            println!(
                "        {habit}, {rate:.0} a second: {}",
                told(outcome, &begun)
            );
        }
        let failures = outcomes[..2].iter().flat_map(|it| &it.failures);
        explain(cluster, failures.map(|(at, _)| *at).collect(), &begun);
        Loss {
            what,
            rounds,
            outcomes,
        }
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
pub fn serves(cluster: &Cluster, instances: &[&str]) {
    let what = format!("HAProxy serves {instances:?}");
    let mut expected = instances.to_vec();
    expected.sort_unstable();
    serves_what(cluster, what, |up| *up == expected);
}

/// The same of so many instances, whatever their names are.
#[track_caller]
pub fn serves_so_many(cluster: &Cluster, count: usize) {
    let what = format!("HAProxy serves {count} instances");
    serves_what(cluster, what, |up| up.len() == count);
}

/// Waits until all that is registered is up, and `is_right` of its names, which are in order.
#[track_caller]
fn serves_what(cluster: &Cluster, what: String, is_right: impl Fn(&Vec<&str>) -> bool) {
    let list =
        ". /etc/default/sidekick; export ETCDCTL_ENDPOINTS; exec sidekick list redis --output json";
    eventually(SOON, what, || {
        let said = cluster.haproxy.try_run(&["sh", "-c", list])?;
        let rows: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
        let is_up = |row: &&Value| row["haproxy"]["state"] == "up" && row["status"] == "serving";
        let up = rows.iter().filter(is_up);
        let mut up: Vec<_> = up.filter_map(|row| row["instance"].as_str()).collect();
        up.sort_unstable();
        let right = up.len() == rows.len() && is_right(&up);
        if right { Ok(()) } else { Err(said) }
    });
}
