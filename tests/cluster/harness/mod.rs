//! The language in which the scenarios are written.

mod clients;
mod cluster;
mod etcd_members;
mod furniture;
mod history;
mod host_engine;
mod images;
mod machine;
mod reader;
mod worker;

pub use clients::{Clients, Habit, Outcome};
pub use cluster::Cluster;
pub use furniture::TTL;
pub use history::unix_seconds;
pub use host_engine::{enter_own_network, finish};
pub use images::{Parts, debian_root};
pub use machine::{Machine, OpenEngine};

use sidekick_harness::secs;
use std::time::Duration;

/// For what takes a few seconds on a quiet machine: restarting docker.service, say.
pub const SOON: Duration = secs(40);
