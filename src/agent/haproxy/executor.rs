//! A real HAProxy and its file: runs what `apply` decides.

use crate::agent::haproxy::api::{Happening, Proxy, Reload, Trouble, Worker};
use crate::agent::haproxy::config_file::{ConfigFile, Pace};
use crate::agent::haproxy::master_socket::{ANEW, Master, RELOAD};
use crate::agent::haproxy::process::{Child, terminate};
use crate::agent::haproxy::render::MARK;
use crate::agent::haproxy::runtime::{Command, Running, parse_state};
use crate::agent::haproxy::server_defaults::ServerDefaults;
use crate::agent::haproxy::sessions::endings;
use crate::agent::haproxy::shared_text::Text;
use crate::agent::model::bind::Bind;
use crate::agent::model::bind::sockets;
use crate::clock::now;
use crate::log_throttle::{LogThrottle, Repeats};
use crate::systemd::Pulse;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

/// After a stop, an adopted HAProxy gets so long to be gone.
const FAREWELL: Duration = Duration::from_secs(3);

/// `wait … srv-removable` came with 3.0.
const CAN_WAIT: (u32, u32) = (3, 0);

/// After a file was written beside everything else there is a rest, so many times as long as that
/// took. `haproxy -c` loads one core for 40 ms, or 0.2 s with ten thousand servers: while change
/// follows change it is to have a fifth of that core, and the file is behind by a second at most.
const REST: u32 = 4;
const REST_AT_MOST: Duration = Duration::from_secs(1);

/// A backend's servers can be asked for one by one; for more than so many, all at once is faster.
const FEW: usize = 8;

/// HAProxy, by its master's socket.
#[derive(Debug)]
pub(crate) struct Haproxy {
    file: ConfigFile,
    master: Master,
    /// Whether it is ours to start and to stop.
    ours: bool,
    /// What the base file says of each server.
    defaults: ServerDefaults,
    child: Option<Child>,
    /// Its ends, as far as the log is concerned: one that crashes crashes every two seconds.
    ends: LogThrottle,
    /// Its alerts, likewise, whichever process of it they come from.
    alerts: Arc<Mutex<Repeats>>,
    /// Master, worker, and what the worker was started from: that never changes.
    mark: RefCell<Option<(u32, u32, Option<String>)>>,
    saving: Option<Saving>,
    /// To be saved when that is done, and not before `rested`.
    next: Option<Text>,
    rested: Instant,
    pulse: Pulse,
}

/// What is being written, and by whom; it tells how long it took.
type Saving = (Text, JoinHandle<(Result<(), Trouble>, Duration)>);

impl Haproxy {
    /// `ours`: to be supervised. Starts nothing yet.
    pub(crate) fn new(
        file: ConfigFile,
        socket: PathBuf,
        ours: bool,
        defaults: ServerDefaults,
        pulse: Pulse,
    ) -> Self {
        let master = Master::new(socket);
        Self {
            file,
            master,
            ours,
            defaults,
            child: None,
            ends: LogThrottle::default(),
            alerts: Arc::default(),
            mark: RefCell::new(None),
            saving: None,
            next: None,
            rested: Instant::now(),
            pulse,
        }
    }

