//! Waiting for things to happen, and making sure that others do not: the only place in these tests that sleeps.

use std::fmt::Display;
use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

/// How long something may take that is to happen "at once".
///
/// Long enough for two busy cores, and far below the default TTL (60 s), interval (45 s) and relist (30 s): what
/// happens within it was caused by an event, never by a timer.
pub const SOON: Duration = Duration::from_secs(5);

/// `n` seconds.
pub const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` milliseconds.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Waits until `look` finds something and returns that; fails the test after `deadline`.
///
/// `what` completes the sentence "within 5 s it never came true that …".
#[track_caller]
pub fn eventually<F: Finding>(
    deadline: Duration,
    what: impl Display,
    mut look: impl AsyncFnMut() -> F,
) -> impl Future<Output = F::Found> {
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        loop {
            match look().await.found() {
                Ok(found) => return found,
                Err(instead) if start.elapsed() > deadline => {
                    panic!("{caller}: within {deadline:?} it never came true that {what}{instead}")
                }
                Err(_) => tokio::time::sleep(STEP).await,
            }
        }
    }
}

/// Makes sure that something does not happen for a while; fails the test at once if it does.
///
/// `what` completes the sentence "it happened that …".
#[track_caller]
pub fn never_for(
    duration: Duration,
    what: impl Display,
    mut happens: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let caller = Location::caller();
    async move {
        let start = Instant::now();
        while start.elapsed() < duration {
            if happens().await {
                panic!(
                    "{caller}: after {:?} it happened that {what}",
                    start.elapsed()
                );
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

/// What a look can come back with: yes or no, something or nothing, or what stands there instead.
pub trait Finding {
    /// What was found.
    type Found;

    /// What was found, or else a few words for the failure's message.
    fn found(self) -> Result<Self::Found, String>;
}

impl Finding for bool {
    type Found = ();

    fn found(self) -> Result<(), String> {
        if self { Ok(()) } else { Err(String::new()) }
    }
}

impl<T> Finding for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T> Finding for Result<T, String> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|instead| format!("; instead: {instead}"))
    }
}

const STEP: Duration = Duration::from_millis(15);
