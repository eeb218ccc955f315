//! Keeps the agent's control keys in etcd, on a lease of their own. The only task of the agent that writes to etcd.
//!
//! Nothing is written but what differs. Whoever may not read or write there does without, and says so once: HAProxy is
//! kept in step all the same.

use super::control_loop::draining::ControlKeys;
use crate::clock::{Moment, now};
use crate::endpoint::control::ControlPrefix;
use crate::etcd::EtcdError;
use crate::etcd::members::Members;
use crate::retry::{ETCD, Retry};
use crate::systemd::Pulse;
use etcd_client::{Client, Error, GetOptions, KeyValue, PutOptions, Txn, TxnOp};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

/// How long the keys outlive a dead agent, in seconds: an announcer that drains waits in vain for one that is dead.
const TTL_SECONDS: i64 = 15;

/// How often the lease is renewed: three times within its TTL. That is no write.
const RENEWAL: Duration = Duration::from_secs(5);

/// How often the keys are read back.
const AUDIT: Duration = Duration::from_secs(60);

/// How long after a refusal it is tried again. A refused write takes etcd as much as another.
const AFTER_REFUSAL: Duration = Duration::from_secs(600);

/// The most operations in one transaction: etcd's default for `--max-txn-ops`.
const MAX_OPS: usize = 128;

/// How long the revocation may take at the end.
const REVOKE_DEADLINE: Duration = Duration::from_secs(1);

/// The longest wait: timers stand still while the machine is suspended, and the watchdog wants to hear.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The task's inputs.
#[derive(Debug)]
pub(crate) struct ControlWriter {
    pub(crate) members: Arc<Members>,
    pub(crate) control: ControlPrefix,
    pub(crate) id: String,
    /// The keys that etcd is to have. The task ends when the sender is gone.
    pub(crate) desired: watch::Receiver<ControlKeys>,
    pub(crate) pulse: Pulse,
}

/// What is known of etcd.
#[derive(Debug, Default)]
struct Known {
    /// 0: none.
    lease: i64,
    renew_at: Moment,
    /// The agent's keys and their values; `None`: on another lease. `None` as a whole: they have to be read.
    keys: Option<BTreeMap<String, Option<String>>>,
    read_at: Moment,
}

impl ControlWriter {
    /// Keeps the keys until their sender is gone; then revokes the lease.
    pub(crate) async fn run(mut self) {
        let (mut known, mut retry) = (Known::default(), Retry::new(ETCD));
        let mut refused = false;
        loop {
            self.pulse.beat();
            let pause = match self.step(&mut known).await {
                Ok(until) => {
                    retry.succeeded(now());
                    if std::mem::take(&mut refused) {
                        info!("the agent's keys below {} are written now", self.control);
                    }
                    until.saturating_sub(now())
                }
                Err(error @ (EtcdError::Refused(_) | EtcdError::Auth(_))) => {
                    if !std::mem::replace(&mut refused, true) {
                        self.warn(&error);
                    }
                    // The lease ends with its TTL: renewing one without keys is of no use.
                    known = Known::default();
                    AFTER_REFUSAL
                }
                Err(error) => {
                    known.failed(&error);
                    retry.postpone(now(), fastrand::f64());
                    retry.next().unwrap_or_default().saturating_sub(now())
                }
            };
            let end = now() + pause;
            if !self.wait(end, refused).await {
                break;
            }
        }
        known.revoke(&self.members).await;
    }

    fn warn(&self, error: &EtcdError) {
        let control = &self.control;
        warn!(
            "cannot keep the agent's keys below {control}: {error}; announcers that drain will wait for all of --drain. \
             Give the user the right to read and write {control}/agents/, or stop using --drain; it is tried again \
             every {} minutes",
            AFTER_REFUSAL.as_secs() / 60
        );
    }

    /// Waits until then, or until other keys are desired; `deaf`: until then in any case. `false`: the sender is gone.
    async fn wait(&mut self, end: Moment, deaf: bool) -> bool {
        loop {
            self.pulse.beat();
            let pause = end.saturating_sub(now()).min(LONGEST_WAIT);
            if pause.is_zero() {
                return true;
            }
            // Cancel-safe, both: a channel keeps its mark, a sleep has no effect.
            tokio::select! {
                changed = self.desired.changed() => match changed {
                    Ok(()) if deaf => {}
                    Ok(()) => return true,
                    Err(_) => return false,
                },
                () = sleep(pause) => {}
            }
        }
    }

