//! The hand-over: a process that ends leaves its keys to the next one, on a lease so short that they go soon where none
//! comes. Pure.
//!
//! Each key is put again with the value that it has, on the new lease and under the condition that its last write is
//! the one that was seen, so that no reader sees it go. Only then the former lease is revoked, with what is left on it.

use super::{Phase, Registrar};
use crate::announce::lease::protocol::{LeaseId, Request, Step};
use crate::clock::Moment;
use std::time::Duration;

/// The TTL of the lease on which keys wait for the next process: long enough to start one and to have it read the
/// containers, and no longer than a dead container may be announced.
pub const HANDOVER_TTL: Duration = Duration::from_secs(10);

impl Registrar {
    /// Starts the hand-over: from now on the keys move to a lease of [`HANDOVER_TTL`] at most, and then the former
    /// lease is revoked. Without a lease there is nothing to hand over.
    pub fn hand_over(&mut self) {
        if self.phase != Phase::Running {
            return;
        }
        let Some(former) = self.leases.lose() else {
            return self.shut_down();
        };
        self.settings.ttl = self.settings.ttl.min(HANDOVER_TTL);
        for state in self.keys.values_mut() {
            state.lease_moves();
        }
        self.phase = Phase::HandingOver(former);
    }

    /// Whether keys are left that could not be moved: etcd rejects them. They have what is left of their lease.
    #[must_use]
    pub fn has_left_behind(&self) -> bool {
        matches!(self.phase, Phase::HandingOver(former) if self.is_left(former))
    }

    fn is_left(&self, former: LeaseId) -> bool {
        self.keys.values().any(|state| state.waits_on(former))
    }

    pub(super) fn poll_hand_over(&mut self, now: Moment, former: LeaseId) -> Step {
        let Some(lease) = self.leases.current else {
            let id = self.term.grants.id();
            return Step::Do(Request::Grant(id, self.settings.ttl));
        };
        let (ops, _) = self.next_ops(now);
        if !ops.is_empty() {
            return Step::Do(Request::Write(lease, ops));
        }
        if self.is_left(former) {
            return Step::Done;
        }
        Step::Do(Request::Revoke(former))
    }
}
