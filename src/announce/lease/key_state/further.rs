//! A further key: the same instance in another reader's layout, which stands only while the instance's own key, the
//! primary, is ours and serves. Pure.

use super::{KeyState, KnownValue, Leases};
use crate::announce::lease::protocol::{DesiredKey, LeaseId, Op, Version};
use crate::endpoint::{Endpoint, Key};
use std::sync::Arc;

/// What a further key has beside what every key has.
#[derive(Debug)]
pub(in crate::announce::lease) struct FurtherState {
    /// The primary.
    of: Key,
    /// etcd rejected a transaction with this key in it: it travels apart from its primary until a put of it is accepted.
    apart: bool,
    /// The lease of the other writer that was reported last.
    told_lease: Option<LeaseId>,
    /// That etcd rejects the key was reported.
    told_rejected: bool,
}

/// What the next transaction does about the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::announce::lease) enum PrimaryOp {
    /// Nothing.
    None,
    /// It is put.
    Put,
    /// It is deleted.
    Delete,
}

impl KeyState {
    /// A further key of `of` that has this value.
    pub(in crate::announce::lease) fn new_further(
        of: &Key,
        endpoint: &Arc<Endpoint>,
        value: &str,
    ) -> Self {
        let mut state = Self::new(&DesiredKey::Announce(endpoint.clone()));
        state.encoded = value.as_bytes().to_vec();
        state.further = Some(FurtherState {
            of: of.clone(),
            apart: false,
            told_lease: None,
            told_rejected: false,
        });
        state
    }

    /// Sets the primary and the value.
    pub(in crate::announce::lease) fn set_further(
        &mut self,
        of: &Key,
        endpoint: &Arc<Endpoint>,
        value: &str,
    ) {
        self.retired = false;
        let same = self.encoded == value.as_bytes() && self.further_of() == Some(of);
        self.set_desired(&DesiredKey::Announce(endpoint.clone()));
        if let Some(further) = &mut self.further {
            further.of = of.clone();
        }
        self.encoded = value.as_bytes().to_vec();
        self.settled &= same;
    }

    /// The primary, if this is a further key.
    pub(in crate::announce::lease) fn further_of(&self) -> Option<&Key> {
        self.further.as_ref().map(|it| &it.of)
    }

    /// Whether this further key travels apart from its primary.
    pub(in crate::announce::lease) fn is_apart(&self) -> bool {
        self.further.as_ref().is_some_and(|it| it.apart)
    }

    /// From now on the further key travels apart, or no longer.
    pub(in crate::announce::lease) const fn set_apart(&mut self, apart: bool) {
        if let Some(further) = &mut self.further {
            further.apart = apart;
        }
    }

    /// Whether it has to be reported that etcd rejects this further key: once. `None` for a primary.
    pub(in crate::announce::lease) fn tell_rejected(&mut self) -> Option<bool> {
        let further = self.further.as_mut()?;
        Some(!std::mem::replace(&mut further.told_rejected, true))
    }

    /// The write by which this primary is ours, with the value that is desired: not one by which it still drains.
    fn standing(&self, leases: &Leases) -> Option<Version> {
        match &self.belief.value {
            KnownValue::Present(entry) if leases.holds(entry) && entry.value == self.encoded => {
                Some(entry.version())
            }
            _ => None,
        }
    }

    /// The operation on a further key, while the next transaction does `next` about its primary. Beside a put of the primary
    /// it has that put's conditions; else it has one of its own on the primary, so that a request that comes late puts
    /// nothing beside a primary that drains, or is another's.
    pub(in crate::announce::lease) fn further_op(
        &self,
        key: &Key,
        primary: Option<&Self>,
        next: PrimaryOp,
        leases: &Leases,
    ) -> Option<Op> {
        let wanted = matches!(self.desired, DesiredKey::Announce(_));
        let put = next == PrimaryOp::Put;
        let standing = primary.and_then(|it| it.standing(leases));
        match (wanted, put, standing) {
            // Once the primary is put, on its own.
            (true, true, _) if self.is_apart() => None,
            (true, true, _) => self.further_put(key, primary, leases),
            (true, false, Some(version)) if next == PrimaryOp::None => {
                let put = self.further_put(key, primary, leases)?;
                let of = self.further_of()?.clone();
                Some(Op::IfStands(of, version, Box::new(put)))
            }
            _ => match &self.belief.value {
                KnownValue::Unknown if self.writes.may_stand => Some(Op::Delete(key.clone())),
                KnownValue::Present(entry) if leases.holds(entry) => Some(Op::Delete(key.clone())),
                _ => None,
            },
        }
    }

    fn further_put(&self, key: &Key, primary: Option<&Self>, leases: &Leases) -> Option<Op> {
        let (key, value) = (|| key.clone(), || self.encoded.clone());
        match &self.belief.value {
            KnownValue::Unknown | KnownValue::Absent => Some(Op::Create(key(), value())),
            KnownValue::Present(entry) if leases.holds(entry) => {
                (entry.value != self.encoded).then(|| Op::Update(key(), value()))
            }
            KnownValue::Present(entry) if self.takes_over_from(entry.lease, primary, leases) => {
                Some(Op::TakeOver(key(), value(), entry.version()))
            }
            KnownValue::Present(_) => None,
        }
    }

    /// Whether a further key on that lease is one's own of before, or came with the value of the primary that is about to
    /// be taken over.
    fn takes_over_from(&self, lease: LeaseId, primary: Option<&Self>, leases: &Leases) -> bool {
        let overtaken = primary.is_some_and(
            |it| matches!(&it.belief.value, KnownValue::Present(entry) if entry.lease == lease),
        );
        lease != 0 && (overtaken || leases.former.contains(&lease))
    }

    /// What was known of another writer's value is known no more.
    pub(in crate::announce::lease) fn doubt_others(&mut self, leases: &Leases) {
        if matches!(&self.belief.value, KnownValue::Present(entry) if !leases.holds(entry)) {
            self.belief.value = KnownValue::Unknown;
        }
    }

    /// The lease that the key hangs on, as far as it is known.
    pub(in crate::announce::lease) fn holder_lease(&self) -> Option<LeaseId> {
        match &self.belief.value {
            KnownValue::Present(entry) => Some(entry.lease),
            KnownValue::Unknown | KnownValue::Absent => None,
        }
    }

    /// The lease of another writer who has this further key, once for each; `predecessor` is the lease of who has the
    /// primary.
    pub(in crate::announce::lease) fn new_further_holder(
        &mut self,
        predecessor: Option<LeaseId>,
        leases: &Leases,
    ) -> Option<LeaseId> {
        let (DesiredKey::Announce(_), KnownValue::Present(entry)) =
            (&self.desired, &self.belief.value)
        else {
            return None;
        };
        let lease = entry.lease;
        let ours = leases.holds(entry) || leases.former.contains(&lease);
        let ours = ours || predecessor == Some(lease);
        let further = self.further.as_mut()?;
        if ours || further.told_lease == Some(lease) {
            return None;
        }
        further.told_lease = Some(lease);
        Some(lease)
    }
}
