//! The configuration that the running worker was started with, with the servers that it is to have now.
//! Pure.

use crate::agent::haproxy::parse::{fingerprint_of, parse};
use crate::agent::haproxy::render::{self, FixedConfig};
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::{Model, STATS};

/// Which services the running worker listens for, and where.
#[derive(Debug, Default)]
pub(crate) struct RunningConfig {
    /// The worker's fingerprint; empty if HAProxy listens nowhere.
    pub(crate) fingerprint: String,
    /// With the desired servers, whatever the worker has.
    pub(crate) model: Model,
    /// Whether the file of this configuration can be rendered: not if the base file has changed since the
    /// worker started.
    pub(crate) renders: bool,
}

impl RunningConfig {
    pub(crate) fn new(fixed_config: &FixedConfig, fingerprint: &str, model: Model) -> Self {
        Self {
            renders: render::fingerprint(fixed_config, &model) == fingerprint,
            fingerprint: fingerprint.to_owned(),
            model,
        }
    }

    /// The configuration of a worker that was started from that file; `None` if it was started from another.
    pub(crate) fn by_file(
        fixed_config: &FixedConfig,
        fingerprint: &str,
        file: &str,
        stats: Option<Bind>,
    ) -> Option<Self> {
        let listeners = (fingerprint_of(file) == Some(fingerprint)).then(|| parse(file))??;
        Some(Self::new(
            fixed_config,
            fingerprint,
            Model { stats, listeners },
        ))
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
