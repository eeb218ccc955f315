//! A constant load: clients that never stop dialling, and clients that never hang up.

use super::Connection;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Between two requests of one client.
const PAUSE: Duration = Duration::from_millis(5);

/// The clients of one listener, and what happened to their connections.
pub struct Load {
    port: u16,
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU32>,
    failures: Arc<Mutex<Vec<String>>>,
    clients: JoinSet<()>,
}

impl Load {
    /// `callers` dial the listener at `port` again and again, each for one short request.
    pub fn on(port: u16, callers: u32) -> Load {
        let mut load = Load {
            port,
            stop: Arc::default(),
            requests: Arc::default(),
            failures: Arc::default(),
            clients: JoinSet::new(),
        };
        for _ in 0..callers {
            load.call();
        }
        load
    }

    /// One connection to each of those backends, held and used until the end.
    pub async fn hold(&mut self, backends: &[&'static str]) {
        for &name in backends {
            let mut connection = Connection::to_backend(self.port, name).await;
            let (stop, failures) = (self.stop.clone(), self.failures.clone());
            self.clients.spawn(async move {
                while !stop.load(Relaxed) {
                    if !connection.lives().await {
                        failures.lock().unwrap().push(format!("{name}'s was cut"));
                        return;
                    }
                    sleep(PAUSE).await;
                }
            });
        }
    }

    fn call(&mut self) {
        let (stop, failures, requests) = (
            self.stop.clone(),
            self.failures.clone(),
            self.requests.clone(),
        );
        let port = self.port;
        self.clients.spawn(async move {
            while !stop.load(Relaxed) {
                let failure = match Connection::dial(port).await {
                    None => Some("refused".to_owned()),
                    Some((mut connection, name)) => {
                        let failed = !connection.lives().await;
                        failed.then(|| format!("{name} broke off"))
                    }
                };
                failures.lock().unwrap().extend(failure);
                requests.fetch_add(1, Relaxed);
                sleep(PAUSE).await;
            }
        });
    }

    /// Ends it. Nothing may have failed, and enough must have been tried to tell.
    pub async fn was_carried(self, at_least: u32) {
        self.stop.store(true, Relaxed);
        self.clients.join_all().await;
        let failures = self.failures.lock().unwrap();
        let requests = self.requests.load(Relaxed);
        let kinds: BTreeSet<_> = failures.iter().collect();
        assert!(
            failures.is_empty(),
            "{} of {requests} failed: {kinds:?}",
            failures.len()
        );
        assert!(requests >= at_least, "only {requests} requests: no load");
    }
}
