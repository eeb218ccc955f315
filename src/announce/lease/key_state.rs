//! One key: its desired value, its value in etcd as far as it is known, and the operation that brings the
//! second to the first. Pure.

mod further;

pub(super) use further::PrimaryOp;

use super::ownership::{Holder, Precedence, precedence_of};
use super::protocol::{DesiredKey, Entry, KeyStatus, LeaseEvent, LeaseId, Op, Revision};
use crate::clock::Moment;
use crate::endpoint::Key;
use further::FurtherState;
use std::collections::VecDeque;
use std::time::Duration;

/// How many of our own former leases are remembered. A former lease matters only while it is
/// alive after all, which takes a restored etcd or a wrong "not found"; two would be enough.
const FORMER_LEASES: usize = 8;

/// A put whose deadline is over may still be done: by a member that was frozen with the request in its
/// buffers, for example. A retired key is remembered for this long after its last put.
const LATENESS: Duration = Duration::from_secs(10);

/// The leases of this process.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// The lease that keys are put on.
    pub(super) current: Option<LeaseId>,
    former: VecDeque<LeaseId>,
}

impl Leases {
    /// etcd has forgotten the current lease. Returns its id.
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

/// The value of a key, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KnownValue {
    /// The key was not read yet, or the outcome of a write is unknown.
    Unknown,
    /// The key does not exist.
    Absent,
    /// The key has this value.
    Present(Entry),
}

impl From<Option<Entry>> for KnownValue {
    fn from(entry: Option<Entry>) -> Self {
        entry.map_or(Self::Absent, Self::Present)
    }
}

/// The value of a key, as far as it is known, and as of when.
#[derive(Debug)]
pub(super) struct Belief {
    pub(super) value: KnownValue,
    /// The store revision up to which `value` is true.
    pub(super) as_of: Revision,
}

/// This process's own writes of a key.
#[derive(Debug, Default)]
struct OwnWrites {
    /// The revision of the last one, while the key was ours.
    claimed: Option<Revision>,
    /// The `mod_revision` of the value that was cleared away. A later value was put by a sidekick that lives,
    /// and doesn't know yet that the container is down: it stays until that sidekick does.
    cleared: Option<Revision>,
    /// A put may have reached etcd: a withdrawal has to make sure.
    may_stand: bool,
    /// When a put was asked for last.
    put_at: Option<Moment>,
    /// The key was read after the last put could have come late.
    read_late: bool,
}

/// One key of the registrar.
#[derive(Debug)]
pub(super) struct KeyState {
    desired: DesiredKey,
    /// `desired`'s endpoint as it is written.
    encoded: Vec<u8>,
    pub(super) belief: Belief,
    writes: OwnWrites,
    /// The key stood as desired, so that a difference is another writer's doing.
    pub(super) settled: bool,
    /// When a difference made by another writer was put right last.
    pub(super) healed: Option<Moment>,
    /// When etcd rejected a request for this key alone the last time. Until etcd accepts one, the key travels
    /// apart from the others.
    pub(super) rejected: Option<Moment>,
    /// The holder that was reported last as having precedence.
    told_holder: Option<Holder>,
    /// The key is no longer desired, and is forgotten when nothing of ours is left at it.
    pub(super) retired: bool,
    /// Present in a further key alone.
    further: Option<FurtherState>,
}

impl KeyState {
    pub(super) fn new(desired: &DesiredKey) -> Self {
        Self {
            encoded: written_form(desired),
            desired: desired.clone(),
            belief: Belief {
                value: KnownValue::Unknown,
                as_of: 0,
            },
            writes: OwnWrites::default(),
            settled: false,
            healed: None,
            rejected: None,
            told_holder: None,
            retired: false,
            further: None,
        }
    }

    /// Sets the desired value.
    pub(super) fn set_desired(&mut self, desired: &DesiredKey) {
        if self.desired != *desired {
            self.desired = desired.clone();
            self.encoded = written_form(desired);
            self.settled = false;
            self.healed = None;
            self.told_holder = None;
            self.writes.cleared = None;
        }
    }

