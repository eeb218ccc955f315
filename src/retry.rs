//! Retry policies: named, capped, never-ending. Pure: the jitter comes in as a number.
//!
//! There is no "give up": a daemon that stops trying is one that an operator has to restart.

use crate::clock::Moment;
use crate::log_throttle::{LogThrottle, Notice};
use std::time::Duration;

/// How the pauses between tries grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The pause after the first failure.
    pub first: Duration,
    /// No pause is longer than this.
    pub cap: Duration,
}

/// Tries against etcd. The cap is one second because a key has to be back within two seconds of
/// etcd's return: one pause, one connect, and a grant, a put and a read have to fit.
pub const ETCD: Policy = Policy {
    first: Duration::from_millis(50),
    cap: Duration::from_secs(1),
};

/// Tries against the Docker Engine. A restarted engine is asked again within a second; asking is
/// one `connect(2)` on a local socket.
pub const DOCKER: Policy = Policy {
    first: Duration::from_millis(50),
    cap: Duration::from_secs(1),
};

/// Passes at HAProxy. The first pause is what a connection needs to end after it was shut down; the
/// cap is what a HAProxy that can't start may cost in processes.
pub const HAPROXY: Policy = Policy {
    first: Duration::from_millis(10),
    cap: Duration::from_secs(2),
};

/// Reloads of a HAProxy that runs on without them. The first pause is what lies between two reloads
/// anyway; the cap leaves room for a try that comes last within the 5 s of promise 7.
pub const RELOAD: Policy = Policy {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(3),
};

/// Writing HAProxy's file beside what it is told. Each try takes a `haproxy -c`.
pub const FILE: Policy = Policy {
    first: Duration::from_millis(100),
    cap: Duration::from_secs(3),
};

/// Counts consecutive failures of one thing and tells how long to wait before the next try.
#[derive(Debug, Clone)]
pub struct Backoff {
    policy: Policy,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// Consecutive failures so far.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// It worked: the next failure starts from the first pause again.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }

    /// One more failure: the pause before the next try, between half of the step and the whole of
    /// it, never above the policy's cap. `jitter` is a random number in `0.0..=1.0`; anything else
    /// is brought into that range.
    pub fn next_pause(&mut self, jitter: f64) -> Duration {
        // 2^20 first pauses are far above any cap, and the shift can't overflow.
        let doublings = self.failures.min(20);
        self.failures = self.failures.saturating_add(1);
        let step = self
            .policy
            .first
            .saturating_mul(1 << doublings)
            .min(self.policy.cap);
        let jitter = if jitter.is_finite() {
            jitter.clamp(0.0, 1.0)
        } else {
            1.0
        };
        step.mul_f64(0.5 + jitter / 2.0)
    }
}

/// Tries of one thing, which wait for nothing but their own backoff.
#[derive(Debug)]
pub struct Retry {
    backoff: Backoff,
    throttle: LogThrottle,
    /// No try before this time; `None` after a success.
    next: Option<Moment>,
}

impl Retry {
    /// Nothing has failed yet.
    #[must_use]
    pub const fn new(policy: Policy) -> Self {
        Self {
            backoff: Backoff::new(policy),
            throttle: LogThrottle::new(),
            next: None,
        }
    }

    /// The earliest time of the next try; `None`: at once.
    #[must_use]
    pub const fn next(&self) -> Option<Moment> {
        self.next
    }

    /// Since when it has been failing.
    #[must_use]
    pub const fn since(&self) -> Option<Moment> {
        self.throttle.since()
    }

    /// Tries that failed in a row.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.backoff.failures()
    }

    /// The next try waits for nothing.
    pub const fn hurry(&mut self) {
        self.next = None;
    }

    /// The pauses begin with the policy's first one again, whatever the log says.
    pub const fn reset_backoff(&mut self) {
        self.backoff.reset();
    }

    /// A try at `now` failed, as is usual, and the log says nothing of it. `jitter` is that of
    /// [`Backoff::next_pause`].
    pub fn postpone(&mut self, now: Moment, jitter: f64) {
        self.next = Some(now + self.backoff.next_pause(jitter));
    }

    /// A try at `now` failed. `Some`: the log says so.
    pub fn failed(&mut self, now: Moment, jitter: f64) -> Option<Notice> {
        self.postpone(now, jitter);
        self.throttle.failed(now)
    }

    /// A try at `now` succeeded. `Some`: the log said that it failed, and says that this is over.
    pub fn succeeded(&mut self, now: Moment) -> Option<Notice> {
        self.backoff.reset();
        self.next = None;
        self.throttle.recovered(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_pause_never_exceeds_the_cap_and_never_vanishes(
            first in 1u64..5_000, cap in 1u64..10_000, tries in 1usize..100, jitter in any::<f64>()
        ) {
            let policy = Policy { first: Duration::from_millis(first), cap: Duration::from_millis(cap) };
            let mut backoff = Backoff::new(policy);
            for _ in 0..tries {
                let pause = backoff.next_pause(jitter);
                prop_assert!(pause <= policy.cap);
                prop_assert!(pause >= policy.first.min(policy.cap) / 2);
            }
            backoff.reset();
            prop_assert!(backoff.next_pause(1.0) <= policy.first);
        }
    }
}
