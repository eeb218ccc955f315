//! A real HAProxy and its file: runs what `apply` decides.

use crate::agent::haproxy::api::{HaproxyApi, HaproxyEvent, ProxyError, ReloadOutcome, Worker};
use crate::agent::haproxy::config_file::{ConfigFile, WritePriority};
use crate::agent::haproxy::master_socket::{MasterSocket, RELOAD_TIMEOUT, SOCKET_RECREATED_WITHIN};
use crate::agent::haproxy::process::{HaproxyProcess, terminate};
use crate::agent::haproxy::render::FINGERPRINT_VARIABLE;
use crate::agent::haproxy::runtime::{RunningServers, ServerCommand, parse_state};
use crate::agent::haproxy::server_defaults::ServerDefaults;
use crate::agent::haproxy::sessions::shutdown_commands;
use crate::agent::haproxy::shared_text::SharedText;
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
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// `wait … srv-removable` came with 3.0.
const WAIT_SINCE: (u32, u32) = (3, 0);

/// After a file was written beside everything else there is a rest, so many times as long as that
/// took. `haproxy -c` loads one core for 40 ms, or 0.2 s with ten thousand servers: while change
/// follows change it is to have a fifth of that core, and the file is behind by a second at most.
const PAUSE_FACTOR: u32 = 4;
const MAX_WRITE_PAUSE: Duration = Duration::from_secs(1);

/// A backend's servers can be asked for one by one; for more than so many, all at once is faster.
const MAX_SINGLE_BACKENDS: usize = 8;

/// HAProxy, by its master's socket.
#[derive(Debug)]
pub(crate) struct HaproxyExecutor {
    file: ConfigFile,
    master: MasterSocket,
    /// Whether it is ours to start and to stop.
    ours: bool,
    /// What the base file says of each server.
    defaults: ServerDefaults,
    process: Option<HaproxyProcess>,
    /// Its ends, as far as the log is concerned: one that crashes crashes every two seconds.
    removal_version: LogThrottle,
    /// Its alerts, likewise, whichever process of it they come from.
    alerts: Arc<Mutex<Repeats>>,
    /// Master, worker, and what the worker was started from: that never changes.
    fingerprint: RefCell<Option<(u32, u32, Option<String>)>>,
    saving: Option<PendingWrite>,
    /// To be saved when that is done, and not before `next_write_at`.
    next: Option<SharedText>,
    next_write_at: Instant,
    pulse: Pulse,
}

/// What is being written, and by whom; it tells how long it took.
type PendingWrite = (SharedText, JoinHandle<(Result<(), ProxyError>, Duration)>);

impl HaproxyExecutor {
    /// `ours`: to be supervised. Starts nothing yet.
    pub(crate) fn new(
        file: ConfigFile,
        socket: PathBuf,
        ours: bool,
        defaults: ServerDefaults,
        pulse: Pulse,
    ) -> Self {
        let master = MasterSocket::new(socket);
        Self {
            file,
            master,
            ours,
            defaults,
            process: None,
            removal_version: LogThrottle::default(),
            alerts: Arc::default(),
            fingerprint: RefCell::new(None),
            saving: None,
            next: None,
            next_write_at: Instant::now(),
            pulse,
        }
    }

