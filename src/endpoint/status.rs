//! Whether an instance takes new connections. Pure.

use serde::{Deserialize, Serialize};

/// What an instance says of itself beyond being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Takes no new connections; old ones may finish.
    Draining,
}
