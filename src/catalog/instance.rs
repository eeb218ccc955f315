//! Services and their instances as etcd has them. Pure.

use crate::endpoint::{Endpoint, Host, Since};
use imbl::OrdMap;
use std::num::NonZeroU16;

/// What HAProxy needs to know of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// The host to connect to.
    pub host: Host,
    /// The port on `host`, 1 to 65535.
    pub port: NonZeroU16,
    /// Gets no new connections.
    pub draining: bool,
    /// Its key is gone: it gets no new connections, and its old ones end soon. Never set by a key.
    pub leaving: bool,
    /// The `create_revision` of its key: where there is no room for all, the oldest stay.
    pub create_revision: i64,
    /// The start of its container, if the value says it. The agent's word that it is drained names it.
    pub since: Option<Since>,
}

impl Instance {
    /// From a decoded value.
    #[must_use]
    pub fn new(endpoint: Endpoint, create_revision: i64) -> Self {
        Self {
            draining: endpoint.is_draining(),
            host: endpoint.host,
            port: endpoint.port,
            leaving: false,
            create_revision,
            since: endpoint.since,
        }
    }
}

/// A service's instances, by name. Persistent: a copy costs nothing, and two versions are compared in the time
/// of what differs between them (docs/adr/0018).
pub type Instances = OrdMap<String, Instance>;

/// All services, by name.
pub type Services = OrdMap<String, Instances>;
