//! The state machine that owns the lease and the keys. Pure.
//!
//! The executor asks for the next request ([`Registrar::poll`]), and passes on the response to it
//! ([`Registrar::answer`]), the events of etcd's watch, and the desired keys. One request is under way at a time.
//! What the registrar knows of etcd may be out of date; so every write carries the condition under which it
//! is right, and a response to a failed condition replaces what was known.

mod further;
mod handover;
mod next_ops;

pub use handover::HANDOVER_TTL;

use super::audit::Audit;
use super::batch::BatchSizes;
use super::grant::{Grants, LeaseTerm};
use super::history::KnownHistory;
use super::key_state::{KeyState, KnownValue, Leases};
use super::protocol::{
    DesiredKey, DesiredKeys, Entry, Header, KeyStatuses, LeaseEvent, LeaseId, Request, Response,
    Revision, Step,
};
use crate::clock::Moment;
use crate::endpoint::Key;
use further::FurtherKeys;
use std::collections::BTreeMap;
use std::time::Duration;

/// A key that other writers keep changing is corrected at once the first time, and then at most this often.
pub const HEAL_PAUSE: Duration = Duration::from_secs(1);

/// The interval at which one of the keys that etcd rejects is tried: etcd may be out of space, or our user may
/// have no right to a key that a label names.
pub const REJECTED_PAUSE: Duration = Duration::from_secs(1);

/// Renewals of the lease within its TTL. A renewal is no write to etcd's log; an etcd that is unreachable for
/// what is left of the TTL, less the time of one failover, costs no key.
const RENEWALS_PER_TTL: u32 = 3;

/// How long the lease lives and how often the keys are read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSettings {
    /// The TTL that is requested from etcd; whole seconds.
    pub ttl: Duration,
    /// The interval of the audits, which read all keys back and correct those that differ.
    pub interval: Duration,
}

/// The state machine that owns the lease and the keys.
#[derive(Debug)]
pub struct Registrar {
    settings: LeaseSettings,
    keys: BTreeMap<Key, KeyState>,
    leases: Leases,
    term: LeaseTerm,
    audit: Audit,
    sizes: BatchSizes,
    history: KnownHistory,
    /// When a key that etcd rejects also in a transaction of its own may be tried again.
    rejected_retry_at: Moment,
    /// When the latest request was asked for.
    asked_at: Moment,
    phase: Phase,
    further: FurtherKeys,
    events: Vec<LeaseEvent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// The keys move from this lease to a short one, for the next process.
    HandingOver(LeaseId),
    /// The only request left is to revoke the lease.
    Revoking,
    /// The lease is revoked.
    Revoked,
}

impl Registrar {
    /// No lease, no keys. `seed` is a random number, from which the ids of leases are made: no two
    /// processes may have the same.
    #[must_use]
    pub fn new(settings: LeaseSettings, seed: u64) -> Self {
        Self {
            settings,
            keys: BTreeMap::new(),
            leases: Leases::default(),
            term: LeaseTerm {
                grants: Grants::new(seed),
                granted: settings.ttl,
                renew_at: Moment::ZERO,
            },
            audit: Audit::default(),
            sizes: BatchSizes::new(),
            history: KnownHistory::default(),
            rejected_retry_at: Moment::ZERO,
            asked_at: Moment::ZERO,
            phase: Phase::Running,
            further: FurtherKeys::default(),
            events: Vec::new(),
        }
    }

    /// Sets the desired keys. A key that is no longer among them is withdrawn, and forgotten when it is certain
    /// that no put of ours can come late.
    pub fn set_desired(&mut self, desired: &DesiredKeys) {
        for (key, desire) in desired {
            match self.keys.get_mut(key) {
                Some(state) => {
                    state.retired = false;
                    state.set_desired(desire);
                }
                None => {
                    self.keys.insert(key.clone(), KeyState::new(desire));
                }
            }
        }
        for (key, state) in &mut self.keys {
            if !desired.contains_key(key) && state.further_of().is_none() {
                state.retired = true;
                state.set_desired(&DesiredKey::Withdraw { down: None });
            }
        }
        self.set_further(desired);
        self.forget();
    }

