//! What must be true when it is calm.

use super::super::announcer::Announcer;
use super::super::further::further_key;
use super::AnnounceWorld;
use crate::announce::lease::protocol::KeyStatus;
use crate::endpoint::{Endpoint, Key};

impl AnnounceWorld {
    /// A sidekick that sees its container knows whether it runs, and since when; and takes no other life for one that is stopped.
    pub(super) fn check_beliefs(&self) -> Result<(), String> {
        for announcer in self.announcers.iter().filter(|a| a.alive && !a.blind) {
            let container = &self.containers[&announcer.container];
            let (known, is) = (announcer.since, container.up);
            if announcer.stopping && !container.stops {
                return Err(format!(
                    "{} drains, and is not stopped",
                    announcer.container
                ));
            }
            if known != is {
                let id = &announcer.container;
                return Err(format!(
                    "{id} is up since {is:?}, and its sidekick says {known:?}"
                ));
            }
        }
        Ok(())
    }

    /// Each key is as it ought to be, and its further key.
    pub(super) fn check_end(&self) -> Result<(), String> {
        self.keys
            .iter()
            .try_for_each(|key| self.check_further(key))?;
        self.check_holders()
    }

    /// The one with the best right holds each key, alone, on a living lease of its own.
    pub(super) fn check_holders(&self) -> Result<(), String> {
        let up = |a: &&Announcer| a.alive && a.since.is_some();
        for key in &self.keys {
            let claimants = self.announcers.iter().filter(up);
            let claimants = claimants.filter(|a| !a.unclaimed.contains(key));
            let right = |a: &Announcer| (a.since, a.container.clone());
            let best = claimants.clone().max_by_key(|a| right(a));
            let entry = self.store.entries.get(key);
            let Some(best) = best else {
                match entry {
                    // It was put by hand, without a lease, and no announcer is there to take it over.
                    Some(entry) if entry.lease != 0 => {
                        return Err(format!("{entry:?} outlived its container"));
                    }
                    _ => continue,
                }
            };
            let entry =
                entry.ok_or_else(|| format!("{key} is missing; {} is up", best.container))?;
            let since = best.since.ok_or("up without since")?;
            // Of two for one container one may know of a stop that the other has not heard of.
            let mut equals = claimants.filter(|a| right(a) == right(best));
            let shown = Endpoint::decode(&entry.value);
            if !equals.any(|a| shown.as_ref() == Ok(&a.endpoint(since))) {
                return Err(format!(
                    "{key} is {shown:?}, not {:?}",
                    best.endpoint(since)
                ));
            }
            let holders = self.announcers.iter().filter(|a| {
                a.alive
                    && a.registrar.lease() == Some(entry.lease)
                    && matches!(
                        a.registrar.statuses().get(key),
                        Some(KeyStatus::Announced(_))
                    )
            });
            if holders.count() != 1 {
                return Err(format!(
                    "{key}: {entry:?} is not held by exactly one living announcer"
                ));
            }
        }
        Ok(())
    }

    /// A further key stands beside a key that serves, on its lease, and beside no other.
    fn check_further(&self, key: &Key) -> Result<(), String> {
        let serving = self.store.entries.get(key).filter(|entry| {
            let value = Endpoint::decode(&entry.value);
            entry.lease != 0 && value.is_ok_and(|it| !it.is_draining())
        });
        let further = self.store.entries.get(&further_key(key));
        if serving.map(|it| it.lease) == further.map(|it| it.lease) {
            Ok(())
        } else {
            Err(format!(
                "{key} is {serving:?}, and its further key {further:?}"
            ))
        }
    }

    /// Standing by is told once for every holder, and a holder changes only by a fault.
    pub(super) fn check_notes(&mut self) -> Result<(), String> {
        let limit = (self.totals.faults + 4) * self.keys.len() * 2;
        for announcer in &self.announcers {
            self.totals.count(&announcer.events);
            self.totals.torn += announcer.torn;
            self.totals.drains.join(&announcer.drains);
            if announcer.events.len() > limit {
                return Err(format!(
                    "{} notes for {} faults",
                    announcer.events.len(),
                    self.totals.faults
                ));
            }
        }
        Ok(())
    }
}
