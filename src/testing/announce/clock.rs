//! A machine's CLOCK_BOOTTIME, as its process sees it.

use crate::clock::Moment;
use std::time::Duration;

/// Fast or slow, and now and then it leaps or has stood still.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    rate: f64,
    offset: Duration,
}

impl Clock {
    pub(crate) fn new(rng: &mut fastrand::Rng) -> Self {
        Self {
            rate: [0.9, 1.0, 1.0, 1.1][rng.usize(0..4)],
            // So that it can be held back.
            offset: Duration::from_secs(10_000_000),
        }
    }

    /// What it shows at `now`.
    pub(crate) fn at(&self, now: Moment) -> Moment {
        now.mul_f64(self.rate) + self.offset
    }

    /// When it shows `shown`.
    pub(crate) fn when(&self, shown: Moment) -> Moment {
        shown.saturating_sub(self.offset).div_f64(self.rate)
    }

    pub(crate) fn leap(&mut self, by: Duration) {
        self.offset += by;
    }

    /// It will stand still for so long: a virtual machine that is paused.
    pub(crate) fn stand_still(&mut self, time: Duration) {
        self.offset -= time.mul_f64(self.rate);
    }
}
