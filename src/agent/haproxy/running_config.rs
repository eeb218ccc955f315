//! What the running worker was started with, and the servers that are wanted for it now. Pure.

use crate::agent::haproxy::parse::{mark_of, parse};
use crate::agent::haproxy::render::{Frame, structure};
use crate::agent::model::bind::Bind;
use crate::agent::model::listeners::{Model, STATS};

/// The structure of the running worker: which service listens where.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    /// The worker's mark; empty where HAProxy listens nowhere.
    pub(crate) mark: String,
    /// Its servers are those that are wanted, whatever the worker has.
    pub(crate) model: Model,
    /// Whether a file of this structure can be rendered: not where the base file has changed since the
    /// worker started.
    pub(crate) renders: bool,
}

impl Bound {
    pub(crate) fn new(frame: &Frame, mark: &str, model: Model) -> Self {
        Self {
            renders: structure(frame, &model) == mark,
            mark: mark.to_owned(),
            model,
        }
    }

    /// Of a worker that was started from that file; `None` if it was from another.
    pub(crate) fn by_file(
        frame: &Frame,
        mark: &str,
        file: &str,
        stats: Option<Bind>,
    ) -> Option<Self> {
        let fronts = (mark_of(file) == Some(mark)).then(|| parse(file))??;
        Some(Self::new(frame, mark, Model { stats, fronts }))
    }

    /// Whether the service, or [`STATS`], listens there.
    pub(crate) fn has(&self, name: &str, bind: Bind) -> bool {
        let front = self.model.fronts.get(name);
        front.is_some_and(|front| front.bind == bind)
            || (name == STATS && self.model.stats == Some(bind))
    }

    /// Whether any listener has an address and port of `bind`.
    pub(crate) fn overlaps(&self, bind: Bind) -> bool {
        self.model.binds().any(|(_, ours)| ours.overlaps(bind))
    }
}