    /// Finishes what is being written, and ends HAProxy if it is ours.
    pub(crate) async fn stop(&mut self) {
        let saving = async {
            self.start_next_write();
            while self.saving.is_some() {
                let (_, result, _) = finished(&mut self.saving).await;
                self.saving = None;
                if result.is_ok() {
                    self.start_next_write();
                }
            }
        };
        let _ = timeout(STOP_TIMEOUT, saving).await;
        if let Some(process) = self.process.take() {
            if !process.stop().await {
                warn!("HAProxy didn't end by itself, and was killed");
            }
            return;
        }
        // One that an earlier life of ours started and left behind.
        if self.ours
            && let Ok(processes) = self.master.processes().await
        {
            terminate(processes.master);
            let end = Instant::now() + STOP_TIMEOUT;
            while Instant::now() < end && self.master.processes().await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    fn ended(&mut self, status: &str) {
        self.process = None;
        if let Some(notice) = self.removal_version.failed(now()) {
            warn!("HAProxy ended ({status}; {} times)", notice.failures);
        }
    }

    /// Writes what is to be saved next, if nothing is being written.
    fn start_next_write(&mut self) {
        if self.saving.is_none()
            && let Some(text) = self.next.take()
        {
            let (file, copy) = (self.file.clone(), text.clone());
            let write = async move {
                let began = Instant::now();
                let result = file.write(&copy, WritePriority::Beside).await;
                (result, began.elapsed())
            };
            self.saving = Some((text, tokio::spawn(write)));
        }
    }

    async fn fingerprint(&self, master: u32, worker: u32) -> Result<Option<String>, ProxyError> {
        if let Some((m, w, fingerprint)) = &*self.fingerprint.borrow()
            && (*m, *w) == (master, worker)
        {
            return Ok(fingerprint.clone());
        }
        let answer = self
            .master
            .ask_worker(worker, &format!("show env {FINGERPRINT_VARIABLE}"))
            .await?;
        let fingerprint = answer
            .lines()
            .find_map(|line| line.strip_prefix(FINGERPRINT_VARIABLE)?.strip_prefix('='))
            .map(str::to_owned);
        *self.fingerprint.borrow_mut() = Some((master, worker, fingerprint.clone()));
        Ok(fingerprint)
    }
}

impl HaproxyApi for HaproxyExecutor {
    async fn write(&mut self, text: &SharedText) -> Result<(), ProxyError> {
        self.pulse.beat();
        self.next = None;
        if let Some((_, saving)) = self.saving.take() {
            let _ = saving.await;
        }
        self.file.write(text, WritePriority::Awaited).await
    }

    fn save(&mut self, text: SharedText) {
        self.next = Some(text);
        if Instant::now() >= self.next_write_at {
            self.start_next_write();
        }
    }

    fn file_changed_by_others(&self) -> bool {
        self.saving.is_none() && self.file.is_changed_by_others()
    }

    async fn next_event(&mut self) -> HaproxyEvent {
        loop {
            // Cancel-safe, all: a child can be waited for again, so can a task by reference, and a
            // sleep has no effect.
            tokio::select! {
                status = ended(&mut self.process) => {
                    self.ended(&status);
                    return HaproxyEvent::Exited;
                }
                (text, result, took) = finished(&mut self.saving) => {
                    self.saving = None;
                    self.next_write_at = Instant::now() + (took * PAUSE_FACTOR).min(MAX_WRITE_PAUSE);
                    return HaproxyEvent::FileSaved(text, result);
                }
                () = sleep_until(self.next_write_at), if self.saving.is_none() && self.next.is_some() => {
                    self.start_next_write();
                }
            }
        }
    }

    fn close_connection(&self) {
        self.master.close_connection();
    }

    async fn worker(&self) -> Result<Worker, ProxyError> {
        self.pulse.beat();
        let processes = self.master.processes().await?;
        let fingerprint = self.fingerprint(processes.master, processes.worker).await?;
        Ok(Worker {
            pid: processes.worker,
            fingerprint,
            can_wait: processes.version >= WAIT_SINCE,
            older: processes.older,
        })
    }

    async fn state(
        &self,
        worker: &Worker,
        backends: Option<&BTreeSet<String>>,
    ) -> Result<RunningServers, ProxyError> {
        self.pulse.beat();
        let mut running = RunningServers::new();
        match backends {
            Some(backends) if backends.len() <= MAX_SINGLE_BACKENDS => {
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

    async fn run_commands(
        &self,
        worker: &Worker,
        commands: &[ServerCommand],
    ) -> Result<String, ProxyError> {
        self.pulse.beat();
        let lines = commands
            .iter()
            .flat_map(|command| command.lines(&self.defaults, worker.can_wait));
        self.master.send_commands(worker.pid, lines).await
    }

    async fn end_connections(
        &self,
        pids: &[u32],
        is_removed: impl Fn(&str, &str) -> bool,
    ) -> Result<(), ProxyError> {
        for &pid in pids {
            self.pulse.beat();
            let commands = shutdown_commands(&self.master.sessions(pid).await?, &is_removed);
            self.master.send_commands(pid, commands.into_iter()).await?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<ReloadOutcome, ProxyError> {
        self.pulse.beat();
        if !self.ours {
            return Err(ProxyError::Unreachable(format!(
                "nobody is at {}",
                self.master.socket().display()
            )));
        }
        if let Some(process) = &mut self.process {
            match process.ended() {
                Some(status) => self.ended(&status.to_string()),
                // Somebody removed its socket; as a reloaded master it makes it anew, and cuts nobody.
                None if !self.master.socket().exists() => {
                    process.reload();
                    return self.master.wait_for_socket().await;
                }
                None => {
                    return Err(ProxyError::Unreachable(
                        "it is there, but doesn't answer".to_owned(),
                    ));
                }
            }
        }
        let (file, socket) = (&self.file, self.master.socket());
        let alerts = self.alerts.clone();
        let mut process = HaproxyProcess::start(file.binary(), file.path(), socket, alerts)?;
        let end = Instant::now() + RELOAD_TIMEOUT;
        let mut told = Instant::now();
        while Instant::now() < end {
            if let Some(status) = process.ended() {
                // What it said may still be on its way through the pipe.
                sleep(Duration::from_millis(50)).await;
                let said = process.take_alerts();
                return Ok(ReloadOutcome::Failed(if said.is_empty() {
                    format!("it ended at once ({status})")
                } else {
                    said
                }));
            }
            if self.master.is_ready().await {
                if self.removal_version.since().is_none()
                    || self.removal_version.recovered(now()).is_some()
                {
                    info!("HAProxy runs");
                }
                process.take_alerts();
                self.process = Some(process);
                return Ok(ReloadOutcome::Done);
            }
            // Somebody removed its socket before we saw it.
            if told.elapsed() > SOCKET_RECREATED_WITHIN && !socket.exists() {
                process.reload();
                told = Instant::now();
            }
            sleep(Duration::from_millis(10)).await;
        }
        process.stop().await;
        Err(ProxyError::Unreachable(format!(
            "it didn't start within {} s",
            RELOAD_TIMEOUT.as_secs()
        )))
    }

    async fn reload(&mut self) -> Result<ReloadOutcome, ProxyError> {
        self.pulse.beat();
        let outcome = self.master.reload().await?;
        // 2.6 says nothing at the socket, but our own one's words reach us another way.
        Ok(match (outcome, &self.process) {
            (ReloadOutcome::Failed(log), Some(process)) if log.is_empty() => {
                ReloadOutcome::Failed(process.take_alerts())
            }
            (outcome, _) => outcome,
        })
    }

    async fn bind_obstacle(&self, bind: Bind) -> Option<String> {
        let mut sockets = sockets(bind).into_iter();
        sockets
            .find_map(|address| bind_obstacle_at(bind, address, try_to_bind(address).err()?.kind()))
    }
}

/// Why HAProxy couldn't listen for `bind`, if we can't at one of its addresses.
fn bind_obstacle_at(bind: Bind, address: SocketAddr, error: ErrorKind) -> Option<String> {
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

async fn ended(process: &mut Option<HaproxyProcess>) -> String {
    match process {
        Some(process) => process.wait().await,
        None => std::future::pending().await,
    }
}

async fn finished(
    saving: &mut Option<PendingWrite>,
) -> (SharedText, Result<(), ProxyError>, Duration) {
    match saving {
        Some((text, task)) => {
            let failed = |e: JoinError| (Err(ProxyError::File(e.to_string())), Duration::ZERO);
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
        assert_eq!(
            bind_obstacle_at(bind, address, ErrorKind::PermissionDenied),
            None
        );
        assert_eq!(
            bind_obstacle_at(bind, address, ErrorKind::AddrNotAvailable),
            None
        );
        let taken = bind_obstacle_at(bind, address, ErrorKind::AddrInUse);
        assert_eq!(taken.as_deref(), Some("another process listens there"));
        let there = Bind::At("203.0.113.77:80".parse().unwrap());
        let missing = bind_obstacle_at(
            there,
            "203.0.113.77:80".parse().unwrap(),
            ErrorKind::AddrNotAvailable,
        );
        assert_eq!(missing.as_deref(), Some("the machine has no such address"));
    }
}
