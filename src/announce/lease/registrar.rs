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
use crate::log_throttle::LogThrottle;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A key that others keep changing is put right at once the first time, and then at most this often.
pub const HEAL_PAUSE: Duration = Duration::from_secs(1);

/// Of the keys that etcd refuses by themselves one is tried so often: it may be out of space, or we
/// without the right to a key that somebody's label names.
pub const APART_PAUSE: Duration = Duration::from_secs(1);

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
    grants: Grants,
    /// The TTL that etcd gave the lease.
    granted: Duration,
    renew_at: Moment,
    audit_at: Moment,
    /// Keys that the running audit hasn't read yet.
    audit: BTreeSet<Key>,
    /// The next transaction's size; halves when a condition fails, so that one contested key
    /// doesn't hold up the others.
    batch: usize,
    /// The next read's size; halves when etcd refuses one.
    reads: usize,
    /// When a key that is refused may be tried again.
    apart_at: Moment,
    /// Which cluster answered last.
    cluster: Option<u64>,
    /// When the latest request was asked for, and the latest revision that was known then. A
    /// linearizable answer below it means that etcd went back in time.
    asked_at: Moment,
    floor: Revision,
    /// The latest revision in an answer.
    revision: Revision,
    leaving: bool,
    left: bool,
    events: Vec<LeaseEvent>,
    /// Lost leases and lost histories, as far as the log is concerned.
    losses: LogThrottle,
    resets: LogThrottle,
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
            grants: Grants::new(seed),
            granted: settings.ttl,
            renew_at: Moment::ZERO,
            audit_at: Moment::ZERO,
            audit: BTreeSet::new(),
            batch: MAX_WRITES,
            reads: MAX_OPS,
            apart_at: Moment::ZERO,
            cluster: None,
            asked_at: Moment::ZERO,
            floor: 0,
            revision: 0,
            leaving: false,
            left: false,
            events: Vec::new(),
            losses: LogThrottle::default(),
            resets: LogThrottle::default(),
        }
    }

    /// These keys ought to stand so from now on. A key that was wished for before and isn't any
    /// more is withdrawn, and forgotten when it is certain that nothing of ours comes back.
    pub fn desire(&mut self, desired: &DesiredKeys) {
        for (key, desire) in desired {
            match self.keys.get_mut(key) {
                Some(key_state) => {
                    key_state.leaving = false;
                    key_state.desire(desire);
                }
                None => {
                    self.keys.insert(key.clone(), KeyState::new(desire));
                }
            }
        }
        for (key, key_state) in &mut self.keys {
            if !desired.contains_key(key) {
                key_state.leaving = true;
                key_state.desire(&DesiredKey::Withdraw { down: None });
            }
        }
        self.forget();
    }

    /// Give everything up: from now on the only request is to revoke the lease.
    pub const fn leave(&mut self) {
        self.leaving = true;
    }

    /// etcd's watch saw this at `key`, which happened at `revision`.
    pub fn observe(&mut self, key: &Key, entry: Option<Entry>, revision: Revision) {
        if let Some(key_state) = self.keys.get_mut(key) {
            key_state.observe(entry.into(), revision);
        }
    }

    /// This key is watched from now on (again): what happened before has to be read.
    pub fn watch_opened(&mut self, key: &Key) {
        self.audit.insert(key.clone());
    }

    fn start_audit(&mut self) {
        self.audit = self.keys.keys().cloned().collect();
        self.audit_at = self.asked_at + self.settings.interval;
    }

    /// The lease is there, and lives for `ttl` from when it was asked for at the latest.
    fn hold(&mut self, lease: LeaseId, ttl: Duration) {
        self.leases.current = Some(lease);
        self.granted = ttl;
        self.renew_at = self.asked_at + ttl / RENEWALS_PER_TTL;
        self.audit_at = self.asked_at + self.settings.interval;
    }

    /// etcd has a lease by the id that was asked for already.
    fn lease_exists(&mut self, lease: LeaseId, ttl: Duration) {
        if self.grants.exists() {
            self.hold(lease, ttl);
            // It has lived since an earlier try, and may end soon.
            self.renew_at = self.asked_at;
        }
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
    pub fn is_refused(&self) -> bool {
        self.keys
            .values()
            .any(|key_state| key_state.refused.is_some())
    }

    /// How it stands with every key that is wished for.
    #[must_use]
    pub fn statuses(&self) -> KeyStatuses {
        self.keys
            .iter()
            .filter(|(_, key_state)| !key_state.leaving)
            .map(|(key, key_state)| (key.clone(), key_state.status(&self.leases)))
            .collect()
    }

    /// What to do at `now`. The same until something is told, or time has passed.
    pub fn poll(&mut self, now: Moment) -> Step {
        self.asked_at = now;
        self.floor = self
            .keys
            .values()
            .map(|key_state| key_state.as_of)
            .fold(self.revision, Revision::max);
        if self.leaving {
            // Also one that was asked for and of which it isn't known whether it was granted.
            return match self.leases.current.or_else(|| self.grants.asked()) {
                Some(lease) if !self.left => Step::Do(Request::Revoke(lease)),
                _ => Step::Done,
            };
        }
        let Some(lease) = self.leases.current else {
            return Step::Do(Request::Grant(self.grants.id(), self.settings.ttl));
        };
        // First, for everything else hangs on it. It is overdue after a suspend as well.
        if now >= self.renew_at {
            return Step::Do(Request::Renew(lease));
        }
        if now >= self.audit_at {
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
        let apart_at = match self.apart(now, lease) {
            Some(Step::Wait(at)) => Some(at),
            Some(step) => return step,
            None => None,
        };
        let times = [heal_at, apart_at].into_iter().flatten();
        Step::Wait(times.fold(self.renew_at.min(self.audit_at), Moment::min))
    }

    /// One of those that are refused by themselves, in turn.
    fn apart(&mut self, now: Moment, lease: LeaseId) -> Option<Step> {
        let refused = self.keys.iter_mut();
        let refused = refused.filter(|(_, key_state)| key_state.refused.is_some());
        let (key, key_state) = refused.min_by_key(|(_, key_state)| key_state.refused)?;
        if now < self.apart_at {
            return Some(Step::Wait(self.apart_at));
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
            .filter(|(_, key_state)| key_state.refused.is_none())
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
        ops.truncate(self.batch);
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
        let open = |key_state: &&KeyState| key_state.refused.is_none();
        self.audit
            .retain(|key| keys.get(key).filter(open).is_some());
        if self.audit.is_empty() {
            let unknown = keys.iter();
            let unknown = unknown
                .filter(|(_, key_state)| open(key_state) && key_state.seen == KnownValue::Unknown);
            self.audit = unknown.map(|(key, _)| key.clone()).collect();
        }
        self.audit.iter().take(self.reads).cloned().collect()
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
                self.grants.granted();
                self.hold(*id, ttl);
            }
            (Request::Grant(id, ttl), Response::LeaseExists) => self.lease_exists(*id, *ttl),
            (Request::Grant(..), Response::Failed) => self.grants.unanswered(),
            (Request::Renew(_), Response::Renewed) => {
                // Counted from when it was asked for, as etcd may have done it at once.
                self.renew_at = self.asked_at + self.granted / RENEWALS_PER_TTL;
            }
            (Request::Revoke(_), Response::Revoked | Response::LeaseGone) => self.left = true,
            (_, Response::LeaseGone) => self.lose_lease(),
            (_, Response::Read(header, entries)) => {
                self.reads = (self.reads * 2).min(MAX_OPS);
                self.learn(header, entries);
            }
            (Request::Read(keys), Response::Rejected) => {
                self.reads = (self.reads / 2).max(1);
                self.refuse(keys.as_slice());
            }
            (Request::Write(lease, ops), Response::Written(header)) => {
                self.batch = (self.batch * 2).min(MAX_WRITES);
                for op in ops {
                    self.relent(op.key());
                    if let Some(key_state) = self.keys.get_mut(op.key()) {
                        let revision = header.revision;
                        let event =
                            key_state.done(op, &self.leases, *lease, revision, self.asked_at);
                        self.events.extend(event);
                    }
                }
            }
            (_, Response::Refused(header, entries)) => {
                self.batch = (self.batch / 2).max(1);
                self.learn(header, entries);
            }
            (Request::Write(_, ops), failed) => {
                for op in ops {
                    if let Some(key_state) = self.keys.get_mut(op.key()) {
                        key_state.seen = KnownValue::Unknown;
                    }
                }
                if failed == Response::Rejected {
                    self.batch = (self.batch / 2).max(1);
                    let keys: Vec<_> = ops.iter().map(|op| op.key().clone()).collect();
                    self.refuse(&keys);
                }
            }
            _ => {}
        }
        self.forget();
    }

    /// etcd won't have these keys. Of several it is one, or all: smaller batches find out.
    fn refuse(&mut self, keys: &[Key]) {
        if let [key] = keys
            && let Some(key_state) = self.keys.get_mut(key)
        {
            key_state.refused = Some(self.asked_at);
            self.apart_at = self.asked_at + APART_PAUSE;
        }
    }

    /// It had one of those that it used to refuse: perhaps it has the others too.
    fn relent(&mut self, key: &Key) {
        if self
            .keys
            .get(key)
            .is_some_and(|key_state| key_state.refused.is_some())
        {
            for key_state in self.keys.values_mut() {
                key_state.refused = None;
            }
        }
    }

    fn learn(&mut self, header: Header, entries: Vec<(Key, Option<Entry>)>) {
        for (key, _) in &entries {
            self.relent(key);
        }
        for (key, entry) in entries {
            self.audit.remove(&key);
            if let Some(key_state) = self.keys.get_mut(&key) {
                key_state.learn(entry.into(), &self.leases, header.revision);
                key_state.answered(self.asked_at);
            }
        }
    }

    fn lose_lease(&mut self) {
        if let Some(lost) = self.leases.lose() {
            let event = LeaseEvent::LeaseLost(lost);
            let told = self.losses.happened(self.asked_at);
            self.events.extend(told.map(|_| event));
            for key_state in self.keys.values_mut() {
                key_state.lease_lost(lost);
            }
        }
    }

    /// Notices that etcd went back in time, or became another cluster.
    fn check_history(&mut self, header: Header) {
        let another = self.cluster.is_some_and(|known| known != header.cluster);
        self.cluster = Some(header.cluster);
        self.revision = header.revision;
        if another || header.revision < self.floor {
            let event = LeaseEvent::HistoryReset;
            let told = self.resets.happened(self.asked_at);
            self.events.extend(told.map(|_| event));
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
