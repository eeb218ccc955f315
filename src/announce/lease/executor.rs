//! Sends the registrar's requests to etcd. The only writer to etcd; it makes no decisions.

use super::event_log::LeaseEventLog;
use super::metrics::LeaseMetrics;
use super::protocol::{
    DesiredKeys, Entry, Header, KeyStatuses, Op, Request, Response, Step, Version,
};
use super::registrar::{LeaseSettings, Registrar};
use super::shutdown_report::ShutdownReport;
use crate::announce::policy::layouts::Layouts;
use crate::clock::now;
use crate::endpoint::Key;
use crate::etcd::EtcdError;
use crate::etcd::members::Members;
use crate::etcd::stream::Change;
use crate::etcd::watch::KeyEvent;
use crate::log_throttle::LogThrottle;
use crate::retry::{ETCD, Retry};
use crate::shutdown::Shutdown;
use crate::systemd::Pulse;
use etcd_client::{
    Client, Compare, CompareOp, Error, KeyValue, LeaseGrantOptions, PutOptions, ResponseHeader,
    Txn, TxnOp, TxnOpResponse,
};
use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

/// How long the revocation of the lease, or the hand-over of the keys, may take after a stop was requested. After that the keys remain until
/// their TTL ends. The process exits within 5 s.
pub const REVOKE_DEADLINE: Duration = Duration::from_millis(4_500);

/// The longest wait of an idle loop: timers stand still while the machine is suspended.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The channels of the one task that writes to etcd.
#[derive(Debug)]
pub struct Executor {
    /// The members of the etcd cluster.
    pub members: Arc<Members>,
    /// The desired keys.
    pub desired: watch::Receiver<DesiredKeys>,
    /// The further keys of each instance.
    pub layouts: Layouts,
    /// The events of etcd's watch.
    pub key_events: mpsc::Receiver<KeyEvent>,
    /// The status of each key.
    pub statuses: watch::Sender<KeyStatuses>,
    /// The loop's heartbeat for the watchdog.
    pub pulse: Pulse,
    /// What is counted for `/metrics`.
    pub metrics: LeaseMetrics,
    /// When to revoke the lease, or to hand the keys over, and end.
    pub shutdown: Shutdown,
}

impl Executor {
    /// Keeps the keys as desired until a stop is requested; then revokes the lease or hands the keys over, within
    /// [`REVOKE_DEADLINE`].
    pub async fn run(mut self, settings: LeaseSettings) -> ShutdownReport {
        // 64 bits of the operating system's randomness: two processes with one id would share a lease.
        let seed = RandomState::new().build_hasher().finish();
        let layouts = std::mem::take(&mut self.layouts);
        let mut registrar = Registrar::new(settings, seed).with_layouts(layouts);
        let mut attempts = WriteAttempts::new();
        // Cancel-safe: what a dropped request may have done is settled by giving the lease up.
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.keep(&mut registrar, &mut attempts) => {}
        }
        let statuses = registrar.statuses();
        let handed_over = shutdown.hands_over();
        if handed_over {
            registrar.hand_over();
        } else {
            registrar.shut_down();
        }
        let revoke = async {
            while let Step::Do(request) = registrar.poll(now()) {
                self.pulse.beat();
                self.carry_out(&mut registrar, &request, &mut attempts)
                    .await;
            }
        };
        let in_time = tokio::time::timeout(REVOKE_DEADLINE, revoke).await.is_ok();
        ShutdownReport {
            statuses,
            revoked: in_time && !registrar.has_left_behind(),
            handed_over,
        }
    }

    async fn keep(&mut self, registrar: &mut Registrar, attempts: &mut WriteAttempts) {
        registrar.set_desired(&self.desired.borrow_and_update());
        loop {
            self.pulse.beat();
            let step = registrar.poll(now());
            self.publish(registrar, &mut attempts.log);
            match step {
                Step::Do(request) => {
                    self.carry_out(registrar, &request, attempts).await;
                    self.hear(registrar);
                }
                Step::Wait(until) => {
                    let pause = until.saturating_sub(now()).min(LONGEST_WAIT);
                    // Cancel-safe, all three: a channel keeps what isn't received, a sleep has no effect.
                    tokio::select! {
                        Ok(()) = self.desired.changed() => {
                            registrar.set_desired(&self.desired.borrow_and_update());
                        }
                        Some(event) = self.key_events.recv() => tell(registrar, event),
                        () = sleep(pause) => {}
                    }
                    self.hear(registrar);
                }
                Step::Done => return,
            }
        }
    }

    /// Passes on what came in meanwhile, before the next request.
    fn hear(&mut self, registrar: &mut Registrar) {
        if self.desired.has_changed().unwrap_or(false) {
            registrar.set_desired(&self.desired.borrow_and_update());
        }
        while let Ok(event) = self.key_events.try_recv() {
            tell(registrar, event);
        }
    }

    fn publish(&self, registrar: &mut Registrar, log: &mut LeaseEventLog) {
        for event in registrar.take_events() {
            self.metrics.happened(&event);
            log.log(&event, now());
        }
        log.retain(|key| registrar.knows(key));
        let statuses = registrar.statuses();
        self.statuses.send_if_modified(|old| {
            let changed = *old != statuses;
            *old = statuses;
            changed
        });
    }

    /// Sends one request; after a failure, waits for the pause of the retry policy. The first
    /// failure of each member costs no pause: the next member may serve.
    async fn carry_out(
        &self,
        registrar: &mut Registrar,
        request: &Request,
        attempts: &mut WriteAttempts,
    ) {
        let began = now();
        let result = execute(&self.members, request).await;
        let (response, error) = match result {
            Ok(response) => (response, None),
            Err(error @ EtcdError::Refused(_)) => (Response::Rejected, Some(error)),
            Err(error) => (Response::Failed, Some(error)),
        };
        match (request, &response, &error) {
            (_, _, Some(error)) => self.metrics.failed(error),
            (Request::Renew(_), Response::Renewed, None) => self.metrics.renewed(),
            (Request::Write(_, ops), Response::Written(_), None) => self.metrics.wrote(ops, now()),
            _ => {}
        }
        registrar.answer(request, response);
        let Some(error) = error else {
            attempts.succeeded(registrar.has_rejected_keys());
            return;
        };
        if matches!(error, EtcdError::Refused(_)) && request.names_keys() {
            // Of several keys the registrar finds out which it is, and when to ask again.
            attempts.rejected(registrar, request, &error);
            return;
        }
        attempts.failed_members += 1;
        // From one try's beginning to the next one's: a member that was silent for a deadline delays the next
        // try no longer, for that might come too late for the lease.
        let jitter = fastrand::f64();
        if !error.is_the_members() {
            if let Some(notice) = attempts.retry.failed(began, jitter) {
                warn!("{error} ({} times); retrying", notice.failures);
            }
        } else if attempts.failed_members >= self.members.count() {
            attempts.retry.postpone(began, jitter);
        } else {
            return;
        }
        let next = attempts.retry.next().unwrap_or(began);
        sleep(next.saturating_sub(now())).await;
    }
}