    /// Finishes what is being written, and ends HAProxy if it is ours.
    pub(crate) async fn stop(&mut self) {
        let saving = async {
            self.write_next();
            while self.saving.is_some() {
                let (_, result, _) = done(&mut self.saving).await;
                self.saving = None;
                if result.is_ok() {
                    self.write_next();
                }
            }
        };
        let _ = timeout(FAREWELL, saving).await;
        if let Some(child) = self.child.take() {
            if !child.stop().await {
                warn!("HAProxy didn't end by itself, and was killed");
            }
            return;
        }
        // One that an earlier life of ours started and left behind.
        if self.ours
            && let Ok(processes) = self.master.processes().await
        {
            terminate(processes.master);
            let end = Instant::now() + FAREWELL;
            while Instant::now() < end && self.master.processes().await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn ended(&mut self, status: &str) {
        self.child = None;
        if let Some(notice) = self.ends.failed(now()) {
            warn!("HAProxy ended ({status}; {} times)", notice.failures);
        }
    }

    /// Writes what is to be saved next, if nothing is being written.
    fn write_next(&mut self) {
        if self.saving.is_none()
            && let Some(text) = self.next.take()
        {
            let (file, copy) = (self.file.clone(), text.clone());
            let write = async move {
                let began = Instant::now();
                let result = file.write(&copy, Pace::Beside).await;
                (result, began.elapsed())
            };
            self.saving = Some((text, tokio::spawn(write)));
        }
    }

    async fn mark(&self, master: u32, worker: u32) -> Result<Option<String>, Trouble> {
        if let Some((m, w, mark)) = &*self.mark.borrow()
            && (*m, *w) == (master, worker)
        {
            return Ok(mark.clone());
        }
        let answer = self
            .master
            .ask_worker(worker, &format!("show env {MARK}"))
            .await?;
        let mark = answer
            .lines()
            .find_map(|line| line.strip_prefix(MARK)?.strip_prefix('='))
            .map(str::to_owned);
        *self.mark.borrow_mut() = Some((master, worker, mark.clone()));
        Ok(mark)
    }
}

impl Proxy for Haproxy {
    async fn write(&mut self, text: &Text) -> Result<(), Trouble> {
        self.pulse.beat();
        self.next = None;
        if let Some((_, saving)) = self.saving.take() {
            let _ = saving.await;
        }
        self.file.write(text, Pace::Awaited).await
    }

    fn save(&mut self, text: Text) {
        self.next = Some(text);
        if Instant::now() >= self.rested {
            self.write_next();
        }
    }

    fn is_meddled_with(&self) -> bool {
        self.saving.is_none() && self.file.is_anothers()
    }

    async fn happens(&mut self) -> Happening {
        loop {
            // Cancel-safe, all: a child can be waited for again, so can a task by reference, and a
            // sleep has no effect.
            tokio::select! {
                status = ended(&mut self.child) => {
                    self.ended(&status);
                    return Happening::Died;
                }
                (text, result, took) = done(&mut self.saving) => {
                    self.saving = None;
                    self.rested = Instant::now() + (took * REST).min(REST_AT_MOST);
                    return Happening::Saved(text, result);
                }
                () = sleep_until(self.rested), if self.saving.is_none() && self.next.is_some() => {
                    self.write_next();
                }
            }
        }
    }

    fn hang_up(&self) {
        self.master.hang_up();
    }

    async fn worker(&self) -> Result<Worker, Trouble> {
        self.pulse.beat();
        let processes = self.master.processes().await?;
        let mark = self.mark(processes.master, processes.worker).await?;
        Ok(Worker {
            pid: processes.worker,
            mark,
            can_wait: processes.version >= CAN_WAIT,
            older: processes.older,
        })
    }

    async fn state(
        &self,
        worker: &Worker,
        backends: Option<&BTreeSet<String>>,
    ) -> Result<Running, Trouble> {
        self.pulse.beat();
        let mut running = Running::new();
        match backends {
            Some(backends) if backends.len() <= FEW => {
                for backend in backends {
                    let text = self
                        .master
                        .ask_worker(worker.pid, &format!("show servers state {backend}"))
                        .await?;
                    running.extend(parse_state(&text)?);
                }
            }
            _ => {
                let text = self
                    .master
                    .ask_worker(worker.pid, "show servers state")
                    .await?;
                running = parse_state(&text)?;
                running.retain(|name, _| backends.is_none_or(|wanted| wanted.contains(name)));
            }
        }
        Ok(running)
    }

    async fn tell(&self, worker: &Worker, commands: &[Command]) -> Result<String, Trouble> {
        self.pulse.beat();
        let lines = commands
            .iter()
            .flat_map(|command| command.lines(&self.defaults, worker.can_wait));
        self.master.tell_worker(worker.pid, lines).await
    }

    async fn end_connections(
        &self,
        pids: &[u32],
        is_over: impl Fn(&str, &str) -> bool,
    ) -> Result<(), Trouble> {
        for &pid in pids {
            self.pulse.beat();
            let commands = endings(&self.master.sessions(pid).await?, &is_over);
            self.master.tell_worker(pid, commands.into_iter()).await?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<Reload, Trouble> {
        self.pulse.beat();
        if !self.ours {
            return Err(Trouble::Down(format!(
                "nobody is at {}",
                self.master.socket().display()
            )));
        }
        if let Some(child) = &mut self.child {
            match child.ended() {
                Some(status) => self.ended(&status.to_string()),
                // Somebody removed its socket; as a reloaded master it makes it anew, and cuts nobody.
                None if !self.master.socket().exists() => {
                    child.reload();
                    return self.master.appears().await;
                }
                None => {
                    return Err(Trouble::Down("it is there, but doesn't answer".to_owned()));
                }
            }
        }
        let (file, socket) = (&self.file, self.master.socket());
        let alerts = self.alerts.clone();
        let mut child = Child::start(file.binary(), file.path(), socket, alerts)?;
        let end = Instant::now() + RELOAD;
        let mut told = Instant::now();
        while Instant::now() < end {
            if let Some(status) = child.ended() {
                // What it said may still be on its way through the pipe.
                sleep(Duration::from_millis(50)).await;
                let said = child.complaints();
                return Ok(Reload::Failed(if said.is_empty() {
                    format!("it ended at once ({status})")
                } else {
                    said
                }));
            }
            if self.master.is_ready().await {
                if self.ends.since().is_none() || self.ends.recovered(now()).is_some() {
                    info!("HAProxy runs");
                }
                child.complaints();
                self.child = Some(child);
                return Ok(Reload::Done);
            }
            // Somebody removed its socket before we saw it.
            if told.elapsed() > ANEW && !socket.exists() {
                child.reload();
                told = Instant::now();
            }
            sleep(Duration::from_millis(10)).await;
        }
        child.stop().await;
        Err(Trouble::Down(format!(
            "it didn't start within {} s",
            RELOAD.as_secs()
        )))
    }

    async fn reload(&mut self) -> Result<Reload, Trouble> {
        self.pulse.beat();
        let outcome = self.master.reload().await?;
        // 2.6 says nothing at the socket, but our own one's words reach us another way.
        Ok(match (outcome, &self.child) {
            (Reload::Failed(log), Some(child)) if log.is_empty() => {
                Reload::Failed(child.complaints())
            }
            (outcome, _) => outcome,
        })
    }

    async fn obstacle(&self, bind: Bind) -> Option<String> {
        let mut sockets = sockets(bind).into_iter();
        sockets.find_map(|address| why_not(bind, address, try_to_bind(address).err()?.kind()))
    }
}

/// Why HAProxy couldn't listen for `bind`, if we can't at one of its addresses.
fn why_not(bind: Bind, address: SocketAddr, error: ErrorKind) -> Option<String> {
    match error {
        ErrorKind::AddrInUse => Some("another process listens there".to_owned()),
        ErrorKind::AddrNotAvailable if bind == Bind::At(address) => {
            Some("the machine has no such address".to_owned())
        }
        // HAProxy may be allowed more than we are: a port below 1024, for one. And without IPv6 it
        // isn't asked for.
        _ => None,
    }
}

/// Binds and lets go. Without listen(2) nobody can connect meanwhile.
fn try_to_bind(address: SocketAddr) -> io::Result<()> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // As a server would: connections that are long over are no obstacle.
    socket.set_reuseaddr(true)?;
    socket.bind(address)
}

async fn ended(child: &mut Option<Child>) -> String {
    match child {
        Some(child) => child.wait().await,
        None => std::future::pending().await,
    }
}

async fn done(saving: &mut Option<Saving>) -> (Text, Result<(), Trouble>, Duration) {
    match saving {
        Some((text, task)) => {
            let failed = |e: JoinError| (Err(Trouble::File(e.to_string())), Duration::ZERO);
            let (result, took) = task.await.unwrap_or_else(failed);
            (text.clone(), result, took)
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_we_may_not_bind_is_left_to_haproxy() {
        let (bind, address) = (":80".parse().unwrap(), "0.0.0.0:80".parse().unwrap());
        assert_eq!(why_not(bind, address, ErrorKind::PermissionDenied), None);
        assert_eq!(why_not(bind, address, ErrorKind::AddrNotAvailable), None);
        let taken = why_not(bind, address, ErrorKind::AddrInUse);
        assert_eq!(taken.as_deref(), Some("another process listens there"));
        let there = Bind::At("203.0.113.77:80".parse().unwrap());
        let missing = why_not(
            there,
            "203.0.113.77:80".parse().unwrap(),
            ErrorKind::AddrNotAvailable,
        );
        assert_eq!(missing.as_deref(), Some("the machine has no such address"));
    }
}