    /// The operation that brings the key to its desired value; `None` where there is none to do.
    pub(super) fn op(&self, key: &Key, leases: &Leases) -> Option<Op> {
        let (key, value) = (|| key.clone(), || self.encoded.clone());
        match (&self.desired, &self.belief.value) {
            // Where nothing is known a create finds out, and succeeds if the key does not exist.
            (DesiredKey::Announce(_), KnownValue::Unknown | KnownValue::Absent) => {
                Some(Op::Create(key(), value()))
            }
            (DesiredKey::Announce(_), KnownValue::Present(entry)) => {
                match self.precedence(entry, leases) {
                    Precedence::Ours if entry.value == self.encoded => None,
                    Precedence::Ours => Some(Op::Update(key(), value())),
                    Precedence::TakeOver => Some(Op::TakeOver(key(), value(), entry.version())),
                    Precedence::StandBy(_) => None,
                }
            }
            (DesiredKey::Withdraw { .. }, KnownValue::Unknown) if self.writes.may_stand => {
                Some(Op::Delete(key()))
            }
            (DesiredKey::Withdraw { .. }, KnownValue::Present(entry)) if leases.holds(entry) => {
                Some(Op::Delete(key()))
            }
            (DesiredKey::Withdraw { down: Some(down) }, KnownValue::Present(entry))
                if self
                    .writes
                    .cleared
                    .is_none_or(|at| entry.mod_revision <= at)
                    && Holder::of(&entry.value).is_ok_and(|h| h.is_past_life_of(down)) =>
            {
                Some(Op::Clear(key(), entry.version()))
            }
            (DesiredKey::Withdraw { .. }, _) => None,
        }
    }

    fn precedence(&self, entry: &Entry, leases: &Leases) -> Precedence {
        let DesiredKey::Announce(ours) = &self.desired else {
            return Precedence::Ours;
        };
        if leases.holds(entry) {
            return Precedence::Ours;
        }
        // No sidekick puts without a lease: a value without one was put by hand and would stay for ever,
        // whatever container it names.
        if entry.lease == 0 || leases.former.contains(&entry.lease) {
            return Precedence::TakeOver;
        }
        let overtook_us = self
            .writes
            .claimed
            .is_some_and(|at| entry.mod_revision > at);
        precedence_of(&Holder::from(&**ours), &entry.value, overtook_us)
    }

    /// The key's status.
    pub(super) fn status(&self, leases: &Leases) -> KeyStatus {
        match self.believed(leases) {
            KeyStatus::Pending if self.rejected.is_some() => KeyStatus::Rejected,
            status => status,
        }
    }

