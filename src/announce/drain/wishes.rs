//! The operators' wishes for the keys that this process claims: read, then watched. Their watch is a stream of its
//! own, so that a missing right to the control keys is nothing to the watch on the keys.

use super::overlay::KnownWishes;
use crate::clock::{Moment, now};
use crate::endpoint::Key;
use crate::endpoint::control::{ControlKey, ControlPrefix, DrainWish, InstanceName};
use crate::etcd::EtcdError;
use crate::etcd::members::Members;
use crate::etcd::reader;
use crate::etcd::stream::Change;
use crate::etcd::watch::{KeyEvent, follow};
use crate::retry::{ETCD, Retry};
use etcd_client::{GetOptions, GetResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{debug, info, warn};

/// The capacity of the channel from the watch; more events wait in etcd.
const EVENTS_WAITING: usize = 64;

/// The interval at which the wishes are tried again that our user has no right to.
const DENIED_PAUSE: Duration = Duration::from_secs(30);

/// The longest wait: timers stand still while the machine is suspended.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// All wishes, by instance, once: for the commands that show them. Who has no right to read them does without.
pub async fn read_once(
    members: &Members,
    control: &ControlPrefix,
) -> BTreeMap<InstanceName, DrainWish> {
    let kvs = match reader::once(members, &control.wishes()).await {
        Ok(kvs) => kvs,
        Err(error) => {
            debug!("cannot read drain wishes: {error:#}");
            return BTreeMap::new();
        }
    };
    let wishes = kvs.iter().filter_map(|kv| match control.parse(kv.key())? {
        ControlKey::Wish(name) => Some((name, DrainWish::decode(kv.value()))),
        ControlKey::Agent(_) | ControlKey::Word(..) => None,
    });
    wishes.collect()
}

/// Where the wishes come from and go to.
#[derive(Debug)]
pub struct WishReader {
    /// The members of the etcd cluster.
    pub members: Arc<Members>,
    /// Where the wishes stand.
    pub control: ControlPrefix,
    /// All wishes are read again this often, although the watch works.
    pub interval: Duration,
    /// The keys that are claimed.
    pub claimed: watch::Receiver<BTreeSet<Key>>,
    /// The wishes for them.
    pub wishes: watch::Sender<KnownWishes>,
}

/// What is known of the wishes.
struct WishState {
    /// The claimed keys, by the keys of their wishes.
    claimed: BTreeMap<Key, Key>,
    /// The store revision as of which each wish is known.
    as_of: BTreeMap<Key, i64>,
    /// When the wishes are read next.
    read_at: Moment,
    retry: Retry,
    denied: bool,
}

impl WishReader {
    /// Reads for ever; ends only when the sender of the claimed keys is gone.
    pub async fn run(mut self) {
        let (wanted_tx, wanted) = watch::channel(BTreeMap::new());
        let (events_tx, mut events) = mpsc::channel(EVENTS_WAITING);
        let mut watching = std::pin::pin!(follow(self.members.clone(), wanted, events_tx));
        let mut state = WishState {
            claimed: BTreeMap::new(),
            as_of: BTreeMap::new(),
            read_at: now(),
            retry: Retry::new(ETCD),
            denied: false,
        };
        self.claim(&mut state);
        loop {
            if now() >= state.read_at && !state.claimed.is_empty() {
                self.read(&mut state).await;
                // What can't be read can't be watched: each try would be refused, and logged.
                wanted_tx.send_if_modified(|wanted| {
                    let keys = match state.denied {
                        true => BTreeMap::new(),
                        false => state.claimed.clone(),
                    };
                    let changed = *wanted != keys;
                    *wanted = keys;
                    changed
                });
            }
            let pause = state.read_at.saturating_sub(now()).min(LONGEST_WAIT);
            // Cancel-safe: the watch is polled by reference, channels keep what isn't received, a sleep has no
            // effect.
            tokio::select! {
                () = &mut watching => return,
                changed = self.claimed.changed() => match changed {
                    Ok(()) => self.claim(&mut state),
                    Err(_) => return,
                },
                Some(event) = events.recv() => self.hear(&mut state, event),
                () = sleep(pause) => {}
            }
        }
    }

    /// Takes over which keys are claimed; the wishes for new ones are read at once.
    fn claim(&mut self, state: &mut WishState) {
        let keys = self.claimed.borrow_and_update().clone();
        if keys
            .iter()
            .any(|key| !self.wishes.borrow().contains_key(key))
        {
            state.read_at = now();
        }
        let wish = |key: &Key| self.control.wish(&InstanceName::from(key)).parse().ok();
        let by_wish = keys
            .iter()
            .filter_map(|key| Some((wish(key)?, key.clone())));
        state.claimed = by_wish.collect();
        state.as_of.retain(|key, _| keys.contains(key));
        self.wishes.send_if_modified(|wishes| {
            let before = wishes.len();
            wishes.retain(|key, _| keys.contains(key));
            // A key that is so long that no wish for it can be written.
            let claimed: BTreeSet<_> = state.claimed.values().collect();
            for key in keys.iter().filter(|key| !claimed.contains(key)) {
                wishes.insert(key.clone(), None);
            }
            wishes.len() != before
        });
    }

    /// Reads all wishes below the control prefix: there are few, and one request finds them.
    async fn read(&mut self, state: &mut WishState) {
        let below = format!("{}/", self.control.wishes());
        let ask = |client: etcd_client::Client| {
            let (below, options) = (below.clone(), GetOptions::new().with_prefix());
            async move { client.kv_client().get(below, Some(options)).await }
        };
        let began = now();
        match self.members.call(ask).await {
            Ok(answer) => {
                if std::mem::take(&mut state.denied) {
                    info!("etcd lets us read drain wishes again");
                }
                state.retry.succeeded(began);
                state.read_at = began + self.interval;
                self.learn(state, &answer);
            }
            Err(error @ EtcdError::Refused(_)) => {
                if !std::mem::replace(&mut state.denied, true) {
                    let control = &self.control;
                    warn!("cannot read {control}: {error}; `sidekick drain` has no effect here");
                }
                state.read_at = began + DENIED_PAUSE;
                // Without the right there is no wish for us; what was known stays.
                let keys: Vec<_> = state.claimed.values().cloned().collect();
                self.wishes.send_if_modified(|wishes| {
                    let before = wishes.len();
                    for key in keys {
                        wishes.entry(key).or_insert(None);
                    }
                    wishes.len() != before
                });
            }
            Err(error) => {
                let jitter = fastrand::f64();
                if error.is_the_members() {
                    state.retry.postpone(began, jitter);
                } else if let Some(notice) = state.retry.failed(began, jitter) {
                    let times = notice.failures;
                    warn!("cannot read drain wishes: {error} ({times} times); retrying");
                }
                state.read_at = state.retry.next().unwrap_or(began);
            }
        }
    }

    fn learn(&self, state: &mut WishState, answer: &GetResponse) {
        let revision = answer.header().map_or(0, |header| header.revision());
        let found: BTreeMap<_, _> = answer.kvs().iter().map(|kv| (kv.key(), kv)).collect();
        for (wish, key) in state.claimed.clone() {
            let wish = found.get(wish.as_str().as_bytes());
            let wish = wish.map(|kv| DrainWish::decode(kv.value()));
            // The history may be another one than before: what is read counts, whatever its revision.
            state.as_of.insert(key.clone(), revision);
            self.publish(key, wish);
        }
    }

    fn hear(&self, state: &mut WishState, event: KeyEvent) {
        let (wish, value, revision) = match event {
            // What happened before has to be read.
            KeyEvent::Opened(_) => {
                state.read_at = now();
                return;
            }
            KeyEvent::Changed(Change::Put(kv), revision) => {
                let wish = DrainWish::decode(kv.value());
                (kv.key().to_vec(), Some(wish), revision)
            }
            KeyEvent::Changed(Change::Deleted(key), revision) => (key, None, revision),
        };
        let wish = std::str::from_utf8(&wish)
            .ok()
            .and_then(|it| it.parse().ok());
        let Some(key) = wish.and_then(|wish: Key| state.claimed.get(&wish).cloned()) else {
            return;
        };
        let as_of = state.as_of.entry(key.clone()).or_default();
        if revision > *as_of {
            *as_of = revision;
            self.publish(key, value);
        }
    }

    fn publish(&self, key: Key, wish: Option<DrainWish>) {
        self.wishes.send_if_modified(|wishes| {
            let before = wishes.get(&key).cloned();
            if before.as_ref() == Some(&wish) {
                return false;
            }
            match (&before, &wish) {
                (_, Some(wish)) => info!(%key, "an operator wishes that the instance drains{wish}"),
                (Some(Some(_)), None) => info!(%key, "the wish that the instance drains is gone"),
                _ => {}
            }
            wishes.insert(key, wish);
            true
        });
    }
}
