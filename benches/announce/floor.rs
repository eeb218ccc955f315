//! The floor: the least that anything can do on a Docker event. One inspect, one transaction; no
//! ownership, no audit, no retry, no deadline.

use crate::harness::{Engine, Etcd};
use bollard::query_parameters::{EventsOptionsBuilder, InspectContainerOptions};
use bollard::{API_DEFAULT_VERSION, Docker};
use etcd_client::{Client, PutOptions, Txn, TxnOp};
use futures_util::StreamExt;
use std::collections::HashMap;
use tokio::task::JoinHandle;

pub struct Floor(JoinHandle<()>);

pub fn connect(engine: &Engine) -> Docker {
    let host = engine.host();
    let path = host.trim_start_matches("unix://");
    Docker::connect_with_unix(path, 10, API_DEFAULT_VERSION).expect("the engine's socket")
}

impl Floor {
    /// Follows one container's events from now on.
    pub async fn spawn(engine: &Engine, etcd: &Etcd, container: &str, key: &str) -> Self {
        let docker = connect(engine);
        let mut client = etcd.client().clone();
        let lease = client.lease_grant(3600, None).await.expect("a lease").id();
        let (container, key) = (container.to_owned(), key.to_owned());
        Self(tokio::spawn(async move {
            let filters = HashMap::from([
                ("type", vec!["container"]),
                ("container", vec![container.as_str()]),
                ("event", vec!["start", "die"]),
            ]);
            let options = EventsOptionsBuilder::default().filters(&filters).build();
            let mut events = docker.events(Some(options));
            while let Some(Ok(_)) = events.next().await {
                react(&docker, &mut client, &container, &key, lease).await;
            }
        }))
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn react(docker: &Docker, client: &mut Client, container: &str, key: &str, lease: i64) {
    let inspected = docker
        .inspect_container(container, None::<InspectContainerOptions>)
        .await
        .expect("the container is there");
    let running = inspected.state.and_then(|s| s.running) == Some(true);
    let op = if running {
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
    } else {
        TxnOp::delete(key, None)
    };
    client
        .txn(Txn::new().and_then([op]))
        .await
        .expect("etcd takes it");
}
