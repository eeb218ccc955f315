//! `sidekick agent` and `sidekick list` on a real HAProxy and a real etcd.
//!
//! Both ways to run HAProxy go through the same tests where it can make a difference.

// A scene that can't be set is a failed test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub
)]

mod both_ways;
mod harness;
mod hostile;
mod judged;
mod list;
mod trouble;
mod worker;
