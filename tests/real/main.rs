//! Every sentence about `sidekick announce` and `sidekick explain` that can be seen from outside, against a
//! real etcd and a real Docker Engine.
//!
//! Each test has an etcd of its own; most share one private Docker Engine. A missing part is a failure.

// A test that can't go on panics, and says where; no other crate uses its items.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub
)]

mod address;
mod all;
mod also;
mod checks;
mod crash;
mod docker_wire;
mod doctor;
mod drain;
mod drain_changes;
mod drain_commands;
mod engine_clock;
mod engine_outage;
mod etcd_outage;
mod explain;
mod export;
mod growth;
mod handover;
mod kernel;
mod lifecycle;
mod listen;
mod log;
mod login;
mod many;
mod members;
mod networks;
mod ownership;
mod privilege;
mod registrator;
mod secrets;
mod shutdown;
mod steady;
mod stops;
mod systemd;
mod tls;
