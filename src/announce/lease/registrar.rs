//! The state machine that owns the lease and the keys. Pure.
//!
//! It is asked what to do next ([`Registrar::poll`]) and told what came of it
//! ([`Registrar::answer`]), what etcd's watch saw, and what is wished for. One request is under way
//! at a time. Whatever it believes of etcd may be wrong; so every write carries the condition under
//! which it is right, and a belief that a write refutes is replaced by what etcd says.

use super::grant::Grants;
use super::key_state::{KeyState, KnownValue, Leases};
use super::protocol::{
    DesiredKey, DesiredKeys, Entry, Header, KeyStatuses, LeaseEvent, LeaseId, MAX_OPS, MAX_WRITES,
    Op, Request, Response, Revision, Step,
};
use crate::clock::Moment;
use crate::endpoint::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A key that others keep changing is put right at once the first time, and then at most this often.
pub const HEAL_PAUSE: Duration = Duration::from_secs(1);

/// Of the keys that etcd refuses by themselves one is tried so often: it may be out of space, or we
/// without the right to a key that somebody's label names.
pub const REJECTED_PAUSE: Duration = Duration::from_secs(1);

/// So often is the lease renewed within its TTL. A renewal is no write to etcd's log; an etcd that is away
/// for what is left of the TTL, less the time of one failover, costs no key.
const RENEWALS_PER_TTL: u32 = 3;

/// How long the lease lives and how often the keys are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseSettings {
    /// What is asked of etcd; whole seconds.
    pub ttl: Duration,
    /// Between two audits, which read the keys back and put right what isn't as it should be.
    pub interval: Duration,
}

/// The state machine. See the module's text.
#[derive(Debug)]
pub struct Registrar {
    settings: LeaseSettings,
    keys: BTreeMap<Key, KeyState>,
    leases: Leases,
    term: LeaseTerm,
    audit: Audit,
    sizes: BatchSizes,
    history: KnownHistory,
    /// When a key that etcd rejects by itself may be tried again.
    rejected_retry_at: Moment,
    /// When the latest request was asked for.
    asked_at: Moment,
    phase: Phase,
    events: Vec<LeaseEvent>,
}

/// The lease's time.
#[derive(Debug)]
struct LeaseTerm {
    grants: Grants,
    /// The TTL that etcd gave the lease.
    granted: Duration,
    renew_at: Moment,
}

/// The reading back of all keys.
#[derive(Debug, Default)]
struct Audit {
    /// When the next one begins.
    at: Moment,
    /// Keys that the running audit hasn't read yet.
    unread: BTreeSet<Key>,
}

/// How many keys the next request takes.
#[derive(Debug)]
struct BatchSizes {
    /// Of a transaction; halves when a condition fails, so that one contested key doesn't hold up the others.
    writes: usize,
    /// Of a read; halves when etcd rejects one.
    reads: usize,
}

