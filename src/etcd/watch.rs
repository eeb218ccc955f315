//! Watches on single keys, many on one stream that is open for ever: reopened on the next member
//! whenever it breaks.
//!
//! Not one watch on a prefix: below it stand the keys of all other machines too, and each machine
//! would be told of each change on all of them. A watch on one key is what costs etcd least (a look
//! into a hash map at each write), needs no right to read more than our own keys, and an event
//! that isn't ours never leaves etcd.

use super::EtcdError;
use super::members::{CALL_DEADLINE, Members};
use super::stream::{Change, cancelled, open, received};
use crate::clock::{Moment, now};
use crate::endpoint::Key;
use crate::retry::{ETCD, Retry};
use etcd_client::{Error, WatchResponse, WatchStream};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

/// An event of the watches.
#[derive(Debug)]
pub enum KeyEvent {
    /// The key is watched from now on (again): what happened before has to be read.
    Opened(Key),
    /// A key was put or deleted, at that store revision.
    Changed(Change, i64),
}

/// The interval at which a watch is tried again that our user has no right to. Until then the key is read at each
/// audit.
const DENIED_PAUSE: Duration = Duration::from_secs(30);

/// A refusal on a stream younger than this is about the key; on an older one the stream's login may
/// be out of date, which etcd 3.4 doesn't tell from a missing right.
const FRESH: Duration = Duration::from_secs(10);

/// Why a stream was given up.
enum StreamEnd {
    /// The receiver of the events is gone, or the sender of the keys.
    Deaf,
    /// There was a failover to another member.
    Moved,
    /// The stream failed.
    Broken(EtcdError),
}

impl From<EtcdError> for StreamEnd {
    fn from(fault: EtcdError) -> Self {
        Self::Broken(fault)
    }
}

impl From<Error> for StreamEnd {
    fn from(error: Error) -> Self {
        Self::Broken(error.into())
    }
}

/// Watches the keys of the map that `wanted` holds, whatever its values, and sends to `events`; ends only when the
/// receiver is gone.
///
/// Between an interruption and [`KeyEvent::Opened`] events of a key are lost: the receiver reads the key after it.
pub async fn follow<V>(
    members: Arc<Members>,
    mut wanted: watch::Receiver<BTreeMap<Key, V>>,
    events: mpsc::Sender<KeyEvent>,
) {
    let mut changes = members.changes();
    let mut retry = Retry::new(ETCD);
    let mut denied = Denied::default();
    loop {
        let generation = *changes.borrow_and_update();
        let Some(first) = first_key(&mut wanted, &mut denied).await else {
            return;
        };
        let fault = match open(&members, first.as_str(), None).await {
            Ok(stream) => {
                retry.succeeded(now());
                let session = KeyWatches {
                    stream,
                    wanted: &mut wanted,
                    events: &events,
                    denied: &mut denied,
                    opened: now(),
                    watches: BTreeMap::new(),
                    asked: VecDeque::new(),
                    asked_at: now(),
                    ending: BTreeSet::new(),
                    behind: true,
                };
                // Cancel-safe: what is dropped is the stream, which is to be reopened anyway.
                let end = tokio::select! {
                    end = session.run(first) => end,
                    _ = changes.changed() => StreamEnd::Moved,
                };
                match end {
                    StreamEnd::Deaf => return,
                    StreamEnd::Moved => continue,
                    StreamEnd::Broken(fault) => fault,
                }
            }
            Err(fault @ EtcdError::Refused(_)) => {
                denied.add(&first, &fault);
                fault
            }
            Err(fault) => fault,
        };
        let (now, jitter) = (now(), fastrand::f64());
        if fault.is_the_members() {
            debug!("watch: {fault}");
            members.failed(generation, &fault);
            retry.postpone(now, jitter);
        } else if let Some(notice) = retry.failed(now, jitter) {
            warn!(
                "cannot watch keys in etcd: {fault} ({} times); retrying",
                notice.failures
            );
        }
        sleep(retry.next().unwrap_or(now).saturating_sub(now)).await;
    }
}

/// Keys that our user may not watch, and when they were last tried.
#[derive(Default)]
struct Denied {
    keys: BTreeSet<Key>,
    since: Moment,
}

impl Denied {
    fn add(&mut self, key: &Key, fault: &EtcdError) {
        if self.keys.insert(key.clone()) {
            self.since = now();
            debug!(%key, "cannot watch the key: {fault}; reading it at each --interval");
        }
    }

    fn is_over(&self) -> bool {
        !self.keys.is_empty() && now().saturating_sub(self.since) >= DENIED_PAUSE
    }
}

/// Waits until there is a key to watch. Returns the first that wasn't denied.
async fn first_key<V>(
    wanted: &mut watch::Receiver<BTreeMap<Key, V>>,
    denied: &mut Denied,
) -> Option<Key> {
    let wanted = wanted.wait_for(|keys| !keys.is_empty()).await.ok()?;
    denied.keys.retain(|key| wanted.contains_key(key));
    if let Some(key) = wanted.keys().find(|key| !denied.keys.contains(*key)) {
        return Some(key.clone());
    }
    denied.keys.clear();
    wanted.keys().next().cloned()
}

