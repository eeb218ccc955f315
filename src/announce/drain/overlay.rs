//! What operators' wishes and a shutdown make of the keys that policy desires. Pure.

use crate::announce::lease::protocol::{DesiredKey, DesiredKeys};
use crate::endpoint::control::DrainWish;
use crate::endpoint::{Endpoint, Key};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The operators' wishes for the claimed keys, as far as they are known: `None` is no wish. A key that is missing
/// has not been asked for yet.
pub type KnownWishes = BTreeMap<Key, Option<DrainWish>>;

/// The desired keys with the operators' wishes. An instance whose wish isn't known yet is not announced yet: a
/// sidekick that starts would announce an instance as serving that is to drain.
#[must_use]
pub fn with_wishes(assigned: &DesiredKeys, wishes: &KnownWishes) -> DesiredKeys {
    let keys = assigned.iter().filter_map(|(key, desired)| {
        let desired = match (desired, wishes.get(key)) {
            (DesiredKey::Announce(_), None) => return None,
            (DesiredKey::Announce(_), Some(Some(_))) => desired.draining(),
            _ => desired.clone(),
        };
        Some((key.clone(), desired))
    });
    keys.collect()
}

/// The desired keys while sidekick leaves: the instances of `leaving` drain until their container is down. No other
/// is announced any more, also no new life of a container.
#[must_use]
pub fn leaving(assigned: &DesiredKeys, leaving: &BTreeMap<Key, Arc<Endpoint>>) -> DesiredKeys {
    let keys = assigned.iter().map(|(key, desired)| {
        let desired = match (desired, leaving.get(key)) {
            (DesiredKey::Announce(now), Some(then)) if is_same_life(now, then) => {
                desired.draining()
            }
            (DesiredKey::Announce(_), _) => DesiredKey::Withdraw { down: None },
            (DesiredKey::Withdraw { .. }, _) => desired.clone(),
        };
        (key.clone(), desired)
    });
    keys.collect()
}

fn is_same_life(now: &Endpoint, then: &Endpoint) -> bool {
    (&now.container, now.since) == (&then.container, then.since)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn announce(since: &str) -> DesiredKey {
        let value = format!(
            r#"{{"host":"a","port":1,"container":"aaaaaaaaaaaa","since":"2026-11-23T05:06:{since}Z"}}"#
        );
        let endpoint = Endpoint::decode(value.as_bytes()).unwrap();
        DesiredKey::Announce(Arc::new(endpoint))
    }

    fn key(i: u8) -> Key {
        format!("/services/redis/redis@{i}").parse().unwrap()
    }

    const WITHDRAW: DesiredKey = DesiredKey::Withdraw { down: None };

    #[test]
    fn a_wish_drains_and_what_is_not_known_yet_waits() {
        let assigned = [announce("06"), announce("06"), announce("06"), WITHDRAW];
        let assigned: DesiredKeys = (0..).map(key).zip(assigned).collect();
        let wishes = [(key(0), None), (key(1), Some(DrainWish::default()))];
        let desired = with_wishes(&assigned, &wishes.into());
        let expected = [
            (key(0), announce("06")),
            (key(1), announce("06").draining()),
            (key(3), WITHDRAW),
        ];
        assert_eq!(desired, expected.into());
    }

    #[test]
    fn who_leaves_drains_what_it_announces_and_announces_nothing_new() {
        let then = match announce("06") {
            DesiredKey::Announce(endpoint) => BTreeMap::from([(key(0), endpoint)]),
            DesiredKey::Withdraw { .. } => BTreeMap::new(),
        };
        for (now, desired) in [
            (announce("06"), announce("06").draining()),
            (announce("06").draining(), announce("06").draining()),
            // A restart during the drain.
            (announce("07"), WITHDRAW),
            (WITHDRAW, WITHDRAW),
        ] {
            let assigned = [(key(0), now), (key(1), announce("06"))].into();
            let expected = [(key(0), desired), (key(1), WITHDRAW)].into();
            assert_eq!(leaving(&assigned, &then), expected);
        }
    }
}
