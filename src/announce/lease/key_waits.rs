//! How long keys wait for their put or their delete. Pure.

use super::protocol::Op;
use crate::clock::Moment;
use crate::endpoint::Key;
use std::collections::BTreeMap;
use std::time::Duration;

/// The most keys that are waited for; what comes on top is not measured.
const MOST: usize = 4_096;

/// A wait that is older was for something that another process did.
const OLDEST: Duration = Duration::from_secs(3_600);

/// What a key waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyWait {
    /// That it is put, after the event that makes the container eligible.
    Put,
    /// That it is deleted, after the container's death.
    Delete,
}

/// The keys that wait, and since when.
#[derive(Debug, Default)]
pub struct KeyWaits(BTreeMap<Key, (KeyWait, Moment)>);

impl KeyWaits {
    /// From `since` on that key waits, and no longer for anything else.
    pub fn begin(&mut self, key: &Key, wait: KeyWait, since: Moment) {
        if self.0.len() >= MOST {
            self.0.retain(|_, (_, begun)| *begun + OLDEST > since);
        }
        if self.0.len() < MOST || self.0.contains_key(key) {
            self.0.insert(key.clone(), (wait, since));
        }
    }

    /// That key no longer waits.
    pub fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// The operation was done at `now`: what the key waited for, and for how long.
    pub fn end(&mut self, op: &Op, now: Moment) -> Option<(KeyWait, Duration)> {
        let wait = if op.is_put() {
            KeyWait::Put
        } else {
            KeyWait::Delete
        };
        let (begun, since) = self.0.get(op.key())?;
        let took = (*begun == wait).then_some((wait, now.saturating_sub(*since)));
        if took.is_some() {
            self.0.remove(op.key());
        }
        took
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        format!("/services/redis/{n}").parse().unwrap()
    }

    #[test]
    fn a_wait_ends_with_its_operation_once() {
        let at = Moment::from_secs;
        let mut waits = KeyWaits::default();
        let (put, delete) = (Op::Create(key(1), Vec::new()), Op::Delete(key(1)));
        assert_eq!(waits.end(&put, at(1)), None);
        waits.begin(&key(1), KeyWait::Put, at(10));
        assert_eq!(waits.end(&delete, at(11)), None);
        assert_eq!(waits.end(&put, at(12)), Some((KeyWait::Put, at(2))));
        // A heal is no start.
        assert_eq!(waits.end(&put, at(13)), None);
        waits.begin(&key(1), KeyWait::Delete, at(20));
        assert_eq!(waits.end(&delete, at(21)), Some((KeyWait::Delete, at(1))));
        waits.begin(&key(1), KeyWait::Put, at(30));
        waits.forget(&key(1));
        assert_eq!(waits.end(&put, at(31)), None);
    }

    #[test]
    fn waits_that_nothing_ends_make_room() {
        let at = Moment::from_secs;
        let mut waits = KeyWaits::default();
        (0..MOST + 9).for_each(|n| waits.begin(&key(n), KeyWait::Delete, at(1)));
        assert_eq!(waits.0.len(), MOST);
        waits.begin(&key(0), KeyWait::Delete, at(2) + OLDEST);
        assert_eq!(waits.0.len(), 1);
    }
}
