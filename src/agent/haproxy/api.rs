//! What a pass needs of HAProxy, in words that a fake one understands too.

use crate::agent::haproxy::runtime::{RunningServers, ServerCommand, UnreadableState};
use crate::agent::haproxy::shared_text::SharedText;
use crate::agent::model::bind::Bind;
use std::collections::BTreeSet;

/// The process that takes new connections now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    /// Its process id, as its master counts.
    pub(crate) pid: u32,
    /// What it was started from, by our mark; `None` if it wasn't our file.
    pub(crate) fingerprint: Option<String>,
    /// It knows `wait … srv-removable`.
    pub(crate) can_wait: bool,
    /// Process ids of workers of before the last reload, which still have connections.
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
    /// The old one goes on. With what HAProxy said, if it can be had.
    Failed(String),
}

/// What happens outside of passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HaproxyEvent {
    /// The HAProxy that was ours has ended.
    Exited,
    /// That text was saved, or wasn't.
    FileSaved(SharedText, Result<(), ProxyError>),
}

/// Why a pass didn't get through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProxyError {
    /// There is nobody at the socket.
    #[error("HAProxy can't be reached: {0}")]
    Unreachable(String),
    /// `haproxy -c` says no.
    #[error("haproxy -c refuses the configuration: {0}")]
    InvalidConfig(String),
    /// The file can't be written.
    #[error("{0}")]
    File(String),
    /// The file can't be written, for the disk is full.
    #[error("{0}; free some space")]
    DiskFull(String),
    /// The state can't be read.
    #[error(transparent)]
    UnreadableState(#[from] UnreadableState),
    /// HAProxy doesn't have what it was told.
    #[error("{0} servers of HAProxy's are not yet as they were told to be{1}")]
    OutOfSync(usize, String),
    /// The reload failed; the old worker goes on.
    #[error("HAProxy couldn't be reloaded and goes on as before: {0}")]
    ReloadFailed(String),
}

/// A HAProxy and its file.
pub(crate) trait HaproxyApi {
    /// Temporary file, `haproxy -c`, fsync, rename. Nothing that was to be saved comes after it.
    async fn write(&mut self, text: &SharedText) -> Result<(), ProxyError>;
    /// The same in the background; one that still waits is replaced.
    fn save(&mut self, text: SharedText);
    /// Whether somebody else has changed the file, or removed it.
    fn file_changed_by_others(&self) -> bool {
        false
    }
    /// What happens by itself. Cancel-safe.
    async fn next_event(&mut self) -> HaproxyEvent;
    /// Nothing more is asked for now: the connection to HAProxy that the questions share is closed.
    fn close_connection(&self) {}
    /// Who takes new connections now.
    async fn worker(&self) -> Result<Worker, ProxyError>;
    /// The servers of those backends, or of all.
    async fn state(
        &self,
        worker: &Worker,
        backends: Option<&BTreeSet<String>>,
    ) -> Result<RunningServers, ProxyError>;
    /// Tells it; returns what it complained about.
    async fn run_commands(
        &self,
        worker: &Worker,
        commands: &[ServerCommand],
    ) -> Result<String, ProxyError>;
    /// Ends the connections to the servers for which `is_removed(backend, server)` holds, in those workers,
    /// which may be any that live. One that is gone, or that the operator started, is none of them.
    async fn end_connections(
        &self,
        pids: &[u32],
        is_removed: impl Fn(&str, &str) -> bool,
    ) -> Result<(), ProxyError>;
    /// Nobody is there: starts it, if it is ours to start.
    async fn start(&mut self) -> Result<ReloadOutcome, ProxyError>;
    /// Makes it read its file.
    async fn reload(&mut self) -> Result<ReloadOutcome, ProxyError>;
    /// Why it couldn't listen there, so far as can be told without trying.
    async fn bind_obstacle(&self, bind: Bind) -> Option<String>;
}
