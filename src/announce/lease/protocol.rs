//! What registrar and executor exchange: the desired keys, requests, responses, the status of each key, and
//! events. Pure.

use super::ownership::Holder;
use crate::clock::Moment;
use crate::endpoint::{Endpoint, Key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The most operations in one transaction: etcd's default for `--max-txn-ops`.
pub const MAX_OPS: usize = 128;

/// The most writes in one transaction: etcd counts the conditions too, and a take-over has two.
pub const MAX_WRITES: usize = MAX_OPS / 2;

/// An etcd lease id; 0 is "none" and never a lease of ours.
pub type LeaseId = i64;
/// An etcd store revision.
pub type Revision = i64;

/// The desired value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DesiredKey {
    /// The key has this endpoint as its value.
    Announce(Arc<Endpoint>),
    /// The key has no value of ours.
    Withdraw {
        /// The life of the container that is known to be down. A value that names it was left by an earlier
        /// process of ours, and is deleted too.
        down: Option<Holder>,
    },
}

impl DesiredKey {
    /// The same, but an announced instance takes no new connections. To the registrar this is a changed value like
    /// any other: an update of a key that is on our lease, on the same lease.
    #[must_use]
    pub fn draining(&self) -> Self {
        match self {
            Self::Announce(endpoint) if !endpoint.is_draining() => {
                Self::Announce(Arc::new(endpoint.draining()))
            }
            desired => desired.clone(),
        }
    }
}

/// The desired value of each key.
pub type DesiredKeys = BTreeMap<Key, DesiredKey>;

/// The status of each key.
pub type KeyStatuses = BTreeMap<Key, KeyStatus>;

/// A key's value in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes of the value.
    pub value: Vec<u8>,
    /// The lease that the key hangs on; 0: none.
    pub lease: LeaseId,
    /// The store revision of the last write.
    pub mod_revision: Revision,
}

/// Which cluster gave a response, and at which revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// etcd's cluster id.
    pub cluster: u64,
    /// The store's revision when it answered.
    pub revision: Revision,
}

impl Entry {
    /// Identifies the write that the value comes from.
    #[must_use]
    pub const fn version(&self) -> Version {
        Version {
            mod_revision: self.mod_revision,
            lease: self.lease,
        }
    }
}

/// One write of a key. The revision alone would do within one history; in an etcd that was restored
/// or emptied behind our back the same number may be another's write, on another lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    /// The store revision of the write.
    pub mod_revision: Revision,
    /// The lease that the key hangs on; 0: none.
    pub lease: LeaseId,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Puts the key if it does not exist.
    Create(Key, Vec<u8>),
    /// Puts the key if it is on our lease.
    Update(Key, Vec<u8>),
    /// Puts the key if that write is still its latest.
    TakeOver(Key, Vec<u8>, Version),
    /// Deletes the key if it is on our lease.
    Delete(Key),
    /// Deletes the key if that write is still its latest.
    Clear(Key, Version),
    /// Does the operation on a further key if that write is still the latest of the primary, the key named here.
    IfStands(Key, Version, Box<Op>),
}

impl Op {
    /// The key of the operation.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self.innermost() {
            Self::Create(key, _)
            | Self::Update(key, _)
            | Self::TakeOver(key, _, _)
            | Self::Delete(key)
            | Self::Clear(key, _)
            | Self::IfStands(key, ..) => key,
        }
    }

    /// The operation itself, without the condition on a primary.
    #[must_use]
    pub fn innermost(&self) -> &Self {
        match self {
            Self::IfStands(_, _, op) => op.innermost(),
            op => op,
        }
    }

    /// The primary on which the operation has a condition.
    #[must_use]
    pub const fn primary(&self) -> Option<&Key> {
        match self {
            Self::IfStands(primary, ..) => Some(primary),
            _ => None,
        }
    }

    /// What the operation takes of [`MAX_WRITES`]: it has at most twice as many conditions.
    #[must_use]
    pub const fn cost(&self) -> usize {
        match self {
            Self::IfStands(..) => 2,
            _ => 1,
        }
    }

    /// Whether the operation is a put.
    #[must_use]
    pub fn is_put(&self) -> bool {
        matches!(
            self.innermost(),
            Self::Create(..) | Self::Update(..) | Self::TakeOver(..)
        )
    }
}

