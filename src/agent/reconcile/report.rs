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

impl PassReport {
    pub(crate) fn not_after(&mut self, at: Option<Moment>) {
        self.again = self.again.into_iter().chain(at).min();
    }
}
