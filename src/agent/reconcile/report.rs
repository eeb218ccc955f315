//! What a pass did. Pure.

use crate::agent::model::listeners::RefusedListener;
use crate::clock::Moment;

/// What a pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PassReport {
    /// Whether HAProxy was reloaded.
    pub(crate) reloaded: bool,
    /// Whether HAProxy does not listen as planned yet: a reload has to wait, or failed.
    pub(crate) behind: bool,
    /// Whether servers that were changed have not been read back yet.
    pub(crate) unconfirmed: bool,
    /// How many servers were added, changed or removed without a reload.
    pub(crate) changes: usize,
    /// Listeners that were refused, and why.
    pub(crate) refusals: Vec<RefusedListener>,
    /// When the next pass is due, even if nothing changes.
    pub(crate) again: Option<Moment>,
    /// How many services HAProxy listens for.
    pub(crate) listeners: usize,
    /// How many servers HAProxy has, without those that are leaving.
    pub(crate) servers: usize,
}

/// What all passes did, since the agent started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PassTotals {
    pub(crate) passes: u64,
    /// Of those, the ones that failed.
    pub(crate) failed_passes: u64,
    /// Reloads that succeeded; a start is none.
    pub(crate) reloads: u64,
    pub(crate) failed_reloads: u64,
    /// Servers that were added, changed or removed over the runtime API.
    pub(crate) commands: u64,
}

impl PassReport {
    /// Whether HAProxy was seen to be as desired.
    pub(crate) const fn agrees(&self) -> bool {
        !self.behind && !self.unconfirmed
    }

    pub(crate) fn not_after(&mut self, at: Option<Moment>) {
        self.again = self.again.into_iter().chain(at).min();
    }
}
