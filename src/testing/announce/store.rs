//! A model of etcd: revisions, leases, transactions, history. And the judge of every write.

use super::further::{FURTHER, further_key};
use crate::announce::lease::protocol::{Entry, Header, LeaseId, Op, Request, Response, Revision};
use crate::clock::Moment;
use crate::endpoint::{Endpoint, Key, Since};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One change in the store's history.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) key: Key,
    pub(crate) entry: Option<Entry>,
    pub(crate) revision: Revision,
}

/// Who a request comes from, as far as the judge has to know; as of when it was sent.
#[derive(Debug, Clone)]
pub(crate) struct Author {
    pub(crate) container: String,
    /// The container's latest life, as far as the author could see.
    pub(crate) last_since: Option<Since>,
    /// Every lease that this process has asked for until then, the latest last.
    pub(crate) leases: Vec<LeaseId>,
    /// Its keys move from one lease to another.
    pub(crate) hands_over: bool,
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) cluster: u64,
    pub(crate) revision: Revision,
    pub(crate) entries: BTreeMap<Key, Entry>,
    pub(crate) leases: BTreeMap<LeaseId, Moment>,
    pub(crate) history: Vec<Event>,
    pub(crate) takeovers: usize,
    pub(crate) clears: usize,
    pub(crate) rejections: usize,
    /// Grants that had been done already, by a request whose answer was lost.
    pub(crate) granted_before: usize,
    /// Every lease that was granted or revoked.
    spent: BTreeSet<LeaseId>,
    /// Those of them that a request granted which came after all that.
    belated: BTreeSet<LeaseId>,
    /// The NOSPACE alarm: no put, no grant.
    pub(crate) full: bool,
    /// Keys that a request put which came late.
    late: BTreeSet<Key>,
    is_late: bool,
    /// The keys that no announcer has a right to.
    pub(crate) denied: BTreeSet<Key>,
    ttl: Duration,
}

impl Store {
    pub(crate) fn new(ttl: Duration) -> Self {
        Self {
            cluster: 1,
            revision: 1,
            ttl,
            ..Self::default()
        }
    }

    /// What an operator, or a fault, does behind everybody's back.
    pub(crate) fn put_by_hand(&mut self, key: &Key, value: &[u8]) {
        self.revision += 1;
        self.put(key, value.to_vec(), 0);
    }

    pub(crate) fn delete_by_hand(&mut self, key: &Key) {
        if self.entries.contains_key(key) {
            self.revision += 1;
            self.delete(key);
        }
    }

    pub(crate) fn revoke(&mut self, lease: LeaseId) {
        if self.leases.remove(&lease).is_none() {
            return;
        }
        let on_it = |(key, entry): (&Key, &Entry)| (entry.lease == lease).then(|| key.clone());
        let keys: Vec<Key> = self.entries.iter().filter_map(on_it).collect();
        if !keys.is_empty() {
            self.revision += 1;
        }
        for key in keys {
            self.delete(&key);
        }
    }

    pub(crate) fn expire(&mut self, now: Moment) {
        let over = |(id, end): (&LeaseId, &Moment)| (*end <= now).then_some(*id);
        let ids: Vec<LeaseId> = self.leases.iter().filter_map(over).collect();
        for id in ids {
            self.revoke(id);
        }
    }

    /// Everything is lost: an empty etcd, perhaps of the same cluster id.
    pub(crate) fn wipe(&mut self, cluster: u64) {
        *self = Self {
            cluster,
            spent: std::mem::take(&mut self.spent),
            granted_before: self.granted_before,
            takeovers: self.takeovers,
            clears: self.clears,
            rejections: self.rejections,
            ..Self::new(self.ttl)
        };
    }

    fn put(&mut self, key: &Key, value: Vec<u8>, lease: LeaseId) {
        let entry = Entry {
            value,
            lease,
            mod_revision: self.revision,
        };
        self.entries.insert(key.clone(), entry.clone());
        self.record(key, Some(entry));
    }

    fn delete(&mut self, key: &Key) {
        self.entries.remove(key);
        self.record(key, None);
    }

