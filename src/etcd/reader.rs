//! Everything below a prefix: a snapshot, then the changes, for ever.
//!
//! Whenever the stream is lost (a member that dies or hangs, a compaction, a cluster restored from
//! elsewhere) there is a snapshot again, and the receiver compares. So what happened in between need not be
//! known, and no revision is ever trusted across a gap.

pub use super::stream::Change;

use super::EtcdError;
use super::members::Members;
use super::stream::{LARGEST_MESSAGE, cancelled, open, received};
use crate::clock::{Moment, now};
use crate::log_throttle::LogThrottle;
use crate::retry::{ETCD, Retry};
use crate::systemd::Pulse;
use etcd_client::{Client, Error, GetOptions, KeyValue, ResponseHeader, WatchOptions, WatchStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

/// What the reader sends.
#[derive(Debug)]
pub enum Update {
    /// All keys below the prefix.
    Snapshot(Vec<KeyValue>),
    /// The changes since, in etcd's order, and when they came.
    Changes(Vec<Change>, Moment),
}

/// The most keys in one answer: 10,000 instances are some 2 MB in ten answers.
const PAGE: i64 = 1_000;

/// The interval of the probes while a watch is open: a member that is cut off or frozen just falls silent. A
/// probe reads a count of keys. With [`CALL_DEADLINE`] for the answer, it takes at most 4 s until the failover.
///
/// [`CALL_DEADLINE`]: super::members::CALL_DEADLINE
const PROBE: Duration = Duration::from_secs(2);

/// The interval at which everything is read again although the watch works.
const RESYNC: Duration = Duration::from_secs(300);

/// Which history a revision belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct History {
    cluster: u64,
    revision: i64,
}

impl History {
    fn of(header: Option<&ResponseHeader>) -> Result<Self, EtcdError> {
        let header = header
            .ok_or_else(|| EtcdError::Unreachable("an answer without a header".to_owned()))?;
        Ok(Self {
            cluster: header.cluster_id(),
            revision: header.revision(),
        })
    }

    /// Whether `later` can't be a later revision of the same history.
    const fn is_broken_by(self, later: Self) -> bool {
        self.cluster != later.cluster || later.revision < self.revision
    }
}

/// Why a watch ended.
enum RoundEnd {
    /// The receiver is gone.
    Deaf,
    /// There was a failover, or the resync is due.
    Renew,
    /// etcd has compacted the revisions up to this one.
    Compacted(i64),
    /// etcd has another history.
    Restored,
    /// The stream failed.
    Broken(EtcdError),
}

/// Reads every key below `prefix` (no slash at its end) and sends to `updates`; ends only when the receiver is
/// gone.
pub async fn read(
    members: Arc<Members>,
    prefix: String,
    updates: mpsc::Sender<Update>,
    pulse: Pulse,
) {
    let mut reader = Reader {
        members,
        prefix,
        updates,
        pulse,
        page: PAGE,
        history: None,
        resets: LogThrottle::default(),
        compactions: LogThrottle::default(),
    };
    let mut retry = Retry::new(ETCD);
    loop {
        reader.pulse.beat();
        let generation = *reader.members.changes().borrow();
        let fault = match reader.round().await {
            Ok(RoundEnd::Deaf) => return,
            Ok(RoundEnd::Renew) => {
                retry.succeeded(now());
                continue;
            }
            Ok(RoundEnd::Compacted(revision)) => {
                if let Some(notice) = reader.compactions.happened(now()) {
                    let n = notice.failures;
                    info!(
                        "etcd has compacted revision {revision} ({n} times); reading all keys again"
                    );
                }
                continue;
            }
            // The next snapshot logs it.
            Ok(RoundEnd::Restored) => continue,
            Ok(RoundEnd::Broken(fault)) => {
                retry.reset_backoff();
                fault
            }
            Err(fault) => fault,
        };
        let (now, jitter) = (now(), fastrand::f64());
        if fault.is_the_members() {
            debug!("reading {}: {fault}", reader.prefix);
            reader.members.failed(generation, &fault);
            retry.postpone(now, jitter);
        } else if let Some(notice) = retry.failed(now, jitter) {
            warn!(
                "cannot read {}: {fault} ({} times); retrying, the last known keys stay in use",
                reader.prefix, notice.failures
            );
        }
        sleep(retry.next().unwrap_or(now).saturating_sub(now)).await;
    }
}

struct Reader {
    members: Arc<Members>,
    prefix: String,
    updates: mpsc::Sender<Update>,
    pulse: Pulse,
    page: i64,
    history: Option<History>,
    /// Throttle the lines about other histories and about compactions.
    resets: LogThrottle,
    compactions: LogThrottle,
}

