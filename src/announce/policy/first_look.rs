//! Whether each container that was there at the start has been asked about: before, it is not known which keys are to stand.
//! Pure.

use std::collections::BTreeSet;

/// The containers that were there at the start, and that no inspect has been over for yet; `None` before the engine's
/// first list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FirstLook(Option<BTreeSet<String>>);

impl FirstLook {
    /// Of a single container, which is in no list.
    #[must_use]
    pub fn at(container: &str) -> Self {
        Self(Some(BTreeSet::from([container.to_owned()])))
    }

    /// The engine has listed its containers, of which these are inspected; `first`: on a new connection, so that these
    /// are all. Returns whether nothing is left to ask.
    pub fn listed(&mut self, inspected: &BTreeSet<String>, first: bool) -> bool {
        match &self.0 {
            Some(left) if left.is_empty() || !first => false,
            _ => {
                self.0 = Some(inspected.clone());
                self.is_over()
            }
        }
    }

    /// An inspect of that container is over: it was answered, or failed, which may go on for ever. Returns whether it was
    /// the last one.
    pub fn asked(&mut self, id: &str) -> bool {
        let left = self.0.as_mut();
        left.is_some_and(|left| left.remove(id) && left.is_empty())
    }

    /// Whether each container has been asked about.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.as_ref().is_some_and(BTreeSet::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|&id| id.to_owned()).collect()
    }

    #[test]
    fn it_is_over_once_each_listed_container_has_been_asked_about() {
        let mut look = FirstLook::default();
        assert!(!look.asked("aa"), "an event came before the list");
        assert!(!look.is_over());
        assert!(!look.listed(&ids(&["aa", "bb"]), true));
        assert!(!look.asked("aa") && !look.asked("aa") && !look.asked("cc"));
        assert!(
            !look.listed(&ids(&[]), false),
            "bb is still being inspected"
        );
        assert!(!look.is_over());
        assert!(look.asked("bb") && look.is_over());
        assert!(!look.asked("bb"), "that it is over is told once");
        // Whatever comes later is no start.
        assert!(!look.listed(&ids(&["dd"]), true) && look.is_over());
    }

    #[test]
    fn an_engine_without_containers_has_been_asked_with_its_list() {
        let mut look = FirstLook::default();
        assert!(look.listed(&ids(&[]), true) && look.is_over());
        let mut late = FirstLook::default();
        assert!(late.listed(&ids(&[]), false), "its first list had failed");
        let mut one = FirstLook::at("redis1");
        assert!(!one.is_over());
        assert!(one.asked("redis1") && one.is_over());
    }

    #[test]
    fn a_connection_that_is_lost_meanwhile_has_its_successor_ask_about_those_that_are_there_then() {
        let mut look = FirstLook::default();
        look.listed(&ids(&["aa", "bb"]), true);
        look.asked("aa");
        assert!(!look.listed(&ids(&["aa", "cc"]), true));
        assert!(!look.asked("aa") && look.asked("cc"));
    }
}