    /// Starts the shutdown: from now on the only request is to revoke the lease.
    pub const fn shut_down(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Revoking;
        }
    }

    /// etcd's watch told that `key` has this value since `revision`; `None`: it was deleted.
    pub fn observe(&mut self, key: &Key, entry: Option<Entry>, revision: Revision) {
        if let Some(state) = self.keys.get_mut(key) {
            state.observe(entry.into(), revision);
            self.primary_changed(key);
        }
    }

    /// The key is watched from now on (again): what happened before has to be read.
    pub fn watch_opened(&mut self, key: &Key) {
        self.audit.unread.insert(key.clone());
    }

    fn start_audit(&mut self) {
        let next = self.asked_at + self.settings.interval;
        self.retry_further();
        self.audit.start(self.keys.keys(), next);
    }

    /// etcd granted the lease; it lives for at least `ttl` from when it was asked for.
    fn lease_granted(&mut self, lease: LeaseId, ttl: Duration) {
        self.leases.current = Some(lease);
        self.term.granted = ttl;
        self.term.renew_at = self.asked_at + ttl / RENEWALS_PER_TTL;
        self.audit.at = self.asked_at + self.settings.interval;
    }

    /// etcd already has a lease with the id that was asked for.
    fn lease_exists(&mut self, lease: LeaseId, ttl: Duration) {
        if self.term.grants.exists() {
            self.lease_granted(lease, ttl);
            // An earlier try was granted, so that the lease may expire soon.
            self.term.renew_at = self.asked_at;
        }
    }

    /// Whether the registrar still has a state for the key.
    #[must_use]
    pub fn knows(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// The events since the last call.
    pub fn take_events(&mut self) -> Vec<LeaseEvent> {
        std::mem::take(&mut self.events)
    }

    /// The lease, while there is one.
    #[must_use]
    pub const fn lease(&self) -> Option<LeaseId> {
        self.leases.current
    }

    /// Whether there are keys that etcd rejects by themselves.
    #[must_use]
    pub fn has_rejected_keys(&self) -> bool {
        let mut primaries = self.keys.values().filter(|it| it.further_of().is_none());
        primaries.any(|state| state.rejected.is_some())
    }

    /// The status of every desired key.
    #[must_use]
    pub fn statuses(&self) -> KeyStatuses {
        self.keys
            .iter()
            .filter(|(_, state)| !state.retired && state.further_of().is_none())
            .map(|(key, state)| (key.clone(), state.status(&self.leases)))
            .collect()
    }

    /// The next step at `now`; the same one until a response, an event or new desired keys come in, or time
    /// has passed.
    pub fn poll(&mut self, now: Moment) -> Step {
        self.asked_at = now;
        let observed = self.keys.values().map(|state| state.belief.as_of);
        self.history
            .request_sent(observed.max().unwrap_or_default());
        if let Phase::HandingOver(former) = self.phase {
            return self.poll_hand_over(now, former);
        }
        if self.phase != Phase::Running {
            // Also a lease that was asked for and may have been granted.
            return match self.leases.current.or_else(|| self.term.grants.asked()) {
                Some(lease) if self.phase == Phase::Revoking => Step::Do(Request::Revoke(lease)),
                _ => Step::Done,
            };
        }
        let Some(lease) = self.leases.current else {
            return Step::Do(Request::Grant(self.term.grants.id(), self.settings.ttl));
        };
        // The renewal comes first, because every key hangs on the lease. After a suspend it is overdue as well.
        if now >= self.term.renew_at {
            return Step::Do(Request::Renew(lease));
        }
        if now >= self.audit.at {
            self.start_audit();
        }
        self.tell_holders();
        let (ops, heal_at) = self.next_ops(now);
        if !ops.is_empty() {
            return Step::Do(Request::Write(lease, ops));
        }
        let keys = self.audit.next_keys(&self.keys, self.sizes.reads);
        if !keys.is_empty() {
            return Step::Do(Request::Read(keys));
        }
        let retry_at = match self.retry_rejected(now, lease) {
            Some(Step::Wait(at)) => Some(at),
            Some(step) => return step,
            None => None,
        };
        let times = [heal_at, retry_at].into_iter().flatten();
        Step::Wait(times.fold(self.term.renew_at.min(self.audit.at), Moment::min))
    }

    /// The response to `request`, which [`Registrar::poll`] asked for last.
    pub fn answer(&mut self, request: &Request, answer: Response) {
        if let Response::Read(header, _)
        | Response::Written(header)
        | Response::ConditionFailed(header, _) = &answer
        {
            self.check_history(*header);
        }
        match (request, answer) {
            (Request::Grant(id, _), Response::Granted(ttl)) => {
                self.term.grants.granted();
                self.lease_granted(*id, ttl);
            }
            (Request::Grant(id, ttl), Response::LeaseExists) => self.lease_exists(*id, *ttl),
            (Request::Grant(..), Response::Failed) => self.term.grants.unanswered(),
            (Request::Renew(_), Response::Renewed) => {
                // Counted from when it was asked for, because etcd may have renewed it at once.
                self.term.renew_at = self.asked_at + self.term.granted / RENEWALS_PER_TTL;
            }
            (Request::Revoke(_), Response::Revoked | Response::LeaseGone) => {
                self.phase = Phase::Revoked
            }
            (_, Response::LeaseGone) => self.lose_lease(),
            (_, Response::Read(header, entries)) => {
                self.sizes.read_succeeded();
                self.learn(header, entries);
            }
            (Request::Read(keys), Response::Rejected) => {
                self.sizes.read_failed();
                self.rejected(keys.as_slice());
            }
            (Request::Write(lease, ops), Response::Written(header)) => {
                self.sizes.write_succeeded();
                for op in ops {
                    self.accepted(op.key());
                    if let Some(state) = self.keys.get_mut(op.key()) {
                        let revision = header.revision;
                        let event = state.done(op, &self.leases, *lease, revision, self.asked_at);
                        self.events.extend(event);
                    }
                }
            }
            (_, Response::ConditionFailed(header, entries)) => {
                self.sizes.condition_failed();
                self.learn(header, entries);
            }
            (Request::Write(_, ops), failed) => {
                for op in ops {
                    if let Some(state) = self.keys.get_mut(op.key()) {
                        state.belief.value = KnownValue::Unknown;
                    }
                }
                if failed == Response::Rejected {
                    self.sizes.write_failed();
                    let keys: Vec<_> = ops.iter().map(|op| op.key().clone()).collect();
                    self.rejected(&keys);
                }
            }
            _ => {}
        }
        self.forget();
    }

    /// etcd rejected a request for these keys. Of several one may be the cause, or all: smaller batches find out.
    fn rejected(&mut self, keys: &[Key]) {
        let [key] = keys else {
            return self.split(keys);
        };
        if let Some(state) = self.keys.get_mut(key) {
            state.rejected = Some(self.asked_at);
            if state.further_of().is_none() {
                self.rejected_retry_at = self.asked_at + REJECTED_PAUSE;
            }
        }
    }

    /// etcd accepted a key; if it had rejected it before, it may now accept the others too.
    fn accepted(&mut self, key: &Key) {
        if self
            .keys
            .get(key)
            .is_some_and(|it| it.rejected.is_some() && it.further_of().is_none())
        {
            for state in self.keys.values_mut() {
                state.rejected = None;
            }
        }
    }

    fn learn(&mut self, header: Header, entries: Vec<(Key, Option<Entry>)>) {
        for (key, _) in &entries {
            self.accepted(key);
        }
        for (key, entry) in &entries {
            let known = self.keys.get(key).map(KeyState::holder_lease);
            if known.is_some_and(|lease| lease != entry.as_ref().map(|it| it.lease)) {
                self.primary_changed(key);
            }
        }
        for (key, entry) in entries {
            self.audit.unread.remove(&key);
            if let Some(state) = self.keys.get_mut(&key) {
                state.learn(entry.into(), &self.leases, header.revision);
                state.answered(self.asked_at);
            }
        }
    }

    fn lose_lease(&mut self) {
        if let Some(lost) = self.leases.lose() {
            self.events.push(LeaseEvent::LeaseLost(lost));
            for state in self.keys.values_mut() {
                state.lease_lost(lost);
            }
        }
    }

    /// Notices that etcd's revision went back, or that it is another cluster.
    fn check_history(&mut self, header: Header) {
        if self.history.is_reset_by(header) {
            self.events.push(LeaseEvent::HistoryReset);
            for state in self.keys.values_mut() {
                state.history_reset();
            }
            self.start_audit();
        }
    }

    fn forget(&mut self) {
        let leases = &self.leases;
        self.keys.retain(|_, state| !state.is_over(leases));
    }
}

#[cfg(test)]
mod tests;
