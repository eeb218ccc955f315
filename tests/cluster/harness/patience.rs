//! Waiting for things to happen, and making sure that others do not: the only place here that sleeps.

use std::panic::Location;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For what is to happen by itself, and takes a few seconds on a quiet machine: restarting docker.service, say.
pub const SOON: Duration = secs(40);

const STEP: Duration = Duration::from_millis(30);

/// `n` seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Waits until `look` finds something and returns that; fails the scenario after `limit`.
///
/// `what` completes the sentence "within 5 s it never came true that …".
#[track_caller]
pub fn deadline<F: Finding>(limit: Duration, what: &str, mut look: impl FnMut() -> F) -> F::Found {
    let (caller, began) = (Location::caller(), Instant::now());
    loop {
        if let Some(found) = look().found() {
            return found;
        }
        assert!(
            began.elapsed() < limit,
            "{caller}: within {limit:?} it never came true that {what}"
        );
        sleep(STEP);
    }
}

/// Makes sure that something does not happen for a while; fails the scenario at once if it does.
///
/// `what` completes the sentence "it happened that …".
#[track_caller]
pub fn never_for(duration: Duration, what: &str, mut happens: impl FnMut() -> bool) {
    let (caller, began) = (Location::caller(), Instant::now());
    while began.elapsed() < duration {
        assert!(
            !happens(),
            "{caller}: after {:?} it happened that {what}",
            began.elapsed()
        );
        sleep(STEP);
    }
}

/// What a look can come back with: yes or no, something or nothing.
pub trait Finding {
    /// What was found.
    type Found;

    /// What was found, if anything.
    fn found(self) -> Option<Self::Found>;
}

impl Finding for bool {
    type Found = ();

    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Finding for Option<T> {
    type Found = T;

    fn found(self) -> Option<T> {
        self
    }
}
