//! The language in which the scenarios are written.

mod cluster;
mod engine;
mod etcd;
mod history;
mod machine;
mod patience;
mod reader;
mod worker;

pub use cluster::{Cluster, Parts, TTL};
pub use engine::enter_own_network;
pub use machine::Machine;
pub use patience::{SOON, deadline, never_for, secs};