/// One request to etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Grant a lease with this id and TTL.
    Grant(LeaseId, Duration),
    /// Renew this lease.
    Renew(LeaseId),
    /// Read these keys (linearizable); at most [`MAX_OPS`].
    Read(Vec<Key>),
    /// Do all of these operations, each put on this lease, if all of their conditions hold; else read their keys.
    Write(LeaseId, Vec<Op>),
    /// Revoke the lease, which deletes every key on it.
    Revoke(LeaseId),
}

impl Request {
    /// Whether the request reads or writes keys, rather than the lease.
    #[must_use]
    pub const fn names_keys(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Write(..))
    }

    /// The key, if the request reads or writes a single one.
    #[must_use]
    pub fn only_key(&self) -> Option<&Key> {
        match self {
            Self::Read(keys) => keys.first().filter(|_| keys.len() == 1),
            Self::Write(_, ops) => ops.first().filter(|_| ops.len() == 1).map(Op::key),
            Self::Grant(..) | Self::Renew(_) | Self::Revoke(_) => None,
        }
    }
}

/// The response to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// The lease was granted, with this TTL.
    Granted(Duration),
    /// etcd already has a lease with that id.
    LeaseExists,
    /// The lease was renewed.
    Renewed,
    /// The lease does not exist.
    LeaseGone,
    /// The values of the keys.
    Read(Header, Vec<(Key, Option<Entry>)>),
    /// All conditions held, and all operations were done.
    Written(Header),
    /// A condition failed, no operation was done, and these are the values of the keys.
    ConditionFailed(Header, Vec<(Key, Option<Entry>)>),
    /// The lease was revoked.
    Revoked,
    /// etcd rejected the request: it has no space left, or our user has no right to one of the keys.
    Rejected,
    /// No response, or an error. The request may have been done all the same.
    Failed,
}

/// What the executor does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this request, and pass on the response.
    Do(Request),
    /// Wait until this moment.
    Wait(Moment),
    /// End: the lease is revoked.
    Done,
}

/// The status of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyStatus {
    /// The desired value is not put yet, or the outcome is unknown.
    Pending,
    /// The key has the desired value, on our lease.
    Announced(Arc<Endpoint>),
    /// Another holder has precedence.
    StandingBy(Holder),
    /// The key has no value of ours, as desired.
    Withdrawn,
    /// etcd rejects the desired value of this key; it is tried again.
    Rejected,
}

/// What happened to a key or to the lease that the operator may want to read.
///
/// `contested`: the key had stood as desired before, so that another writer changed it and may go on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Another holder has precedence; emitted once for every holder.
    StandingBy(Key, Holder),
    /// The value of another container's announcer was overwritten.
    TookOver {
        /// The key.
        key: Key,
        /// Whose value it was.
        holder: Holder,
        /// See above.
        contested: bool,
    },
    /// The same container's value on another lease was overwritten: a process that ended has left it, or a
    /// second sidekick had put it.
    Resumed(Key),
    /// A value that is no endpoint was overwritten.
    BadValue {
        /// The key.
        key: Key,
        /// Why it is no endpoint.
        why: String,
        /// See above.
        contested: bool,
    },
    /// Another writer had deleted or changed the key, and it was put back.
    Healed {
        /// The key.
        key: Key,
        /// See above.
        contested: bool,
    },
    /// The value that an earlier process of ours had left was deleted.
    Cleared(Key),
    /// The instance at that key lacks a further key, and why.
    FurtherKeyRefused(Key, String),
    /// Another writer has the further key, on that lease: it is left alone. Emitted once for every lease.
    FurtherKeyHeld(Key, LeaseId),
    /// etcd has forgotten our lease.
    LeaseLost(LeaseId),
    /// etcd is another cluster, or its revision went back.
    HistoryReset,
}
