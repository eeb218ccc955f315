//! From the keys that policy desires to those that the executor gets: with the operators' wishes, and what a shutdown
//! makes of them.

use super::overlay::{KnownWishes, leaving, with_wishes};
use super::shutdown_drain::ShutdownDrain;
use crate::announce::lease::protocol::{DesiredKey, DesiredKeys, KeyStatuses};
use crate::clock::now;
use crate::endpoint::{Endpoint, Key};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The desired keys on their way from policy to the executor.
#[derive(Debug)]
pub struct DrainedKeys {
    /// What policy desires.
    assigned: DesiredKeys,
    /// The keys whose wishes are asked for.
    claimed: watch::Sender<BTreeSet<Key>>,
    /// `None` without `--drain`: no wish is read.
    wishes: Option<watch::Receiver<KnownWishes>>,
    /// The instances that drain because sidekick leaves; `None` before.
    leaving: Option<BTreeMap<Key, Arc<Endpoint>>>,
    desired: watch::Sender<DesiredKeys>,
    /// How many keys drain because a stop of their container is under way.
    stops: watch::Sender<usize>,
}

impl DrainedKeys {
    /// What is assigned reaches `desired` as it is.
    #[must_use]
    pub fn new(desired: watch::Sender<DesiredKeys>) -> Self {
        Self {
            assigned: DesiredKeys::new(),
            claimed: watch::Sender::default(),
            wishes: None,
            leaving: None,
            desired,
            stops: watch::Sender::default(),
        }
    }

    /// From now on with the operators' wishes: what is returned are the keys to read them for, and where to tell them.
    pub fn obey(&mut self) -> (watch::Receiver<BTreeSet<Key>>, watch::Sender<KnownWishes>) {
        let (told, wishes) = watch::channel(KnownWishes::new());
        self.wishes = Some(wishes);
        (self.claimed.subscribe(), told)
    }

    /// What policy desired last.
    #[must_use]
    pub const fn assigned(&self) -> &DesiredKeys {
        &self.assigned
    }

    /// Policy desires this from now on.
    pub fn assign(&mut self, assigned: DesiredKeys) {
        self.assigned = assigned;
        let claimed: BTreeSet<_> = self.assigned.keys().cloned().collect();
        self.claimed.send_if_modified(|old| {
            let changed = *old != claimed;
            *old = claimed;
            changed
        });
        // Policy itself lets an instance drain only for a stop.
        let stops = self.assigned.values().filter(|desired| match desired {
            DesiredKey::Announce(endpoint) => endpoint.is_draining(),
            DesiredKey::Withdraw { .. } => false,
        });
        let stops = stops.count();
        self.stops
            .send_if_modified(|old| std::mem::replace(old, stops) != stops);
        self.publish();
    }

    /// How many keys drain because a stop of their container is under way.
    #[must_use]
    pub fn stops_under_way(&self) -> watch::Receiver<usize> {
        self.stops.subscribe()
    }

    /// Returns after a wish changed, when the executor knows of it. Cancel-safe.
    pub async fn wishes_changed(&mut self) {
        let changed = match &mut self.wishes {
            Some(wishes) => wishes.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            // Without `--drain` none changes; and a task that is gone is noticed by its owner.
            std::future::pending().await
        }
        self.publish();
    }

    /// The operators' wishes, for the status; `None` where there is none.
    #[must_use]
    pub fn wish_words(&self) -> Option<String> {
        let wishes = self.wishes.as_ref()?.borrow();
        let mut wished = wishes
            .iter()
            .filter_map(|(key, wish)| Some((key, wish.as_ref()?)));
        let (key, wish) = wished.next()?;
        Some(match wished.count() {
            0 => format!("an operator wishes that {} drains{wish}", key.instance()),
            more => format!("operators wish that {} instances drain", more + 1),
        })
    }

    /// sidekick leaves: what it announces drains from now on, and nothing else is announced any more.
    pub fn leave(&mut self, longest: Duration, statuses: &KeyStatuses) -> ShutdownDrain {
        let drain = ShutdownDrain::new(now(), longest, &self.desired.borrow(), statuses);
        self.leaving = Some(drain.leaving());
        self.publish();
        drain
    }

    /// What the executor gets.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<DesiredKeys> {
        self.desired.subscribe()
    }

    fn publish(&mut self) {
        let desired = match (&self.leaving, &mut self.wishes) {
            (Some(instances), _) => leaving(&self.assigned, instances),
            (None, Some(wishes)) => with_wishes(&self.assigned, &wishes.borrow_and_update()),
            (None, None) => self.assigned.clone(),
        };
        self.desired.send_if_modified(|old| {
            let changed = *old != desired;
            *old = desired;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::control::DrainWish;

    #[test]
    fn the_status_names_the_only_wish_or_counts_them() {
        let mut keys = DrainedKeys::new(watch::Sender::default());
        assert_eq!(keys.wish_words(), None, "no wish is read");
        let (_claimed, told) = keys.obey();
        let wish = |number: u8, wish: Option<DrainWish>| {
            let key = format!("/services/redis/redis@{number}");
            told.send_modify(|wishes| drop(wishes.insert(key.parse().unwrap(), wish)));
            keys.wish_words()
        };
        assert_eq!(wish(1, None), None, "it is known that there is none");
        let one = "an operator wishes that redis@2 drains";
        assert_eq!(wish(2, Some(DrainWish::default())).unwrap(), one);
        let reason = Some(DrainWish::new(Some("new disk"), None));
        let with_reason = format!("{one} (new disk)");
        assert_eq!(wish(2, reason).unwrap(), with_reason);
        let two = "operators wish that 2 instances drain";
        assert_eq!(wish(3, Some(DrainWish::default())).unwrap(), two);
        wish(2, None);
        let last = "an operator wishes that redis@3 drains";
        assert_eq!(wish(3, Some(DrainWish::default())).unwrap(), last);
        assert_eq!(wish(3, None), None);
    }
}
