//! Services and their instances, as they stand in etcd. Pure.

use crate::endpoint::{Endpoint, Host, Status};
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

/// What HAProxy needs to know of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Where to dial.
    pub host: Host,
    /// On `host`.
    pub port: NonZeroU16,
    /// Takes no new connections.
    pub draining: bool,
    /// Its key is gone: it takes no new connections, and its old ones end soon. A key never says so.
    pub leaving: bool,
    /// When its key came to be: who was there first keeps its place where places run out.
    pub create_revision: i64,
}

impl Instance {
    /// Of what a value says.
    #[must_use]
    pub fn new(endpoint: Endpoint, create_revision: i64) -> Self {
        Self {
            host: endpoint.host,
            port: endpoint.port,
            draining: endpoint.status == Some(Status::Draining),
            leaving: false,
            create_revision,
        }
    }
}

/// One service, by instance.
pub type Instances = BTreeMap<String, Instance>;

/// All services, by name. Whoever keeps a service's pointer can tell by it that nothing has changed.
pub type Services = BTreeMap<String, Arc<Instances>>;
