//! Whether an instance takes new connections. Pure.

use super::Endpoint;
use serde::{Deserialize, Serialize};

/// What an instance says of itself beyond being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Takes no new connections; old ones may finish.
    Draining,
}

impl Endpoint {
    /// The same instance, which takes no new connections: its value gets `"status":"draining"`.
    #[must_use]
    pub fn draining(&self) -> Self {
        Self {
            status: Some(Status::Draining),
            ..self.clone()
        }
    }

    /// Whether the instance takes no new connections.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.status == Some(Status::Draining)
    }
}
