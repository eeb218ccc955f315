//! When the drain at a shutdown has ended: keys, agents and time in, a verdict out. Pure.

use super::progress::{AgentViews, DrainProgress};
use crate::announce::lease::protocol::{DesiredKey, DesiredKeys, KeyStatus, KeyStatuses};
use crate::clock::Moment;
use crate::endpoint::control::InstanceName;
use crate::endpoint::{Endpoint, Key};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long etcd may take to confirm the draining values; as long as the revocation of the lease may take. Where
/// `--drain` is shorter, that is the limit.
pub const CONFIRM_DEADLINE: Duration = Duration::from_millis(4_500);

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainStep {
    /// The drain goes on, until this moment if nothing changes.
    Wait(Moment),
    /// The lease can be revoked.
    Over(DrainEnd),
}

/// Why the drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DrainEnd {
    /// There is nothing to drain: no key was announced, or the containers are down.
    NothingToDrain,
    /// Each agent has given its word about each instance.
    Drained,
    /// etcd has not confirmed in time that the instances drain.
    Unconfirmed,
    /// `--drain` is over.
    TimeIsUp {
        /// Agents that have not given their word, in the order of their ids.
        silent: BTreeSet<String>,
        /// Services of which no agent is known.
        unserved: BTreeSet<String>,
    },
}

/// The drain at a shutdown.
#[derive(Debug)]
pub struct ShutdownDrain {
    began: Moment,
    longest: Duration,
    instances: BTreeMap<Key, LeavingInstance>,
}

#[derive(Debug)]
struct LeavingInstance {
    progress: DrainProgress,
    /// etcd has the draining value, or another holder's.
    confirmed: bool,
}

impl ShutdownDrain {
    /// A drain that began at `began` and lasts for `longest` at most, of the announced ones of these keys.
    #[must_use]
    pub fn new(
        began: Moment,
        longest: Duration,
        desired: &DesiredKeys,
        statuses: &KeyStatuses,
    ) -> Self {
        let leaving = desired.iter().filter_map(|(key, desired)| {
            // Where another holder has the key no agent knows our instance.
            let theirs = matches!(
                statuses.get(key),
                Some(KeyStatus::StandingBy(_) | KeyStatus::Rejected)
            );
            match desired {
                DesiredKey::Announce(endpoint) if !theirs => Some((key, endpoint)),
                _ => None,
            }
        });
        let instances = leaving.map(|(key, endpoint)| {
            let progress = DrainProgress::new(InstanceName::from(key), endpoint.clone());
            let instance = LeavingInstance {
                progress,
                confirmed: false,
            };
            (key.clone(), instance)
        });
        Self {
            began,
            longest,
            instances: instances.collect(),
        }
    }

    /// The instances that drain, by their keys.
    #[must_use]
    pub fn leaving(&self) -> BTreeMap<Key, Arc<Endpoint>> {
        let leaving = self.instances.iter();
        leaving
            .map(|(key, it)| (key.clone(), it.progress.endpoint().clone()))
            .collect()
    }

    /// What is desired now: an instance whose container is down needs no drain any more.
    pub fn set_desired(&mut self, desired: &DesiredKeys) {
        let announced = |key: &Key| matches!(desired.get(key), Some(DesiredKey::Announce(_)));
        self.instances.retain(|key, _| announced(key));
    }

    /// What etcd has. A key that a younger container has overtaken is confirmed too: its instance gets no new
    /// connections, and its old ones are waited for.
    pub fn set_statuses(&mut self, statuses: &KeyStatuses) {
        for (key, instance) in &mut self.instances {
            instance.confirmed |= match statuses.get(key) {
                Some(KeyStatus::Announced(endpoint)) => endpoint.is_draining(),
                Some(KeyStatus::StandingBy(_)) => true,
                _ => false,
            };
        }
    }

    /// Whether etcd has each draining value, or another holder's.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.instances.values().all(|it| it.confirmed)
    }

    /// What the agents say.
    pub fn set_agents(&mut self, views: &AgentViews) {
        for instance in self.instances.values_mut() {
            instance.progress.update(views);
        }
    }

    /// Whether the drain has ended at `now`; else until when to wait if nothing changes.
    #[must_use]
    pub fn poll(&self, now: Moment) -> DrainStep {
        if self.instances.is_empty() {
            return DrainStep::Over(DrainEnd::NothingToDrain);
        }
        let confirm_by = self.began + self.longest.min(CONFIRM_DEADLINE);
        let ends_at = self.began + self.longest;
        let confirmed = || self.instances.values().filter(|it| it.confirmed);
        let all = confirmed().count() == self.instances.len();
        if now >= confirm_by && confirmed().next().is_none() {
            return DrainStep::Over(DrainEnd::Unconfirmed);
        }
        // Past the deadline an instance whose value isn't confirmed is no longer waited for.
        if (all || now >= confirm_by) && confirmed().all(|it| it.progress.is_drained()) {
            return DrainStep::Over(DrainEnd::Drained);
        }
        if now >= ends_at {
            return DrainStep::Over(self.time_is_up());
        }
        DrainStep::Wait(match now < confirm_by && !all {
            true => confirm_by,
            false => ends_at,
        })
    }

    fn time_is_up(&self) -> DrainEnd {
        let (mut silent, mut unserved) = (BTreeSet::new(), BTreeSet::new());
        for (key, instance) in &self.instances {
            silent.extend(instance.progress.silent().map(str::to_owned));
            if instance.progress.agents() == 0 {
                unserved.insert(key.service().to_owned());
            }
        }
        DrainEnd::TimeIsUp { silent, unserved }
    }
}

#[cfg(test)]
mod tests;
