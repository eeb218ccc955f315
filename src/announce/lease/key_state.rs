//! One key: what is wished for, what is believed to stand there, and what lies between. Pure.

use super::ownership::{Holder, Precedence, precedence_of};
use super::protocol::{DesiredKey, Entry, KeyStatus, LeaseEvent, LeaseId, Op, Revision};
use crate::clock::Moment;
use crate::endpoint::Key;
use crate::log_throttle::LogThrottle;
use std::collections::VecDeque;
use std::time::Duration;

/// How many of our own former leases are remembered. A former lease matters only while it is
/// alive after all, which takes a restored etcd or a wrong "not found"; two would do.
const FORMER_LEASES: usize = 8;

/// A put that nobody waits for any more may still be done: by a member that was frozen with the
/// request in its buffers, say. A key is minded for so long after its last put.
const LATENESS: Duration = Duration::from_secs(10);

/// The leases of this process.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// The one that keys are put on.
    pub(super) current: Option<LeaseId>,
    former: VecDeque<LeaseId>,
}

impl Leases {
    /// etcd has forgotten the current one.
    pub(super) fn lose(&mut self) -> Option<LeaseId> {
        let lost = self.current.take()?;
        self.former.push_back(lost);
        if self.former.len() > FORMER_LEASES {
            self.former.pop_front();
        }
        Some(lost)
    }

    fn holds(&self, entry: &Entry) -> bool {
        self.current == Some(entry.lease)
    }
}

/// What is believed to stand at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KnownValue {
    /// Nothing is known, or a write's outcome isn't.
    Unknown,
    /// Nothing stands there.
    Absent,
    /// This does.
    Present(Entry),
}

