//! How long HAProxy is left alone between two reloads. Pure.

use std::time::Duration;

/// The shortest time between two reloads, and between two checks whether one may follow.
pub(crate) const RELOAD_PAUSE: Duration = Duration::from_secs(1);

/// The longest time between two reloads.
pub(crate) const LONGEST_RELOAD_PAUSE: Duration = Duration::from_secs(16);

/// The time between two reloads while `older` workers still serve the connections that they had: doubled
/// with each beyond the first, so that a run of reloads does not pile up workers.
#[must_use]
pub(crate) fn reload_pause(older: usize) -> Duration {
    let doublings = u32::try_from(older).unwrap_or(u32::MAX).clamp(1, 16) - 1;
    (RELOAD_PAUSE * (1 << doublings)).min(LONGEST_RELOAD_PAUSE)
}