    fn record(&mut self, key: &Key, entry: Option<Entry>) {
        self.history.push(Event {
            key: key.clone(),
            entry,
            revision: self.revision,
        });
    }

    fn header(&self) -> Header {
        Header {
            cluster: self.cluster,
            revision: self.revision,
        }
    }

    fn read<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> Vec<(Key, Option<Entry>)> {
        keys.map(|k| (k.clone(), self.entries.get(k).cloned()))
            .collect()
    }

    /// When the next lease ends.
    pub(crate) fn next_end(&self) -> Option<Moment> {
        self.leases.values().min().copied()
    }

    /// The same for a request whose author has given it up.
    pub(crate) fn execute_late(
        &mut self,
        request: &Request,
        author: &Author,
        now: Moment,
    ) -> Result<Response, String> {
        self.is_late = true;
        let result = self.execute(request, author, now);
        self.is_late = false;
        result
    }

    /// Does a request at `now`, and says so if it may not.
    pub(crate) fn execute(
        &mut self,
        request: &Request,
        author: &Author,
        now: Moment,
    ) -> Result<Response, String> {
        self.expire(now);
        if self.rejects(request) {
            self.rejections += 1;
            return Ok(Response::Rejected);
        }
        Ok(match request {
            Request::Grant(lease, _) if self.leases.contains_key(lease) => {
                self.granted_before += 1;
                Response::LeaseExists
            }
            Request::Grant(lease, ttl) => {
                // A grant that arrives after its lease has ended creates the lease again, for a TTL.
                if self.spent.insert(*lease) {
                    if !author.hands_over {
                        self.must_have_none_of(&author.leases)?;
                    }
                } else {
                    self.belated.insert(*lease);
                }
                self.leases.insert(*lease, now + *ttl);
                Response::Granted(*ttl)
            }
            Request::Renew(lease) => match self.leases.get_mut(lease) {
                Some(end) => {
                    *end = now + self.ttl;
                    Response::Renewed
                }
                None => Response::LeaseGone,
            },
            Request::Read(keys) => Response::Read(self.header(), self.read(keys.iter())),
            Request::Revoke(lease) if !self.leases.contains_key(lease) => {
                self.spent.insert(*lease);
                Response::LeaseGone
            }
            Request::Revoke(lease) => {
                self.revoke(*lease);
                Response::Revoked
            }
            Request::Write(lease, ops) => self.write(*lease, ops, author)?,
        })
    }

    /// A process has one lease at a time, and none when it has left, whichever answers were lost.
    pub(crate) fn must_have_none_of(&self, leases: &[LeaseId]) -> Result<(), String> {
        let there = |id: &&LeaseId| self.leases.contains_key(id) && !self.belated.contains(id);
        match leases.iter().find(there) {
            Some(id) => Err(format!("lease {id} of {leases:?} is left behind")),
            None => Ok(()),
        }
    }

    fn rejects(&self, request: &Request) -> bool {
        match request {
            Request::Grant(..) => self.full,
            Request::Read(keys) => keys.iter().any(|key| self.denied.contains(key)),
            Request::Write(_, ops) => {
                ops.iter().any(|op| self.denied.contains(op.key()))
                    || self.full && ops.iter().any(Op::is_put)
            }
            Request::Renew(_) | Request::Revoke(_) => false,
        }
    }

    fn write(&mut self, lease: LeaseId, ops: &[Op], author: &Author) -> Result<Response, String> {
        if !ops.iter().all(|op| self.holds(op, lease)) {
            return Ok(Response::ConditionFailed(
                self.header(),
                self.read(
                    ops.iter()
                        .map(Op::key)
                        .chain(ops.iter().flat_map(Op::primary)),
                ),
            ));
        }
        if ops.iter().any(Op::is_put) {
            if !author.leases.contains(&lease) {
                return Err(format!(
                    "a put on lease {lease}, which is not the author's own"
                ));
            }
            if !self.leases.contains_key(&lease) {
                return Ok(Response::LeaseGone);
            }
        }
        self.revision += 1;
        for op in ops {
            self.judge(op, author)?;
        }
        for op in ops {
            if self.is_late && op.is_put() {
                self.late.insert(op.key().clone());
            } else {
                self.late.remove(op.key());
            }
            match op.innermost() {
                Op::Create(key, value) | Op::Update(key, value) | Op::TakeOver(key, value, _) => {
                    self.put(key, value.clone(), lease);
                }
                Op::Delete(key) | Op::Clear(key, _) => self.delete(key),
                Op::IfStands(..) => return Err("a condition within a condition".to_owned()),
            }
        }
        self.no_further_key_drains(ops)?;
        Ok(Response::Written(self.header()))
    }

