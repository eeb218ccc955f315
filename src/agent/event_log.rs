//! What the log says of the agent's doings: each thing once, and of a flood no more than its size.

use crate::agent::haproxy::health::HealthChanges;
use crate::agent::haproxy::parse::original_name;
use crate::agent::model::listeners::RefusedListener;
use crate::agent::model::membership::MembershipEvent;
use crate::agent::reconcile::PassReport;
use crate::catalog::QuarantinedKey;
use crate::clock::Moment;
use crate::log_throttle::{Allowance, Repeats};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tracing::{error, info, warn};

/// What was told already.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    /// Fronts that can't be, as of the last pass.
    refused: BTreeSet<RefusedListener>,
    /// Keys that were bad, by what was printed of them.
    quarantined: Repeats,
    /// Services, by name and by what became of them.
    membership_events: Repeats,
    /// Lines about passes.
    lines: Allowance,
    unlogged: UnloggedPasses,
}

/// Passes that the log said nothing of.
#[derive(Debug, Default)]
struct UnloggedPasses {
    passes: u64,
    changes: usize,
    /// How often each key was put or deleted since the last line, of so many keys.
    keys: BTreeMap<Vec<u8>, u64>,
}

/// Of more keys than these it isn't said which changed most.
const KEYS: usize = 500;

impl EventLog {
    /// Keys that went into quarantine.
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

    /// To be called now and then.
    pub(crate) fn floods(&mut self, now: Moment) {
        if let Some(more) = self.quarantined.flood(now) {
            warn!("quarantined: {more} keys more");
        }
        if let Some(more) = self.membership_events.flood(now) {
            warn!("{more} times more a service lost instances, or was forgotten");
        }
        if self.unlogged.passes > 0 && self.lines.take(now) {
            self.log_unlogged();
        }
    }

    /// A key was put or deleted.
    pub(crate) fn heard(&mut self, key: &[u8]) {
        let keys = &mut self.unlogged.keys;
        if let Some(times) = keys.get_mut(key) {
            *times += 1;
        } else if keys.len() < KEYS {
            keys.insert(key.to_vec(), 1);
        }
    }

    /// Servers that HAProxy's checks took out or brought back.
    pub(crate) fn changes(&self, changes: HealthChanges) {
        for change in changes.told {
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
                    "HAProxy's checks have taken this instance out, {seconds} s ago; no client is sent there until it accepts connections from this machine again"
                );
            } else {
                info!(
                    service,
                    instance,
                    address,
                    times,
                    "HAProxy's checks have brought this instance back after {seconds} s"
                );
            }
        }
        if changes.more > 0 {
            warn!(
                "HAProxy's checks have taken out or brought back {} instances more; `sidekick list` shows which are down",
                changes.more
            );
        }
    }

    /// What became of services whose instances left.
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
                    "{count} instances left etcd at a blow: keeping them for {hold} s, HAProxy's checks decide meanwhile"
                ),
                MembershipEvent::HoldEnded(service, count) => warn!(
                    service,
                    times, "{count} instances didn't come back: letting them go"
                ),
                MembershipEvent::Displaced(service, count) => warn!(
                    service,
                    times,
                    "{count} instances that were kept go: other keys announce their addresses now"
                ),
                MembershipEvent::Forgotten(service) => {
                    info!(
                        service,
                        times, "had no instance for long enough: its front goes"
                    )
                }
            }
        }
    }

    /// A pass that got through.
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
        let most = unlogged.keys.into_iter().max_by_key(|(_, times)| *times);
        let (key, times) = most.unwrap_or_default();
        let key = key.escape_ascii().to_string();
        info!(
            key,
            times,
            "{} changes in {} passes, none of them a reload, are not logged one by one; this key changed most often",
            unlogged.changes,
            unlogged.passes
        );
    }
}