/// Failures of requests, and what the log said of them.
struct WriteAttempts {
    retry: Retry,
    /// Rejections of single keys.
    rejections: LogThrottle,
    /// Requests in a row that failed.
    failed_members: usize,
    log: LeaseEventLog,
}

impl WriteAttempts {
    fn new() -> Self {
        Self {
            retry: Retry::new(ETCD),
            rejections: LogThrottle::default(),
            failed_members: 0,
            log: LeaseEventLog::default(),
        }
    }

    fn succeeded(&mut self, has_rejected_keys: bool) {
        self.failed_members = 0;
        let keys = match has_rejected_keys {
            true => None,
            false => self.rejections.recovered(now()),
        };
        for notice in [self.retry.succeeded(now()), keys].into_iter().flatten() {
            info!(
                "etcd accepts requests again after {} s",
                notice.lasted.as_secs()
            );
        }
    }

    fn rejected(&mut self, registrar: &mut Registrar, request: &Request, error: &EtcdError) {
        let Some(key) = request.only_key() else {
            return;
        };
        if let Some(is_news) = registrar.tell_further_rejected(key) {
            if is_news {
                warn!(%key, "not put for another reader: {error}; trying again at each interval");
            }
        } else if let Some(notice) = self.rejections.failed(now()) {
            warn!(%key, "{error} ({} times); retrying", notice.failures);
        }
    }
}

fn tell(registrar: &mut Registrar, event: KeyEvent) {
    match event {
        KeyEvent::Opened(key) => registrar.watch_opened(&key),
        KeyEvent::Changed(Change::Put(kv), revision) => {
            if let Some((key, entry)) = read(&kv) {
                registrar.observe(&key, Some(entry), revision);
            }
        }
        KeyEvent::Changed(Change::Deleted(key), revision) => {
            if let Some(key) = parse_key(&key) {
                registrar.observe(&key, None, revision);
            }
        }
    }
}

fn parse_key(key: &[u8]) -> Option<Key> {
    Key::in_layout(std::str::from_utf8(key).ok()?).ok()
}

fn read(kv: &KeyValue) -> Option<(Key, Entry)> {
    let entry = Entry {
        value: kv.value().to_vec(),
        lease: kv.lease(),
        mod_revision: kv.mod_revision(),
    };
    Some((parse_key(kv.key())?, entry))
}

