//! systemd's end of the notify protocol.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::wait::{SOON, eventually};

/// Everything that a service has sent to its NOTIFY_SOCKET, as single assignments in their order.
pub struct Notifications {
    directory: TempDir,
    received: Arc<Mutex<Vec<String>>>,
    /// Full, and not read yet.
    unread: Option<UnixDatagram>,
}

impl Notifications {
    /// Opens a socket.
    pub fn listen() -> Notifications {
        let mut notifications = Notifications::unread();
        notifications.read();
        notifications
    }

    /// Opens a socket that is full, and that nothing reads yet.
    pub fn unread() -> Notifications {
        let directory = tempfile::tempdir().expect("no temporary directory can be made");
        let socket =
            UnixDatagram::bind(socket_in(directory.path())).expect("no notify socket can be bound");
        let filler = UnixDatagram::unbound().expect("a socket can be made");
        let cannot = "a socket can be made non-blocking";
        filler.set_nonblocking(true).expect(cannot);
        while filler
            .send_to(b"another unit's", socket_in(directory.path()))
            .is_ok()
        {}
        Notifications {
            directory,
            received: Arc::default(),
            unread: Some(socket),
        }
    }

    /// From now on it is read.
    pub fn read(&mut self) {
        let socket = self.unread.take().expect("this socket is read already");
        let into = Arc::clone(&self.received);
        std::thread::spawn(move || {
            let mut datagram = [0; 4096];
            while let Ok(length) = socket.recv(&mut datagram) {
                let text = String::from_utf8_lossy(&datagram[..length]);
                if text == HANG_UP {
                    return;
                }
                into.lock()
                    .expect("a reader of notifications panicked")
                    .extend(text.lines().map(str::to_owned));
            }
        });
    }

    /// The socket's path.
    pub fn path(&self) -> PathBuf {
        socket_in(self.directory.path())
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<String> {
        self.received
            .lock()
            .expect("the notifications' reader panicked")
            .clone()
    }

    /// How often this assignment came.
    pub fn count(&self, assignment: &str) -> usize {
        self.all()
            .iter()
            .filter(|&received| received == assignment)
            .count()
    }

    /// Waits until an assignment comes, to the letter.
    #[track_caller]
    pub fn tell(&self, assignment: &str) -> impl Future<Output = ()> {
        eventually(
            SOON,
            format!("systemd is told {assignment:?}"),
            async move || {
                let all = self.all();
                if all.iter().any(|received| received == assignment) {
                    Ok(())
                } else {
                    Err(format!("{all:?}"))
                }
            },
        )
    }

    /// Waits until the last status is one that `is` accepts; returns it without `STATUS=`.
    #[track_caller]
    pub fn status(&self, what: &str, is: impl Fn(&str) -> bool) -> impl Future<Output = String> {
        eventually(SOON, format!("the status is {what}"), async move || {
            let all = self.all();
            let last = all
                .iter()
                .rev()
                .find_map(|assignment| assignment.strip_prefix("STATUS="));
            match last {
                Some(status) if is(status) => Ok(status.to_owned()),
                other => Err(format!("{other:?}")),
            }
        })
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        if self.unread.is_some() {
            return;
        }
        // The reader's thread ends with this; whether it does is nothing to a test.
        let _ = UnixDatagram::unbound()
            .and_then(|socket| socket.send_to(HANG_UP.as_bytes(), self.path()));
    }
}

const HANG_UP: &str = "the test is over";

fn socket_in(directory: &Path) -> PathBuf {
    directory.join("notify")
}
