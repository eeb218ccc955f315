//! The routine look at everything: which containers are inspected after a list. Pure.

use super::inspect::{ListedContainer, differs};
use super::inspect_queue::InspectTrigger;
use crate::announce::policy::container::ContainerViews;
use crate::clock::Moment;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// A list shows most changes, and an inspect all of them: this many containers that look unchanged are inspected
/// at each relist all the same, in turn. On most machines that is every container.
const RELOOK: usize = 100;

/// When the next relist is due, and what the last ones looked at.
#[derive(Debug, Default)]
pub(super) struct Relist {
    /// When the next one begins.
    pub(super) at: Moment,
    /// The connection has had its first one, which finds what happened while no event was heard.
    pub(super) done_once: bool,
    /// The last container of the latest turn of routine inspects; the next turn begins after it.
    turn: String,
}

impl Relist {
    /// Why the containers of this relist are inspected.
    pub(super) const fn trigger(&self) -> InspectTrigger {
        if !self.done_once {
            InspectTrigger::Event
        } else {
            InspectTrigger::Timer
        }
    }

    /// The containers to inspect: those that are gone or look different, at the first relist all, and the next turn
    /// of the others.
    pub(super) fn due(
        &mut self,
        views: &ContainerViews,
        there: &BTreeMap<&String, &ListedContainer>,
    ) -> BTreeSet<String> {
        let known = views.containers.keys();
        let gone = known.filter(|id| !there.contains_key(id));
        let changed = there.values().filter(|listed| {
            let view = views.containers.get(&listed.id);
            !self.done_once || view.is_none_or(|view| differs(view, listed))
        });
        let from = (Bound::Excluded(self.turn.clone()), Bound::Unbounded);
        let turn = views.containers.range(from).map(|(id, _)| id).take(RELOOK);
        let turn: Vec<_> = turn.cloned().collect();
        let ids = gone
            .cloned()
            .chain(changed.map(|listed| listed.id.clone()))
            .chain(turn.iter().cloned())
            .collect();
        // After the last container the next turn begins at the first.
        self.turn = turn.get(RELOOK - 1).cloned().unwrap_or_default();
        ids
    }
}
