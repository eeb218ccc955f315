//! The registrar in seeded virtual time: announcers, rivals and second sidekicks on one key, a model
//! of etcd, and everything between them that can go wrong. A failing seed is printed; run it alone
//! with `SIDEKICK_SIM_SEED=N cargo test --lib testing::announce`.

mod announcer;
mod clock;
mod draining;
mod further;
mod handover;
mod network;
mod sight;
mod store;
mod totals;
mod world;

use super::seeds::{must_be_none, run_all, seeds};
use totals::AnnounceTotals;
use world::AnnounceWorld;

/// A few seconds in a debug build.
const SEEDS: u64 = 1000;

#[test]
// The totals are what `make simulate` shows.
#[allow(clippy::print_stdout)]
fn any_interleaving_converges_and_no_rule_of_ownership_is_broken() {
    let seeds = seeds(SEEDS);
    let (shares, wrong) = run_all(&seeds, |seed, totals: &mut AnnounceTotals| {
        totals.add(&AnnounceWorld::new(seed).run()?);
        Ok(())
    });
    let mut totals = AnnounceTotals::default();
    for share in shares {
        totals.join(&share);
    }
    println!("{totals:?}");
    must_be_none(&wrong, &seeds);
    // The schedule really does what it is there for.
    if seeds.count() > 100 {
        assert!(totals.is_thorough(), "{totals:?}");
    }
}
