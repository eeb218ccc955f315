//! Requests to the members of an etcd cluster, with failover: one single-endpoint client at a time.
//!
//! etcd-client picks among several endpoints at random and never drops a dead one
//! (etcdv3/etcd-client#54), so it is given one, and thrown away together with its connection when
//! the member fails a call.

use super::credentials::Credentials;
use super::{EtcdConfig, EtcdError};
use crate::clock::{LastTime, Moment, now};
use crate::log_throttle::LogThrottle;
use anyhow::Context as _;
use etcd_client::{Client, ConnectOptions, Error};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

/// The deadline of one call to one member, login and connect included. etcd answers in milliseconds; a disk that
/// takes a second for an fsync is still within it; and a frozen first member delays a failover by just this.
pub const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// The deadline of TCP's handshake: half of a call's, so that a member that drops packets doesn't use it up.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// HTTP/2 pings find a peer that died under an open watch. etcd answers more than one ping in 5 s
/// with GOAWAY, and any ping without a stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_DEADLINE: Duration = Duration::from_secs(3);

/// The least time between two logins after a token was refused: a wrong password must not become a load.
const LOGIN_PAUSE: Duration = Duration::from_secs(1);

/// The members of one etcd cluster, and the connection to one of them.
pub struct Members {
    endpoints: Vec<String>,
    /// Held while connecting, so that two tasks don't log in twice.
    connection: tokio::sync::Mutex<Connection>,
    /// Counts the failovers; a watch reopens when this changes.
    generation: watch::Sender<u64>,
    outage: Mutex<LogThrottle>,
    unreachable_since: watch::Sender<Option<Moment>>,
    /// Of each endpoint.
    last_answers: Vec<LastTime>,
}

struct Connection {
    /// The credentials of the next connection.
    credentials: Credentials,
    /// The client, and the generation that it belongs to.
    client: Option<(u64, Client)>,
    last_login: Option<Moment>,
}

/// A client's options hold the password, and show it.
impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Members").field(&self.endpoints).finish()
    }
}

impl Members {
    /// Doesn't connect yet.
    ///
    /// # Errors
    /// A password that is no UTF-8.
    pub fn new(config: &EtcdConfig) -> anyhow::Result<Self> {
        if let Some((_, password)) = &config.user {
            std::str::from_utf8(&password.0)?;
        }
        Ok(Self {
            endpoints: config.endpoints.clone(),
            connection: tokio::sync::Mutex::new(Connection {
                credentials: Credentials::new(
                    config.files.clone(),
                    config.tls.clone(),
                    config.user.clone(),
                ),
                client: None,
                last_login: None,
            }),
            generation: watch::Sender::new(0),
            outage: Mutex::default(),
            unreachable_since: watch::Sender::new(None),
            last_answers: config
                .endpoints
                .iter()
                .map(|_| LastTime::default())
                .collect(),
        })
    }