impl Reader {
    /// One snapshot and the watch after it.
    async fn round(&mut self) -> Result<RoundEnd, EtcdError> {
        let mut changes = self.members.changes();
        changes.borrow_and_update();
        let (kvs, history) =
            snapshot(&self.members, &self.prefix, &mut self.page, &self.pulse).await?;
        if self
            .history
            .is_some_and(|before| before.is_broken_by(history))
            && let Some(notice) = self.resets.happened(now())
        {
            warn!(
                "etcd is another cluster than before, or its revision went back ({} times); reading all keys again",
                notice.failures
            );
        }
        self.history = Some(history);
        debug!(revision = history.revision, "read {} keys", kvs.len());
        if !self.tell(Update::Snapshot(kvs)).await {
            return Ok(RoundEnd::Deaf);
        }
        let mut stream = self.watch(history.revision + 1).await?;
        let resync = Instant::now() + RESYNC;
        let mut probe = Instant::now() + PROBE;
        loop {
            self.pulse.beat();
            // All cancel-safe: a watch channel keeps its mark, a stream a half-read message, and a
            // sleep has no effect. The probe itself runs in its arm, where nothing cancels it.
            tokio::select! {
                _ = changes.changed() => return Ok(RoundEnd::Renew),
                message = stream.message() => match changes_of(message) {
                    Err(end) => return Ok(end),
                    Ok(changes) if changes.is_empty() => {}
                    Ok(changes) => if !self.tell(Update::Changes(changes, now())).await {
                        return Ok(RoundEnd::Deaf);
                    },
                },
                () = sleep_until(probe) => {
                    if Instant::now() > resync {
                        return Ok(RoundEnd::Renew);
                    }
                    match self.probe().await {
                        Ok(now) if history.is_broken_by(now) => return Ok(RoundEnd::Restored),
                        // A member that doesn't answer changes the generation, and so ends this.
                        Ok(_) | Err(_) => probe = Instant::now() + PROBE,
                    }
                }
            }
        }
    }

    /// Sends an update; `false` when the receiver is gone. Beats for the watchdog while the receiver is busy.
    async fn tell(&self, update: Update) -> bool {
        loop {
            // Cancel-safe: a permit that isn't used goes back.
            tokio::select! {
                permit = self.updates.reserve() => {
                    return permit.map(|permit| permit.send(update)).is_ok();
                }
                () = sleep(PROBE) => self.pulse.beat(),
            }
        }
    }

    async fn probe(&self) -> Result<History, EtcdError> {
        let options = GetOptions::new().with_count_only();
        // Below the prefix, which is all that our user may have the right to read.
        let key = format!("{}/", self.prefix).into_bytes();
        let answer = self
            .members
            .call(|client| get(client, key.clone(), options.clone()))
            .await?;
        History::of(answer.header())
    }

    async fn watch(&self, from: i64) -> Result<WatchStream, EtcdError> {
        // In fragments: a thousand large values that change at once don't fit in one message.
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(from)
            .with_fragment();
        let key = format!("{}/", self.prefix);
        Ok(open(&self.members, &key, Some(options)).await?.0)
    }
}

/// Everything below `prefix`, once; each member is asked in turn.
///
/// # Errors
/// No member answers, or etcd refuses.
pub async fn once(members: &Members, prefix: &str) -> anyhow::Result<Vec<KeyValue>> {
    let pulse = Pulse::default();
    let all = async || snapshot(members, prefix, &mut PAGE.clone(), &pulse).await;
    Ok(members.try_each(all).await?.0)
}

/// All keys at one revision, page by page.
async fn snapshot(
    members: &Members,
    prefix: &str,
    size: &mut i64,
    pulse: &Pulse,
) -> Result<(Vec<KeyValue>, History), EtcdError> {
    let mut all: Vec<KeyValue> = Vec::new();
    let mut history: Option<History> = None;
    // The byte after '/'.
    let end = format!("{prefix}0");
    loop {
        let start = all.last().map_or_else(
            || format!("{prefix}/").into_bytes(),
            |last| [last.key(), b"\0"].concat(),
        );
        let mut options = GetOptions::new().with_range(end.clone()).with_limit(*size);
        if let Some(history) = history {
            options = options.with_revision(history.revision);
        }
        let answer = members
            .call(|client| get(client, start.clone(), options.clone()))
            .await;
        pulse.beat();
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(EtcdError::Refused(why)) if why.contains("too large") && *size > 1 => {
                *size = (*size / 8).max(1);
                continue;
            }
            Err(fault) => return Err(fault),
        };
        let now = History::of(answer.header())?;
        let first = *history.get_or_insert(now);
        if first.cluster != now.cluster {
            return Err(EtcdError::Unreachable(
                "two members of different clusters answered".to_owned(),
            ));
        }
        let more = answer.more();
        all.append(&mut answer.take_kvs());
        if !more {
            return Ok((all, first));
        }
    }
}

async fn get(
    client: Client,
    key: Vec<u8>,
    options: GetOptions,
) -> Result<etcd_client::GetResponse, Error> {
    let mut client = client
        .kv_client()
        .max_decoding_message_size(LARGEST_MESSAGE);
    client.get(key, Some(options)).await
}

fn changes_of(
    message: Result<Option<etcd_client::WatchResponse>, Error>,
) -> Result<Vec<Change>, RoundEnd> {
    let message = received(message).map_err(RoundEnd::Broken)?;
    if message.compact_revision() > 0 {
        return Err(RoundEnd::Compacted(message.compact_revision()));
    }
    if message.canceled() {
        return Err(RoundEnd::Broken(cancelled(&message)));
    }
    let changes = message.events().iter().filter_map(Change::of);
    Ok(changes.map(|(change, _)| change).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_goes_on_or_is_another() {
        let before = History {
            cluster: 1,
            revision: 10,
        };
        for (cluster, revision, broken) in
            [(1, 10, false), (1, 11, false), (1, 9, true), (2, 11, true)]
        {
            assert_eq!(
                before.is_broken_by(History { cluster, revision }),
                broken,
                "{cluster} {revision}"
            );
        }
    }
}
