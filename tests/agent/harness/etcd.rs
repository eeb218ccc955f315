//! One etcd member, by the names that these tests call things.

use super::real::{self, secs};
use etcd_client::{Client, DeleteOptions, Txn, TxnOp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

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

    /// A member of a cluster.
    pub fn of(member: real::Etcd) -> Etcd {
        Etcd(member)
    }

    /// The same, in the words of the tests of `announce`.
    #[allow(dead_code, reason = "for `make soak`")]
    pub fn member(&self) -> &real::Etcd {
        &self.0
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

    /// Whether it takes a put within a second.
    pub async fn takes(&self, key: &str, value: &str) -> bool {
        let mut client = self.client().await;
        let put = client.put(key, value, None);
        timeout(secs(1), put).await.is_ok_and(|put| put.is_ok())
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

    /// How many reads it has answered.
    pub async fn reads(&self) -> f64 {
        let address = self.url().trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = b"GET /metrics HTTP/1.0\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut metrics = String::new();
        stream.read_to_string(&mut metrics).await.unwrap();
        let mut lines = metrics.lines().filter(|line| {
            line.starts_with("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Range\"")
        });
        let count = lines.next().and_then(|line| line.split(' ').next_back());
        count.map_or(0.0, |count| count.parse().unwrap())
    }

    /// Forgets the history before now.
    pub async fn compact(&self) {
        let revision = self.0.revision().await;
        self.client().await.compact(revision, None).await.unwrap();
    }

    /// Stops its clock, or lets it go on.
    pub fn freeze(&self, frozen: bool) {
        if frozen {
            self.0.freeze();
        } else {
            self.0.thaw();
        }
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
