//! The audit, which reads all keys back. Pure.

use super::key_state::{KeyState, KnownValue};
use crate::clock::Moment;
use crate::endpoint::Key;
use std::collections::{BTreeMap, BTreeSet};

/// The audit that is running, and when the next one begins.
#[derive(Debug, Default)]
pub(super) struct Audit {
    /// When the next audit begins.
    pub(super) at: Moment,
    /// Keys that the running audit hasn't read yet.
    pub(super) unread: BTreeSet<Key>,
}

impl Audit {
    /// Starts an audit of these keys.
    pub(super) fn start<'a>(&mut self, keys: impl Iterator<Item = &'a Key>, next: Moment) {
        self.unread = keys.cloned().collect();
        self.at = next;
    }

    /// At most `limit` keys to read next; where no audit runs, those whose value is unknown. Keys that etcd
    /// rejects are left out.
    pub(super) fn next_keys(&mut self, keys: &BTreeMap<Key, KeyState>, limit: usize) -> Vec<Key> {
        let open = |state: &&KeyState| state.rejected.is_none();
        self.unread
            .retain(|key| keys.get(key).filter(open).is_some());
        if self.unread.is_empty() {
            let is_unknown = |state: &KeyState| state.belief.value == KnownValue::Unknown;
            let unknown = keys.iter().filter(|(_, it)| open(it) && is_unknown(it));
            self.unread = unknown.map(|(key, _)| key.clone()).collect();
        }
        self.unread.iter().take(limit).cloned().collect()
    }
}
