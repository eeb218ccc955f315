//! The words between the registrar, which decides, and the registry, which does: what is wished for,
//! asked of etcd, answered, and worth telling. Pure.

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

/// What ought to stand at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DesiredKey {
    /// This endpoint.
    Announce(Arc<Endpoint>),
    /// Nothing of ours. `down` is the incarnation of the container that is known to be down: a
    /// value that names it was left by our own past life, and is cleared away too.
    Withdraw {
        /// See above.
        down: Option<Holder>,
    },
}

/// What ought to stand at each key.
pub type DesiredKeys = BTreeMap<Key, DesiredKey>;

/// How it stands with each key.
pub type KeyStatuses = BTreeMap<Key, KeyStatus>;

/// What stands at a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes.
    pub value: Vec<u8>,
    /// The lease it hangs on; 0 for none.
    pub lease: LeaseId,
    /// When it was written last.
    pub mod_revision: Revision,
}

/// Where in which history an answer was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// etcd's cluster id.
    pub cluster: u64,
    /// The store's revision when it answered.
    pub revision: Revision,
}

impl Entry {
    /// Which write this is.
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
    /// When it was written.
    pub mod_revision: Revision,
    /// The lease it hangs on; 0 for none.
    pub lease: LeaseId,
}

/// What to do about one key inside a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Put it if nothing is there.
    Create(Key, Vec<u8>),
    /// Put it if it is on our lease.
    Update(Key, Vec<u8>),
    /// Put it if that write still stands there.
    TakeOver(Key, Vec<u8>, Version),
    /// Delete it if it is on our lease.
    Delete(Key),
    /// Delete it if that write still stands there.
    Clear(Key, Version),
}

impl Op {
    /// The key that it is about.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Create(key, _)
            | Self::Update(key, _)
            | Self::TakeOver(key, _, _)
            | Self::Delete(key)
            | Self::Clear(key, _) => key,
        }
    }

    /// Whether it puts, rather than deletes.
    #[must_use]
    pub const fn is_put(&self) -> bool {
        matches!(
            self,
            Self::Create(..) | Self::Update(..) | Self::TakeOver(..)
        )
    }
}

/// One call to etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A lease by this id, of this length.
    Grant(LeaseId, Duration),
    /// Keep this lease alive.
    Renew(LeaseId),
    /// A linearizable read of these keys, [`MAX_OPS`] at most.
    Read(Vec<Key>),
    /// All of these, each put on this lease, if all of their conditions hold; else a read of their keys.
    Write(LeaseId, Vec<Op>),
    /// Give the lease up, and every key on it.
    Revoke(LeaseId),
}

impl Request {
    /// Whether it reads or writes keys, and not only the lease.
    #[must_use]
    pub const fn names_keys(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Write(..))
    }

    /// The key, where the request is about one alone.
    #[must_use]
    pub fn only_key(&self) -> Option<&Key> {
        match self {
            Self::Read(keys) => keys.first().filter(|_| keys.len() == 1),
            Self::Write(_, ops) => ops.first().filter(|_| ops.len() == 1).map(Op::key),
            Self::Grant(..) | Self::Renew(_) | Self::Revoke(_) => None,
        }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// There is such a lease now; with the time to live that etcd gave it.
    Granted(Duration),
    /// There is a lease of that id already.
    LeaseExists,
    /// The lease lives.
    Renewed,
    /// etcd says that there is no such lease.
    LeaseGone,
    /// What stands at the keys.
    Read(Header, Vec<(Key, Option<Entry>)>),
    /// All conditions held and all was done.
    Written(Header),
    /// A condition didn't hold, nothing was done, and this is what stands at the keys.
    Refused(Header, Vec<(Key, Option<Entry>)>),
    /// The lease is given up.
    Revoked,
    /// etcd answered that it won't: it has no space, or we no right, or one of the keys no reader.
    Rejected,
    /// No answer, or an error. It may have been done all the same.
    Failed,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// This call, and then tell the answer.
    Do(Request),
    /// Nothing before this moment.
    Wait(Moment),
    /// Nothing ever again: the lease is given up.
    Done,
}

/// How it stands with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyStatus {
    /// Not there yet, or not known to be.
    Pending,
    /// It stands as wished, on our lease.
    Announced(Arc<Endpoint>),
    /// Somebody with a better right holds it.
    StandingBy(Holder),
    /// Nothing of ours is there, as wished.
    Withdrawn,
    /// Not as wished, for etcd refuses this key by itself; it is tried again.
    Refused,
}

/// What happened to a key or to the lease that the operator may want to read.
///
/// `contested`: the key had stood as desired before, so that another writer changed it and may go on to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseEvent {
    /// Another holder with the better right has the key; emitted once for every holder.
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
    /// etcd has forgotten our lease.
    LeaseLost(LeaseId),
    /// etcd is another cluster, or its revision went back.
    HistoryReset,
}
