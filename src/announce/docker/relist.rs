//! The routine look at everything: which containers are inspected after a list. Pure.

use super::events::WatchScope;
use super::inspect::{ListedContainer, differs};
use super::inspect_queue::InspectTrigger;
use crate::announce::policy::container::{ContainerViews, Observation};
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
    /// Containers that ask for nothing, which no list can tell; their labels and their environment never change.
    strangers: BTreeSet<String>,
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

    /// The answer of an inspect; a container that asks for nothing counts as none.
    pub(super) fn without_strangers(
        &mut self,
        answer: Observation,
        scope: &WatchScope,
    ) -> Observation {
        match answer.present() {
            Some(container) if *scope == WatchScope::Registrator && !container.asks() => {
                self.strangers.insert(container.id.clone());
                Observation::Absent
            }
            _ => answer,
        }
    }

    /// Whether the container with this id asks for nothing.
    pub(super) fn is_stranger(&self, id: &str) -> bool {
        self.strangers.contains(id)
    }

    /// Forgets the strangers that are gone.
    pub(super) fn keep_strangers(&mut self, all: &[ListedContainer]) {
        let there: BTreeSet<_> = all.iter().map(|listed| listed.id.as_str()).collect();
        self.strangers.retain(|id| there.contains(id.as_str()));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::docker::inspect::observation;

    #[test]
    fn a_container_that_asks_for_nothing_is_a_stranger_until_it_is_gone() {
        let mut relist = Relist::default();
        let scope = WatchScope::Registrator;
        let mut seen = |id: &str, environment: &str| {
            let answer = serde_json::json!({
                "Id": id, "Name": "/web", "Config": {"Env": [environment]},
                "HostConfig": {"PortBindings": {"80/tcp": []}},
            });
            let answer = observation(&answer, "web", &scope).unwrap();
            let seen = relist.without_strangers(answer, &scope);
            (seen.present().is_some(), relist.is_stranger(id))
        };
        assert_eq!(seen("aa", "SERVICE_NAME=web"), (true, false));
        assert_eq!(seen("bb", "SERVICE_TAGS=web"), (false, true));
        assert_eq!(
            seen("cc", "SERVICE_NAME=a/b"),
            (true, false),
            "wrong, and told"
        );
        let listed = |id: &str| ListedContainer {
            id: id.to_owned(),
            name: "web".to_owned(),
            state: "running".to_owned(),
            labelled: false,
        };
        relist.keep_strangers(&[listed("aa"), listed("bb")]);
        assert!(relist.is_stranger("bb"));
        relist.keep_strangers(&[listed("aa")]);
        assert!(!relist.is_stranger("bb"));
    }
}
