//! Executes what the registrar asks for against etcd. Decides nothing.

use super::ownership::clock_warning;
use super::protocol::{
    DesiredKeys, Entry, Header, KeyStatuses, LeaseEvent, Op, Request, Response, Step,
};
use super::registrar::{LeaseSettings, Registrar};
use super::shutdown_report::ShutdownReport;
use crate::clock::now;
use crate::endpoint::{Key, Since};
use crate::etcd::EtcdError;
use crate::etcd::members::Members;
use crate::etcd::watch::KeyEvent;
use crate::log_throttle::LogThrottle;
use crate::retry::{Backoff, ETCD};
use crate::shutdown::Shutdown;
use crate::systemd::Pulse;
use etcd_client::{
    Client, Compare, CompareOp, Error, KeyValue, LeaseGrantOptions, PutOptions, ResponseHeader,
    Txn, TxnOp, TxnOpResponse,
};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;
use tracing::{info, warn};

/// After a stop was asked for, etcd gets so long to take the keys away. The TTL does the rest. The
/// process is promised to be gone within 5 s.
pub const REVOKE_DEADLINE: Duration = Duration::from_millis(4_500);

/// An idle loop looks at the clock so often: timers stand still while the machine is suspended.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The channels of the one task that writes to etcd.
#[derive(Debug)]
pub struct Executor {
    /// Whom to ask.
    pub members: Arc<Members>,
    /// What ought to stand.
    pub desired: watch::Receiver<DesiredKeys>,
    /// What the watch sees.
    pub news: mpsc::Receiver<KeyEvent>,
    /// How it stands.
    pub statuses: watch::Sender<KeyStatuses>,
    /// This loop's sign of life.
    pub pulse: Pulse,
    /// When to give everything up.
    pub shutdown: Shutdown,
}

impl Executor {
    /// Keeps the keys as wished until a stop is asked for; then takes them away, for [`REVOKE_DEADLINE`]
    /// at most.
    pub async fn run(mut self, settings: LeaseSettings) -> ShutdownReport {
        // 64 bits of the operating system's randomness: two processes with one id would share a lease.
        let seed = RandomState::new().build_hasher().finish();
        let mut registrar = Registrar::new(settings, seed);
        let mut effort = Effort::default();
        // Cancel-safe: what a dropped request may have done is settled by giving the lease up.
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.keep(&mut registrar, &mut effort) => {}
        }
        registrar.leave();
        let statuses = registrar.statuses();
        let revoke = async {
            while let Step::Do(request) = registrar.poll(now()) {
                self.pulse.beat();
                self.carry_out(&mut registrar, &request, &mut effort).await;
            }
        };
        let revoked = tokio::time::timeout(REVOKE_DEADLINE, revoke).await.is_ok();
        ShutdownReport { statuses, revoked }
    }

    async fn keep(&mut self, registrar: &mut Registrar, effort: &mut Effort) {
        registrar.desire(&self.desired.borrow_and_update());
        loop {
            self.pulse.beat();
            let step = registrar.poll(now());
            self.publish(registrar);
            match step {
                Step::Do(request) => {
                    self.carry_out(registrar, &request, effort).await;
                    self.hear(registrar);
                }
                Step::Wait(until) => {
                    let pause = until.saturating_sub(now()).min(LONGEST_WAIT);
                    // Cancel-safe, all three: a channel keeps what isn't received, a sleep has no effect.
                    tokio::select! {
                        Ok(()) = self.desired.changed() => {
                            registrar.desire(&self.desired.borrow_and_update());
                        }
                        Some(news) = self.news.recv() => tell(registrar, news),
                        () = sleep(pause) => {}
                    }
                    self.hear(registrar);
                }
                Step::Done => return,
            }
        }
    }

    /// What happened meanwhile is heard before the next question is asked.
    fn hear(&mut self, registrar: &mut Registrar) {
        if self.desired.has_changed().unwrap_or(false) {
            registrar.desire(&self.desired.borrow_and_update());
        }
        while let Ok(news) = self.news.try_recv() {
            tell(registrar, news);
        }
    }

    fn publish(&self, registrar: &mut Registrar) {
        for event in registrar.take_events() {
            log(&event);
        }
        let statuses = registrar.statuses();
        self.statuses.send_if_modified(|old| {
            let changed = *old != statuses;
            *old = statuses;
            changed
        });
    }

    /// One request and its answer; after a failure, the pause that the policy wants. The first
    /// failure of each member costs no pause: the next member may be well.
    async fn carry_out(&self, registrar: &mut Registrar, request: &Request, effort: &mut Effort) {
        let began = now();
        let result = execute(&self.members, request).await;
        let (answer, fault) = match result {
            Ok(answer) => (answer, None),
            Err(fault @ EtcdError::Refused(_)) => (Response::Rejected, Some(fault)),
            Err(fault) => (Response::Failed, Some(fault)),
        };
        registrar.answer(request, answer);
        let Some(fault) = fault else {
            effort.succeeded();
            if !registrar.is_refused() {
                effort.keys_accepted();
            }
            return;
        };
        if matches!(fault, EtcdError::Refused(_)) && effort.refused_keys(request, &fault) {
            return;
        }
        if !fault.is_the_members() {
            effort.refused(&fault);
        }
        effort.tries += 1;
        if !fault.is_the_members() || effort.tries >= self.members.count() {
            // From one try's beginning to the next one's: who was silent for a deadline isn't spared
            // a try for longer, which might come too late for the lease.
            let pause = effort.backoff.next_pause(fastrand::f64());
            sleep(pause.saturating_sub(now().saturating_sub(began))).await;
        }
    }
}

