//! The language in which the scenarios are written.

mod cluster;
mod engine;
mod etcd;
mod furniture;
mod history;
mod images;
mod machine;
mod patience;
mod reader;
mod worker;

pub use cluster::Cluster;
pub use engine::enter_own_network;
pub use furniture::TTL;
pub use images::{Parts, debian_root};
pub use machine::Machine;
pub use patience::{SOON, deadline, never_for, secs};
