//! Waiting for things to happen, and making sure that others do not: the only place in these tests that sleeps.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

/// How long something may take that is to happen "at once".
///
/// Long enough for two busy cores, and far below the default TTL (60 s), interval (45 s) and relist (30 s): what
/// happens within it was caused by an event, never by a timer.
pub const SOON: Duration = secs(5);

/// For what takes milliseconds on a quiet machine, where nothing is said about how long it may take.
pub const PATIENCE: Duration = secs(15);

/// A moment in which nothing is to happen.
pub const A_WHILE: Duration = millis(700);

/// Between two looks.
const STEP: Duration = millis(15);

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
        let begun = Instant::now();
        loop {
            match look().await.found() {
                Ok(found) => return found,
                Err(instead) if begun.elapsed() > deadline => {
                    never_came_true(caller, deadline, &what, &instead)
                }
                Err(_) => tokio::time::sleep(STEP).await,
            }
        }
    }
}

/// Waits until `get` returns what is expected; fails the test after `deadline`.
#[track_caller]
pub fn becomes<T: PartialEq + Debug>(
    deadline: Duration,
    what: impl Display,
    expected: T,
    mut get: impl AsyncFnMut() -> T,
) -> impl Future<Output = ()> {
    let wanted = format!("{what} became {expected:?}");
    eventually(deadline, wanted, async move || {
        let got = get().await;
        if got == expected {
            Ok(())
        } else {
            Err(format!("{got:?}"))
        }
    })
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
        let begun = Instant::now();
        while begun.elapsed() < duration {
            if happens().await {
                happened(caller, begun, &what);
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

/// Makes sure that something holds, and goes on holding for a while; fails the test as soon as it doesn't.
#[track_caller]
pub fn throughout(
    duration: Duration,
    what: impl Display,
    mut holds: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let what = format!("no longer: {what}");
    never_for(duration, what, async move || !holds().await)
}

/// The same words for tests without a runtime.
pub mod blocking {
    use super::{Display, Duration, Finding, Instant, Location, STEP, happened, never_came_true};
    use std::thread::sleep;

    /// See [`super::eventually`].
    #[track_caller]
    pub fn eventually<F: Finding>(
        deadline: Duration,
        what: impl Display,
        mut look: impl FnMut() -> F,
    ) -> F::Found {
        let (caller, begun) = (Location::caller(), Instant::now());
        loop {
            match look().found() {
                Ok(found) => return found,
                Err(instead) if begun.elapsed() > deadline => {
                    never_came_true(caller, deadline, &what, &instead)
                }
                Err(_) => sleep(STEP),
            }
        }
    }

    /// See [`super::never_for`].
    #[track_caller]
    pub fn never_for(duration: Duration, what: impl Display, mut happens: impl FnMut() -> bool) {
        let (caller, begun) = (Location::caller(), Instant::now());
        while begun.elapsed() < duration {
            if happens() {
                happened(caller, begun, &what);
            }
            sleep(STEP);
        }
    }
}

fn never_came_true(
    caller: &Location<'_>,
    deadline: Duration,
    what: &dyn Display,
    instead: &str,
) -> ! {
    panic!("{caller}: within {deadline:?} it never came true that {what}{instead}")
}

fn happened(caller: &Location<'_>, begun: Instant, what: &dyn Display) -> ! {
    let after = begun.elapsed();
    panic!("{caller}: after {after:?} it happened that {what}")
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
