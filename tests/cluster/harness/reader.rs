//! A reader of the key: asks again and again, of whichever member answers, and keeps a record of what it saw.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use etcd_client::Client;
use tokio::time::{sleep, timeout};

use super::etcd_members::EtcdMembers;

const PAUSE: Duration = Duration::from_millis(20);

/// A member that takes longer is given up, and the next one asked.
const PATIENCE: Duration = Duration::from_millis(500);

/// Below this an answer was just slow.
const SILENCE: Duration = Duration::from_millis(250);

/// What a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The key.
    Key,
    /// An answer, and no key in it: a gap.
    Gap,
    /// No member that answers.
    Silence,
}

/// Reads the key for as long as the cluster is up.
pub struct Reader {
    changes: Arc<Mutex<Vec<(Instant, Seen)>>>,
}

impl Reader {
    /// Begins to read.
    pub fn of(etcd: &EtcdMembers, key: &'static str) -> Reader {
        let changes = Arc::new(Mutex::new(vec![(Instant::now(), Seen::Silence)]));
        etcd.runtime()
            .spawn(read(etcd.clients(), key, Arc::clone(&changes)));
        Reader { changes }
    }

    /// How long each gap lasted that ended after this time, or has not ended yet; only what lies after it.
    pub fn gaps(&self, since: Instant) -> Vec<Duration> {
        self.stretches(Seen::Gap, since)
    }

    /// How long no member answered, each time that this was long enough to notice.
    pub fn silences(&self, since: Instant) -> Vec<Duration> {
        let mut silences = self.stretches(Seen::Silence, since);
        silences.retain(|silence| *silence >= SILENCE);
        silences
    }

    fn stretches(&self, what: Seen, since: Instant) -> Vec<Duration> {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = changes.iter().skip(1).map(|(at, _)| *at);
        let stretches = changes.iter().zip(ends.chain([Instant::now()]));
        let stretches = stretches.filter(|((_, seen), end)| *seen == what && *end > since);
        let lengths = stretches.map(|((from, _), end)| end - (*from).max(since));
        lengths.collect()
    }
}

async fn read(clients: Vec<Client>, key: &str, changes: Arc<Mutex<Vec<(Instant, Seen)>>>) {
    let mut member = 0;
    loop {
        let asked = Instant::now();
        let mut client = clients[member].clone();
        let seen = match timeout(PATIENCE, client.get(key, None)).await {
            Ok(Ok(answer)) if answer.kvs().is_empty() => Seen::Gap,
            Ok(Ok(_)) => Seen::Key,
            _ => {
                member = (member + 1) % clients.len();
                Seen::Silence
            }
        };
        // Silence began with the question, an answer is as old as its arrival.
        let silent = seen == Seen::Silence;
        let at = if silent { asked } else { Instant::now() };
        note(&changes, at, seen);
        sleep(PAUSE).await;
    }
}

fn note(changes: &Mutex<Vec<(Instant, Seen)>>, at: Instant, seen: Seen) {
    let mut changes = changes.lock().unwrap_or_else(PoisonError::into_inner);
    if changes.last().is_none_or(|(_, last)| *last != seen) {
        changes.push((at, seen));
    }
}
