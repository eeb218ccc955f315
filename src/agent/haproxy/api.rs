//! What a pass needs of HAProxy, as a trait: the executor implements it, and so does the tests' fake.

use crate::agent::haproxy::file_content::FileContent;
use crate::agent::haproxy::last_speaker::LastSpeaker;
use crate::agent::haproxy::runtime::ServerCommand;
use crate::agent::haproxy::server_state::{RunningServers, UnreadableState};
use crate::agent::haproxy::session_list::{Session, UnreadableSessions, WorkerSessions};
use crate::agent::model::bind::Bind;
use std::collections::BTreeSet;

/// The worker process that takes new connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    /// Its process id, as its master counts.
    pub(crate) pid: u32,
    /// The fingerprint of the configuration it was started from; `None` if sidekick did not write that.
    pub(crate) fingerprint: Option<String>,
    /// Whether it knows `wait … srv-removable`.
    pub(crate) can_wait: bool,
    /// Process ids of workers of before the last reload that still have connections.
    pub(crate) older: Vec<u32>,
}

impl Worker {
    /// Whether it is the same process, whichever older ones have ended meanwhile.
    #[must_use]
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.pid, &self.fingerprint) == (other.pid, &other.fingerprint)
    }
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReloadOutcome {
    /// A new worker has taken over.
    Done,
    /// The old worker goes on. With HAProxy's alerts, empty if unknown.
    Failed(String),
}

/// What happens outside of passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HaproxyEvent {
    /// The HAProxy that the agent supervises exited.
    Exited,
    /// That content was saved, or saving it failed.
    FileSaved(FileContent, Result<(), ProxyError>),
}

/// Why a pass failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    /// HAProxy does not answer at its socket.
    #[error("cannot reach HAProxy: {0}")]
    Unreachable(String),
    /// `haproxy -c` refuses the file.
    #[error("haproxy -c refuses the configuration: {0}")]
    InvalidConfig(String),
    /// The file can't be written.
    #[error("{0}")]
    File(String),
    /// The file can't be written because the disk is full.
    #[error("{0}; free some space")]
    DiskFull(String),
    /// The state can't be read.
    #[error(transparent)]
    UnreadableState(#[from] UnreadableState),
    /// The sessions can't be read.
    #[error(transparent)]
    UnreadableSessions(#[from] UnreadableSessions),
    /// So many servers still differ from the desired state after all commands; with HAProxy's first
    /// complaint.
    #[error("{}{}", out_of_sync(*.0), .1)]
    OutOfSync(usize, String),
    /// The reload failed; the old worker goes on.
    #[error("HAProxy cannot reload and keeps its old configuration: {0}")]
    ReloadFailed(String),
}

fn out_of_sync(servers: usize) -> String {
    match servers {
        1 => "1 server does not match the desired state".to_owned(),
        _ => format!("{servers} servers do not match the desired state"),
    }
}

/// A HAProxy and its file.
pub(crate) trait HaproxyApi {
    /// Writes the file: temporary file, `haproxy -c`, fsync, rename. No pending save follows it.
    async fn write(&mut self, content: &FileContent) -> Result<(), ProxyError>;
    /// The same in the background; a save that still waits is replaced.
    fn save(&mut self, content: FileContent);
    /// Whether another process changed or removed the file.
    fn file_changed_by_others(&self) -> bool {
        false
    }
    /// Waits for the next event. Cancel-safe.
    async fn next_event(&mut self) -> HaproxyEvent;
    /// Closes the connection to the master socket that the requests of a pass share.
    fn close_connection(&self) {}
    /// The worker that takes new connections.
    async fn worker(&self) -> Result<Worker, ProxyError>;
    /// The servers of those backends, or of all.
    async fn state(
        &self,
        worker: &Worker,
        backends: Option<&BTreeSet<String>>,
    ) -> Result<RunningServers, ProxyError>;
    /// Runs the commands; returns HAProxy's first complaint, empty without one.
    async fn run_commands(
        &self,
        worker: &Worker,
        commands: &[ServerCommand],
    ) -> Result<String, ProxyError>;
    /// Ends the connections to the servers for which `is_removed(backend, server)` holds, in those workers.
    /// A worker that has exited is skipped, and so is one that the operator started.
    async fn end_connections(
        &self,
        pids: &[u32],
        is_removed: impl Fn(&str, &str) -> bool,
    ) -> Result<(), ProxyError>;
    /// A worker's sessions; none of a worker that has exited.
    async fn sessions(&self, pid: u32) -> Result<WorkerSessions, ProxyError>;
    /// Who has spoken last on a session, as far as the kernel tells.
    fn last_speaker(&self, session: &Session) -> LastSpeaker;
    /// Ends those of these sessions of a worker that are as they were when they were listed.
    async fn end_sessions(&self, pid: u32, sessions: &[Session]) -> Result<(), ProxyError>;
    /// Starts HAProxy, if the agent supervises it.
    async fn start(&mut self) -> Result<ReloadOutcome, ProxyError>;
    /// Reloads HAProxy.
    async fn reload(&mut self) -> Result<ReloadOutcome, ProxyError>;
    /// Why HAProxy could not bind there, as far as can be known without trying.
    async fn bind_obstacle(&self, bind: Bind) -> Option<String>;
}
