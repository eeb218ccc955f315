//! Whether an instance is drained, by the agents that serve its service and by their words. Pure.

use crate::endpoint::Endpoint;
use crate::endpoint::control::{AgentRecord, ControlKey, ControlPrefix, DrainWord, InstanceName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The agents that live, and their words, as they stand in etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AgentViews {
    agents: BTreeMap<String, AgentRecord>,
    words: BTreeMap<(String, InstanceName), DrainWord>,
}

impl AgentViews {
    /// A control key has this value. What is no record and no word counts as absent.
    pub fn put(&mut self, control: &ControlPrefix, key: &[u8], value: &[u8]) {
        self.delete(control, key);
        match control.parse(key) {
            Some(ControlKey::Agent(id)) => {
                let record = AgentRecord::decode(value);
                self.agents.extend(record.map(|record| (id, record)));
            }
            Some(ControlKey::Word(id, name)) => {
                let word = DrainWord::decode(value);
                self.words.extend(word.map(|word| ((id, name), word)));
            }
            Some(ControlKey::Wish(_)) | None => {}
        }
    }

    /// A control key was deleted.
    pub fn delete(&mut self, control: &ControlPrefix, key: &[u8]) {
        match control.parse(key) {
            Some(ControlKey::Agent(id)) => drop(self.agents.remove(&id)),
            Some(ControlKey::Word(id, name)) => drop(self.words.remove(&(id, name))),
            Some(ControlKey::Wish(_)) | None => {}
        }
    }
}

/// What an agent has said of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AgentWord {
    /// It has not given its word, or has taken it back.
    Owed,
    /// It has given its word.
    Given {
        /// The instance is the last one of its service: it is not drained, and need not be.
        alone: bool,
    },
}

/// One instance that drains, and the agents that have to give their word.
#[derive(Debug, Clone)]
pub struct DrainProgress {
    name: InstanceName,
    endpoint: Arc<Endpoint>,
    /// Every agent that has served the service at some time since the drain began: also one that started meanwhile,
    /// for the HAProxy that it attaches to may have had the instance all the time.
    agents: BTreeMap<String, AgentWord>,
}

impl DrainProgress {
    /// The instance of that name drains; its value without the status is `endpoint`.
    #[must_use]
    pub const fn new(name: InstanceName, endpoint: Arc<Endpoint>) -> Self {
        Self {
            name,
            endpoint,
            agents: BTreeMap::new(),
        }
    }

    /// The instance's value, whatever its status.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// What stands in etcd now. What one revision changes has to come together: an agent's word that goes with
    /// the agent was not taken back.
    pub fn update(&mut self, views: &AgentViews) {
        for (id, record) in &views.agents {
            if record.services.contains(&self.name.service) {
                self.agents.entry(id.clone()).or_insert(AgentWord::Owed);
            }
        }
        for (id, said) in &mut self.agents {
            let word = views.words.get(&(id.clone(), self.name.clone()));
            let word = word.filter(|word| word.is_about(&self.endpoint));
            *said = match (word, views.agents.contains_key(id)) {
                (Some(word), _) => AgentWord::Given { alone: word.alone },
                (None, true) => AgentWord::Owed,
                // It left; what it had said stays said, and what it had not said never comes.
                (None, false) => *said,
            };
        }
    }

    /// Whether at least one agent serves the service, and each has given its word.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        !self.agents.is_empty() && self.silent().next().is_none()
    }

    /// The agents that have not given their word, in the order of their ids.
    pub fn silent(&self) -> impl Iterator<Item = &str> {
        let agents = self.agents.iter();
        let silent = agents.filter(|(_, said)| **said == AgentWord::Owed);
        silent.map(|(id, _)| id.as_str())
    }

    /// How many agents serve the service.
    #[must_use]
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    /// Whether an agent says that the instance is the last one of its service.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        let alone = AgentWord::Given { alone: true };
        self.agents.values().any(|said| *said == alone)
    }
}

#[cfg(test)]
mod tests;
