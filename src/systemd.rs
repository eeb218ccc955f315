//! What systemd is told: READY, STATUS, WATCHDOG, STOPPING. Nothing, where it doesn't listen. Nothing
//! here waits for systemd: what it doesn't take now is told again later.

pub use crate::watchdog::Pulse;

use crate::clock::{Moment, now};
use crate::log_throttle::LogThrottle;
use crate::watchdog::{Feeding, Watchdog};
use sd_notify::NotifyState;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

/// Between two tries to tell systemd what it did not take.
const RETRY: Duration = Duration::from_millis(500);

/// Between two counts of the tasks in the debug log.
const TASK_COUNT_INTERVAL: Duration = Duration::from_secs(5);

/// The connection to the service manager. By default there is none.
#[derive(Debug, Default)]
pub struct Systemd {
    socket: Option<SocketAddr>,
    status: String,
    untold: Untold,
    /// After a datagram that systemd did not take: no other before then.
    retry: Moment,
    watchdog: Watchdog,
    /// When the log was told last how many tasks live.
    counted: Moment,
    /// A loop that is stuck, as far as the log is concerned.
    stuck: LogThrottle,
    /// A socket that takes nothing, as far as the log is concerned.
    deaf: LogThrottle,
    turns: watch::Sender<Option<LastTurn>>,
}

/// The last time that the loop which speaks to systemd came round.
#[derive(Debug, Clone, Copy)]
pub struct LastTurn {
    /// By the monotonic clock, which stands still while the machine is suspended: so does the loop.
    pub at: Instant,
    /// The name of a loop that is stuck.
    pub stuck: Option<&'static str>,
}

/// What systemd is to know, and does not yet.
#[derive(Debug, Default)]
struct Untold {
    ready: bool,
    stopping: bool,
    status: bool,
    alive: bool,
}

impl Systemd {
    /// As NOTIFY_SOCKET and WATCHDOG_USEC say (sd_notify(3)).
    #[must_use]
    pub fn from_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = address(&name);
            if let Err(error) = &address {
                warn!(
                    ?name,
                    "cannot use NOTIFY_SOCKET, sending systemd no notifications: {error}"
                );
            }
            address.ok()
        });
        Self {
            socket,
            watchdog: Watchdog::new(sd_notify::watchdog_enabled()),
            ..Self::default()
        }
    }

    /// A new loop that the watchdog minds from now on.
    pub fn pulse(&mut self, name: &'static str) -> Pulse {
        self.watchdog.pulse(name)
    }

    /// When the loop that speaks to systemd came round last; `None`: not yet.
    #[must_use]
    pub fn turns(&self) -> watch::Receiver<Option<LastTurn>> {
        self.turns.subscribe()
    }

    /// The configuration holds and the loops run.
    pub fn ready(&mut self) {
        self.untold.ready = true;
        self.tell(now());
    }

    /// What it is doing, in words; sent when it changes.
    pub fn status(&mut self, text: String) {
        if text != self.status {
            self.status = text;
            self.untold.status = true;
            self.tell(now());
        }
    }

    /// It stops now. Nothing is told after this.
    pub fn stopping(&mut self) {
        self.status = "stopping".to_owned();
        (self.untold.stopping, self.untold.status) = (true, true);
        self.retry = Moment::ZERO;
        self.tell(now());
    }

    /// The loop that speaks to systemd came round at `now`. Feeds the watchdog when it is time, unless a
    /// loop is stuck. Returns within what time the loop has to come round again, 5 s at most.
    pub fn turn(&mut self, now: Moment) -> Duration {
        let feeding = self.watchdog.turn(now);
        self.turns.send_replace(Some(LastTurn {
            at: Instant::now(),
            stuck: match feeding {
                Feeding::Stuck(name) => Some(name),
                Feeding::NotYet | Feeding::Due => None,
            },
        }));
        match feeding {
            fed @ (Feeding::NotYet | Feeding::Due) => {
                self.untold.alive |= fed == Feeding::Due;
                self.stuck.recovered(now);
            }
            Feeding::Stuck(name) => {
                self.untold.alive = false;
                if self.stuck.failed(now).is_some() {
                    error!("the {name} loop is stuck; sending systemd no watchdog notification");
                }
            }
        }
        self.count_tasks(now);
        self.tell(now);
        let pause = self.watchdog.pause(now);
        if self.untold.is_empty() {
            pause
        } else {
            pause.min(RETRY)
        }
    }

    /// Every 5 s the debug log says how many tasks live: a task that was forgotten shows there first.
    fn count_tasks(&mut self, now: Moment) {
        if now >= self.counted + TASK_COUNT_INTERVAL
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            self.counted = now;
            debug!(tasks = runtime.metrics().num_alive_tasks(), "alive");
        }
    }

    /// All that systemd is to know, in one datagram.
    fn tell(&mut self, now: Moment) {
        let Some(socket) = &self.socket else {
            self.untold = Untold::default();
            return;
        };
        if self.untold.is_empty() || now < self.retry {
            return;
        }
        match send(socket, &self.untold.datagram(&self.status)) {
            Ok(()) => {
                self.untold = Untold::default();
                if self.deaf.recovered(now).is_some() {
                    info!("systemd takes notifications again");
                }
            }
            // A service manager that doesn't take a datagram is no reason to stop serving.
            Err(error) => {
                self.retry = now + RETRY;
                if self.deaf.failed(now).is_some() {
                    warn!("systemd does not take notifications, retrying: {error}");
                }
            }
        }
    }
}

