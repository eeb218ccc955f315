//! Retry policies: named, capped, never-ending. Pure: the jitter comes in as a number.
//!
//! There is no "give up": a daemon that stops trying is a daemon that somebody has to restart.

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

/// What to say of a failure that repeats: the first time at once, then with a count and at growing
/// intervals, so that an hour of etcd's absence is ten lines and not ten thousand.
///
/// One that is over and soon back again is the same one still: it is told at growing intervals too,
/// so that what comes and goes each second is no thousand lines either.
#[derive(Debug, Clone, Default)]
pub struct Outage {
    began: Option<Duration>,
    /// When it was over last, as long as that matters.
    ended: Option<Duration>,
    /// A line was said since it began.
    told: bool,
    told_at: Duration,
    next_line: Duration,
    /// Between two lines while it lasts.
    interval: Duration,
    /// Between two beginnings that are told, where it comes and goes.
    quiet: Duration,
    failures: u64,
}

/// A failure worth a line in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notice {
    /// How long it has been failing.
    pub lasted: Duration,
    /// How often it failed in that time; where it comes and goes, since it came first.
    pub failures: u64,
}

const FIRST_REPEAT: Duration = Duration::from_secs(10);
const LAST_REPEAT: Duration = Duration::from_secs(600);

impl Outage {
    /// It failed at `now` (any clock that doesn't go back). `Some`: say so.
    pub fn failed(&mut self, now: Duration) -> Option<Notice> {
        let began = self.began.unwrap_or_else(|| self.begin(now));
        self.failures += 1;
        if now < self.next_line {
            return None;
        }
        if self.ended.is_some() && !self.told {
            self.quiet = grown(self.quiet.max(FIRST_REPEAT));
        }
        self.interval = grown(self.interval);
        self.next_line = now + self.interval;
        (self.told, self.told_at) = (true, now);
        Some(Notice {
            lasted: now.saturating_sub(began),
            failures: self.failures,
        })
    }

    fn begin(&mut self, now: Duration) -> Duration {
        let quiet = self.quiet.max(FIRST_REPEAT);
        let again = self.ended.is_some_and(|at| now.saturating_sub(at) < quiet);
        if !again {
            *self = Self::default();
        }
        self.next_line = if again { self.told_at + quiet } else { now };
        (self.interval, self.told) = (Duration::ZERO, false);
        *self.began.insert(now)
    }

    /// It worked at `now`. `Some`: it had been failing and that was said, so say that it is over.
    pub fn recovered(&mut self, now: Duration) -> Option<Notice> {
        let began = self.began.take()?;
        self.ended = Some(now);
        self.told.then(|| Notice {
            lasted: now.saturating_sub(began),
            failures: self.failures,
        })
    }

    /// Since when it has been failing.
    #[must_use]
    pub const fn since(&self) -> Option<Duration> {
        self.began
    }
}

fn grown(interval: Duration) -> Duration {
    (interval * 2).clamp(FIRST_REPEAT, LAST_REPEAT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_hour_of_failures_is_a_handful_of_lines() {
        let mut outage = Outage::default();
        let lines: Vec<_> = (0..3600)
            .filter_map(|s| outage.failed(Duration::from_secs(s)))
            .collect();
        assert_eq!(lines[0].failures, 1);
        assert!((5..=12).contains(&lines.len()), "{} lines", lines.len());
        let over = outage.recovered(Duration::from_secs(3600)).unwrap();
        assert_eq!(over.lasted, Duration::from_secs(3600));
        assert_eq!(outage.recovered(Duration::from_secs(3601)), None);
    }

    #[test]
    fn a_second_outage_is_told_at_once_again() {
        let mut outage = Outage::default();
        assert!(outage.failed(Duration::from_secs(1)).is_some());
        assert!(outage.failed(Duration::from_secs(2)).is_none());
        outage.recovered(Duration::from_secs(3));
        let again = outage.failed(Duration::from_secs(13)).unwrap();
        assert_eq!((again.lasted, again.failures), (Duration::ZERO, 1));
    }

    #[test]
    fn an_hour_of_coming_and_going_is_a_handful_of_lines() {
        let mut outage = Outage::default();
        let (mut begun, mut over) = (Vec::new(), 0);
        for second in (0..3600).map(Duration::from_secs) {
            begun.extend(outage.failed(second));
            over += outage
                .recovered(second + Duration::from_millis(500))
                .iter()
                .len();
        }
        assert!((5..=13).contains(&begun.len()), "{begun:?}");
        assert_eq!(over, begun.len());
        let last = begun.last().unwrap();
        assert!(last.lasted.is_zero() && last.failures > 2_000, "{last:?}");
    }

    #[test]
    fn after_a_long_outage_the_next_one_is_told_at_once() {
        let mut outage = Outage::default();
        for s in 0..3600 {
            outage.failed(Duration::from_secs(s));
        }
        outage.recovered(Duration::from_secs(3600));
        assert!(outage.failed(Duration::from_secs(3660)).is_some());
    }

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