impl From<Option<Entry>> for KnownValue {
    fn from(entry: Option<Entry>) -> Self {
        entry.map_or(Self::Absent, Self::Present)
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct KeyState {
    desire: DesiredKey,
    /// `desire`'s endpoint as it is written.
    value: Vec<u8>,
    pub(super) seen: KnownValue,
    /// The store revision up to which `seen` is true.
    pub(super) as_of: Revision,
    /// When we wrote the key last, while it was ours.
    claimed: Option<Revision>,
    /// When what was cleared away here was written. What comes after it a living sidekick has put,
    /// which doesn't know yet that the container is down: it is left in peace until it does.
    cleared: Option<Revision>,
    /// A put of ours may have reached etcd: a withdrawal has to make sure.
    touched: bool,
    /// The key stood as wished, so that a difference is another's doing.
    pub(super) settled: bool,
    /// When a difference made by others was put right last.
    pub(super) healed: Option<Moment>,
    /// Differences made by others, as far as the log is concerned.
    meddled: LogThrottle,
    /// When etcd refused this key alone the last time; it is asked for apart from the others until
    /// that is over.
    pub(super) refused: Option<Moment>,
    noted_holder: Option<Holder>,
    noted_junk: bool,
    /// When a put was asked for last.
    put_at: Option<Moment>,
    /// It is no longer wished for, and is forgotten when nothing of ours is left at it.
    pub(super) leaving: bool,
    /// It was read after the last put could have come late.
    read_late: bool,
}

impl KeyState {
    pub(super) fn new(desire: &DesiredKey) -> Self {
        Self {
            value: written_form(desire),
            desire: desire.clone(),
            seen: KnownValue::Unknown,
            as_of: 0,
            claimed: None,
            cleared: None,
            touched: false,
            settled: false,
            healed: None,
            meddled: LogThrottle::default(),
            refused: None,
            noted_holder: None,
            noted_junk: false,
            put_at: None,
            leaving: false,
            read_late: false,
        }
    }

    /// This ought to stand there from now on.
    pub(super) fn desire(&mut self, desire: &DesiredKey) {
        if self.desire != *desire {
            self.desire = desire.clone();
            self.value = written_form(desire);
            self.settled = false;
            self.healed = None;
            self.noted_holder = None;
            self.cleared = None;
        }
    }

    /// What would bring the key nearer to its wish.
    pub(super) fn op(&self, key: &Key, leases: &Leases) -> Option<Op> {
        let (key, value) = (|| key.clone(), || self.value.clone());
        match (&self.desire, &self.seen) {
            // Where nothing is known a create finds out, and is right if nothing stands there.
            (DesiredKey::Announce(_), KnownValue::Unknown | KnownValue::Absent) => {
                Some(Op::Create(key(), value()))
            }
            (DesiredKey::Announce(_), KnownValue::Present(entry)) => {
                match self.precedence(entry, leases) {
                    Precedence::Ours if entry.value == self.value => None,
                    Precedence::Ours => Some(Op::Update(key(), value())),
                    Precedence::TakeOver => Some(Op::TakeOver(key(), value(), entry.version())),
                    Precedence::StandBy(_) => None,
                }
            }
            (DesiredKey::Withdraw { .. }, KnownValue::Unknown) if self.touched => {
                Some(Op::Delete(key()))
            }
            (DesiredKey::Withdraw { .. }, KnownValue::Present(entry)) if leases.holds(entry) => {
                Some(Op::Delete(key()))
            }
            (DesiredKey::Withdraw { down: Some(down) }, KnownValue::Present(entry))
                if self.cleared.is_none_or(|at| entry.mod_revision <= at)
                    && Holder::of(&entry.value).is_ok_and(|h| h.is_past_life_of(down)) =>
            {
                Some(Op::Clear(key(), entry.version()))
            }
            (DesiredKey::Withdraw { .. }, _) => None,
        }
    }

    fn precedence(&self, entry: &Entry, leases: &Leases) -> Precedence {
        let DesiredKey::Announce(ours) = &self.desire else {
            return Precedence::Ours;
        };
        if leases.holds(entry) {
            return Precedence::Ours;
        }
        // No sidekick puts without a lease: what has none was put by hand and would stay for ever,
        // whatever container it names.
        if entry.lease == 0 || leases.former.contains(&entry.lease) {
            return Precedence::TakeOver;
        }
        let overtook_us = self.claimed.is_some_and(|at| entry.mod_revision > at);
        precedence_of(&Holder::from(&**ours), &entry.value, overtook_us)
    }

    /// How it stands with the key.
    pub(super) fn status(&self, leases: &Leases) -> KeyStatus {
        match self.believed(leases) {
            KeyStatus::Pending if self.refused.is_some() => KeyStatus::Refused,
            status => status,
        }
    }

    fn believed(&self, leases: &Leases) -> KeyStatus {
        match (&self.desire, &self.seen) {
            (DesiredKey::Announce(endpoint), KnownValue::Present(entry)) => {
                match self.precedence(entry, leases) {
                    Precedence::Ours if entry.value == self.value => {
                        KeyStatus::Announced(endpoint.clone())
                    }
                    Precedence::StandBy(holder) => KeyStatus::StandingBy(holder),
                    _ => KeyStatus::Pending,
                }
            }
            (DesiredKey::Withdraw { .. }, KnownValue::Present(entry)) if !leases.holds(entry) => {
                KeyStatus::Withdrawn
            }
            (DesiredKey::Withdraw { .. }, KnownValue::Absent) => KeyStatus::Withdrawn,
            _ => KeyStatus::Pending,
        }
    }

    /// The holder that we stand by for, the first time.
    pub(super) fn note_standby(&mut self, leases: &Leases) -> Option<Holder> {
        let (DesiredKey::Announce(_), KnownValue::Present(entry)) = (&self.desire, &self.seen)
        else {
            return None;
        };
        match self.precedence(entry, leases) {
            Precedence::StandBy(holder) if self.noted_holder.as_ref() != Some(&holder) => {
                self.noted_holder = Some(holder.clone());
                Some(holder)
            }
            _ => None,
        }
    }

    /// A request with this operation is about to leave at `now`.
    pub(super) fn asked(&mut self, op: &Op, now: Moment) {
        self.touched = true;
        if let Op::Clear(_, version) = op {
            self.cleared = Some(version.mod_revision);
        }
        if op.is_put() {
            self.put_at = Some(now);
            self.read_late = false;
        }
    }

    /// An answer to a question of this moment was learnt.
    pub(super) fn answered(&mut self, asked_at: Moment) {
        let late = |put_at: Moment| asked_at >= put_at + LATENESS;
        self.read_late = self.put_at.is_none_or(late);
    }

    /// Whether nothing has to be minded here any more.
    pub(super) fn is_over(&self, leases: &Leases) -> bool {
        let quiet = self.put_at.is_none() || self.read_late;
        self.leaving && quiet && self.is_gone(leases)
    }

    /// The operation was done at `revision`, at `now`. Returns what to tell of it.
    pub(super) fn done(
        &mut self,
        op: &Op,
        leases: &Leases,
        lease: LeaseId,
        revision: Revision,
        now: Moment,
    ) -> Option<LeaseEvent> {
        let event = self.note_of(op, now);
        let seen = match op {
            Op::Create(_, value) | Op::Update(_, value) | Op::TakeOver(_, value, _) => {
                self.claimed = Some(revision);
                if self.settled {
                    self.healed = Some(now);
                }
                KnownValue::Present(Entry {
                    value: value.clone(),
                    lease,
                    mod_revision: revision,
                })
            }
            Op::Delete(_) | Op::Clear(..) => {
                self.touched = false;
                KnownValue::Absent
            }
        };
        self.learn(seen, leases, revision);
        event
    }

    /// An answer says that this stood there at `revision`. A watch event that overtook the answer
    /// is newer than it.
    pub(super) fn learn(&mut self, seen: KnownValue, leases: &Leases, revision: Revision) {
        if revision < self.as_of {
            return;
        }
        self.as_of = revision;
        self.seen = seen;
        if let (DesiredKey::Announce(_), KnownValue::Present(entry)) = (&self.desire, &self.seen)
            && leases.holds(entry)
            && entry.value == self.value
        {
            self.settled = true;
            self.claimed.get_or_insert(entry.mod_revision);
        }
    }

    /// The watch says that this has stood there since `revision`.
    pub(super) fn observe(&mut self, seen: KnownValue, revision: Revision) {
        if revision > self.as_of {
            self.as_of = revision;
            self.seen = seen;
        }
    }

    /// Our lease is gone, and the keys with it: that is nobody's doing.
    pub(super) fn lease_lost(&mut self, lost: LeaseId) {
        if matches!(&self.seen, KnownValue::Present(entry) if entry.lease == lost) {
            self.seen = KnownValue::Unknown;
        }
        self.settled = false;
    }

    /// Revisions known so far mean nothing any more.
    pub(super) fn history_reset(&mut self) {
        self.as_of = 0;
        self.claimed = None;
        self.cleared = None;
        self.seen = KnownValue::Unknown;
        self.settled = false;
    }

    /// Whether nothing of ours can be left there.
    fn is_gone(&self, leases: &Leases) -> bool {
        match &self.seen {
            KnownValue::Unknown => !self.touched,
            KnownValue::Absent => true,
            KnownValue::Present(entry) => !leases.holds(entry),
        }
    }

    /// What to tell of an operation that was done, at `now`, on what was seen until then.
    fn note_of(&mut self, op: &Op, now: Moment) -> Option<LeaseEvent> {
        let mut times = 1;
        if self.settled && op.is_put() {
            times = self.meddled.happened(now)?.failures;
        }
        match (op, &self.seen) {
            (Op::TakeOver(key, ..), KnownValue::Present(entry)) => match Holder::of(&entry.value) {
                Ok(holder) => Some(self.note_of_takeover(key, entry, holder, times)),
                Err(_) if self.noted_junk => None,
                Err(why) => {
                    self.noted_junk = true;
                    Some(LeaseEvent::Junk(key.clone(), why))
                }
            },
            (Op::Clear(key, _), _) => Some(LeaseEvent::Cleared(key.clone())),
            (Op::Create(key, _) | Op::Update(key, _), _) if self.settled => {
                Some(LeaseEvent::Healed(key.clone(), times))
            }
            _ => None,
        }
    }

    /// What is on no lease a hand has put; where the key had been ours, or names our container, it was
    /// changed and put back.
    fn note_of_takeover(&self, key: &Key, entry: &Entry, holder: Holder, times: u64) -> LeaseEvent {
        let is_ours = match &self.desire {
            DesiredKey::Announce(ours) => {
                holder.container.is_some() && holder.container == ours.container
            }
            DesiredKey::Withdraw { .. } => false,
        };
        match (is_ours, self.settled, entry.lease == 0) {
            (true, true, _) | (true, _, true) | (_, true, true) => {
                LeaseEvent::Healed(key.clone(), times)
            }
            (true, false, false) => LeaseEvent::Resumed(key.clone()),
            (false, _, _) => LeaseEvent::TookOver(key.clone(), holder),
        }
    }
}

fn written_form(desire: &DesiredKey) -> Vec<u8> {
    match desire {
        DesiredKey::Announce(endpoint) => endpoint.encode().into_bytes(),
        DesiredKey::Withdraw { .. } => Vec::new(),
    }
}
