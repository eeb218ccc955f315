//! Executes what the reconciler decides: HAProxy's processes, its master socket and its file.

use crate::agent::haproxy::api::{HaproxyApi, HaproxyEvent, ProxyError, ReloadOutcome, Worker};
use crate::agent::haproxy::bind_probe::bind_obstacle;
use crate::agent::haproxy::config_file::{ConfigFile, WritePriority};
use crate::agent::haproxy::file_content::FileContent;
use crate::agent::haproxy::last_speaker::LastSpeaker;
use crate::agent::haproxy::master_socket::{MasterSocket, RELOAD_TIMEOUT, SOCKET_RECREATED_WITHIN};
use crate::agent::haproxy::process::{HaproxyProcess, STOP_TIMEOUT, terminate};
use crate::agent::haproxy::render::FINGERPRINT_VARIABLE;
use crate::agent::haproxy::runtime::ServerCommand;
use crate::agent::haproxy::server_defaults::ServerDefaults;
use crate::agent::haproxy::server_state::{RunningServers, parse_state};
use crate::agent::haproxy::session_list::{Session, WorkerSessions};
use crate::agent::haproxy::sessions::sessions_of_removed;
use crate::agent::haproxy::tcp_diagnosis::TcpDiagnosis;
use crate::agent::model::bind::Bind;
use crate::clock::now;
use crate::log_throttle::{LogThrottle, Repeats};
use crate::systemd::Pulse;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

/// `wait … srv-removable` came with 3.0.
const WAIT_SINCE: (u32, u32) = (3, 0);

/// After a background write there is a pause, so many times as long as the write took. `haproxy -c` loads
/// one core for 40 ms, or 0.2 s with ten thousand servers: while change follows change it gets a fifth of
/// that core, and the file is a second behind at most.
const PAUSE_FACTOR: u32 = 4;
const MAX_WRITE_PAUSE: Duration = Duration::from_secs(1);

/// Up to so many backends are asked for one by one; for more, all at once is faster.
const MAX_SINGLE_BACKENDS: usize = 8;

/// How often the sessions are listed at one look until the list has no gap.
const LISTINGS: u32 = 3;

/// HAProxy, through its master socket.
#[derive(Debug)]
pub(crate) struct HaproxyExecutor {
    file: ConfigFile,
    master: MasterSocket,
    /// Whether the agent supervises it: starts and stops it.
    ours: bool,
    /// The base file's `default-server`.
    defaults: ServerDefaults,
    process: Option<HaproxyProcess>,
    /// Its exits, for the log: a HAProxy that crashes does so every two seconds.
    exits: LogThrottle,
    /// Its alerts, for the log, from whichever of its processes.
    alerts: Arc<Mutex<Repeats>>,
    diagnosis: TcpDiagnosis,
    /// Process ids of master and worker, and the worker's fingerprint, which never changes.
    fingerprint: RefCell<Option<(u32, u32, Option<String>)>>,
    saving: Option<PendingWrite>,
    /// Saved when that is done, and not before `next_write_at`.
    next: Option<FileContent>,
    next_write_at: Instant,
    pulse: Pulse,
}

/// What is being written, and the task, which returns how long it took.
type PendingWrite = (FileContent, JoinHandle<(Result<(), ProxyError>, Duration)>);

