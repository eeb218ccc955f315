//! The state machine that owns the lease and the keys. Pure.
//!
//! It is asked what to do next ([`Registrar::poll`]) and told what came of it
//! ([`Registrar::answer`]), what etcd's watch saw, and what is wished for. One request is under way
//! at a time. Whatever it believes of etcd may be wrong; so every write carries the condition under
//! which it is right, and a belief that a write refutes is replaced by what etcd says.

use super::exchange::{
    Answer, Entry, Header, LeaseId, MAX_OPS, Note, Op, Request, Revision, Standing, Step, Wish,
};
use super::ownership::{Holder, Verdict, contest};
use crate::clock::Moment;
use crate::endpoint::Key;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A key that others keep changing is put right at once the first time, and then at most this often.
pub const HEAL_PAUSE: Duration = Duration::from_secs(1);

/// How many of our own former leases are remembered. A former lease matters only while it is
/// alive after all, which takes a restored etcd or a wrong "not found"; two would do.
const FORMER_LEASES: usize = 8;

/// How long the lease lives and how often it is renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// What is asked of etcd; whole seconds.
    pub ttl: Duration,
    /// Between two renewals, each with an audit; shorter than `ttl`.
    pub interval: Duration,
}

/// What is believed to stand at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Unknown,
    Absent,
    Present(Entry),
}

#[derive(Debug, Clone)]
struct Slot {
    wish: Wish,
    /// `wish`'s endpoint as it is written.
    value: Vec<u8>,
    seen: Seen,
    /// The store revision up to which `seen` is true.
    as_of: Revision,
    /// When we wrote the key last, while it was ours.
    claimed: Option<Revision>,
    /// A put of ours may have reached etcd: a withdrawal has to make sure.
    touched: bool,
    /// The value stood as wished, so that a difference is another's doing.
    settled: bool,
    /// When a difference made by others was put right last.
    healed: Option<Moment>,
    noted_holder: Option<Holder>,
    noted_junk: bool,
    /// It is no longer wished for, and goes when nothing of ours is left at it.
    leaving: bool,
}

impl Slot {
    const fn new(wish: Wish, value: Vec<u8>) -> Self {
        Self {
            wish,
            value,
            seen: Seen::Unknown,
            as_of: 0,
            claimed: None,
            touched: false,
            settled: false,
            healed: None,
            noted_holder: None,
            noted_junk: false,
            leaving: false,
        }
    }

