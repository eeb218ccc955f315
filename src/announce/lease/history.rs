//! Where in etcd's history the responses stand. Pure.

use super::protocol::{Header, Revision};

/// The cluster and the revisions that are known.
#[derive(Debug, Default)]
pub(super) struct KnownHistory {
    /// The id of the cluster that answered last.
    cluster: Option<u64>,
    /// The latest revision in a response.
    revision: Revision,
    /// The latest revision that was known when the request under way was sent. A linearizable response below it
    /// means that etcd's revision went back.
    floor: Revision,
}

impl KnownHistory {
    /// A request is sent; `observed` is the latest revision that a watch told.
    pub(super) fn request_sent(&mut self, observed: Revision) {
        self.floor = self.revision.max(observed);
    }

    /// A response came. Returns whether it is of another history: another cluster, or an earlier revision.
    pub(super) fn is_reset_by(&mut self, header: Header) -> bool {
        let another = self.cluster.is_some_and(|known| known != header.cluster);
        self.cluster = Some(header.cluster);
        self.revision = header.revision;
        another || header.revision < self.floor
    }
}