/// One stream and its watches.
struct KeyWatches<'a, V> {
    stream: (WatchStream, i64),
    wanted: &'a mut watch::Receiver<BTreeMap<Key, V>>,
    events: &'a mpsc::Sender<KeyEvent>,
    denied: &'a mut Denied,
    opened: Moment,
    /// The id that etcd gave each watch; `None` until etcd has answered.
    watches: BTreeMap<Key, Option<i64>>,
    /// Watches that etcd hasn't answered, in the order in which it will.
    asked: VecDeque<Key>,
    asked_at: Moment,
    /// Watches that we cancelled, and that etcd hasn't confirmed.
    ending: BTreeSet<i64>,
    /// The watches may differ from the wanted keys.
    behind: bool,
}

impl<V> KeyWatches<'_, V> {
    async fn run(mut self, first: Key) -> StreamEnd {
        match self.try_run(first).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_run(&mut self, first: Key) -> Result<std::convert::Infallible, StreamEnd> {
        self.opened(first, self.stream.1).await?;
        loop {
            if self.behind || self.denied.is_over() {
                self.keep_up().await?;
            }
            let silent = now().saturating_sub(self.asked_at);
            if !self.asked.is_empty() && silent >= CALL_DEADLINE {
                return Err(StreamEnd::Broken(EtcdError::Timeout(CALL_DEADLINE)));
            }
            // Cancel-safe: a stream keeps a half-read message, a watch channel its mark. (A message
            // that is ready loses nothing by being read after a change.)
            tokio::select! {
                message = self.stream.0.message() => self.hear(message).await?,
                changed = self.wanted.changed() => {
                    changed.map_err(|_| StreamEnd::Deaf)?;
                    self.behind = true;
                }
                () = sleep(CALL_DEADLINE) => {}
            }
        }
    }

    /// Creates the watches that are missing, and cancels those of keys that are no longer wanted.
    async fn keep_up(&mut self) -> Result<(), StreamEnd> {
        if self.denied.is_over() {
            self.denied.keys.clear();
        }
        self.behind = false;
        let (missing, needless) = {
            let wanted = self.wanted.borrow_and_update();
            let missing = wanted
                .keys()
                .filter(|key| !self.watches.contains_key(*key) && !self.denied.keys.contains(*key));
            let missing: Vec<Key> = missing.cloned().collect();
            let mut needless = Vec::new();
            self.watches.retain(|key, id| {
                let ends = id.filter(|_| !wanted.contains_key(key));
                needless.extend(ends);
                ends.is_none()
            });
            (missing, needless)
        };
        for id in needless {
            self.ending.insert(id);
            in_time(self.stream.0.cancel(id)).await?;
        }
        for key in missing {
            in_time(self.stream.0.watch(key.as_str(), None)).await?;
            self.watches.insert(key.clone(), None);
            self.asked.push_back(key);
            self.asked_at = now();
        }
        Ok(())
    }

    async fn hear(
        &mut self,
        message: Result<Option<WatchResponse>, Error>,
    ) -> Result<(), StreamEnd> {
        let message = received(message)?;
        if message.created() {
            self.asked_at = now();
            let unasked =
                || EtcdError::Unreachable("etcd opened a watch that was not requested".to_owned());
            let key = self.asked.pop_front().ok_or_else(unasked)?;
            if !message.canceled() {
                return self.opened(key, message.watch_id()).await;
            }
            let young = now().saturating_sub(self.opened) < FRESH;
            match cancelled(&message) {
                fault @ EtcdError::Refused(_) if young => {
                    self.watches.remove(&key);
                    self.denied.add(&key, &fault);
                }
                fault => return Err(StreamEnd::Broken(fault)),
            }
            return Ok(());
        }
        if message.canceled() && !self.ending.remove(&message.watch_id()) {
            return Err(StreamEnd::Broken(cancelled(&message)));
        }
        for event in message.events() {
            if let Some((change, revision)) = Change::of(event) {
                self.tell(KeyEvent::Changed(change, revision)).await?;
            }
        }
        Ok(())
    }

    async fn opened(&mut self, key: Key, id: i64) -> Result<(), StreamEnd> {
        // The key may no longer be wanted.
        self.behind |= !self.wanted.borrow().contains_key(&key);
        self.watches.insert(key.clone(), Some(id));
        self.tell(KeyEvent::Opened(key)).await
    }

    async fn tell(&self, events: KeyEvent) -> Result<(), StreamEnd> {
        self.events.send(events).await.map_err(|_| StreamEnd::Deaf)
    }
}

/// Sending a request takes no time, unless the connection is stuck.
async fn in_time(sent: impl Future<Output = Result<(), Error>>) -> Result<(), StreamEnd> {
    match timeout(CALL_DEADLINE, sent).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StreamEnd::Broken(EtcdError::Timeout(CALL_DEADLINE))),
    }
}