    /// What to tell of an operation that was done on what was seen until now.
    fn note_of(&mut self, op: &Op) -> Option<Note> {
        match (op, &self.seen) {
            (Op::TakeOver(key, ..), Seen::Present(entry)) => match Holder::of(&entry.value) {
                Ok(holder) => Some(Note::TookOver(key.clone(), holder)),
                Err(_) if self.noted_junk => None,
                Err(why) => {
                    self.noted_junk = true;
                    Some(Note::Junk(key.clone(), why))
                }
            },
            (Op::Clear(key, _), _) => Some(Note::Cleared(key.clone())),
            (Op::Create(key, _) | Op::Update(key, _), _) if self.settled => {
                Some(Note::Healed(key.clone()))
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    id: LeaseId,
    renew_at: Moment,
}

/// The state machine. See the module's text.
#[derive(Debug)]
pub struct Registrar {
    settings: Settings,
    slots: BTreeMap<Key, Slot>,
    lease: Option<Lease>,
    former: VecDeque<LeaseId>,
    /// Keys that the running audit hasn't read yet.
    audit: Vec<Key>,
    /// The next transaction's size; halves when a condition fails, so that one contested key
    /// doesn't hold up the others.
    batch: usize,
    /// Where the latest answer stood in which history.
    last: Option<Header>,
    /// When the latest request was asked for, and the latest revision that was known then. A
    /// linearizable answer below it means that etcd went back in time.
    asked_at: Moment,
    floor: Revision,
    leaving: bool,
    left: bool,
    notes: Vec<Note>,
}

impl Registrar {
    /// No lease, no keys.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self {
            settings,
            slots: BTreeMap::new(),
            lease: None,
            former: VecDeque::new(),
            audit: Vec::new(),
            batch: MAX_OPS,
            last: None,
            asked_at: Moment::ZERO,
            floor: 0,
            leaving: false,
            left: false,
            notes: Vec::new(),
        }
    }

    /// These keys ought to stand so from now on. A key that was wished for before and isn't any
    /// more is withdrawn and then forgotten.
    pub fn wish(&mut self, wishes: &BTreeMap<Key, Wish>) {
        for (key, wish) in wishes {
            let value = match wish {
                Wish::Announce(endpoint) => endpoint.encode().into_bytes(),
                Wish::Withdraw { .. } => Vec::new(),
            };
            match self.slots.get_mut(key) {
                Some(slot) => {
                    slot.leaving = false;
                    if slot.wish != *wish {
                        slot.wish = wish.clone();
                        slot.value = value;
                        slot.settled = false;
                        slot.healed = None;
                        slot.noted_holder = None;
                    }
                }
                None => {
                    self.slots.insert(key.clone(), Slot::new(wish.clone(), value));
                }
            }
        }
        for (key, slot) in &mut self.slots {
            if !wishes.contains_key(key) && !slot.leaving {
                slot.leaving = true;
                slot.wish = Wish::Withdraw { down: None };
                slot.settled = false;
            }
        }
    }

    /// Give everything up: from now on the only request is to revoke the lease.
    pub const fn leave(&mut self) {
        self.leaving = true;
    }

    /// etcd's watch saw this at `key`, which happened at `revision`.
    pub fn observe(&mut self, key: &Key, entry: Option<Entry>, revision: Revision) {
        if let Some(slot) = self.slots.get_mut(key)
            && revision > slot.as_of
        {
            slot.as_of = revision;
            slot.seen = entry.map_or(Seen::Absent, Seen::Present);
        }
    }

    /// The watch was interrupted and runs again: what happened meanwhile has to be read.
    pub fn watch_opened(&mut self) {
        self.start_audit();
    }

    fn start_audit(&mut self) {
        self.audit = self.slots.keys().rev().cloned().collect();
    }

    /// What was worth telling since the last call.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The lease, while there is one.
    #[must_use]
    pub fn lease(&self) -> Option<LeaseId> {
        self.lease.map(|l| l.id)
    }

    /// How it stands with every key.
    #[must_use]
    pub fn standings(&self) -> BTreeMap<Key, Standing> {
        let standing = |slot: &Slot| match (&slot.wish, &slot.seen) {
            (_, Seen::Unknown) => Standing::Pending,
            (Wish::Announce(endpoint), Seen::Present(entry))
                if self.is_ours(entry) && entry.value == slot.value =>
            {
                Standing::Announced(endpoint.clone())
            }
            (Wish::Announce(_), Seen::Present(entry)) => match self.verdict(slot, entry) {
                Verdict::StandBy(holder) => Standing::StandingBy(holder),
                _ => Standing::Pending,
            },
            (Wish::Withdraw { .. }, Seen::Present(entry)) if self.is_ours(entry) => {
                Standing::Pending
            }
            (Wish::Announce(_), Seen::Absent) => Standing::Pending,
            (Wish::Withdraw { .. }, _) => Standing::Withdrawn,
        };
        self.slots
            .iter()
            .map(|(key, slot)| (key.clone(), standing(slot)))
            .collect()
    }

    /// What to do at `now`. The same until something is told.
    pub fn poll(&mut self, now: Moment) -> Step {
        self.asked_at = now;
        self.floor = self.slots.values().map(|s| s.as_of).fold(self.last.map_or(0, |l| l.revision), i64::max);
        if self.leaving {
            return match self.lease {
                Some(lease) if !self.left => Step::Do(Request::Revoke(lease.id)),
                _ => Step::Done,
            };
        }
        let Some(lease) = self.lease else {
            return Step::Do(Request::Grant(self.settings.ttl));
        };
        if now >= lease.renew_at {
            return Step::Do(Request::Renew(lease.id));
        }
        self.note_standbys();
        let (ops, heal_at) = self.ops(now);
        if !ops.is_empty() {
            return Step::Do(Request::Write(lease.id, ops));
        }
        self.audit.retain(|key| self.slots.contains_key(key));
        if self.audit.is_empty() {
            let unread = |s: &&Key| self.slots.get(*s).is_some_and(|s| s.seen == Seen::Unknown);
            self.audit = self.slots.keys().filter(unread).cloned().collect();
        }
        if !self.audit.is_empty() {
            let from = self.audit.len().saturating_sub(MAX_OPS);
            return Step::Do(Request::Read(self.audit[from..].to_vec()));
        }
        Step::Wait(heal_at.map_or(lease.renew_at, |at| at.min(lease.renew_at)))
    }

    /// The next transaction, and when the next difference may be put right that may not be yet.
    fn ops(&mut self, now: Moment) -> (Vec<Op>, Option<Moment>) {
        let mut ops = Vec::new();
        let mut heal_at: Option<Moment> = None;
        for (key, slot) in &self.slots {
            let Some(op) = self.op(key, slot) else {
                continue;
            };
            let ready_at = slot.healed.map_or(Moment::ZERO, |at| at + HEAL_PAUSE);
            if slot.settled && now < ready_at {
                heal_at = Some(heal_at.map_or(ready_at, |at| at.min(ready_at)));
            } else if ops.len() < self.batch {
                ops.push(op);
            }
        }
        for op in &ops {
            if let Some(slot) = self.slots.get_mut(op.key()) {
                slot.touched = true;
            }
        }
        (ops, heal_at)
    }

    /// What would bring one key nearer to its wish.
    fn op(&self, key: &Key, slot: &Slot) -> Option<Op> {
        let value = || slot.value.clone();
        match (&slot.wish, &slot.seen) {
            // Nothing is known: a create finds out, and is right where nothing stands.
            (Wish::Announce(_), Seen::Unknown | Seen::Absent) => {
                Some(Op::Create(key.clone(), value()))
            }
            (Wish::Announce(_), Seen::Present(entry)) => match self.verdict(slot, entry) {
                Verdict::Ours if entry.value == slot.value => None,
                Verdict::Ours => Some(Op::Update(key.clone(), value())),
                Verdict::TakeOver => Some(Op::TakeOver(key.clone(), value(), entry.mod_revision)),
                Verdict::StandBy(_) => None,
            },
            (Wish::Withdraw { .. }, Seen::Unknown) if slot.touched => Some(Op::Delete(key.clone())),
            (Wish::Withdraw { .. }, Seen::Present(entry)) if self.is_ours(entry) => {
                Some(Op::Delete(key.clone()))
            }
            (Wish::Withdraw { down: Some(down) }, Seen::Present(entry))
                if Holder::of(&entry.value).is_ok_and(|h| h.is_past_life_of(down)) =>
            {
                Some(Op::Clear(key.clone(), entry.mod_revision))
            }
            (Wish::Withdraw { .. }, _) => None,
        }
    }

    fn note_standbys(&mut self) {
        let mut new = Vec::new();
        for (key, slot) in &self.slots {
            if let (Wish::Announce(_), Seen::Present(entry)) = (&slot.wish, &slot.seen)
                && let Verdict::StandBy(holder) = self.verdict(slot, entry)
                && slot.noted_holder.as_ref() != Some(&holder)
            {
                new.push((key.clone(), holder));
            }
        }
        for (key, holder) in new {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.noted_holder = Some(holder.clone());
                self.notes.push(Note::StandingBy(key, holder));
            }
        }
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        self.lease.is_some_and(|lease| lease.id == entry.lease)
    }

