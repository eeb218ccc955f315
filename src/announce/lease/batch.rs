//! How many keys travel in one request to etcd. Pure.

use super::protocol::{MAX_OPS, MAX_WRITES};

/// The sizes of the next requests.
#[derive(Debug)]
pub(super) struct BatchSizes {
    /// Operations in a transaction. Halves when conditions fail twice in a row, so that one contested key doesn't hold
    /// up the others, and when etcd rejects the transaction.
    pub(super) writes: usize,
    /// A condition of the last transaction failed.
    condition_failed: bool,
    /// Keys in a read. Halves when etcd rejects the read.
    pub(super) reads: usize,
}

impl BatchSizes {
    pub(super) const fn new() -> Self {
        Self {
            writes: MAX_WRITES,
            condition_failed: false,
            reads: MAX_OPS,
        }
    }

    pub(super) fn write_succeeded(&mut self) {
        self.condition_failed = false;
        self.writes = (self.writes * 2).min(MAX_WRITES);
    }

    /// A condition failed, which has told the values of all the transaction's keys: the same keys again will do, unless one of
    /// them is changed once more. Were fewer tried, the rest would travel with keys whose values are old, and fail again.
    pub(super) fn condition_failed(&mut self) {
        if std::mem::replace(&mut self.condition_failed, true) {
            self.write_failed();
        }
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
