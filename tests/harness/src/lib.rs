//! The language in which the tests and benches are written. It knows sidekick as a program, from outside.

// A scene that can't be set, or that goes another way than the test says, ends the test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used
)]

pub mod agent;
mod authority;
pub mod bench;
mod browser;
mod container;
mod engine;
mod engine_clock;
mod engine_network;
mod etcd;
mod etcd_cluster;
mod footprint;
mod held_thread;
pub mod http;
mod init;
mod listener;
pub mod measured;
mod name_server;
pub mod notify;
mod peers;
pub mod ports;
mod prometheus;
mod proxy;
mod pseudo_terminal;
mod scene;
mod sidekick;
mod socket_proxy;
mod stand_in;
mod store;
mod unread;
mod value;
mod wait;
mod warden;
mod watch;
mod wire;

pub use authority::{Authority, Mounted};
pub use browser::Browser;
pub use container::{Container, Run};
pub use engine::Engine;
pub use engine_network::EngineNetwork;
pub use etcd::{Etcd, Login};
pub use etcd_cluster::EtcdCluster;
pub use footprint::{Footprint, Footprints};
pub use held_thread::HeldThread;
pub use init::Idle;
pub use listener::become_the_listener;
pub use name_server::NameServer;
pub use ports::free as free_port;
pub use prometheus::Prometheus;
pub use proxy::Proxy;
pub use pseudo_terminal::PseudoTerminal;
pub use scene::{AnnouncerScene, HOST, KEY};
pub use sidekick::{Announce, Explained, Sidekick, binary, install_program};
pub use socket_proxy::SocketProxy;
pub use stand_in::{Manner, StandIn};
pub use store::Entry;
pub use value::Value;
pub use wait::{
    A_WHILE, PATIENCE, SOON, becomes, blocking, eventually, millis, never_for, secs, throughout,
};
pub use warden::{Charge, Warden, program};
pub use watch::WatchLog;
pub use wire::{Wire, mirrored};
