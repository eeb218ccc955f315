//! What the running worker was started with, and the servers that are wanted for it now. Pure.

use crate::agent::haproxy::parse::{fingerprint_of, parse};
use crate::agent::haproxy::render::{self, FixedConfig};
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::{Model, STATS};

/// The structure of the running worker: which service listens where.
#[derive(Debug, Default)]
pub(crate) struct RunningConfig {
    /// The worker's mark; empty where HAProxy listens nowhere.
    pub(crate) fingerprint: String,
    /// Its servers are those that are wanted, whatever the worker has.
    pub(crate) model: Model,
    /// Whether a file of this structure can be rendered: not where the base file has changed since the
    /// worker started.
    pub(crate) renders: bool,
}

impl RunningConfig {
    pub(crate) fn new(frame: &FixedConfig, fingerprint: &str, model: Model) -> Self {
        Self {
            renders: render::fingerprint(frame, &model) == fingerprint,
            fingerprint: fingerprint.to_owned(),
            model,
        }
    }

    /// Of a worker that was started from that file; `None` if it was from another.
    pub(crate) fn by_file(
        frame: &FixedConfig,
        fingerprint: &str,
        file: &str,
        stats: Option<Bind>,
    ) -> Option<Self> {
        let listeners = (fingerprint_of(file) == Some(fingerprint)).then(|| parse(file))??;
        Some(Self::new(frame, fingerprint, Model { stats, listeners }))
    }

    /// Whether the service, or [`STATS`], listens there.
    pub(crate) fn has(&self, name: &str, bind: Bind) -> bool {
        let listener = self.model.listeners.get(name);
        listener.is_some_and(|listener| listener.bind == bind)
            || (name == STATS && self.model.stats == Some(bind))
    }

    /// Whether any listener has an address and port of `bind`.
    pub(crate) fn overlaps(&self, bind: Bind) -> bool {
        self.model.binds().any(|(_, ours)| ours.overlaps(bind))
    }
}
