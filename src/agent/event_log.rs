//! The agent's log lines: each event once, and a flood of them as one line with a count.

use crate::agent::drain::drain_state::WordEvent;
use crate::agent::haproxy::health::HealthChanges;
use crate::agent::haproxy::parse::original_name;
use crate::agent::model::listeners::RefusedListener;
use crate::agent::reconcile::PassReport;
use crate::catalog::QuarantinedKey;
use crate::clock::Moment;
use crate::log_throttle::{Allowance, Repeats};
use crate::membership::MembershipEvent;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tracing::{error, info, warn};

/// What was logged already, so that it is not repeated.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    /// Listeners that were refused in the last pass.
    refused: BTreeSet<RefusedListener>,
    /// Quarantined keys, as they were printed.
    quarantined: Repeats,
    /// Changes of a service's instances, by service and kind of change.
    membership_events: Repeats,
    /// How many lines about passes may be written now.
    lines: Allowance,
    unlogged: UnloggedPasses,
}

/// Passes that are not logged yet.
#[derive(Debug, Default)]
struct UnloggedPasses {
    passes: u64,
    changes: usize,
    /// How often each key was put or deleted since the last line; at most [`KEYS`] keys.
    keys: BTreeMap<Vec<u8>, u64>,
}

/// How many keys are counted.
const KEYS: usize = 500;

impl EventLog {
    /// Logs keys that were quarantined.
    pub(crate) fn quarantined(&mut self, quarantined: &[QuarantinedKey], now: Moment) {
        for quarantined in quarantined {
            match self.quarantined.happened(&quarantined.key, now) {
                Some(1) => warn!(key = quarantined.key, "quarantined: {}", quarantined.reason),
                Some(n) => warn!(
                    key = quarantined.key,
                    "quarantined ({n} times): {}", quarantined.reason
                ),
                None => {}
            }
        }
    }

    /// Logs what was held back, once enough time has passed; to be called in every round.
    pub(crate) fn floods(&mut self, now: Moment) {
        if let Some(more) = self.quarantined.flood(now) {
            warn!("quarantined: {more} more keys");
        }
        if let Some(more) = self.membership_events.flood(now) {
            warn!("{more} more changes of services are not logged one by one");
        }
        if self.unlogged.passes > 0 && self.lines.take(now) {
            self.log_unlogged();
        }
    }

    /// Counts a key that was put or deleted.
    pub(crate) fn heard(&mut self, key: &[u8]) {
        let keys = &mut self.unlogged.keys;
        if let Some(times) = keys.get_mut(key) {
            *times += 1;
        } else if keys.len() < KEYS {
            keys.insert(key.to_vec(), 1);
        }
    }

    /// Logs instances that are drained, or no longer.
    pub(crate) fn words(&mut self, events: &[WordEvent], now: Moment) {
        for WordEvent { name, given, ended } in events {
            let what = format!("{name} {given}");
            let Some(times) = self.membership_events.happened(&what, now) else {
                continue;
            };
            let again = match times {
                1 => String::new(),
                n => format!(" ({n} times)"),
            };
            if *given {
                info!(instance = %name, ended, "drained{again}: no worker has a connection to it; idle ones were ended");
            } else {
                info!(instance = %name, "no longer drained{again}: HAProxy has a connection to it");
            }
        }
    }

    /// Logs servers whose health check changed.
    pub(crate) fn health_changes(&self, changes: HealthChanges) {
        for change in changes.logged {
            let (backend, server) = &change.server;
            let service = original_name(backend).unwrap_or_default();
            let instance = original_name(server).unwrap_or_default();
            let address = change.address.map(|it| it.to_string()).unwrap_or_default();
            let (seconds, times) = (change.lasted.as_secs(), change.times);
            if change.down {
                warn!(
                    service,
                    instance,
                    address,
                    times,
                    "HAProxy's health check marked this instance down {seconds} s ago; it gets no connections until it accepts connections from this machine again"
                );
            } else {
                info!(
                    service,
                    instance,
                    address,
                    times,
                    "HAProxy's health check marked this instance up after {seconds} s"
                );
            }
        }
        if changes.more > 0 {
            warn!(
                "HAProxy's health checks marked {} more instances down or up; `sidekick list` shows which are down",
                changes.more
            );
        }
    }

    /// Logs services whose instances disappeared, were removed, or came back elsewhere.
    pub(crate) fn membership_events(
        &mut self,
        membership_events: Vec<MembershipEvent>,
        hold: Duration,
        now: Moment,
    ) {
        let hold = hold.as_secs();
        for event in membership_events {
            let what = match &event {
                MembershipEvent::Held(service, _) => format!("{service} held"),
                MembershipEvent::HoldEnded(service, _) => format!("{service} let go"),
                MembershipEvent::Displaced(service, _) => format!("{service} displaced"),
                MembershipEvent::Forgotten(service) => format!("{service} forgotten"),
            };
            let Some(times) = self.membership_events.happened(&what, now) else {
                continue;
            };
            match event {
                MembershipEvent::Held(service, count) => error!(
                    service,
                    times,
                    "{count} instances disappeared from etcd at once; holding them for {hold} s, HAProxy's health checks decide meanwhile"
                ),
                MembershipEvent::HoldEnded(service, count) => warn!(
                    service,
                    times, "{count} held instances did not come back to etcd; removing them"
                ),
                MembershipEvent::Displaced(service, count) => warn!(
                    service,
                    times,
                    "{count} held instances are released; other keys announce their addresses now"
                ),
                MembershipEvent::Forgotten(service) => {
                    info!(
                        service,
                        times,
                        "the service had no instance for long enough (--forget); removing its listener"
                    )
                }
            }
        }
    }

    /// Logs a pass that succeeded.
    pub(crate) fn passed(&mut self, report: &PassReport, now: Moment) {
        if report.reloaded {
            self.log_pass(report, "reloaded");
        } else if report.changes > 0 && self.lines.take(now) {
            self.log_pass(report, "without a reload");
        } else if report.changes > 0 {
            self.unlogged.passes += 1;
            self.unlogged.changes += report.changes;
        }
        let refused: BTreeSet<_> = report.refusals.iter().cloned().collect();
        for refusal in refused.difference(&self.refused) {
            error!(service = refusal.service, "refused: {}", refusal.why);
        }
        self.refused = refused;
    }

    fn log_pass(&mut self, report: &PassReport, how: &str) {
        self.log_unlogged();
        info!(
            "{} services, {} instances ({} changes, {how})",
            report.listeners, report.servers, report.changes
        );
    }

    fn log_unlogged(&mut self) {
        let unlogged = std::mem::take(&mut self.unlogged);
        if unlogged.passes == 0 {
            return;
        }
        let what = format!(
            "{} changes in {} passes, none of them a reload, are not logged one by one",
            unlogged.changes, unlogged.passes
        );
        // None where etcd changed nothing: names, drains and checks change something, too.
        let most = unlogged.keys.into_iter().max_by_key(|(_, times)| *times);
        match most {
            Some((key, times)) => {
                let key = key.escape_ascii().to_string();
                info!(key, times, "{what}; this key changed most often");
            }
            None => info!("{what}"),
        }
    }
}
