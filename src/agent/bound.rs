//! What the running worker was started with, and the servers that are wanted for it now. Pure.

use super::layout::{Bind, Model, STATS};
use super::parse::{mark_of, parse};
use super::render::{Frame, structure};

/// The structure of the running worker: which service listens where.
#[derive(Debug, Default)]
pub(super) struct Bound {
    /// The worker's mark; empty where HAProxy listens nowhere.
    pub(super) mark: String,
    /// Its servers are those that are wanted, whatever the worker has.
    pub(super) model: Model,
    /// Whether a file of this structure can be rendered: not where the base file has changed since the
    /// worker started.
    pub(super) renders: bool,
}

impl Bound {
    pub(super) fn new(frame: &Frame, mark: &str, model: Model) -> Self {
        Self {
            renders: structure(frame, &model) == mark,
            mark: mark.to_owned(),
            model,
        }
    }

    /// Of a worker that was started from that file; `None` if it was from another.
    pub(super) fn by_file(
        frame: &Frame,
        mark: &str,
        file: &str,
        stats: Option<Bind>,
    ) -> Option<Self> {
        let fronts = (mark_of(file) == Some(mark)).then(|| parse(file))??;
        Some(Self::new(frame, mark, Model { stats, fronts }))
    }

    /// Whether the service, or [`STATS`], listens there.
    pub(super) fn has(&self, name: &str, bind: Bind) -> bool {
        let front = self.model.fronts.get(name);
        front.is_some_and(|front| front.bind == bind)
            || (name == STATS && self.model.stats == Some(bind))
    }

    /// Whether any listener has an address and port of `bind`.
    pub(super) fn overlaps(&self, bind: Bind) -> bool {
        self.model.binds().any(|(_, ours)| ours.overlaps(bind))
    }
}
