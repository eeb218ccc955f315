//! The seeds of the simulations, shared between the processors.

use std::ops::Range;

/// The seed that `SIDEKICK_SIM_SEED` names, or the first `SIDEKICK_SIM_SEEDS`; `count` of them where neither is set.
pub(crate) fn seeds(count: u64) -> Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse().expect(name));
    match (number("SIDEKICK_SIM_SEED"), number("SIDEKICK_SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, asked) => 0..asked.unwrap_or(count),
    }
}

/// Runs every seed, on as many threads as there are processors: what happened in each thread's share, and in which
/// seeds something went wrong. A seed that panics is one of those.
pub(crate) fn run_all<T: Default + Send>(
    seeds: &Range<u64>,
    run: impl Fn(u64, &mut T) -> Result<(), String> + Sync,
) -> (Vec<T>, Vec<String>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = |first: usize| {
        let (mut totals, mut wrong) = (T::default(), Vec::new());
        for seed in seeds.clone().skip(first).step_by(threads) {
            let one = std::panic::AssertUnwindSafe(|| run(seed, &mut totals));
            match std::panic::catch_unwind(one) {
                Ok(Ok(())) => {}
                Ok(Err(why)) => wrong.push(format!("seed {seed}: {why}")),
                Err(_) => wrong.push(format!("seed {seed} panicked")),
            }
        }
        (totals, wrong)
    };
    let shares: Vec<_> = std::thread::scope(|scope| {
        let share = &share;
        let threads: Vec<_> = (0..threads)
            .map(|first| scope.spawn(move || share(first)))
            .collect();
        let ended = threads.into_iter().map(|it| it.join().unwrap());
        ended.collect()
    });
    let (totals, wrong): (Vec<T>, Vec<Vec<String>>) = shares.into_iter().unzip();
    (totals, wrong.concat())
}

/// Fails the test, with the first three of what went wrong.
pub(crate) fn must_be_none(wrong: &[String], seeds: &Range<u64>) {
    let count = seeds.end - seeds.start;
    let first = wrong.iter().take(3).collect::<Vec<_>>();
    assert!(
        wrong.is_empty(),
        "{} of {count} seeds: {first:#?}",
        wrong.len()
    );
}
