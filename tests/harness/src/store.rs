//! What stands in an etcd, and changing it by hand.

use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, DeleteOptions, Error, GetOptions, Identity, KvClient,
    LeaseClient, PutOptions, TlsOptions, Txn, TxnOp,
};
use tokio::time::timeout;

use super::Value;
use super::authority::Authority;
use super::wait::{SOON, becomes, eventually, never_for, secs};
use super::watch::WatchLog;

/// A test's own view of one etcd member, apart from sidekick's.
pub struct Store {
    client: Client,
}

/// A key as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: String,
    /// The lease it hangs on; 0 = none, which would make it permanent.
    pub lease: i64,
    /// The revision at which it was created.
    pub create_revision: i64,
    /// The revision at which it was last written.
    pub mod_revision: i64,
}

impl Store {
    /// Looks at a plain member.
    pub async fn at(url: &str) -> Store {
        Store::with(url, ConnectOptions::new()).await
    }

    /// Looks at a member that wants certificates.
    pub async fn with_tls(url: &str, authority: &Authority) -> Store {
        let (certificate, key) = authority.client_pem();
        let tls = TlsOptions::new()
            .ca_certificate(Certificate::from_pem(authority.pem()))
            .identity(Identity::from_pem(certificate, key));
        Store::with(url, ConnectOptions::new().with_tls(tls)).await
    }

    /// Looks at a member that wants a name and a password.
    pub async fn with_login(url: &str, name: &str, password: &str) -> Store {
        let options = ConnectOptions::new()
            .with_user(name, password)
            .with_auto_token_refresh(true);
        Store::with(url, options).await
    }

    /// Whether etcd answers a linearizable read, that is: it is up and has a leader.
    pub async fn answers(&self) -> bool {
        matches!(
            timeout(PATIENCE, self.client.kv_client().get("answers?", None)).await,
            Ok(Ok(_))
        )
    }

    /// The store's revision.
    pub async fn revision(&self) -> i64 {
        let got = self
            .ask("the revision", self.kv().get("revision?", None))
            .await;
        got.header().expect("an answer has a header").revision()
    }

    /// What stands at a key.
    pub async fn get(&self, key: &str) -> Option<Entry> {
        let got = self.ask("a key", self.kv().get(key, None)).await;
        got.kvs().first().map(|kv| Entry {
            value: kv.value_str().expect("the value is no UTF-8").to_owned(),
            lease: kv.lease(),
            create_revision: kv.create_revision(),
            mod_revision: kv.mod_revision(),
        })
    }

    /// Every key there is.
    pub async fn keys(&self) -> Vec<String> {
        let all = Some(GetOptions::new().with_all_keys().with_keys_only());
        let got = self.ask("all keys", self.kv().get("", all)).await;
        got.kvs()
            .iter()
            .map(|kv| String::from_utf8_lossy(kv.key()).into_owned())
            .collect()
    }

    /// Puts a value without a lease, as a person with etcdctl would.
    pub async fn put(&self, key: &str, value: &str) -> i64 {
        let put = self.ask("a put", self.kv().put(key, value, None)).await;
        put.header().expect("an answer has a header").revision()
    }

