//! When systemd is told READY=1. Pure.

use super::lease::protocol::{DesiredKey, DesiredKeys, KeyStatus, KeyStatuses};
use clap::ValueEnum;

/// When systemd is told that the service is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReadyWhen {
    /// Once the configuration holds and the loops run.
    Started,
    /// Once the keys stand in etcd.
    Announced,
}

/// Whether all keys stand that are to stand. With `--all` a key that another holder has is not waited for, and
/// there may be no container to announce; of a single container the key has to be our own. `known`: each container that was
/// there at the start has been asked about, without which more keys may be to stand.
#[must_use]
pub fn is_announced(all: bool, known: bool, desired: &DesiredKeys, statuses: &KeyStatuses) -> bool {
    let mut wanted = desired.iter().filter(|(_, it)| match it {
        DesiredKey::Announce(_) => true,
        DesiredKey::Withdraw { .. } => !all,
    });
    let stands = |status: Option<&KeyStatus>| match status {
        Some(KeyStatus::Announced(_)) => true,
        Some(KeyStatus::StandingBy(_)) => all,
        _ => false,
    };
    known && (all || !desired.is_empty()) && wanted.all(|(key, _)| stands(statuses.get(key)))
}

/// Whether all keys stand that are to stand, or are another holder's whom we stand by for: what `/readyz` tells. A single
/// container that is not to be announced is not; with `--all` there may be none. `known`: as for [`is_announced`].
#[must_use]
pub fn is_registered(
    all: bool,
    known: bool,
    desired: &DesiredKeys,
    statuses: &KeyStatuses,
) -> bool {
    let stands = |(key, desired): (_, &DesiredKey)| match (desired, statuses.get(key)) {
        (DesiredKey::Announce(_), status) => matches!(
            status,
            Some(KeyStatus::Announced(_) | KeyStatus::StandingBy(_))
        ),
        (DesiredKey::Withdraw { .. }, _) => all,
    };
    known && (all || !desired.is_empty()) && desired.iter().all(stands)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::announce::lease::ownership::Holder;
    use crate::endpoint::Endpoint;
    use std::sync::Arc;

    #[test]
    fn before_each_container_has_been_asked_about_nobody_knows_that_all_keys_stand() {
        let (desired, statuses) = (DesiredKeys::new(), KeyStatuses::new());
        for known in [false, true] {
            assert_eq!(is_announced(true, known, &desired, &statuses), known);
            assert_eq!(is_registered(true, known, &desired, &statuses), known);
        }
    }

    #[test]
    fn standing_by_is_as_good_as_a_key_of_our_own_for_readyz() {
        let endpoint = Arc::new(Endpoint::decode(br#"{"host":"a","port":1}"#).unwrap());
        let announce = || Some(DesiredKey::Announce(endpoint.clone()));
        let by = KeyStatus::StandingBy(Holder::from(&*endpoint));
        let announced = KeyStatus::Announced(endpoint.clone());
        let withdraw = Some(DesiredKey::Withdraw { down: None });
        for (desired, status, one, all) in [
            (None, None, false, true),
            (withdraw, Some(KeyStatus::Withdrawn), false, true),
            (announce(), None, false, false),
            (announce(), Some(KeyStatus::Rejected), false, false),
            (announce(), Some(by), true, true),
            (announce(), Some(announced), true, true),
        ] {
            let key = || "/services/redis/redis@1".parse().unwrap();
            let desired: DesiredKeys = desired.into_iter().map(|it| (key(), it)).collect();
            let statuses: KeyStatuses = status.into_iter().map(|it| (key(), it)).collect();
            let is = |all| is_registered(all, true, &desired, &statuses);
            assert_eq!(
                (is(false), is(true)),
                (one, all),
                "{desired:?} {statuses:?}"
            );
        }
    }

    #[test]
    fn one_containers_key_has_to_be_its_own_and_of_many_each_that_can_be() {
        let endpoint = Arc::new(Endpoint::decode(br#"{"host":"a","port":1}"#).unwrap());
        let announce = DesiredKey::Announce(endpoint.clone());
        let withdraw = DesiredKey::Withdraw { down: None };
        let by = KeyStatus::StandingBy(Holder::from(&*endpoint));
        let announced = KeyStatus::Announced(endpoint);
        for (desired, status, one, all) in [
            (None, None, false, true),
            (Some(withdraw), Some(KeyStatus::Withdrawn), false, true),
            (Some(announce.clone()), None, false, false),
            (
                Some(announce.clone()),
                Some(KeyStatus::Pending),
                false,
                false,
            ),
            (
                Some(announce.clone()),
                Some(KeyStatus::Rejected),
                false,
                false,
            ),
            (Some(announce.clone()), Some(by), false, true),
            (Some(announce), Some(announced), true, true),
        ] {
            let key = || "/services/redis/redis@1".parse().unwrap();
            let desired: DesiredKeys = desired.into_iter().map(|it| (key(), it)).collect();
            let statuses: KeyStatuses = status.into_iter().map(|it| (key(), it)).collect();
            let is = |all| is_announced(all, true, &desired, &statuses);
            assert_eq!(
                (is(false), is(true)),
                (one, all),
                "{desired:?} {statuses:?}"
            );
        }
    }
}
