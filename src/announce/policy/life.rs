//! One life of a container. Pure.

use crate::endpoint::Since;

/// One life of a container: from a start to its death.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    /// The container's full id.
    pub container: String,
    /// When that life started.
    pub started_at: Since,
}