    /// Puts all of them, in as few transactions as etcd's limits allow: 125 keys each.
    pub async fn put_all(&self, pairs: &[(String, String)]) {
        for batch in pairs.chunks(125) {
            let puts = batch
                .iter()
                .map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None));
            let txn = Txn::new().and_then(puts.collect::<Vec<_>>());
            self.ask("many puts", self.kv().txn(txn)).await;
        }
    }

    /// Whether etcd takes a put within a second.
    pub async fn takes(&self, key: &str, value: &str) -> bool {
        let mut client = self.kv();
        let put = timeout(secs(1), client.put(key, value, None));
        put.await.is_ok_and(|put| put.is_ok())
    }

    /// Puts a value on a lease of its own, as another sidekick would; returns the lease.
    pub async fn put_leased(&self, key: &str, value: &str, ttl: Duration) -> i64 {
        let seconds = ttl.as_secs() as i64;
        let grant = self.ask("a grant", self.lease().grant(seconds, None)).await;
        let lease = grant.id();
        let options = Some(PutOptions::new().with_lease(lease));
        self.ask("a put", self.kv().put(key, value, options)).await;
        lease
    }

    /// Deletes a key.
    pub async fn delete(&self, key: &str) {
        let deleted = self.ask("a delete", self.kv().delete(key, None)).await;
        assert_eq!(deleted.deleted(), 1, "{key} isn't there");
    }

    /// Deletes everything that begins so, in one revision.
    pub async fn delete_all(&self, prefix: &str) {
        let options = Some(DeleteOptions::new().with_prefix());
        self.ask("deletes", self.kv().delete(prefix, options)).await;
    }

    /// Forgets the history before now.
    pub async fn compact(&self) {
        let revision = self.revision().await;
        self.ask("a compaction", self.kv().compact(revision, None))
            .await;
    }

    /// Revokes a lease.
    pub async fn revoke(&self, lease: i64) {
        self.ask("a revoke", self.lease().revoke(lease)).await;
    }

    /// What is left of a lease, in seconds; -1 where it is gone.
    pub async fn seconds_left(&self, lease: i64) -> i64 {
        let mut client = self.lease();
        let left = client.time_to_live(lease, None);
        self.ask("a lease", left).await.ttl()
    }

    /// All leases that live.
    pub async fn leases(&self) -> Vec<i64> {
        let leases = self.ask("all leases", self.lease().leases()).await;
        leases.leases().iter().map(|lease| lease.id()).collect()
    }

    /// Records everything that happens to a key from now on.
    pub async fn watch(&self, key: &str) -> WatchLog {
        WatchLog::of(&self.client, key).await
    }

    /// Waits until a key holds a value, to the letter and on a lease.
    #[track_caller]
    pub fn shows(&self, key: &str, value: &Value) -> impl Future<Output = Entry> {
        let what = format!("etcd shows {} at {key}", value.text());
        eventually(SOON, what, async move || {
            let entry = self.get(key).await.ok_or("nothing")?;
            value.is(&entry.value)?;
            if entry.lease == 0 {
                Err("the value, but without a lease".to_owned())
            } else {
                Ok(entry)
            }
        })
    }

    /// Waits until nothing stands at a key.
    #[track_caller]
    pub fn loses(&self, key: &str) -> impl Future<Output = ()> {
        eventually(SOON, format!("{key} is gone"), async move || {
            match self.get(key).await {
                None => Ok(()),
                Some(entry) => Err(entry.value),
            }
        })
    }

    /// Waits until so many keys stand in it.
    #[track_caller]
    pub fn has_keys(&self, count: usize) -> impl Future<Output = ()> {
        becomes(secs(20), "the number of keys", count, async move || {
            self.keys().await.len()
        })
    }

    /// Makes sure that a key is there at every moment of `duration`.
    #[track_caller]
    pub fn keeps(&self, key: &str, duration: Duration) -> impl Future<Output = ()> {
        never_for(duration, format!("{key} is gone"), async move || {
            self.get(key).await.is_none()
        })
    }

    /// Makes sure that nothing stands at a key at any moment of `duration`.
    #[track_caller]
    pub fn lacks(&self, key: &str, duration: Duration) -> impl Future<Output = ()> {
        never_for(duration, format!("{key} is put"), async move || {
            self.get(key).await.is_some()
        })
    }

    /// Makes sure that what stands at a key is `entry`, value, lease and revisions, throughout `duration`.
    #[track_caller]
    pub fn keeps_entry(
        &self,
        key: &str,
        entry: &Option<Entry>,
        duration: Duration,
    ) -> impl Future<Output = ()> {
        never_for(duration, format!("{key} changes"), async move || {
            self.get(key).await != *entry
        })
    }

    /// Makes sure that nothing is written throughout `duration`: the store stays at this revision.
    #[track_caller]
    pub fn stays_at(&self, revision: i64, duration: Duration) -> impl Future<Output = ()> {
        let what = format!("etcd's revision moves from {revision}");
        never_for(duration, what, async move || {
            self.revision().await != revision
        })
    }

    /// The client itself, for what only one test does.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client()
    }

    fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    async fn with(url: &str, options: ConnectOptions) -> Store {
        let options = options.with_connect_timeout(PATIENCE);
        let client = Client::connect([url], Some(options)).await;
        Store {
            client: client.unwrap_or_else(|error| panic!("no client for {url}: {error}")),
        }
    }

    async fn ask<T>(&self, what: &str, answer: impl Future<Output = Result<T, Error>>) -> T {
        match timeout(PATIENCE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => panic!("the test asked etcd for {what}: {error}"),
            Err(_) => panic!("the test asked etcd for {what}: no answer in {PATIENCE:?}"),
        }
    }
}

/// For one answer from an etcd on this machine; two busy cores may well need one second.
const PATIENCE: Duration = secs(4);
