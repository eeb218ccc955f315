//! The registrar in seeded virtual time: announcers, rivals and second sidekicks on one key, a model
//! of etcd, and everything between them that can go wrong. A failing seed is printed; run it alone
//! with `SIDEKICK_SIM_SEED=N cargo test --lib testing::announce`.

mod announcer;
mod clock;
mod draining;
mod handover;
mod network;
mod sight;
mod store;
mod totals;
mod world;

use std::ops::Range;
use totals::AnnounceTotals;
use world::AnnounceWorld;

/// A few seconds in a debug build. `SIDEKICK_SIM_SEEDS` asks for more.
const SEEDS: u64 = 1000;

fn seeds() -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse().expect(name));
    match (number("SIDEKICK_SIM_SEED"), number("SIDEKICK_SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(SEEDS),
    }
}

/// What happened in those seeds, and in which of them something went wrong.
fn run(seeds: impl Iterator<Item = u64>) -> (AnnounceTotals, Vec<String>) {
    let (mut totals, mut wrong) = (AnnounceTotals::default(), Vec::new());
    for seed in seeds {
        match std::panic::catch_unwind(|| AnnounceWorld::new(seed).run()) {
            Ok(Ok(run)) => totals.add(&run),
            Ok(Err(why)) => wrong.push(format!("seed {seed}: {why}")),
            Err(_) => wrong.push(format!("seed {seed} panicked")),
        }
    }
    (totals, wrong)
}

#[test]
// The totals are what `make simulate` shows.
#[allow(clippy::print_stdout)]
fn any_interleaving_converges_and_no_rule_of_ownership_is_broken() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let runs: Vec<_> = std::thread::scope(|scope| {
        let share = |i| scope.spawn(move || run(seeds().skip(i).step_by(threads)));
        let shares: Vec<_> = (0..threads).map(share).collect();
        shares
            .into_iter()
            .map(|share| share.join().unwrap())
            .collect()
    });
    let (mut totals, mut wrong) = (AnnounceTotals::default(), Vec::new());
    for (some, some_wrong) in runs {
        totals.join(&some);
        wrong.extend(some_wrong);
    }
    println!("{totals:?}");
    let count = seeds().count();
    let first = wrong.iter().take(3).cloned().collect::<Vec<_>>();
    assert!(
        wrong.is_empty(),
        "{} of {count} seeds: {first:#?}",
        wrong.len()
    );
    // The schedule really does what it is there for.
    if count > 100 {
        assert!(totals.is_thorough(), "{totals:?}");
    }
}
