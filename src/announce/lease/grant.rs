//! The lease's term, and the ids of the leases that are asked for. Pure.
//!
//! A grant whose response is lost may have left a lease in etcd. It is asked for again with the same id,
//! so that there is one lease whichever request was done.

use super::protocol::LeaseId;
use crate::clock::Moment;
use std::time::Duration;

/// The lease's term: how it is asked for, and when it is renewed.
#[derive(Debug)]
pub(super) struct LeaseTerm {
    pub(super) grants: Grants,
    /// The TTL that etcd gave the lease.
    pub(super) granted: Duration,
    /// When the lease is renewed next.
    pub(super) renew_at: Moment,
}

/// Makes the ids, and remembers the grant whose outcome is unknown.
#[derive(Debug)]
pub(super) struct Grants {
    /// The generator's state.
    state: u64,
    /// `None` while a lease is held, and before the first is asked for.
    open: Option<Grant>,
}

#[derive(Debug)]
struct Grant {
    id: LeaseId,
    /// A request with this id got no response, so that etcd may have granted it.
    in_doubt: bool,
}

impl Grants {
    /// `seed` is a random number: two processes with the same seed ask for the same ids.
    pub(super) const fn new(seed: u64) -> Self {
        Self {
            state: seed,
            open: None,
        }
    }

    /// The id to ask for: the same one until the outcome is known.
    pub(super) fn id(&mut self) -> LeaseId {
        if let Some(grant) = &self.open {
            return grant.id;
        }
        let id = loop {
            // etcd's ids are positive, and 0 stands for none.
            match LeaseId::try_from(self.next() >> 1).unwrap_or_default() {
                0 => {}
                id => break id,
            }
        };
        self.open = Some(Grant {
            id,
            in_doubt: false,
        });
        id
    }

    /// The id that was asked for, while the outcome is unknown.
    pub(super) fn asked(&self) -> Option<LeaseId> {
        self.open.as_ref().map(|grant| grant.id)
    }

    /// A request for the id got no response.
    pub(super) const fn unanswered(&mut self) {
        if let Some(grant) = &mut self.open {
            grant.in_doubt = true;
        }
    }

    /// The lease was granted.
    pub(super) const fn granted(&mut self) {
        self.open = None;
    }

    /// etcd already has a lease with that id. Returns whether it is ours; if not, the next grant asks for
    /// another id.
    pub(super) fn exists(&mut self) -> bool {
        self.open.take().is_some_and(|grant| grant.in_doubt)
    }

    /// `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014): a
    /// permutation of a counter, so that no number comes twice.
    const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_asked_for_until_it_is_known_what_became_of_it_and_never_again() {
        let mut grants = Grants::new(7);
        let first = grants.id();
        assert!(first > 0);
        grants.unanswered();
        assert_eq!((grants.id(), grants.asked()), (first, Some(first)));
        assert!(grants.exists(), "ours, for a request had no answer");
        assert_eq!(grants.asked(), None);
        let second = grants.id();
        assert!(!grants.exists(), "another's, for nothing was asked before");
        let third = grants.id();
        grants.granted();
        let mut all = vec![first, second, third];
        all.extend((0..1000).map(|_| {
            let id = grants.id();
            grants.granted();
            id
        }));
        assert!(all.iter().all(|id| *id > 0));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 1003);
    }

    #[test]
    fn two_processes_ask_for_different_ids() {
        assert_ne!(Grants::new(1).id(), Grants::new(2).id());
    }
}