async fn execute(members: &Members, request: &Request) -> Result<Response, EtcdError> {
    let result = match request {
        Request::Grant(id, ttl) => {
            let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
            members
                .call(|mut c| async move {
                    let by_id = LeaseGrantOptions::new().with_id(*id);
                    let granted = c.lease_grant(seconds, Some(by_id)).await?;
                    let ttl = u64::try_from(granted.ttl()).unwrap_or_default();
                    Ok(Response::Granted(Duration::from_secs(ttl)))
                })
                .await
        }
        Request::Renew(lease) => {
            members
                .call(|mut c| async move {
                    // Returns after the first reply, and fails with "not found" where that says
                    // that the lease is gone. The stream isn't kept: an idle one that broke would
                    // be found out a whole interval later.
                    c.lease_keep_alive(*lease).await?;
                    Ok(Response::Renewed)
                })
                .await
        }
        Request::Revoke(lease) => {
            members
                .call(|mut c| async move {
                    c.lease_revoke(*lease).await?;
                    Ok(Response::Revoked)
                })
                .await
        }
        Request::Read(keys) => members.call(|c| read_keys(c, keys)).await,
        Request::Write(lease, ops) => members.call(|c| write(c, *lease, ops)).await,
    };
    match (request, result) {
        (_, Err(EtcdError::NotFound(_))) => Ok(Response::LeaseGone),
        // etcd's ErrLeaseExist has no code of its own (api/v3rpc/rpctypes/error.go).
        (Request::Grant(..), Err(EtcdError::Refused(why)))
            if why.contains("lease already exists") =>
        {
            Ok(Response::LeaseExists)
        }
        (_, result) => result,
    }
}

fn gets<'a>(keys: impl Iterator<Item = &'a Key>) -> Vec<TxnOp> {
    keys.map(|key| TxnOp::get(key.as_str(), None)).collect()
}

async fn read_keys(mut client: Client, keys: &[Key]) -> Result<Response, Error> {
    // A transaction of reads alone is a linearizable read, and no write to etcd's log.
    let response = client.txn(Txn::new().and_then(gets(keys.iter()))).await?;
    let header = header(response.header())?;
    let found = found(keys.iter(), response.op_responses());
    Ok(Response::Read(header, found))
}

async fn write(mut client: Client, lease: i64, ops: &[Op]) -> Result<Response, Error> {
    let conditions: Vec<_> = ops.iter().flat_map(|op| conditions(op, lease)).collect();
    let effects: Vec<_> = ops.iter().map(|op| effect(op, lease)).collect();
    // What a condition is about is read where it fails.
    let keys: BTreeSet<&Key> = ops.iter().flat_map(Op::primary).collect();
    let keys: BTreeSet<&Key> = ops.iter().map(Op::key).chain(keys).collect();
    let keys = || keys.iter().copied();
    let txn = Txn::new()
        .when(conditions)
        .and_then(effects)
        .or_else(gets(keys()));
    let response = client.txn(txn).await?;
    let header = header(response.header())?;
    if response.succeeded() {
        Ok(Response::Written(header))
    } else {
        Ok(Response::ConditionFailed(
            header,
            found(keys(), response.op_responses()),
        ))
    }
}

fn conditions(op: &Op, lease: i64) -> Vec<Compare> {
    let key = op.key().as_str();
    let is_latest = |key: &str, version: &Version| {
        vec![
            Compare::mod_revision(key, CompareOp::Equal, version.mod_revision),
            Compare::lease(key, CompareOp::Equal, version.lease),
        ]
    };
    match op {
        Op::IfStands(primary, version, op) => {
            let mut all = is_latest(primary.as_str(), version);
            all.extend(conditions(op, lease));
            all
        }
        Op::Create(..) => vec![Compare::create_revision(key, CompareOp::Equal, 0)],
        Op::Update(..) | Op::Delete(_) => vec![Compare::lease(key, CompareOp::Equal, lease)],
        Op::TakeOver(_, _, version) | Op::Clear(_, version) => is_latest(key, version),
    }
}

fn effect(op: &Op, lease: i64) -> TxnOp {
    let key = op.key().as_str();
    match op {
        // The only puts in sidekick, and none without a lease.
        Op::Create(_, value) | Op::Update(_, value) | Op::TakeOver(_, value, _) => TxnOp::put(
            key,
            value.clone(),
            Some(PutOptions::new().with_lease(lease)),
        ),
        Op::Delete(_) | Op::Clear(..) => TxnOp::delete(key, None),
        Op::IfStands(_, _, op) => effect(op, lease),
    }
}

fn header(header: Option<&ResponseHeader>) -> Result<Header, Error> {
    header
        .map(|h| Header {
            cluster: h.cluster_id(),
            revision: h.revision(),
        })
        .ok_or_else(|| Error::Internal("an answer without a header".to_owned()))
}

fn found<'a>(
    keys: impl Iterator<Item = &'a Key>,
    responses: Vec<TxnOpResponse>,
) -> Vec<(Key, Option<Entry>)> {
    keys.zip(responses)
        .filter_map(|(key, response)| match response {
            TxnOpResponse::Get(get) => {
                let entry = get.kvs().first().and_then(read).map(|(_, entry)| entry);
                Some((key.clone(), entry))
            }
            _ => None,
        })
        .collect()
}
