//! One etcd member, by the names that these tests call things.

use super::real;
use etcd_client::{Client, DeleteOptions, Txn, TxnOp};

/// An etcd on free ports. Ends with the test, however that ends.
pub struct Etcd(real::Etcd);

impl Etcd {
    /// One that answers.
    pub async fn start() -> Etcd {
        Etcd(real::Etcd::start().await)
    }

    /// One that has an address, and nothing else yet: [`Etcd::start_again`] starts it.
    pub async fn not_yet() -> Etcd {
        Etcd(real::Etcd::not_yet().await)
    }

    pub fn url(&self) -> &str {
        self.0.url()
    }

    pub async fn client(&self) -> Client {
        self.0.client().clone()
    }

    pub async fn put(&self, key: &str, value: &str) {
        self.0.put(key, value).await;
    }

    pub async fn delete(&self, key: &str) {
        self.0.delete(key).await;
    }

    /// All of them, in as few transactions as etcd's limits allow: 125 keys each.
    pub async fn put_all(&self, pairs: &[(String, String)]) {
        for batch in pairs.chunks(125) {
            let puts = batch
                .iter()
                .map(|(key, value)| TxnOp::put(key.as_str(), value.as_str(), None));
            let txn = Txn::new().and_then(puts.collect::<Vec<_>>());
            self.client().await.txn(txn).await.unwrap();
        }
    }

    /// Everything that begins so, in one revision.
    pub async fn delete_all(&self, prefix: &str) {
        let options = DeleteOptions::new().with_prefix();
        self.client()
            .await
            .delete(prefix, Some(options))
            .await
            .unwrap();
    }

    /// Forgets the history before now.
    pub async fn compact(&self) {
        let revision = self.0.revision().await;
        self.client().await.compact(revision, None).await.unwrap();
    }

    pub async fn kill(&mut self) {
        self.0.kill9().await;
    }

    pub async fn start_again(&mut self) {
        self.0.restart().await;
    }

    /// Another cluster at the same address, as after a restore that went wrong.
    pub async fn start_empty(&mut self) {
        self.0.wipe_and_restart().await;
    }
}
