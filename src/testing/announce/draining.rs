//! Operators' wishes and drains in the simulation: a drain keeps the lease, and always ends.

use super::announcer::Announcer;
use super::world::AnnounceWorld;
use crate::announce::drain::progress::AgentViews;
use crate::announce::drain::shutdown_drain::{DrainEnd, DrainStep, ShutdownDrain};
use crate::announce::lease::protocol::{DesiredKeys, KeyStatus};
use crate::clock::Moment;
use crate::endpoint::control::{AgentRecord, ControlPrefix, DrainWord, InstanceName};
use crate::endpoint::{Endpoint, Key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The longest `--drain`.
const LONGEST: Duration = Duration::from_secs(8);

/// A drain at a shutdown, and what the agents will say of it.
pub(crate) struct SimulatedDrain {
    drain: ShutdownDrain,
    pub(crate) leaving: BTreeMap<Key, Arc<Endpoint>>,
    /// When the agents' words come, by the process's clock; `None`: never.
    words_at: Option<Moment>,
    /// When it has to be over, by the process's clock.
    over_by: Moment,
}

impl SimulatedDrain {
    pub(crate) fn new(
        shown: Moment,
        longest: Duration,
        words_after: Option<Duration>,
        announcer: &Announcer,
    ) -> Self {
        let statuses = announcer.registrar.statuses();
        let drain = ShutdownDrain::new(shown, longest, &announcer.desired, &statuses);
        Self {
            leaving: drain.leaving(),
            drain,
            words_at: words_after.map(|after| shown + after),
            over_by: shown + longest,
        }
    }

    /// Why the drain is over, or when to look again.
    pub(crate) fn poll(&mut self, shown: Moment, announcer: &AnnouncerView<'_>) -> DrainStep {
        self.drain.set_desired(announcer.desired);
        self.drain.set_statuses(announcer.statuses);
        if self.words_at.is_some_and(|at| at <= shown) {
            self.drain.set_agents(&words_about(&self.leaving));
        }
        match self.drain.poll(shown) {
            DrainStep::Wait(until) if self.words_at.is_some_and(|at| at > shown) => {
                DrainStep::Wait(until.min(self.words_at.unwrap_or(until)))
            }
            step => step,
        }
    }

    pub(crate) fn must_not_outlast_its_time(&self, shown: Moment) -> Result<(), String> {
        match shown > self.over_by + Duration::from_secs(1) {
            true => Err(format!("a drain goes on: {:?}", self.drain)),
            false => Ok(()),
        }
    }
}

/// What a drain sees of its announcer.
pub(crate) struct AnnouncerView<'a> {
    pub(crate) desired: &'a DesiredKeys,
    pub(crate) statuses: &'a BTreeMap<Key, KeyStatus>,
}

/// One agent, which has let go of all of them.
fn words_about(leaving: &BTreeMap<Key, Arc<Endpoint>>) -> AgentViews {
    let control = ControlPrefix::of("/services");
    let mut views = AgentViews::default();
    let services = leaving.keys().map(|key| key.service().to_owned());
    let record = AgentRecord {
        services: services.collect(),
    };
    let value = record.encode();
    views.put(&control, control.agent("a").as_bytes(), value.as_bytes());
    for (key, endpoint) in leaving {
        let word = control.word("a", &InstanceName::from(key));
        let value = DrainWord::about(endpoint, false).encode();
        views.put(&control, word.as_bytes(), value.as_bytes());
    }
    views
}

impl AnnounceWorld {
    /// An operator wishes that the instances of a container drain, or takes that back; all who announce it obey.
    pub(crate) fn turn_wish(&mut self, container: &str) {
        self.totals.wishes += 1;
        for announcer in &mut self.announcers {
            if announcer.container == container {
                announcer.turn_wish();
            }
        }
    }

    /// It stops, at once or by a drain; mostly one that has something to drain.
    pub(crate) fn leave(&mut self, which: usize) {
        let mut all = 0..self.announcers.len();
        let holder = all.find(|it| self.announcers[*it].holds_a_key());
        let which = holder.filter(|_| self.rng.u8(0..4) > 0).unwrap_or(which);
        if self.rng.u8(0..4) == 0 {
            self.announcers[which].leave();
            return;
        }
        let longest = LONGEST.mul_f64(self.rng.f64());
        let words = match self.rng.u8(0..4) {
            0 => None,
            _ => Some(longest.mul_f64(self.rng.f64() / 2.0)),
        };
        // An etcd that doesn't confirm.
        if self.rng.bool() {
            self.announcers[which].harm_until = self.now + Duration::from_secs(5);
        }
        self.announcers[which].drain(self.now, longest, words);
    }

    /// Without any fault a process that drains keeps each of its keys, on its lease and as draining, until the drain
    /// is over; then they are gone, and the next in rank has them.
    pub(crate) fn one_leaves_by_a_drain(&mut self) -> Result<(), String> {
        let alive = |a: &&Announcer| a.alive && a.since.is_some();
        let which = self
            .announcers
            .iter()
            .position(|a| alive(&a) && a.holds_a_key());
        let Some(which) = which else {
            return Ok(());
        };
        let keys: Vec<_> = self.announcers[which].held_keys().collect();
        let lease = self.announcers[which].registrar.lease();
        self.announcers[which].drain(self.now, LONGEST, None);
        // Confirmed within a second; over after LONGEST by a clock that is off by a tenth.
        self.pass(self.now + Duration::from_secs(1), true)?;
        let begun = self.store.history.len();
        self.pass(self.now + LONGEST.mul_f64(0.7), true)?;
        for key in &keys {
            let entry = self.store.entries.get(key);
            let value = entry.and_then(|entry| Endpoint::decode(&entry.value).ok());
            let drains = value.is_some_and(|value| value.is_draining());
            if entry.map(|entry| entry.lease) != lease || !drains {
                return Err(format!("{key} is {entry:?} in a drain on {lease:?}"));
            }
        }
        let touched = self.store.history[begun..].iter();
        if let Some(event) = touched.clone().find(|event| keys.contains(&event.key)) {
            return Err(format!("{event:?} during a drain"));
        }
        self.pass(self.now + LONGEST, true)?;
        if self.announcers[which].alive {
            return Err("a drain without end".to_owned());
        }
        self.totals.calm_drains += 1;
        self.must_settle()
    }
}

/// How a drain ended, counted.
#[derive(Debug, Default, Clone)]
pub(crate) struct DrainTotals {
    pub(crate) drained: usize,
    pub(crate) unconfirmed: usize,
    pub(crate) time_is_up: usize,
    pub(crate) nothing: usize,
}

impl DrainTotals {
    pub(crate) fn count(&mut self, end: &DrainEnd) {
        match end {
            DrainEnd::Drained => self.drained += 1,
            DrainEnd::Unconfirmed => self.unconfirmed += 1,
            DrainEnd::TimeIsUp { .. } => self.time_is_up += 1,
            DrainEnd::NothingToDrain => self.nothing += 1,
        }
    }

    pub(crate) fn join(&mut self, other: &Self) {
        self.drained += other.drained;
        self.unconfirmed += other.unconfirmed;
        self.time_is_up += other.time_is_up;
        self.nothing += other.nothing;
    }

    /// The rarest end.
    pub(crate) fn least(&self) -> usize {
        let each = [
            self.drained,
            self.unconfirmed,
            self.time_is_up,
            self.nothing,
        ];
        each.into_iter().min().unwrap_or_default()
    }
}