    fn verdict(&self, slot: &Slot, entry: &Entry) -> Verdict {
        let Wish::Announce(ours) = &slot.wish else {
            return Verdict::Ours;
        };
        if self.is_ours(entry) {
            return Verdict::Ours;
        }
        if self.former.contains(&entry.lease) {
            return Verdict::TakeOver;
        }
        let overtook_us = slot.claimed.is_some_and(|at| entry.mod_revision > at);
        contest(&Holder::from(&**ours), &entry.value, overtook_us)
    }

    /// What came of `request`, which [`Registrar::poll`] asked for last.
    pub fn answer(&mut self, request: &Request, answer: Answer) {
        if let Answer::Read(header, _) | Answer::Written(header) | Answer::Refused(header, _) =
            &answer
        {
            self.place(*header);
        }
        match (request, answer) {
            (Request::Grant(_), Answer::Granted(id, ttl)) => self.hold(id, ttl),
            (Request::Renew(id), Answer::Renewed) => {
                let interval = self.settings.interval;
                if let Some(lease) = self.lease.as_mut().filter(|l| l.id == *id) {
                    // Counted from when it was asked for: etcd may have counted from then.
                    lease.renew_at = self.asked_at + interval;
                }
                self.start_audit();
            }
            (Request::Revoke(_), Answer::Revoked | Answer::LeaseGone) => self.left = true,
            (_, Answer::LeaseGone) => self.lose_lease(),
            (_, Answer::Read(header, entries)) => self.learn(header, entries),
            (Request::Write(lease, ops), Answer::Written(header)) => {
                self.batch = (self.batch * 2).min(MAX_OPS);
                for op in ops {
                    self.written(op, *lease, header);
                }
            }
            (_, Answer::Refused(header, entries)) => {
                self.batch = (self.batch / 2).max(1);
                self.learn(header, entries);
            }
            (Request::Write(_, ops), _) => {
                for op in ops {
                    if let Some(slot) = self.slots.get_mut(op.key()) {
                        slot.seen = Seen::Unknown;
                    }
                }
            }
            _ => {}
        }
        let gone = |slot: &Slot| match &slot.seen {
            Seen::Unknown => !slot.touched,
            Seen::Absent => true,
            Seen::Present(entry) => self.lease.is_none_or(|l| l.id != entry.lease),
        };
        self.slots.retain(|_, slot| !(slot.leaving && gone(slot)));
    }

