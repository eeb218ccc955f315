//! The next transaction: which operations are due, and which of them travel together. Pure.

use super::{HEAL_PAUSE, Registrar};
use crate::announce::lease::key_state::{KeyState, PrimaryOp};
use crate::announce::lease::protocol::{Op, Request, Step};
use crate::clock::Moment;
use crate::endpoint::Key;
use std::collections::BTreeMap;

impl Registrar {
    /// A request for one of the rejected keys, in turn.
    pub(super) fn retry_rejected(&mut self, now: Moment, lease: i64) -> Option<Step> {
        let rejected = self.keys.iter_mut();
        let rejected =
            rejected.filter(|(_, it)| it.rejected.is_some() && it.further_of().is_none());
        let (key, state) = rejected.min_by_key(|(_, state)| state.rejected)?;
        if now < self.rejected_retry_at {
            return Some(Step::Wait(self.rejected_retry_at));
        }
        Some(Step::Do(match state.op(key, &self.leases) {
            Some(op) => {
                state.asked(&op, now);
                Request::Write(lease, vec![op])
            }
            None => Request::Read(vec![key.clone()]),
        }))
    }

    /// The operations of the next transaction; and the earliest time at which a key may be corrected that was
    /// corrected less than [`HEAL_PAUSE`] ago.
    pub(super) fn next_ops(&mut self, now: Moment) -> (Vec<Op>, Option<Moment>) {
        // A primary with its further keys is a group, and travels whole.
        let mut groups: BTreeMap<&Key, Vec<Op>> = BTreeMap::new();
        let mut heal_at: Option<Moment> = None;
        for (key, state) in self.keys.iter().filter(|(_, it)| it.rejected.is_none()) {
            let (op, group) = match state.further_of() {
                None => (state.op(key, &self.leases), key),
                Some(of) => {
                    let next = self.primary_op(of, now);
                    let primary = self.keys.get(of);
                    let op = state.further_op(key, primary, next, &self.leases);
                    let together = next != PrimaryOp::None && !state.is_apart();
                    (op, if together { of } else { key })
                }
            };
            let Some(op) = op else {
                continue;
            };
            let ready_at = ready_at(state);
            if now < ready_at {
                heal_at = Some(heal_at.map_or(ready_at, |at| at.min(ready_at)));
            } else {
                groups.entry(group).or_default().push(op);
            }
        }
        // Puts and deletes travel apart, deletes first: an etcd without space refuses a transaction with a put
        // in it, and takes one without. A further key that goes because its primary drains goes with that put.
        let (puts, deletes): (Vec<_>, Vec<_>) = groups
            .into_values()
            .partition(|ops| ops.iter().any(Op::is_put));
        let groups = if deletes.is_empty() { puts } else { deletes };
        let (mut ops, mut cost) = (Vec::new(), 0);
        for group in groups {
            cost += group.iter().map(Op::cost).sum::<usize>();
            if !ops.is_empty() && cost > self.sizes.writes {
                break;
            }
            ops.extend(group);
        }
        for op in &ops {
            if let Some(state) = self.keys.get_mut(op.key()) {
                state.asked(op, now);
            }
        }
        (ops, heal_at)
    }

    fn primary_op(&self, key: &Key, now: Moment) -> PrimaryOp {
        let state = self.keys.get(key).filter(|it| it.rejected.is_none());
        let due = state.filter(|it| now >= ready_at(it));
        match due.and_then(|it| it.op(key, &self.leases)) {
            None => PrimaryOp::None,
            Some(op) if op.is_put() => PrimaryOp::Put,
            Some(_) => PrimaryOp::Delete,
        }
    }
}

/// From when on the key may be corrected.
fn ready_at(state: &KeyState) -> Moment {
    let healed = state.healed.filter(|_| state.settled);
    healed.map_or(Moment::ZERO, |at| at + HEAL_PAUSE)
}
