//! Everything that ever happened below /services, with the time at which it was heard of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcd_client::{Client, EventType, WatchOptions};

use super::SOON;
use super::etcd_members::EtcdMembers;
use sidekick_harness::blocking::eventually;

/// A key behind all keys below /services/, within what is watched.
const SENTINEL: &str = "/services~";

/// A watch on every member at once, so that none that dies or freezes delays the news.
pub struct History {
    changes: Arc<Mutex<Changes>>,
}

/// By revision and key: each is heard of from three members, and told once.
type Changes = BTreeMap<(i64, String), Change>;

/// One change of a key.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was heard of.
    pub at: SystemTime,
    /// The same on the clock that stands never back.
    pub instant: Instant,
    /// What was put, or nothing where the key was deleted or expired.
    pub put: Option<String>,
}

impl Change {
    /// When it was heard of, in seconds since 1970.
    pub fn unix_seconds(&self) -> f64 {
        let since_1970 = self.at.duration_since(UNIX_EPOCH);
        since_1970.expect("a time after 1970").as_secs_f64()
    }
}

/// Now, in seconds since 1970.
pub fn unix_seconds() -> f64 {
    UNIX_EPOCH
        .elapsed()
        .expect("a time after 1970")
        .as_secs_f64()
}

impl History {
    /// Opens the watches.
    pub fn of(etcd: &EtcdMembers) -> History {
        let changes = Arc::default();
        for client in etcd.clients() {
            etcd.runtime().spawn(follow(client, Arc::clone(&changes)));
        }
        History { changes }
    }

    /// What happened to a key after a revision, certainly complete: etcd has to take a put for it.
    #[track_caller]
    pub fn of_key(&self, etcd: &EtcdMembers, key: &str, after: i64) -> Vec<Change> {
        let now = etcd.put(SENTINEL, b"").expect("etcd takes a sentinel");
        eventually(SOON, "the history is complete", || {
            let changes = self.lock();
            let last = changes.last_key_value();
            last.is_some_and(|((revision, _), _)| *revision >= now)
        });
        let changes = self.lock();
        let later = changes.range((after + 1, String::new())..);
        let its = later.filter(|((_, k), _)| k == key);
        its.map(|(_, change)| change.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Begins again where it broke off, for ever.
async fn follow(mut client: Client, changes: Arc<Mutex<Changes>>) {
    let mut next = 1;
    loop {
        let options = WatchOptions::new()
            .with_range("/services\x7f")
            .with_start_revision(next);
        let opened = client.watch("/services", Some(options));
        let opened = tokio::time::timeout(Duration::from_secs(2), opened).await;
        if let Ok(Ok(mut stream)) = opened {
            while let Ok(Some(answer)) = stream.message().await {
                let (at, instant) = (SystemTime::now(), Instant::now());
                next = next.max(answer.compact_revision());
                for event in answer.events() {
                    let Some(kv) = event.kv() else { continue };
                    next = kv.mod_revision() + 1;
                    let put = (event.event_type() == EventType::Put)
                        .then(|| String::from_utf8_lossy(kv.value()).into_owned());
                    let key = String::from_utf8_lossy(kv.key()).into_owned();
                    let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
                    changes
                        .entry((kv.mod_revision(), key))
                        .or_insert(Change { at, instant, put });
                }
                if answer.canceled() {
                    break;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
