//! What the executor counts, for `/metrics`.

use super::key_waits::{KeyWait, KeyWaits};
use super::protocol::{LeaseEvent, Op};
use crate::clock::Moment;
use crate::endpoint::Key;
use crate::etcd::EtcdError;
use crate::http::metrics::{durations, observe};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::sync::{Arc, Mutex, PoisonError};

/// Counters and histograms; all clones are the same ones.
#[derive(Debug, Clone)]
pub struct LeaseMetrics {
    renewals: Counter,
    failures: Family<[(&'static str, &'static str); 1], Counter>,
    take_overs: Counter,
    heals: Counter,
    leases_lost: Counter,
    puts: Histogram,
    deletes: Histogram,
    waits: Arc<Mutex<KeyWaits>>,
}

impl Default for LeaseMetrics {
    fn default() -> Self {
        Self {
            renewals: Counter::default(),
            failures: Family::default(),
            take_overs: Counter::default(),
            heals: Counter::default(),
            leases_lost: Counter::default(),
            puts: durations(),
            deletes: durations(),
            waits: Arc::default(),
        }
    }
}

/// Why a request failed: the values of a label.
const REASONS: [&str; 4] = ["timeout", "unreachable", "auth", "refused"];

const fn reason(error: &EtcdError) -> &'static str {
    match error {
        EtcdError::Timeout(_) => REASONS[0],
        EtcdError::Unreachable(_) => REASONS[1],
        EtcdError::Auth(_) => REASONS[2],
        // A lease that is gone is none of these: the executor asks for another.
        EtcdError::NotFound(_) | EtcdError::Refused(_) => REASONS[3],
    }
}

impl LeaseMetrics {
    /// Has `/metrics` tell them.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("sidekick_announce");
        registry.register(
            "lease_renewals",
            "Renewals of the lease that etcd confirmed",
            self.renewals.clone(),
        );
        for why in REASONS {
            // A series that is not there can't be watched.
            let _ = self.failures.get_or_create(&[("reason", why)]);
        }
        registry.register(
            "etcd_request_failures",
            "Requests for the lease or the keys that failed, or were refused",
            self.failures.clone(),
        );
        registry.register(
            "take_overs",
            "Values of other holders that were overwritten, because they yield",
            self.take_overs.clone(),
        );
        registry.register(
            "heals",
            "Keys that were put back after another client had deleted or changed them",
            self.heals.clone(),
        );
        registry.register(
            "leases_lost",
            "Leases that etcd had forgotten before they were revoked",
            self.leases_lost.clone(),
        );
        registry.register(
            "put_duration_seconds",
            "From the event by which a container can be announced to its confirmed key",
            self.puts.clone(),
        );
        registry.register(
            "delete_duration_seconds",
            "From the death of a container to the confirmed delete of its key",
            self.deletes.clone(),
        );
    }

    /// From `since` on that key waits for its put or its delete.
    pub fn begin(&self, key: &Key, wait: KeyWait, since: Moment) {
        self.waits().begin(key, wait, since);
    }

    /// That key waits for nothing.
    pub fn forget(&self, key: &Key) {
        self.waits().forget(key);
    }

    pub(super) fn renewed(&self) {
        self.renewals.inc();
    }

    pub(super) fn failed(&self, error: &EtcdError) {
        let failures = self.failures.get_or_create(&[("reason", reason(error))]);
        failures.inc();
    }

    pub(super) fn wrote(&self, ops: &[Op], now: Moment) {
        let mut waits = self.waits();
        for op in ops {
            match waits.end(op, now) {
                Some((KeyWait::Put, took)) => observe(&self.puts, took),
                Some((KeyWait::Delete, took)) => observe(&self.deletes, took),
                None => {}
            }
        }
    }

    pub(super) fn happened(&self, event: &LeaseEvent) {
        let counter = match event {
            LeaseEvent::TookOver { .. } | LeaseEvent::Resumed(_) | LeaseEvent::BadValue { .. } => {
                &self.take_overs
            }
            LeaseEvent::Healed { .. } => &self.heals,
            LeaseEvent::LeaseLost(_) => &self.leases_lost,
            LeaseEvent::StandingBy(..)
            | LeaseEvent::Cleared(_)
            | LeaseEvent::HistoryReset
            | LeaseEvent::FurtherKeyRefused(..)
            | LeaseEvent::FurtherKeyHeld(..) => return,
        };
        counter.inc();
    }

    fn waits(&self) -> std::sync::MutexGuard<'_, KeyWaits> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
