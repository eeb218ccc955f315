//! The one clock that policies are fed from.

use std::time::Duration;

/// Time since the machine booted, suspend included. Only differences mean anything.
pub type Moment = Duration;

/// Now, by `CLOCK_BOOTTIME`. `std::time::Instant` stands still while the machine is suspended
/// (tokio#3185), and a lease doesn't.
#[must_use]
pub fn now() -> Moment {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(
        u64::try_from(t.tv_sec).unwrap_or_default(),
        u32::try_from(t.tv_nsec).unwrap_or_default(),
    )
}
