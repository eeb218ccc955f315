//! What HAProxy logs: every session that didn't end as usual.

use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

/// The other end of HAProxy's log.
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Log {
    /// Listens at `socket`.
    pub fn listen(socket: &Path) -> Self {
        let socket = UnixDatagram::bind(socket).expect("a socket");
        let lines = Arc::<Mutex<Vec<String>>>::default();
        let kept = lines.clone();
        let task = tokio::spawn(async move {
            let mut line = [0; 4096];
            while let Ok(length) = socket.recv(&mut line).await {
                let line = String::from_utf8_lossy(&line[..length]).into_owned();
                kept.lock().expect("unpoisoned").push(line);
            }
        });
        Self { lines, task }
    }

    /// How the session of the client with that port ended: HAProxy's two letters, and the server.
    /// (HAProxy's configuration manual, 8.2.2 and 8.5.)
    pub fn ending(&self, port: u16) -> Option<String> {
        let lines = self.lines.lock().expect("unpoisoned");
        let client = format!(":{port} [");
        let line = lines.iter().rev().find(|line| line.contains(&client))?;
        // client [date] frontend backend/server times bytes state connections queues
        let words: Vec<_> = line.split_once(&client)?.1.split(' ').collect();
        Some(format!("{} on {}", words.get(5)?, words.get(2)?))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.task.abort();
    }
}