impl HaproxyExecutor {
    /// `ours`: the agent supervises it. Starts nothing yet.
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
            exits: LogThrottle::default(),
            alerts: Arc::default(),
            diagnosis: TcpDiagnosis::default(),
            fingerprint: RefCell::new(None),
            saving: None,
            next: None,
            next_write_at: Instant::now(),
            pulse,
        }
    }

    /// Finishes pending writes, and stops HAProxy if the agent supervises it.
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
                warn!(
                    "HAProxy did not exit within {} s of SIGTERM; sent SIGKILL",
                    STOP_TIMEOUT.as_secs()
                );
            }
            return;
        }
        // A HAProxy that an earlier agent started and left behind.
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
        if let Some(notice) = self.exits.failed(now()) {
            warn!("HAProxy exited ({status}; {} times)", notice.failures);
        }
    }

    /// Starts the next background write, if none is running.
    fn start_next_write(&mut self) {
        if self.saving.is_none()
            && let Some(content) = self.next.take()
        {
            let (file, copy) = (self.file.clone(), content.clone());
            let write = async move {
                let began = Instant::now();
                let result = file.write(&copy, WritePriority::Beside).await;
                (result, began.elapsed())
            };
            self.saving = Some((content, tokio::spawn(write)));
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
    async fn write(&mut self, content: &FileContent) -> Result<(), ProxyError> {
        self.pulse.beat();
        self.next = None;
        if let Some((_, saving)) = self.saving.take() {
            let _ = saving.await;
        }
        self.file.write(content, WritePriority::Awaited).await
    }

    fn save(&mut self, content: FileContent) {
        self.next = Some(content);
        if Instant::now() >= self.next_write_at {
            self.start_next_write();
        }
    }

    fn file_changed_by_others(&self) -> bool {
        self.saving.is_none() && self.file.is_changed_by_others()
    }

    async fn next_event(&mut self) -> HaproxyEvent {
        loop {
            // Cancel-safe, all: a process can be waited for again, so can a task by reference, and a sleep
            // has no effect.
            tokio::select! {
                status = ended(&mut self.process) => {
                    self.ended(&status);
                    return HaproxyEvent::Exited;
                }
                (content, result, took) = finished(&mut self.saving) => {
                    self.saving = None;
                    self.next_write_at = Instant::now() + (took * PAUSE_FACTOR).min(MAX_WRITE_PAUSE);
                    return HaproxyEvent::FileSaved(content, result);
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
            let pointers = sessions_of_removed(&self.master.sessions(pid).await?, &is_removed);
            let is_meant = |it: &Session| {
                let server = it.server.as_deref();
                server.is_some_and(|server| is_removed(&it.backend, server))
            };
            self.master.end_sessions(pid, &pointers, is_meant).await?;
        }
        Ok(())
    }

    async fn sessions(&self, pid: u32) -> Result<WorkerSessions, ProxyError> {
        self.pulse.beat();
        let mut read = WorkerSessions::default();
        for _ in 0..LISTINGS {
            let Some(text) = self.master.all_of_sessions(pid).await? else {
                return Ok(WorkerSessions::default());
            };
            read = WorkerSessions::parse(&text)?;
            if !read.has_gap {
                break;
            }
        }
        Ok(read)
    }

    fn last_speaker(&self, session: &Session) -> LastSpeaker {
        self.diagnosis.last_speaker(session)
    }

    async fn end_sessions(&self, pid: u32, sessions: &[Session]) -> Result<(), ProxyError> {
        let pointers: Vec<_> = sessions.iter().map(|it| it.pointer.clone()).collect();
        let seen: BTreeMap<_, _> = sessions.iter().map(|it| (it.id, it)).collect();
        let is_as_seen = |it: &Session| seen.get(&it.id) == Some(&it);
        self.master.end_sessions(pid, &pointers, is_as_seen).await
    }

    async fn start(&mut self) -> Result<ReloadOutcome, ProxyError> {
        self.pulse.beat();
        if !self.ours {
            return Err(ProxyError::Unreachable(format!(
                "no process listens on {}",
                self.master.socket().display()
            )));
        }
        if let Some(process) = &mut self.process {
            match process.ended() {
                Some(status) => self.ended(&status.to_string()),
                // Its socket was removed. A reloaded master creates it again, and cuts no connection.
                None if !self.master.socket().exists() => {
                    process.reload();
                    return self.master.wait_for_socket().await;
                }
                None => {
                    return Err(ProxyError::Unreachable(
                        "its process runs but does not answer".to_owned(),
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
                // Its last lines may still be in the pipe.
                sleep(Duration::from_millis(50)).await;
                let said = process.take_alerts();
                return Ok(ReloadOutcome::Failed(if said.is_empty() {
                    format!("it exited at once ({status})")
                } else {
                    said
                }));
            }
            if self.master.is_ready().await {
                if self.exits.since().is_none() || self.exits.recovered(now()).is_some() {
                    info!("HAProxy is running");
                }
                process.take_alerts();
                self.process = Some(process);
                return Ok(ReloadOutcome::Done);
            }
            // Its socket was removed before the agent saw it.
            if told.elapsed() > SOCKET_RECREATED_WITHIN && !socket.exists() {
                process.reload();
                told = Instant::now();
            }
            sleep(Duration::from_millis(10)).await;
        }
        process.stop().await;
        Err(ProxyError::Unreachable(format!(
            "it did not start within {} s",
            RELOAD_TIMEOUT.as_secs()
        )))
    }

    async fn reload(&mut self) -> Result<ReloadOutcome, ProxyError> {
        self.pulse.beat();
        let outcome = self.master.reload().await?;
        // HAProxy 2.6 says nothing at the socket, but its stderr has the alerts if the agent supervises it.
        Ok(match (outcome, &self.process) {
            (ReloadOutcome::Failed(log), Some(process)) if log.is_empty() => {
                ReloadOutcome::Failed(process.take_alerts())
            }
            (outcome, _) => outcome,
        })
    }

    async fn bind_obstacle(&self, bind: Bind) -> Option<String> {
        bind_obstacle(bind)
    }
}

async fn ended(process: &mut Option<HaproxyProcess>) -> String {
    match process {
        Some(process) => process.wait().await,
        None => std::future::pending().await,
    }
}

async fn finished(
    saving: &mut Option<PendingWrite>,
) -> (FileContent, Result<(), ProxyError>, Duration) {
    match saving {
        Some((content, task)) => {
            let failed = |e: JoinError| (Err(ProxyError::File(e.to_string())), Duration::ZERO);
            let (result, took) = task.await.unwrap_or_else(failed);
            (content.clone(), result, took)
        }
        None => std::future::pending().await,
    }
}