    fn hold(&mut self, id: LeaseId, ttl: Duration) {
        // etcd may give a shorter life than was asked for only by a bug; it costs nothing to mind.
        let interval = self.settings.interval.min(ttl * 3 / 4);
        self.lease = Some(Lease {
            id,
            renew_at: self.asked_at + interval,
        });
    }

    fn lose_lease(&mut self) {
        let Some(lease) = self.lease.take() else {
            return;
        };
        self.notes.push(Note::LeaseLost(lease.id));
        self.former.push_back(lease.id);
        if self.former.len() > FORMER_LEASES {
            self.former.pop_front();
        }
        for slot in self.slots.values_mut() {
            if matches!(&slot.seen, Seen::Present(entry) if entry.lease == lease.id) {
                slot.seen = Seen::Unknown;
            }
            // Its keys going with it is nobody's doing.
            slot.settled = false;
        }
    }

    /// Notices that etcd went back in time, or became another cluster.
    fn place(&mut self, header: Header) {
        let another = self.last.is_some_and(|last| last.cluster != header.cluster);
        let reset = another || header.revision < self.floor;
        self.last = Some(header);
        if reset {
            self.notes.push(Note::HistoryReset);
            for slot in self.slots.values_mut() {
                slot.as_of = 0;
                slot.claimed = None;
                slot.seen = Seen::Unknown;
                slot.settled = false;
            }
            self.start_audit();
        }
    }

    fn learn(&mut self, header: Header, entries: Vec<(Key, Option<Entry>)>) {
        for (key, entry) in entries {
            self.audit.retain(|k| *k != key);
            if let Some(slot) = self.slots.get_mut(&key)
                && header.revision >= slot.as_of
            {
                slot.as_of = header.revision;
                slot.seen = entry.map_or(Seen::Absent, Seen::Present);
            }
            self.settle(&key);
        }
    }

    fn written(&mut self, op: &Op, lease: LeaseId, header: Header) {
        let Some(slot) = self.slots.get_mut(op.key()) else {
            return;
        };
        self.notes.extend(slot.note_of(op));
        let seen = match op {
            Op::Create(_, value) | Op::Update(_, value) | Op::TakeOver(_, value, _) => {
                slot.claimed = Some(header.revision);
                if slot.settled {
                    slot.healed = Some(self.asked_at);
                }
                Seen::Present(Entry {
                    value: value.clone(),
                    lease,
                    mod_revision: header.revision,
                })
            }
            Op::Delete(_) | Op::Clear(..) => {
                slot.touched = false;
                Seen::Absent
            }
        };
        // A watch event that overtook this answer is newer than it.
        if header.revision >= slot.as_of {
            slot.as_of = header.revision;
            slot.seen = seen;
        }
        self.settle(op.key());
    }

    /// Marks a key that stands as wished.
    fn settle(&mut self, key: &Key) {
        let lease = self.lease.map(|l| l.id);
        if let Some(slot) = self.slots.get_mut(key)
            && let (Wish::Announce(_), Seen::Present(entry)) = (&slot.wish, &slot.seen)
            && Some(entry.lease) == lease
            && entry.value == slot.value
        {
            slot.settled = true;
            if slot.claimed.is_none() {
                slot.claimed = Some(entry.mod_revision);
            }
        }
    }
}
