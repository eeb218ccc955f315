//! What the log says of keys and of the lease: what repeats, at growing intervals.

use super::ownership::clock_warning;
use super::protocol::LeaseEvent;
use crate::clock::Moment;
use crate::endpoint::{Key, Since};
use crate::log_throttle::LogThrottle;
use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};
use tracing::{info, warn};

/// What was logged until now.
#[derive(Debug, Default)]
pub(super) struct LeaseEventLog {
    keys: BTreeMap<Key, KeyLog>,
    lease_losses: LogThrottle,
    history_resets: LogThrottle,
}

#[derive(Debug, Default)]
struct KeyLog {
    /// Changes by other writers.
    contested: LogThrottle,
    /// A value that is no endpoint was logged.
    bad_value: bool,
}

impl LeaseEventLog {
    /// Logs the event that happened at `now`, unless the log said the same lately.
    pub(super) fn log(&mut self, event: &LeaseEvent, now: Moment) {
        match event {
            LeaseEvent::StandingBy(key, holder) => {
                let clock = wall_clock().and_then(|now| clock_warning(holder, now));
                let clock = clock.unwrap_or_default();
                warn!(
                    %key,
                    "standing by: the key is held by {holder}, which has precedence; waiting until the key is deleted{clock}"
                );
            }
            LeaseEvent::TookOver {
                key,
                holder,
                contested,
            } => {
                if self.times(key, *contested, now).is_some() {
                    info!(%key, "took the key over from {holder}");
                }
            }
            LeaseEvent::Resumed(key) => info!(
                %key,
                "took the key over from the previous sidekick process of this container"
            ),
            LeaseEvent::BadValue {
                key,
                why,
                contested,
            } => {
                if self.times(key, *contested, now).is_some() && self.is_first_bad_value(key) {
                    warn!(%key, "overwrote an invalid value: {why}");
                }
            }
            LeaseEvent::Healed { key, contested } => match self.times(key, *contested, now) {
                None => {}
                Some(1) => {
                    warn!(%key, "the key had been deleted or changed by another writer; put back");
                }
                Some(times) => {
                    warn!(%key, "the key keeps being deleted or changed by another writer ({times} times); put back");
                }
            },
            LeaseEvent::Cleared(key) => {
                info!(%key, "removed the key that an earlier process of this sidekick had left");
            }
            LeaseEvent::FurtherKeyRefused(key, why) => {
                warn!(%key, "not put for another reader: {why}; the key itself is announced all the same");
            }
            LeaseEvent::FurtherKeyHeld(key, lease) => {
                let lease = format!("{lease:x}");
                warn!(
                    %key,
                    lease,
                    "not put for another reader: another writer holds this further key; looking again at each interval"
                );
            }
            LeaseEvent::LeaseLost(id) => {
                if self.lease_losses.happened(now).is_some() {
                    let lease = format!("{id:x}");
                    warn!(lease, "etcd has forgotten the lease; asking for a new one");
                }
            }
            LeaseEvent::HistoryReset => {
                if self.history_resets.happened(now).is_some() {
                    warn!(
                        "etcd is another cluster than before, or its revision went back; reading all keys again"
                    );
                }
            }
        }
    }

    /// Forgets the keys that the registrar has forgotten.
    pub(super) fn retain(&mut self, is_known: impl Fn(&Key) -> bool) {
        self.keys.retain(|key, _| is_known(key));
    }

    /// How often it happened since the log said so; `None`: the log says nothing now.
    fn times(&mut self, key: &Key, contested: bool, now: Moment) -> Option<u64> {
        if !contested {
            return Some(1);
        }
        let log = self.keys.entry(key.clone()).or_default();
        log.contested.happened(now).map(|notice| notice.failures)
    }

    fn is_first_bad_value(&mut self, key: &Key) -> bool {
        let log = self.keys.entry(key.clone()).or_default();
        !std::mem::replace(&mut log.bad_value, true)
    }
}

/// This machine's wall clock. Containers' starts are compared with it for a warning alone.
fn wall_clock() -> Option<Since> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Since::from_unix_nanos(i128::try_from(since_1970.as_nanos()).ok()?)
}
