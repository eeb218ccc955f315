//! A record of what happened to a key.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use etcd_client::{Client, EventType, WatchOptions};
use tokio::task::JoinHandle;

use super::wait::{SOON, eventually};

/// Everything that happened to one key, in order, since the record was opened.
pub struct WatchLog {
    client: Client,
    sentinel: String,
    opened: Instant,
    changes: Arc<Mutex<Vec<Change>>>,
    reader: JoinHandle<()>,
}

/// One change of the key.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was seen.
    pub at: Instant,
    /// The value that was put, or nothing where the key was deleted.
    pub put: Option<String>,
    /// The lease that it hangs on; 0: none.
    pub lease: i64,
    key: String,
}

impl WatchLog {
    /// Opens a record.
    pub async fn of(client: &Client, key: &str) -> WatchLog {
        let changes = Arc::new(Mutex::new(Vec::new()));
        // A key beside the one that is watched, for `so_far` to put.
        let sentinel = format!("{key}~watched");
        let options = Some(WatchOptions::new().with_range(format!("{key}~watched\0")));
        let mut stream = client
            .watch_client()
            .watch(key, options)
            .await
            .expect("no watch can be opened");
        stream
            .message()
            .await
            .expect("the watch breaks")
            .expect("the watch ends");
        let seen = Arc::clone(&changes);
        let reader = tokio::spawn(async move {
            while let Ok(Some(answer)) = stream.message().await {
                let mut seen = seen.lock().expect("a reader of the record panicked");
                seen.extend(answer.events().iter().filter_map(|event| {
                    let kv = event.kv()?;
                    let put = (event.event_type() == EventType::Put)
                        .then(|| String::from_utf8_lossy(kv.value()).into_owned());
                    Some(Change {
                        at: Instant::now(),
                        put,
                        lease: kv.lease(),
                        key: String::from_utf8_lossy(kv.key()).into_owned(),
                    })
                }));
            }
        });
        WatchLog {
            client: client.clone(),
            sentinel,
            opened: Instant::now(),
            changes,
            reader,
        }
    }

    /// What happened to the key up to now, certainly complete.
    pub async fn so_far(&self) -> Vec<Change> {
        let before = self.sentinels();
        self.client
            .kv_client()
            .put(&*self.sentinel, "", None)
            .await
            .expect("etcd takes no sentinel");
        eventually(SOON, "the record catches up", async || {
            self.sentinels() > before
        })
        .await;
        self.all()
            .into_iter()
            .filter(|change| change.key != self.sentinel)
            .collect()
    }

    /// Whether the key was deleted or expired at any time up to now.
    pub async fn has_a_gap(&self) -> bool {
        self.so_far()
            .await
            .iter()
            .any(|change| change.put.is_none())
    }

    /// For how long nothing has happened.
    pub async fn quiet_for(&self) -> Duration {
        let changes = self.so_far().await;
        changes
            .last()
            .map_or(self.opened, |change| change.at)
            .elapsed()
    }

    fn all(&self) -> Vec<Change> {
        self.changes
            .lock()
            .expect("a writer of the record panicked")
            .clone()
    }

    fn sentinels(&self) -> usize {
        self.all()
            .iter()
            .filter(|change| change.key == self.sentinel)
            .count()
    }
}

impl Drop for WatchLog {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
