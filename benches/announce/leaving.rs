//! When HAProxy has let go of a server: it is looked at each millisecond.

use crate::wall_clock;
use sidekick_harness::{eventually, secs};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);

/// Follows the servers to which HAProxy may send new connections.
pub struct Servers(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    serving: BTreeSet<String>,
    left: Vec<(String, Duration)>,
}

/// Those that left before it are not meant.
#[derive(Clone, Copy)]
pub struct Mark(usize);

impl Servers {
    /// From now on, by the master's socket; until it is dropped.
    pub fn follow(socket: PathBuf) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let servers = Self(seen.clone());
        std::thread::spawn(move || {
            while Arc::strong_count(&seen) > 1 {
                if let Some(serving) = serving(&socket) {
                    let mut seen = seen.lock().expect("unpoisoned");
                    let before = std::mem::replace(&mut seen.serving, serving);
                    let left: Vec<_> = before.difference(&seen.serving).cloned().collect();
                    let now = wall_clock();
                    seen.left.extend(left.into_iter().map(|name| (name, now)));
                }
                std::thread::sleep(PAUSE);
            }
        });
        servers
    }

    /// Waits until it may send connections to each of these.
    pub async fn serve(&self, names: &[&str]) {
        eventually(secs(20), format!("HAProxy serves {names:?}"), async || {
            let seen = self.0.lock().expect("unpoisoned");
            names.iter().all(|name| seen.serving.contains(*name))
        })
        .await;
    }

    pub fn mark(&self) -> Mark {
        Mark(self.0.lock().expect("unpoisoned").left.len())
    }

    /// When that one left.
    pub async fn left(&self, Mark(mark): Mark, name: &str) -> Duration {
        eventually(secs(20), format!("{name} is out of HAProxy"), async || {
            let seen = self.0.lock().expect("unpoisoned");
            let mut left = seen.left[mark..].iter();
            left.find(|(left, _)| left == name).map(|(_, at)| *at)
        })
        .await
    }
}

/// The names of the servers that neither drain nor are in maintenance; what its checks say doesn't count.
fn serving(socket: &Path) -> Option<BTreeSet<String>> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.write_all(b"@1 show servers state\n").ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let rows = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // Name, administrative state, weight: the columns of the manual's `show servers state`, version 1.
    let serving = rows.filter(|row| row.len() > 18 && (row[6], row[7]) == ("0", "1"));
    Some(serving.map(|row| row[3].to_owned()).collect())
}