    /// Does what is due, and returns when it is due next.
    async fn step(&mut self, known: &mut Known) -> Result<Moment, EtcdError> {
        let desired = self.desired.borrow_and_update().clone();
        if desired.is_empty() && known.lease == 0 {
            return Ok(now() + LONGEST_WAIT);
        }
        if known.lease != 0 && now() >= known.renew_at {
            known.renew(&self.members).await?;
        }
        if known.keys.is_none() || now() >= known.read_at {
            known
                .read(&self.members, &self.control.agent(&self.id))
                .await?;
        }
        if known.lease == 0 {
            known.grant(&self.members).await?;
        }
        known.write(&self.members, &desired).await?;
        Ok(known.renew_at.min(known.read_at))
    }
}

impl Known {
    /// After a request of which the outcome is unknown everything is read again; a lease that is gone is asked for again.
    fn failed(&mut self, error: &EtcdError) {
        self.keys = None;
        if matches!(error, EtcdError::NotFound(_)) {
            self.lease = 0;
        }
    }

    async fn grant(&mut self, members: &Members) -> Result<(), EtcdError> {
        let granted = members
            .call(|mut client| async move { client.lease_grant(TTL_SECONDS, None).await })
            .await?;
        self.lease = granted.id();
        self.renew_at = now() + RENEWAL;
        // What stands there is on another lease.
        for value in self.keys.iter_mut().flat_map(BTreeMap::values_mut) {
            *value = None;
        }
        Ok(())
    }

    async fn renew(&mut self, members: &Members) -> Result<(), EtcdError> {
        let lease = self.lease;
        members
            .call(|mut client| async move { client.lease_keep_alive(lease).await })
            .await?;
        self.renew_at = now() + RENEWAL;
        Ok(())
    }

    /// Reads the agent's own key, and all below it.
    async fn read(&mut self, members: &Members, own: &str) -> Result<(), EtcdError> {
        let below = format!("{own}/");
        let found = members.call(|client| read(client, own, &below)).await?;
        let keys = found.into_iter().filter_map(|kv| {
            let key = String::from_utf8(kv.key().to_vec()).ok()?;
            let ours = self.lease != 0 && kv.lease() == self.lease;
            let value = String::from_utf8(kv.value().to_vec()).ok();
            Some((key, value.filter(|_| ours)))
        });
        self.keys = Some(keys.collect());
        self.read_at = now() + AUDIT;
        Ok(())
    }

    /// Writes what differs. Words that are no longer true go first.
    async fn write(&mut self, members: &Members, desired: &ControlKeys) -> Result<(), EtcdError> {
        let keys = self.keys.get_or_insert_default();
        let surplus = keys.keys().filter(|key| !desired.contains_key(*key));
        let deletes = surplus.map(|key| (key.clone(), None));
        let missing = desired.iter();
        let missing =
            missing.filter(|(key, value)| keys.get(*key) != Some(&Some((*value).clone())));
        let puts = missing.map(|(key, value)| (key.clone(), Some(value.clone())));
        let writes: Vec<(String, Option<String>)> = deletes.chain(puts).collect();
        for batch in writes.chunks(MAX_OPS) {
            let lease = self.lease;
            members.call(|client| write(client, lease, batch)).await?;
            let keys = self.keys.get_or_insert_default();
            for (key, value) in batch {
                match value {
                    Some(value) => drop(keys.insert(key.clone(), Some(value.clone()))),
                    None => drop(keys.remove(key)),
                }
            }
        }
        Ok(())
    }

    /// All keys go with the lease.
    async fn revoke(&self, members: &Members) {
        let lease = self.lease;
        if lease != 0 {
            let revoke = members.call(|mut client| async move { client.lease_revoke(lease).await });
            let _ = timeout(REVOKE_DEADLINE, revoke).await;
        }
    }
}

async fn read(client: Client, own: &str, below: &str) -> Result<Vec<KeyValue>, Error> {
    let mut client = client.kv_client();
    let mut all = client.get(own, None).await?.take_kvs();
    let options = GetOptions::new().with_prefix();
    all.append(&mut client.get(below, Some(options)).await?.take_kvs());
    Ok(all)
}

async fn write(
    mut client: Client,
    lease: i64,
    writes: &[(String, Option<String>)],
) -> Result<(), Error> {
    let ops = writes.iter().map(|(key, value)| match value {
        Some(value) => {
            let on_lease = PutOptions::new().with_lease(lease);
            TxnOp::put(key.as_str(), value.as_str(), Some(on_lease))
        }
        None => TxnOp::delete(key.as_str(), None),
    });
    let ops: Vec<_> = ops.collect();
    client.txn(Txn::new().and_then(ops)).await.map(drop)
}