    /// The number of members.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.endpoints.len()
    }

    /// Changes at every failover.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Since when no member answers; `None` while one does.
    #[must_use]
    pub fn unreachable_since(&self) -> watch::Receiver<Option<Moment>> {
        self.unreachable_since.subscribe()
    }

    /// How often a member failed, so that the next one was asked.
    #[must_use]
    pub fn failovers(&self) -> u64 {
        *self.generation.borrow()
    }

    /// When each member answered a call last, as a Unix timestamp in seconds; 0: not yet.
    pub fn last_answers(&self) -> impl Iterator<Item = (&str, f64)> {
        let endpoints = self.endpoints.iter().map(String::as_str);
        endpoints.zip(self.last_answers.iter().map(LastTime::unix_seconds))
    }

    /// One call, with a deadline. A stale token is renewed and the call repeated once; after a failure of the member
    /// the next call goes to the next member.
    ///
    /// # Errors
    /// See [`EtcdError`]. After [`EtcdError::Timeout`] and [`EtcdError::Unreachable`] it isn't known whether
    /// the call was done.
    pub async fn call<T, F, R>(&self, request: F) -> Result<T, EtcdError>
    where
        F: Fn(Client) -> R,
        R: Future<Output = Result<T, Error>>,
    {
        let generation = *self.generation.borrow();
        let attempt = async {
            let client = self.client().await?;
            match request(client.clone()).await.map_err(EtcdError::from) {
                Err(EtcdError::Auth(why)) => {
                    self.login(&client, why).await?;
                    Ok(request(client).await?)
                }
                result => result,
            }
        };
        let result = timeout(CALL_DEADLINE, attempt)
            .await
            .unwrap_or(Err(EtcdError::Timeout(CALL_DEADLINE)));
        match &result {
            Err(fault) if fault.is_the_members() => self.failed(generation, fault),
            _ => self.answered(generation),
        }
        result
    }

    /// For one-shot commands: tries each member once, until one answers.
    ///
    /// # Errors
    /// The cluster refused, or no member answers; the error names the members.
    pub async fn try_each<T>(
        &self,
        attempt: impl AsyncFnMut() -> Result<T, EtcdError>,
    ) -> anyhow::Result<T> {
        self.try_to("read from", attempt).await
    }

    /// The same for a write that may be done twice.
    ///
    /// # Errors
    /// See [`Members::try_each`].
    pub async fn try_to_write<T>(
        &self,
        attempt: impl AsyncFnMut() -> Result<T, EtcdError>,
    ) -> anyhow::Result<T> {
        self.try_to("write to", attempt).await
    }

    async fn try_to<T>(
        &self,
        what: &str,
        mut attempt: impl AsyncFnMut() -> Result<T, EtcdError>,
    ) -> anyhow::Result<T> {
        let mut result = attempt().await;
        for _ in 1..self.count() {
            if !result.as_ref().is_err_and(EtcdError::is_the_members) {
                break;
            }
            result = attempt().await;
        }
        let endpoints = || format!("cannot {what} etcd ({})", self.endpoints.join(", "));
        result.with_context(endpoints)
    }

    async fn client(&self) -> Result<Client, EtcdError> {
        let mut connection = self.connection.lock().await;
        let current = *self.generation.borrow();
        if let Some((generation, client)) = &connection.client
            && *generation == current
        {
            return Ok(client.clone());
        }
        // The old connection is dropped first, so that there never are two.
        connection.client = None;
        let options = ConnectOptions::new()
            .with_require_leader(true)
            .with_connect_timeout(CONNECT_DEADLINE)
            .with_keep_alive(PING_INTERVAL, PING_DEADLINE)
            .with_keep_alive_while_idle(false);
        let options = connection.credentials.add_to(options).await;
        let client = Client::connect([self.endpoint(current)], Some(options)).await?;
        connection.client = Some((current, client.clone()));
        Ok(client)
    }

    fn endpoint(&self, generation: u64) -> &str {
        &self.endpoints[self.index(generation)]
    }

    fn index(&self, generation: u64) -> usize {
        usize::try_from(generation).unwrap_or_default() % self.endpoints.len()
    }

    async fn login(&self, client: &Client, why: String) -> Result<(), EtcdError> {
        let mut connection = self.connection.lock().await;
        let now = now();
        if connection
            .last_login
            .is_some_and(|at| now.saturating_sub(at) < LOGIN_PAUSE)
        {
            return Err(EtcdError::Auth(why));
        }
        connection.last_login = Some(now);
        let renewed = client.refresh_token().await;
        if renewed.is_err() {
            // The client keeps the password that it was made with; the next one reads the file again.
            connection.client = None;
        }
        Ok(renewed?)
    }

    /// The member of `generation` failed: the next one is used from now on. Two tasks that fail on the same member
    /// move on by one.
    pub fn failed(&self, generation: u64, fault: &EtcdError) {
        let moved = self.generation.send_if_modified(|current| {
            let same = *current == generation;
            *current += u64::from(same);
            same
        });
        if !moved {
            return;
        }
        let now = now();
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notice) = outage.failed(now) {
            let endpoint = self.endpoint(generation);
            let (n, s) = (notice.failures, notice.lasted.as_secs());
            if notice.lasted.is_zero() {
                let again = if n > 1 {
                    format!(" ({n} failed tries)")
                } else {
                    String::new()
                };
                warn!(endpoint, "etcd: {fault}{again}; trying the next member");
            } else {
                warn!(
                    endpoint,
                    "etcd unreachable for {s} s ({n} tries), retrying: {fault}"
                );
            }
        }
        self.unreachable_since.send_if_modified(|since| {
            let changed = *since != outage.since();
            *since = outage.since();
            changed
        });
    }

    fn answered(&self, generation: u64) {
        self.last_answers[self.index(generation)].is_now();
        let mut outage = self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(notice) = outage.recovered(now()) {
            let endpoint = self.endpoint(*self.generation.borrow());
            let (n, ms) = (notice.failures, notice.lasted.as_millis());
            info!(
                endpoint,
                "etcd answers again after {ms} ms ({n} failed tries)"
            );
        }
        // Also where the log said nothing of it.
        self.unreachable_since
            .send_if_modified(|since| since.take().is_some());
    }
}
