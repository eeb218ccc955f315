//! `make chaos`: everything real, everything wrong, in an order that a seed decides; and then the
//! promises, held against the whole record. `SEED` and `MINUTES` are environment variables.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

mod agent;
mod checker;
mod clock;
mod excuses;
mod faults;
mod logs;
mod record;
mod schedule;
mod spans;
mod stage;
mod tls;
mod watchers;

use crate::schedule::{REST, Round, Schedule, Step, title};
use crate::spans::Ms;
use crate::stage::Stage;
use sidekick_harness::{Engine, eventually, secs};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::sleep;

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(stage::LISTEN) => sidekick_harness::become_the_listener(),
        _ => run(),
    }
}

#[tokio::main(worker_threads = 2)]
async fn run() {
    let seed = number("SEED", fastrand::u64(..1_000_000));
    let minutes = number("MINUTES", 3);
    println!("the same faults again: make chaos SEED={seed} MINUTES={minutes}");
    let engine = Engine::start().await;
    let mut stage = Stage::set(&engine).await;
    let faults = play(&mut stage, seed, minutes).await;

    let mut record = stage.record();
    record.faults = faults.values().sum();
    let report = checker::check(&record);
    let answers = stage.seen.with(|seen| seen.answers);
    let seconds = record.end / 1000;
    println!(
        "\nseed {seed}, {seconds} s, {} changes in etcd, {answers} answers to clients",
        record.events.len()
    );
    println!("\nfaults injected: {}", faults.values().sum::<usize>());
    for (fault, times) in &faults {
        println!("  {times:4} {fault}");
    }
    println!("\nnumbers: the greatest, and how many");
    for (what, (longest, count)) in &report.numbers {
        println!("  {longest:7} {count:6}  {what}");
    }
    println!("\nviolations: {}", report.violations.len());
    for (promise, at, what) in &report.violations {
        let seconds = *at as f64 / 1000.0;
        println!("  promise {promise}, after {seconds:.3} s: {what}");
    }
    let failed = !report.violations.is_empty();
    if failed || std::env::var_os("CHAOS_LOGS").is_some() {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{seed}"));
        std::fs::create_dir_all(&directory).expect("no directory can be made");
        stage.write_logs(&directory);
        println!("the logs: {}", directory.display());
    }
    leave(stage).await;
    drop(engine);
    std::process::exit(i32::from(failed));
}

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) if !text.is_empty() => text.parse().expect("SEED and MINUTES are numbers"),
        _ => otherwise,
    }
}

/// One round after the other, until the time is up. Returns how often each fault was injected.
async fn play(stage: &mut Stage<'_>, seed: u64, minutes: u64) -> BTreeMap<String, usize> {
    const CALM: Duration = Duration::from_millis(REST as u64);
    let mut schedule = Schedule::of(seed);
    let mut faults = BTreeMap::new();
    sleep(CALM).await;
    stage.everybody_goes_by_its_own_source();
    while stage.seen.now() < (minutes * 60_000) as Ms {
        let round = schedule.round();
        play_round(stage, &round, &mut faults).await;
        let what = "every trouble ends";
        eventually(secs(60), what, async || !stage.seen.troubled()).await;
        if round.rest {
            sleep(CALM).await;
        }
    }
    sleep(CALM).await;
    faults
}

async fn play_round(stage: &mut Stage<'_>, round: &Round, faults: &mut BTreeMap<String, usize>) {
    let began = stage.seen.now();
    let mut moments: Vec<(Ms, bool, &Step)> = Vec::new();
    for step in &round.steps {
        moments.push((step.at, false, step));
        moments.push((step.at + step.lasts.max(1), true, step));
    }
    moments.sort_by_key(|(at, ..)| *at);
    let mut begun = Vec::new();
    for (at, is_end, step) in moments {
        let wait = (began + at - stage.seen.now()).max(0);
        sleep(Duration::from_millis(wait as u64)).await;
        let seconds = stage.seen.now() as f64 / 1000.0;
        if !is_end {
            if let Some(undo) = stage.begin(step.fault).await {
                println!("{seconds:8.3} {:?} for {} ms", step.fault, step.lasts);
                *faults.entry(title(step.fault)).or_default() += 1;
                begun.push((step.fault, undo));
            }
        } else if let Some(place) = begun.iter().position(|(fault, _)| *fault == step.fault) {
            let (fault, undo) = begun.remove(place);
            stage.end(fault, undo).await;
            println!("{seconds:8.3}   over: {fault:?}");
        }
    }
}

/// The sixth promise: with everything well, whoever is asked to stop takes its key away first. By
/// now everybody's clock has been stepped, which is seen by the last word of each.
async fn leave(mut stage: Stage<'_>) {
    const DAYS: i64 = 40;
    for clock in &stage.clocks {
        clock.step(DAYS * 24 * 3600);
    }
    for sidekick in stage.sidekicks.iter_mut().flatten() {
        sidekick.leaves().await;
    }
    stage.agent.leaves().await;
    let left = stage.cluster.members[0].keys().await;
    let withdrawn = left.iter().all(|key| !key.starts_with("/services/"));
    assert!(withdrawn, "left behind: {left:?}");
    let today = OffsetDateTime::now_utc();
    for log in stage.everybodys_logs() {
        let last = log.lines.last().and_then(|line| line.split(' ').next());
        let said = last.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        let ahead = said.map(|said| (said - today).whole_days());
        assert!(
            ahead.is_some_and(|days| (DAYS - 1..=DAYS).contains(&days)),
            "the clock of {} was {DAYS} days ahead, and its last word is of {last:?}",
            log.name
        );
    }
}
