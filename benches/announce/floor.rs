//! The floor: the least that anything can do on a Docker event. One inspect and one put for a start, one
//! delete for a death; no ownership, no audit, no retry, no deadline.

use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use etcd_client::{PutOptions, Txn, TxnOp};
use futures_util::StreamExt;
use sidekick_harness::Etcd;
use std::collections::HashMap;
use tokio::task::JoinHandle;

pub struct Floor(JoinHandle<()>);

/// The events that it goes by.
pub const STARTS_AND_DEATHS: &[&str] = &["start", "die"];
/// Those where another client puts the key: a put of its own for a start might come after that.
pub const DEATHS: &[&str] = &["die"];

/// `host`: as DOCKER_HOST has it.
pub fn connect(host: &str) -> Docker {
    let path = host.trim_start_matches("unix://");
    Docker::connect_with_unix(path, 10, API_DEFAULT_VERSION).expect("the engine's socket")
}

impl Floor {
    /// Follows these events of one container from now on.
    pub async fn spawn(
        host: &str,
        etcd: &Etcd,
        container: &str,
        key: &str,
        actions: &'static [&'static str],
    ) -> Self {
        let docker = connect(host);
        let mut client = etcd.client().clone();
        let lease = client.lease_grant(3600, None).await.expect("a lease").id();
        let (container, key) = (container.to_owned(), key.to_owned());
        Self(tokio::spawn(async move {
            let filters = HashMap::from([
                ("type", vec!["container"]),
                ("container", vec![container.as_str()]),
                ("event", actions.to_vec()),
            ]);
            let options = EventsOptionsBuilder::default().filters(&filters).build();
            let mut events = docker.events(Some(options));
            while let Some(Ok(event)) = events.next().await {
                let op = match event.action.as_deref() {
                    Some("die") => TxnOp::delete(key.as_str(), None),
                    _ => put(&docker, &container, &key, lease).await,
                };
                let done = client.txn(Txn::new().and_then([op])).await;
                done.expect("etcd takes it");
            }
        }))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn put(docker: &Docker, container: &str, key: &str, lease: i64) -> TxnOp {
    let inspected = docker
        .inspect_container(container, None::<InspectContainerOptions>)
        .await
        .expect("the container is there");
    let ports = inspected
        .network_settings
        .and_then(|n| n.ports)
        .unwrap_or_default();
    let port = ports
        .values()
        .flatten()
        .flatten()
        .find_map(|b| b.host_port.clone());
    let value = format!(
        r#"{{"host":"worker-1.test","port":{}}}"#,
        port.unwrap_or_default()
    );
    TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)))
}
