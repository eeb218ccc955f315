//! The language in which the tests are written.

mod authority;
mod cluster;
mod container;
mod engine;
mod engine_clock;
mod etcd;
mod footprint;
pub mod measured;
mod name_server;
pub mod notify;
mod patience;
mod peers;
pub mod ports;
mod proxy;
mod scene;
mod sidekick;
mod socket_proxy;
mod stand_in;
mod store;
mod unread;
mod value;
mod warden;
mod watch;
mod wire;

pub use authority::Authority;
#[allow(unused_imports, reason = "not for `make chaos`")]
pub use authority::Mounted;
pub use cluster::Cluster;
pub use container::{Container, Run};
pub use engine::Engine;
pub use etcd::{Etcd, Login};
pub use footprint::{Footprint, Footprints};
pub use name_server::NameServer;
pub use patience::{SOON, eventually, millis, never_for, secs};
pub use ports::free as free_port;
pub use proxy::Proxy;
pub use scene::{HOST, KEY, Scene};
pub use sidekick::{Announce, Explained, Sidekick};
pub use socket_proxy::SocketProxy;
pub use stand_in::{Manner, StandIn};
pub use store::Entry;
pub use value::Value;
#[allow(unused_imports, reason = "for tests/agent")]
pub use warden::program;
pub use warden::{Charge, Warden};
pub use wire::Wire;
