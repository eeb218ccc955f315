//! The one clock that policies are fed from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// When something happened last, by the wall clock: for people and for Prometheus, never for a policy.
#[derive(Debug, Clone, Default)]
pub struct LastTime(Arc<AtomicU64>);

impl LastTime {
    /// It happens now.
    pub fn is_now(&self) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let millis = since_1970.unwrap_or_default().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.0.store(millis, Ordering::Relaxed);
    }

    /// The Unix timestamp, in seconds; 0: it has not happened yet.
    #[must_use]
    pub fn unix_seconds(&self) -> f64 {
        Duration::from_millis(self.0.load(Ordering::Relaxed)).as_secs_f64()
    }
}