/// How the requests have been going.
struct Effort {
    backoff: Backoff,
    refusals: LogThrottle,
    /// Of single keys.
    key_refusals: LogThrottle,
    tries: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(ETCD),
            refusals: LogThrottle::default(),
            key_refusals: LogThrottle::default(),
            tries: 0,
        }
    }
}

impl Effort {
    fn succeeded(&mut self) {
        self.backoff.reset();
        self.tries = 0;
        if let Some(notice) = self.refusals.recovered(now()) {
            info!("etcd accepts again after {} s", notice.lasted.as_secs());
        }
    }

    /// Whether the refusal is about keys. Of several the registrar finds out which it is, and when to
    /// ask again.
    fn refused_keys(&mut self, request: &Request, fault: &EtcdError) -> bool {
        let key = match request {
            Request::Read(keys) => keys.first().filter(|_| keys.len() == 1),
            Request::Write(_, ops) => ops.first().filter(|_| ops.len() == 1).map(Op::key),
            Request::Grant(..) | Request::Renew(_) | Request::Revoke(_) => return false,
        };
        if let Some(key) = key
            && let Some(notice) = self.key_refusals.failed(now())
        {
            warn!(%key, "{fault} ({} times); retrying", notice.failures);
        }
        true
    }

    fn keys_accepted(&mut self) {
        if let Some(notice) = self.key_refusals.recovered(now()) {
            info!("etcd accepts again after {} s", notice.lasted.as_secs());
        }
    }

    fn refused(&mut self, fault: &EtcdError) {
        if let Some(notice) = self.refusals.failed(now()) {
            warn!("{fault} ({} times); retrying", notice.failures);
        }
    }
}

fn tell(registrar: &mut Registrar, news: KeyEvent) {
    match news {
        KeyEvent::Opened(key) => registrar.watch_opened(&key),
        KeyEvent::Put(kv) => {
            if let Some((key, entry)) = read(&kv) {
                let revision = entry.mod_revision;
                registrar.observe(&key, Some(entry), revision);
            }
        }
        KeyEvent::Deleted(key, revision) => {
            if let Some(key) = parse_key(&key) {
                registrar.observe(&key, None, revision);
            }
        }
    }
}

fn parse_key(key: &[u8]) -> Option<Key> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

fn read(kv: &KeyValue) -> Option<(Key, Entry)> {
    let entry = Entry {
        value: kv.value().to_vec(),
        lease: kv.lease(),
        mod_revision: kv.mod_revision(),
    };
    Some((parse_key(kv.key())?, entry))
}

/// The clock on this machine's wall, which containers' starts are compared with for a warning alone.
fn wall() -> Option<Since> {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Since::from_unix_nanos(i128::try_from(since_1970.as_nanos()).ok()?)
}

fn log(event: &LeaseEvent) {
    match event {
        LeaseEvent::StandingBy(key, holder) => {
            let clock = wall().and_then(|now| clock_warning(holder, now));
            let clock = clock.unwrap_or_default();
            warn!(
                %key,
                "standing by: the key is held by {holder}, which has the better right; waiting for it to go{clock}"
            );
        }
        LeaseEvent::TookOver(key, holder) => info!(%key, "took the key over from {holder}"),
        LeaseEvent::Resumed(key) => info!(
            %key,
            "took the key over from the previous sidekick process of this container"
        ),
        LeaseEvent::Junk(key, why) => warn!(%key, "overwrote a bad value: {why}"),
        LeaseEvent::Healed(key, 1) => {
            warn!(%key, "the key had been deleted or changed by another writer; put back")
        }
        LeaseEvent::Healed(key, times) => {
            warn!(%key, "the key keeps being deleted or changed by another writer ({times} times); put back")
        }
        LeaseEvent::Cleared(key) => {
            info!(%key, "removed what a past life of this sidekick had left")
        }
        LeaseEvent::LeaseLost(id) => warn!(
            lease = format!("{id:x}"),
            "etcd has forgotten the lease; asking for a new one"
        ),
        LeaseEvent::HistoryReset => {
            warn!("etcd is another cluster than before, or was restored; reading everything again")
        }
    }
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
    let keys = || ops.iter().map(Op::key);
    let txn = Txn::new()
        .when(conditions)
        .and_then(effects)
        .or_else(gets(keys()));
    let response = client.txn(txn).await?;
    let header = header(response.header())?;
    if response.succeeded() {
        Ok(Response::Written(header))
    } else {
        Ok(Response::Refused(
            header,
            found(keys(), response.op_responses()),
        ))
    }
}

fn conditions(op: &Op, lease: i64) -> Vec<Compare> {
    let key = op.key().as_str();
    match op {
        Op::Create(..) => vec![Compare::create_revision(key, CompareOp::Equal, 0)],
        Op::Update(..) | Op::Delete(_) => vec![Compare::lease(key, CompareOp::Equal, lease)],
        Op::TakeOver(_, _, version) | Op::Clear(_, version) => vec![
            Compare::mod_revision(key, CompareOp::Equal, version.mod_revision),
            Compare::lease(key, CompareOp::Equal, version.lease),
        ],
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