impl Untold {
    fn is_empty(&self) -> bool {
        !(self.ready || self.stopping || self.status || self.alive)
    }

    fn datagram(&self, status: &str) -> String {
        let states = [
            (self.ready, NotifyState::Ready),
            (self.stopping, NotifyState::Stopping),
            (self.status, NotifyState::Status(status)),
            (self.alive, NotifyState::Watchdog),
        ];
        let told = states.iter().filter(|(untold, _)| *untold);
        told.map(|(_, state)| format!("{state}\n")).collect()
    }
}

/// A path, or an abstract name after an `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "neither a path nor an abstract socket",
        )),
    }
}

/// `sd_notify::notify` would wait for as long as systemd's queue is full.
fn send(to: &SocketAddr, datagram: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(datagram.as_bytes(), to).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No systemd in the unit tests' environment is needed: the address is given.
    fn at(address: SocketAddr) -> Systemd {
        Systemd {
            socket: Some(address),
            watchdog: Watchdog::new(Some(Duration::from_secs(30))),
            ..Systemd::default()
        }
    }

    #[test]
    fn an_abstract_socket_is_told_too() {
        let name = format!("@sidekick-test-{}", std::process::id());
        let address = address(OsStr::new(&name)).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let mut systemd = at(address);
        systemd.ready();
        systemd.status("announcing".to_owned());
        let mut told = [0; 64];
        let length = manager.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"READY=1\n");
        let length = manager.recv(&mut told).unwrap();
        assert_eq!(&told[..length], b"STATUS=announcing\n");
        assert!(super::address(OsStr::new("vsock:2:1234")).is_err());
    }

    #[test]
    fn what_a_full_socket_does_not_take_is_told_when_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let address = SocketAddr::from_pathname(&path).unwrap();
        while send(&address, "another unit's").is_ok() {}
        let mut systemd = at(address);
        systemd.ready();
        systemd.status("waiting".to_owned());
        systemd.status("announcing".to_owned());
        let begun = now();
        assert_eq!(systemd.turn(begun), RETRY);
        let mut told = [0; 64];
        manager.set_nonblocking(true).unwrap();
        while manager.recv(&mut told).is_ok() {}

        assert!(systemd.turn(begun + RETRY + RETRY) > RETRY);
        let length = manager.recv(&mut told).unwrap();
        let told = String::from_utf8_lossy(&told[..length]);
        assert_eq!(told, "READY=1\nSTATUS=announcing\nWATCHDOG=1\n");
        assert!(manager.recv(&mut [0; 64]).is_err(), "told once");
    }
}
