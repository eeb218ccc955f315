//! An etcd, a HAProxy, an agent and backends of a test's own. Everything ends with the test.

mod answering;
mod apart;
mod client;
mod disk;
pub mod haproxy;
mod load;
mod scene;

pub use crate::{
    A_WHILE, Etcd, EtcdCluster, Footprint, Footprints, Login, PATIENCE, Proxy, SOON, becomes,
    eventually, free_port, measured, millis, never_for, notify::Notifications, secs, throughout,
};
pub use answering::{Answering, Asking};
pub use apart::apart;
pub use client::{Backend, Connection, elsewhere, host, listens, output_of, value_of};
pub use disk::Disk;
pub use haproxy::{Servers, fresh_haproxy_on, haproxy, servers_in};
pub use load::Load;
pub use scene::HaproxyMode::{self, Attached, Supervised};
pub use scene::{AgentScene, Victim};
