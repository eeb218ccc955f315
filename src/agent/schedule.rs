//! When a pass is due. Pure.

use crate::clock::Moment;
use crate::retry::{HAPROXY, Retry};
use std::time::Duration;

/// How long the first pass waits for etcd where no configuration file says what to serve.
const ETCD_WAIT: Duration = Duration::from_secs(3);

/// How long after etcd's first answer a pass waits for host names to resolve: a HAProxy that starts without
/// its servers gets them one by one, which takes 6 s for ten thousand.
pub(crate) const RESOLVE_WAIT: Duration = Duration::from_secs(1);

/// How often the agent checks that HAProxy's worker and file are still the ones that it knows.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// How often the agent reads HAProxy's whole state, though nothing seems to have changed.
pub(crate) const AUDIT_INTERVAL: Duration = Duration::from_secs(30);

/// The shortest pause between two rounds of the control loop.
pub(crate) const MIN_PAUSE: Duration = Duration::from_millis(1);

/// A removed server is deleted only once its connections have ended: that many retries are normal and not
/// logged.
pub(crate) const EXPECTED_RETRIES: u32 = 5;

/// What the control loop waits for before its next pass.
#[derive(Debug)]
pub(crate) struct Schedule {
    /// Something has happened since the last pass.
    pub(crate) dirty: bool,
    /// When the worker is checked next, however many events come before.
    pub(crate) next_poll: Moment,
    /// When HAProxy's whole state is read next.
    next_audit: Moment,
    /// When etcd first answered; `None` until then.
    pub(crate) etcd_heard: Option<Moment>,
    /// The first pass waits for etcd until then; `None`: for ever.
    first_pass: Option<Moment>,
    /// Failed passes and when the next try is.
    pub(crate) retry: Retry,
}

impl Schedule {
    /// `serves_from_file`: an existing file says what to serve, at once. Else the first pass waits for etcd: for
    /// [`ETCD_WAIT`] where the HAProxy is the agent's own, and for ever where another process supervises it.
    pub(crate) fn new(now: Moment, serves_from_file: bool, supervises: bool) -> Self {
        let first_pass = match (serves_from_file, supervises) {
            (true, _) => Some(now),
            (false, true) => Some(now + ETCD_WAIT),
            (false, false) => None,
        };
        Self {
            dirty: true,
            next_poll: now,
            next_audit: now + AUDIT_INTERVAL,
            etcd_heard: None,
            first_pass,
            retry: Retry::new(HAPROXY),
        }
    }

    /// Whether passes may run yet.
    pub(crate) fn has_begun(&self, now: Moment) -> bool {
        self.etcd_heard.is_some() || self.first_pass.is_some_and(|at| now >= at)
    }

    /// Whether an audit is due: a pass that reads HAProxy's whole state. The next one is an interval later.
    pub(crate) fn starts_audit(&mut self, now: Moment) -> bool {
        let starts = now >= self.next_audit;
        if starts {
            (self.dirty, self.next_audit) = (true, now + AUDIT_INTERVAL);
        }
        starts
    }

    /// Whether a pass is due; `wakes` are moments at which something changes without an event.
    pub(crate) fn is_due(&mut self, wakes: [Option<Moment>; 3], now: Moment) -> bool {
        let retry = self.retry.next();
        let is_over = |at: Option<Moment>| at.is_some_and(|at| at <= now);
        self.dirty |= is_over(retry) || wakes.into_iter().any(is_over);
        self.dirty && self.has_begun(now) && retry.is_none_or(|next| next <= now)
    }

    /// When the next pass is due if nothing happens until then; not before a retry.
    pub(crate) fn next_pass(&self, wakes: [Option<Moment>; 3], now: Moment) -> Option<Moment> {
        if !self.has_begun(now) {
            return self.first_pass;
        }
        let wakes = wakes.into_iter().flatten();
        self.retry.next().or_else(|| wakes.min())
    }
}
