//! The registrar in seeded virtual time: announcers, rivals and second sidekicks on one key, a model
//! of etcd, and everything between them that can go wrong. A failing seed is printed; run it alone
//! with `SIDEKICK_SIM_SEED=N cargo test --test registrar_simulation`.

// A scene that can't be set is a failed test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs
)]

#[path = "simulation/announcer.rs"]
mod announcer;
#[path = "simulation/store.rs"]
mod store;
#[path = "simulation/world.rs"]
mod world;

use world::World;

/// A few seconds in a debug build. `SIDEKICK_SIM_SEEDS` asks for more.
const SEEDS: u64 = 1000;

fn seeds() -> Vec<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse().expect(name));
    match (number("SIDEKICK_SIM_SEED"), number("SIDEKICK_SIM_SEEDS")) {
        (Some(seed), _) => vec![seed],
        (None, count) => (0..count.unwrap_or(SEEDS)).collect(),
    }
}

#[test]
fn any_interleaving_converges_and_no_rule_of_ownership_is_broken() {
    let mut totals = world::Totals::default();
    for seed in seeds() {
        let result = std::panic::catch_unwind(|| World::new(seed).run());
        match result {
            Ok(Ok(run)) => totals.add(&run),
            Ok(Err(why)) => panic!("seed {seed}: {why}"),
            Err(_) => panic!("seed {seed} panicked"),
        }
    }
    println!("{totals:?}");
    // The schedule really does what it is there for.
    if seeds().len() > 100 {
        assert!(totals.is_thorough(), "{totals:?}");
    }
}
