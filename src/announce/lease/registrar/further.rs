//! The further keys of all instances: which there are to be, and which of two instances has one that both make. Pure.

use super::Registrar;
use crate::announce::lease::key_state::KeyState;
use crate::announce::lease::protocol::{DesiredKey, DesiredKeys, LeaseEvent, LeaseId};
use crate::announce::policy::layouts::Layouts;
use crate::endpoint::{Endpoint, Key};
use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The layouts, and what was reported of them.
#[derive(Debug, Default)]
pub(super) struct FurtherKeys {
    layouts: Layouts,
    /// Further keys that there are not, by primary, and why.
    refused: BTreeSet<(Key, String)>,
}

/// A further key that is to be: its primary, what that announces, and the value.
type WantedKeys = BTreeMap<Key, (Key, Arc<Endpoint>, String)>;

impl Registrar {
    /// The same, with the further keys of these layouts beside each instance's own.
    #[must_use]
    pub fn with_layouts(mut self, layouts: Layouts) -> Self {
        self.further.layouts = layouts;
        self
    }

    /// Whether `key` is a further key whose rejection by etcd has to be reported: once. `None`: it is no further key.
    pub fn tell_further_rejected(&mut self, key: &Key) -> Option<bool> {
        self.keys.get_mut(key)?.tell_rejected()
    }

    /// Sets the further keys of the desired keys: none of an instance that drains or is withdrawn.
    pub(super) fn set_further(&mut self, desired: &DesiredKeys) {
        if self.further.layouts.is_empty() {
            return;
        }
        let wanted = self.wanted(desired);
        for (key, (primary, endpoint, value)) in &wanted {
            match self.keys.get_mut(key) {
                Some(state) => state.set_further(primary, endpoint, value),
                None => {
                    let state = KeyState::new_further(primary, endpoint, value);
                    self.keys.insert(key.clone(), state);
                }
            }
        }
        for (key, state) in &mut self.keys {
            if state.further_of().is_some() && !wanted.contains_key(key) {
                state.retired = true;
                state.set_desired(&DesiredKey::Withdraw { down: None });
            }
        }
    }

    fn wanted(&mut self, desired: &DesiredKeys) -> WantedKeys {
        let (mut wanted, mut refused) = (WantedKeys::new(), BTreeSet::new());
        for (primary, desired) in desired {
            let DesiredKey::Announce(endpoint) = desired else {
                continue;
            };
            if endpoint.is_draining() {
                continue;
            }
            for made in self.further.layouts.further_keys(primary, endpoint) {
                let (key, value) = match made {
                    Ok(made) => made,
                    Err(why) => {
                        refused.insert((primary.clone(), why));
                        continue;
                    }
                };
                let new = (primary.clone(), endpoint.clone(), value);
                match wanted.entry(key) {
                    MapEntry::Vacant(place) => drop(place.insert(new)),
                    // Two layouts make the same key: the first counts.
                    MapEntry::Occupied(place) if place.get().0 == *primary => {}
                    MapEntry::Occupied(mut place) => {
                        let has_it = self.keys.get(place.key()).and_then(KeyState::further_of);
                        let loser = match has_it == Some(primary) {
                            true => place.insert(new).0,
                            false => primary.clone(),
                        };
                        let (key, winner) = (place.key(), &place.get().0);
                        refused.insert((loser, format!("{key} is already the key of {winner}")));
                    }
                }
            }
        }
        for (primary, why) in refused.difference(&self.further.refused) {
            let event = LeaseEvent::FurtherKeyRefused(primary.clone(), why.clone());
            self.events.push(event);
        }
        self.further.refused = refused;
        wanted
    }

    /// Reports the other holders of keys: each once.
    pub(super) fn tell_holders(&mut self) {
        let others = self.keys.iter().filter_map(|(key, state)| {
            let lease = state.holder_lease()?;
            (!self.further.layouts.is_empty()).then(|| (key.clone(), lease))
        });
        let others: BTreeMap<Key, LeaseId> = others.collect();
        for (key, state) in &mut self.keys {
            let event = match state.further_of().cloned() {
                None => {
                    let holder = state.new_holder(&self.leases);
                    holder.map(|holder| LeaseEvent::StandingBy(key.clone(), holder))
                }
                Some(of) => {
                    let predecessor = others.get(&of).copied();
                    let lease = state.new_further_holder(predecessor, &self.leases);
                    lease.map(|lease| LeaseEvent::FurtherKeyHeld(key.clone(), lease))
                }
            };
            self.events.extend(event);
        }
    }

    /// The primary changed hands: what was known of others' further keys may be over with it.
    pub(super) fn primary_changed(&mut self, primary: &Key) {
        if self.further.layouts.is_empty() {
            return;
        }
        for state in self.keys.values_mut() {
            if state.further_of() == Some(primary) {
                state.doubt_others(&self.leases);
            }
        }
    }

    /// Further keys that etcd rejects are tried again with each audit.
    pub(super) fn retry_further(&mut self) {
        for state in self.keys.values_mut() {
            if state.further_of().is_some() {
                state.rejected = None;
            }
        }
    }

    /// etcd rejected a transaction of one primary with its further keys: from now on these travel apart, so that those that we
    /// have no right to cost themselves alone.
    pub(super) fn split(&mut self, keys: &[Key]) {
        let primary = |key: &Key| {
            let of = self.keys.get(key).and_then(KeyState::further_of);
            of.unwrap_or(key).clone()
        };
        let primaries: BTreeSet<_> = keys.iter().map(primary).collect();
        if primaries.len() == 1 {
            for key in keys {
                if let Some(state) = self.keys.get_mut(key) {
                    state.set_apart(true);
                }
            }
        }
    }
}
