//! What a pass needs of HAProxy, in words that a fake one understands too.

use crate::agent::haproxy::runtime::{Command, Running, Unreadable};
use crate::agent::haproxy::shared_text::Text;
use crate::agent::model::bind::Bind;
use std::collections::BTreeSet;

/// The process that takes new connections now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    /// Its process id, as its master counts.
    pub(crate) pid: u32,
    /// What it was started from, by our mark; `None` if it wasn't our file.
    pub(crate) mark: Option<String>,
    /// It knows `wait … srv-removable`.
    pub(crate) can_wait: bool,
    /// Process ids of workers of before the last reload, which still have connections.
    pub(crate) older: Vec<u32>,
}

impl Worker {
    /// Whether it is the same process, whichever older ones have ended meanwhile.
    #[must_use]
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.pid, &self.mark) == (other.pid, &other.mark)
    }
}

/// How a reload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reload {
    /// A new worker has taken over.
    Done,
    /// The old one goes on. With what HAProxy said, if it can be had.
    Failed(String),
}

/// What happens outside of passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happening {
    /// The HAProxy that was ours has ended.
    Died,
    /// That text was saved, or wasn't.
    Saved(Text, Result<(), Trouble>),
}

/// Why a pass didn't get through.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// There is nobody at the socket.
    #[error("HAProxy can't be reached: {0}")]
    Down(String),
    /// `haproxy -c` says no.
    #[error("haproxy -c refuses the configuration: {0}")]
    Invalid(String),
    /// The file can't be written.
    #[error("{0}")]
    File(String),
    /// The file can't be written, for the disk is full.
    #[error("{0}; free some space")]
    Full(String),
    /// The state can't be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// HAProxy doesn't have what it was told.
    #[error("{0} servers of HAProxy's are not yet as they were told to be{1}")]
    Disagrees(usize, String),
    /// The reload failed; the old worker goes on.
    #[error("HAProxy couldn't be reloaded and goes on as before: {0}")]
    Reload(String),
}

/// A HAProxy and its file.
pub(crate) trait Proxy {
    /// Temporary file, `haproxy -c`, fsync, rename. Nothing that was to be saved comes after it.
    async fn write(&mut self, text: &Text) -> Result<(), Trouble>;
    /// The same in the background; one that still waits is replaced.
    fn save(&mut self, text: Text);
    /// Whether somebody else has changed the file, or removed it.
    fn is_meddled_with(&self) -> bool {
        false
    }
    /// What happens by itself. Cancel-safe.
    async fn happens(&mut self) -> Happening;
    /// Nothing more is asked for now: the connection to HAProxy that the questions share is closed.
    fn hang_up(&self) {}
    /// Who takes new connections now.
    async fn worker(&self) -> Result<Worker, Trouble>;
    /// The servers of those backends, or of all.
    async fn state(
        &self,
        worker: &Worker,
        backends: Option<&BTreeSet<String>>,
    ) -> Result<Running, Trouble>;
    /// Tells it; returns what it complained about.
    async fn tell(&self, worker: &Worker, commands: &[Command]) -> Result<String, Trouble>;
    /// Ends the connections to the servers for which `is_over(backend, server)` holds, in those workers,
    /// which may be any that live. One that is gone, or that the operator started, is none of them.
    async fn end_connections(
        &self,
        pids: &[u32],
        is_over: impl Fn(&str, &str) -> bool,
    ) -> Result<(), Trouble>;
    /// Nobody is there: starts it, if it is ours to start.
    async fn start(&mut self) -> Result<Reload, Trouble>;
    /// Makes it read its file.
    async fn reload(&mut self) -> Result<Reload, Trouble>;
    /// Why it couldn't listen there, so far as can be told without trying.
    async fn obstacle(&self, bind: Bind) -> Option<String>;
}