    fn believed(&self, leases: &Leases) -> KeyStatus {
        match (&self.desired, &self.belief.value) {
            (DesiredKey::Announce(endpoint), KnownValue::Present(entry)) => {
                match self.precedence(entry, leases) {
                    Precedence::Ours if entry.value == self.encoded => {
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

    /// The holder that the key stands by for, once for every holder.
    pub(super) fn new_holder(&mut self, leases: &Leases) -> Option<Holder> {
        let (DesiredKey::Announce(_), KnownValue::Present(entry)) =
            (&self.desired, &self.belief.value)
        else {
            return None;
        };
        match self.precedence(entry, leases) {
            Precedence::StandBy(holder) if self.told_holder.as_ref() != Some(&holder) => {
                self.told_holder = Some(holder.clone());
                Some(holder)
            }
            _ => None,
        }
    }

    /// A request with this operation is sent at `now`.
    pub(super) fn asked(&mut self, op: &Op, now: Moment) {
        self.writes.may_stand = true;
        if let Op::Clear(_, version) = op {
            self.writes.cleared = Some(version.mod_revision);
        }
        if op.is_put() {
            self.writes.put_at = Some(now);
            self.writes.read_late = false;
        }
    }

    /// The response to a request of this moment was learnt.
    pub(super) fn answered(&mut self, asked_at: Moment) {
        let late = |put_at: Moment| asked_at >= put_at + LATENESS;
        self.writes.read_late = self.writes.put_at.is_none_or(late);
    }

    /// Whether the key can be forgotten: it is retired, and nothing of ours is left at it, nor can come late.
    pub(super) fn is_over(&self, leases: &Leases) -> bool {
        let quiet = self.writes.put_at.is_none() || self.writes.read_late;
        self.retired && quiet && self.is_gone(leases)
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
        let op = op.innermost();
        let event = self.event_of(op);
        self.set_apart(self.is_apart() && !op.is_put());
        let seen = match op {
            Op::Create(_, value) | Op::Update(_, value) | Op::TakeOver(_, value, _) => {
                self.writes.claimed = Some(revision);
                if self.settled {
                    self.healed = Some(now);
                }
                KnownValue::Present(Entry {
                    value: value.clone(),
                    lease,
                    mod_revision: revision,
                })
            }
            Op::Delete(_) | Op::Clear(..) | Op::IfStands(..) => {
                self.writes.may_stand = false;
                KnownValue::Absent
            }
        };
        self.learn(seen, leases, revision);
        event
    }

    /// A response says that the key had this value at `revision`. A watch event that overtook the response is
    /// newer than it.
    pub(super) fn learn(&mut self, seen: KnownValue, leases: &Leases, revision: Revision) {
        if revision < self.belief.as_of {
            return;
        }
        self.belief.as_of = revision;
        self.belief.value = seen;
        if let (DesiredKey::Announce(_), KnownValue::Present(entry)) =
            (&self.desired, &self.belief.value)
            && leases.holds(entry)
            && entry.value == self.encoded
        {
            self.settled = true;
            self.writes.claimed.get_or_insert(entry.mod_revision);
        }
    }

    /// The watch says that the key has had this value since `revision`.
    pub(super) fn observe(&mut self, seen: KnownValue, revision: Revision) {
        if revision > self.belief.as_of {
            self.belief.as_of = revision;
            self.belief.value = seen;
        }
    }

    /// The key moves to another lease of ours: the next write is no other writer's fault, and doesn't wait.
    pub(super) const fn lease_moves(&mut self) {
        self.settled = false;
        self.healed = None;
    }

    /// Whether the key is to have a value of ours, and stands on this lease, or may: etcd rejected its last write.
    pub(super) fn waits_on(&self, lease: LeaseId) -> bool {
        let stands =
            matches!(&self.belief.value, KnownValue::Present(entry) if entry.lease == lease);
        let may_stand = self.rejected.is_some() && self.writes.claimed.is_some();
        matches!(self.desired, DesiredKey::Announce(_)) && (stands || may_stand)
    }

    /// Our lease is gone, and its keys with it: no other writer deleted them.
    pub(super) fn lease_lost(&mut self, lost: LeaseId) {
        if matches!(&self.belief.value, KnownValue::Present(entry) if entry.lease == lost) {
            self.belief.value = KnownValue::Unknown;
        }
        self.settled = false;
    }

    /// etcd has another history: the revisions that were known mean nothing in it.
    pub(super) fn history_reset(&mut self) {
        self.belief.as_of = 0;
        self.writes.claimed = None;
        self.writes.cleared = None;
        self.belief.value = KnownValue::Unknown;
        self.settled = false;
    }

    /// Whether no put of ours can be left at the key.
    fn is_gone(&self, leases: &Leases) -> bool {
        match &self.belief.value {
            KnownValue::Unknown => !self.writes.may_stand,
            KnownValue::Absent => true,
            KnownValue::Present(entry) => !leases.holds(entry),
        }
    }

    /// The event to report of an operation that was done; called before the new value is learnt.
    fn event_of(&self, op: &Op) -> Option<LeaseEvent> {
        let contested = self.settled && op.is_put();
        if self.further.is_some() {
            return None;
        }
        match (op, &self.belief.value) {
            (Op::TakeOver(key, ..), KnownValue::Present(entry)) => {
                Some(match Holder::of(&entry.value) {
                    Ok(holder) => self.event_of_takeover(key.clone(), entry, holder),
                    Err(why) => LeaseEvent::BadValue {
                        key: key.clone(),
                        why,
                        contested,
                    },
                })
            }
            (Op::Clear(key, _), _) => Some(LeaseEvent::Cleared(key.clone())),
            (Op::Create(key, _) | Op::Update(key, _), _) if contested => Some(LeaseEvent::Healed {
                key: key.clone(),
                contested,
            }),
            _ => None,
        }
    }

    /// A value on no lease was put by hand; where the key had been ours, or names our container, it was
    /// changed and put back.
    fn event_of_takeover(&self, key: Key, entry: &Entry, holder: Holder) -> LeaseEvent {
        let is_ours = match &self.desired {
            DesiredKey::Announce(ours) => {
                holder.container.is_some() && holder.container == ours.container
            }
            DesiredKey::Withdraw { .. } => false,
        };
        let contested = self.settled;
        match (is_ours, contested, entry.lease == 0) {
            (true, true, _) | (true, _, true) | (_, true, true) => {
                LeaseEvent::Healed { key, contested }
            }
            (true, false, false) => LeaseEvent::Resumed(key),
            (false, _, _) => LeaseEvent::TookOver {
                key,
                holder,
                contested,
            },
        }
    }
}

fn written_form(desired: &DesiredKey) -> Vec<u8> {
    match desired {
        DesiredKey::Announce(endpoint) => endpoint.encode().into_bytes(),
        DesiredKey::Withdraw { .. } => Vec::new(),
    }
}
