//! How many keys travel in one request to etcd. Pure.

use super::protocol::{MAX_OPS, MAX_WRITES};

/// The sizes of the next requests.
#[derive(Debug)]
pub(super) struct BatchSizes {
    /// Operations in a transaction. Halves when a condition fails, so that one contested key doesn't hold up the
    /// others, and when etcd rejects the transaction.
    pub(super) writes: usize,
    /// Keys in a read. Halves when etcd rejects the read.
    pub(super) reads: usize,
}

impl BatchSizes {
    pub(super) const fn new() -> Self {
        Self {
            writes: MAX_WRITES,
            reads: MAX_OPS,
        }
    }

    pub(super) fn write_succeeded(&mut self) {
        self.writes = (self.writes * 2).min(MAX_WRITES);
    }

    pub(super) fn write_failed(&mut self) {
        self.writes = (self.writes / 2).max(1);
    }

    pub(super) fn read_succeeded(&mut self) {
        self.reads = (self.reads * 2).min(MAX_OPS);
    }

    pub(super) fn read_failed(&mut self) {
        self.reads = (self.reads / 2).max(1);
    }
}
