//! When something that failed is tried again, and what the log says of it meanwhile.

use crate::backoff::{Backoff, Notice, Outage, Policy};
use crate::clock::Moment;

/// Tries of one thing, which wait for nothing but their own backoff.
#[derive(Debug)]
pub(super) struct Retry {
    backoff: Backoff,
    outage: Outage,
    /// No try before this time; `None` after a success.
    next: Option<Moment>,
}

impl Retry {
    /// Nothing has failed yet.
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            backoff: Backoff::new(policy),
            outage: Outage::default(),
            next: None,
        }
    }

    /// The earliest time of the next try; `None`: at once.
    pub(super) const fn next(&self) -> Option<Moment> {
        self.next
    }

    /// Since when it has been failing.
    pub(super) const fn since(&self) -> Option<Moment> {
        self.outage.since()
    }

    /// Tries that failed in a row.
    pub(super) const fn failures(&self) -> u32 {
        self.backoff.failures()
    }

    /// The next try waits for nothing.
    pub(super) const fn hurry(&mut self) {
        self.next = None;
    }

    /// A try at `now` failed, as is usual, and the log says nothing of it.
    pub(super) fn postpone(&mut self, now: Moment) {
        self.next = Some(now + self.backoff.next_pause(fastrand::f64()));
    }

    /// A try at `now` failed. `Some`: the log says so.
    pub(super) fn failed(&mut self, now: Moment) -> Option<Notice> {
        self.postpone(now);
        self.outage.failed(now)
    }

    /// A try at `now` succeeded. `Some`: the log said that it failed, and says that this is over.
    pub(super) fn succeeded(&mut self, now: Moment) -> Option<Notice> {
        self.backoff.reset();
        self.next = None;
        self.outage.recovered(now)
    }
}