/// Where in etcd's history the answers stand.
#[derive(Debug, Default)]
struct KnownHistory {
    /// The id of the cluster that answered last.
    cluster: Option<u64>,
    /// The latest revision in an answer.
    revision: Revision,
    /// The latest revision that was known when the request under way was asked for. A linearizable answer
    /// below it means that etcd went back in time.
    floor: Revision,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
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
            sizes: BatchSizes {
                writes: MAX_WRITES,
                reads: MAX_OPS,
            },
            history: KnownHistory::default(),
            rejected_retry_at: Moment::ZERO,
            asked_at: Moment::ZERO,
            phase: Phase::Running,
            events: Vec::new(),
        }
    }

    /// These keys ought to stand so from now on. A key that was wished for before and isn't any
    /// more is withdrawn, and forgotten when it is certain that nothing of ours comes back.
    pub fn set_desired(&mut self, desired: &DesiredKeys) {
        for (key, desire) in desired {
            match self.keys.get_mut(key) {
                Some(key_state) => {
                    key_state.retired = false;
                    key_state.set_desired(desire);
                }
                None => {
                    self.keys.insert(key.clone(), KeyState::new(desire));
                }
            }
        }
        for (key, key_state) in &mut self.keys {
            if !desired.contains_key(key) {
                key_state.retired = true;
                key_state.set_desired(&DesiredKey::Withdraw { down: None });
            }
        }
        self.forget();
    }

    /// Give everything up: from now on the only request is to revoke the lease.
    pub const fn shut_down(&mut self) {
        if matches!(self.phase, Phase::Running) {
            self.phase = Phase::Revoking;
        }
    }

    /// etcd's watch saw this at `key`, which happened at `revision`.
    pub fn observe(&mut self, key: &Key, entry: Option<Entry>, revision: Revision) {
        if let Some(key_state) = self.keys.get_mut(key) {
            key_state.observe(entry.into(), revision);
        }
    }

    /// This key is watched from now on (again): what happened before has to be read.
    pub fn watch_opened(&mut self, key: &Key) {
        self.audit.unread.insert(key.clone());
    }

    fn start_audit(&mut self) {
        self.audit.unread = self.keys.keys().cloned().collect();
        self.audit.at = self.asked_at + self.settings.interval;
    }

    /// The lease is there, and lives for `ttl` from when it was asked for at the latest.
    fn lease_granted(&mut self, lease: LeaseId, ttl: Duration) {
        self.leases.current = Some(lease);
        self.term.granted = ttl;
        self.term.renew_at = self.asked_at + ttl / RENEWALS_PER_TTL;
        self.audit.at = self.asked_at + self.settings.interval;
    }

    /// etcd has a lease by the id that was asked for already.
    fn lease_exists(&mut self, lease: LeaseId, ttl: Duration) {
        if self.term.grants.exists() {
            self.lease_granted(lease, ttl);
            // It has lived since an earlier try, and may end soon.
            self.term.renew_at = self.asked_at;
        }
    }

    /// Whether something is remembered of the key.
    #[must_use]
    pub fn knows(&self, key: &Key) -> bool {
        self.keys.contains_key(key)
    }

    /// What was worth telling since the last call.
    pub fn take_events(&mut self) -> Vec<LeaseEvent> {
        std::mem::take(&mut self.events)
    }

    /// The lease, while there is one.
    #[must_use]
    pub const fn lease(&self) -> Option<LeaseId> {
        self.leases.current
    }

    /// Whether there are keys that etcd refuses by themselves.
    #[must_use]
    pub fn has_rejected_keys(&self) -> bool {
        self.keys
            .values()
            .any(|key_state| key_state.rejected.is_some())
    }

    /// How it stands with every key that is wished for.
    #[must_use]
    pub fn statuses(&self) -> KeyStatuses {
        self.keys
            .iter()
            .filter(|(_, key_state)| !key_state.retired)
            .map(|(key, key_state)| (key.clone(), key_state.status(&self.leases)))
            .collect()
    }

    /// What to do at `now`. The same until something is told, or time has passed.
    pub fn poll(&mut self, now: Moment) -> Step {
        self.asked_at = now;
        self.history.floor = self
            .keys
            .values()
            .map(|key_state| key_state.belief.as_of)
            .fold(self.history.revision, Revision::max);
        if self.phase != Phase::Running {
            // Also one that was asked for and of which it isn't known whether it was granted.
            return match self.leases.current.or_else(|| self.term.grants.asked()) {
                Some(lease) if self.phase == Phase::Revoking => Step::Do(Request::Revoke(lease)),
                _ => Step::Done,
            };
        }
        let Some(lease) = self.leases.current else {
            return Step::Do(Request::Grant(self.term.grants.id(), self.settings.ttl));
        };
        // First, for everything else hangs on it. It is overdue after a suspend as well.
        if now >= self.term.renew_at {
            return Step::Do(Request::Renew(lease));
        }
        if now >= self.audit.at {
            self.start_audit();
        }
        for (key, key_state) in &mut self.keys {
            let holder = key_state.note_standby(&self.leases);
            self.events
                .extend(holder.map(|h| LeaseEvent::StandingBy(key.clone(), h)));
        }
        let (ops, heal_at) = self.ops(now);
        if !ops.is_empty() {
            return Step::Do(Request::Write(lease, ops));
        }
        let keys = self.unread();
        if !keys.is_empty() {
            return Step::Do(Request::Read(keys));
        }
        let apart_at = match self.retry_rejected(now, lease) {
            Some(Step::Wait(at)) => Some(at),
            Some(step) => return step,
            None => None,
        };
        let times = [heal_at, apart_at].into_iter().flatten();
        Step::Wait(times.fold(self.term.renew_at.min(self.audit.at), Moment::min))
    }

    /// One of those that are refused by themselves, in turn.
    fn retry_rejected(&mut self, now: Moment, lease: LeaseId) -> Option<Step> {
        let refused = self.keys.iter_mut();
        let refused = refused.filter(|(_, key_state)| key_state.rejected.is_some());
        let (key, key_state) = refused.min_by_key(|(_, key_state)| key_state.rejected)?;
        if now < self.rejected_retry_at {
            return Some(Step::Wait(self.rejected_retry_at));
        }
        Some(Step::Do(match key_state.op(key, &self.leases) {
            Some(op) => {
                key_state.asked(&op, now);
                Request::Write(lease, vec![op])
            }
            None => Request::Read(vec![key.clone()]),
        }))
    }

    /// The next transaction, and when the next difference may be put right that may not be yet.
    fn ops(&mut self, now: Moment) -> (Vec<Op>, Option<Moment>) {
        let (mut puts, mut deletes) = (Vec::new(), Vec::new());
        let mut heal_at: Option<Moment> = None;
        for (key, key_state) in self
            .keys
            .iter()
            .filter(|(_, key_state)| key_state.rejected.is_none())
        {
            let Some(op) = key_state.op(key, &self.leases) else {
                continue;
            };
            let ready_at = key_state.healed.map_or(Moment::ZERO, |at| at + HEAL_PAUSE);
            if key_state.settled && now < ready_at {
                heal_at = Some(heal_at.map_or(ready_at, |at| at.min(ready_at)));
            } else if op.is_put() {
                puts.push(op);
            } else {
                deletes.push(op);
            }
        }
        // Apart, and deletes first: etcd refuses a transaction with a put in it when its space is
        // used up, and takes one without.
        let mut ops = if deletes.is_empty() { puts } else { deletes };
        ops.truncate(self.sizes.writes);
        for op in &ops {
            if let Some(key_state) = self.keys.get_mut(op.key()) {
                key_state.asked(op, now);
            }
        }
        (ops, heal_at)
    }

    /// What the audit reads next; where none runs, what nothing is known of.
    fn unread(&mut self) -> Vec<Key> {
        let keys = &self.keys;
        let open = |key_state: &&KeyState| key_state.rejected.is_none();
        self.audit
            .unread
            .retain(|key| keys.get(key).filter(open).is_some());
        if self.audit.unread.is_empty() {
            let unknown = keys.iter();
            let unknown = unknown.filter(|(_, key_state)| {
                open(key_state) && key_state.belief.value == KnownValue::Unknown
            });
            self.audit.unread = unknown.map(|(key, _)| key.clone()).collect();
        }
        self.audit
            .unread
            .iter()
            .take(self.sizes.reads)
            .cloned()
            .collect()
    }

    /// What came of `request`, which [`Registrar::poll`] asked for last.
    pub fn answer(&mut self, request: &Request, answer: Response) {
        if let Response::Read(header, _)
        | Response::Written(header)
        | Response::Refused(header, _) = &answer
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
                // Counted from when it was asked for, as etcd may have done it at once.
                self.term.renew_at = self.asked_at + self.term.granted / RENEWALS_PER_TTL;
            }
            (Request::Revoke(_), Response::Revoked | Response::LeaseGone) => {
                self.phase = Phase::Revoked
            }
            (_, Response::LeaseGone) => self.lose_lease(),
            (_, Response::Read(header, entries)) => {
                self.sizes.reads = (self.sizes.reads * 2).min(MAX_OPS);
                self.learn(header, entries);
            }
            (Request::Read(keys), Response::Rejected) => {
                self.sizes.reads = (self.sizes.reads / 2).max(1);
                self.rejected(keys.as_slice());
            }
            (Request::Write(lease, ops), Response::Written(header)) => {
                self.sizes.writes = (self.sizes.writes * 2).min(MAX_WRITES);
                for op in ops {
                    self.accepted(op.key());
                    if let Some(key_state) = self.keys.get_mut(op.key()) {
                        let revision = header.revision;
                        let event =
                            key_state.done(op, &self.leases, *lease, revision, self.asked_at);
                        self.events.extend(event);
                    }
                }
            }
            (_, Response::Refused(header, entries)) => {
                self.sizes.writes = (self.sizes.writes / 2).max(1);
                self.learn(header, entries);
            }
            (Request::Write(_, ops), failed) => {
                for op in ops {
                    if let Some(key_state) = self.keys.get_mut(op.key()) {
                        key_state.belief.value = KnownValue::Unknown;
                    }
                }
                if failed == Response::Rejected {
                    self.sizes.writes = (self.sizes.writes / 2).max(1);
                    let keys: Vec<_> = ops.iter().map(|op| op.key().clone()).collect();
                    self.rejected(&keys);
                }
            }
            _ => {}
        }
        self.forget();
    }

    /// etcd won't have these keys. Of several it is one, or all: smaller batches find out.
    fn rejected(&mut self, keys: &[Key]) {
        if let [key] = keys
            && let Some(key_state) = self.keys.get_mut(key)
        {
            key_state.rejected = Some(self.asked_at);
            self.rejected_retry_at = self.asked_at + REJECTED_PAUSE;
        }
    }

    /// It had one of those that it used to refuse: perhaps it has the others too.
    fn accepted(&mut self, key: &Key) {
        if self
            .keys
            .get(key)
            .is_some_and(|key_state| key_state.rejected.is_some())
        {
            for key_state in self.keys.values_mut() {
                key_state.rejected = None;
            }
        }
    }

    fn learn(&mut self, header: Header, entries: Vec<(Key, Option<Entry>)>) {
        for (key, _) in &entries {
            self.accepted(key);
        }
        for (key, entry) in entries {
            self.audit.unread.remove(&key);
            if let Some(key_state) = self.keys.get_mut(&key) {
                key_state.learn(entry.into(), &self.leases, header.revision);
                key_state.answered(self.asked_at);
            }
        }
    }

    fn lose_lease(&mut self) {
        if let Some(lost) = self.leases.lose() {
            self.events.push(LeaseEvent::LeaseLost(lost));
            for key_state in self.keys.values_mut() {
                key_state.lease_lost(lost);
            }
        }
    }

    /// Notices that etcd went back in time, or became another cluster.
    fn check_history(&mut self, header: Header) {
        let another = self
            .history
            .cluster
            .is_some_and(|known| known != header.cluster);
        self.history.cluster = Some(header.cluster);
        self.history.revision = header.revision;
        if another || header.revision < self.history.floor {
            self.events.push(LeaseEvent::HistoryReset);
            for key_state in self.keys.values_mut() {
                key_state.history_reset();
            }
            self.start_audit();
        }
    }

    fn forget(&mut self) {
        let leases = &self.leases;
        self.keys.retain(|_, key_state| !key_state.is_over(leases));
    }
}

#[cfg(test)]
mod tests;