    /// A further key goes in the transaction that makes its primary drain, and comes in none beside one that drains.
    fn no_further_key_drains(&self, ops: &[Op]) -> Result<(), String> {
        for op in ops.iter().filter(|op| op.is_put()) {
            let key = op.key().as_str();
            let primary = key.strip_prefix(FURTHER).unwrap_or(key);
            let primary: Key = primary.parse().map_err(|e| format!("{key}: {e}"))?;
            let further = further_key(&primary);
            let (Some(main), Some(other)) =
                (self.entries.get(&primary), self.entries.get(&further))
            else {
                continue;
            };
            let draining = Endpoint::decode(&main.value).is_ok_and(|it| it.is_draining());
            if draining && main.lease == other.lease && !self.late.contains(&further) {
                return Err(format!("{primary} drains, and {further} stands: {ops:?}"));
            }
        }
        Ok(())
    }

    fn holds(&self, op: &Op, lease: LeaseId) -> bool {
        let entry = self.entries.get(op.key());
        match op {
            Op::IfStands(primary, version, op) => {
                let primary = self.entries.get(primary);
                primary.is_some_and(|e| e.version() == *version) && self.holds(op, lease)
            }
            Op::Create(..) => entry.is_none(),
            Op::Update(..) | Op::Delete(_) => entry.is_some_and(|e| e.lease == lease),
            Op::TakeOver(_, _, version) | Op::Clear(_, version) => {
                entry.is_some_and(|e| e.version() == *version)
            }
        }
    }

    /// The rules of ownership, written down a second time, from the design and not from the code.
    fn judge(&mut self, op: &Op, author: &Author) -> Result<(), String> {
        let op = op.innermost();
        let Some(entry) = self.entries.get(op.key()) else {
            return Ok(());
        };
        if author.leases.contains(&entry.lease) {
            return Ok(());
        }
        if let Some(primary) = op.key().as_str().strip_prefix(FURTHER) {
            let primary = primary
                .parse()
                .ok()
                .and_then(|key: Key| self.entries.get(&key));
            let came_together = primary.is_some_and(|it| it.lease == entry.lease);
            return match op {
                Op::TakeOver(..) if came_together => Ok(()),
                _ => Err(format!(
                    "{op:?} by {author:?} over {entry:?}, beside {primary:?}"
                )),
            };
        }
        let theirs = Endpoint::decode(&entry.value).ok();
        let theirs = theirs.map(|theirs| (theirs.since, theirs.container));
        let fine = match op {
            // No life but the one that is known to be over, or an earlier one.
            Op::Clear(..) => {
                self.clears += 1;
                theirs.as_ref().is_some_and(|(since, container)| {
                    container.as_ref() == Some(&author.container) && *since <= author.last_since
                })
            }
            // Of two lives the later one; of the same container's as of two containers'.
            Op::TakeOver(_, value, _) => {
                self.takeovers += 1;
                let ours = Endpoint::decode(value).map_err(|e| format!("put junk: {e}"))?;
                theirs <= Some((ours.since, ours.container))
            }
            Op::Create(..) | Op::Update(..) | Op::Delete(_) | Op::IfStands(..) => false,
        };
        // A key without a lease has no announcer.
        let conditional = matches!(op, Op::Clear(..) | Op::TakeOver(..));
        let fine = fine || (conditional && entry.lease == 0);
        if fine {
            Ok(())
        } else {
            Err(format!("{op:?} by {author:?} over {entry:?} ({theirs:?})"))
        }
    }
}
