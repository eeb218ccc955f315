//! `sidekick agent` and `sidekick list` on a real HAProxy and a real etcd.
//!
//! Both ways to run HAProxy go through the same tests where it can make a difference.

// A scene that can't be set is a failed test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

/// Each of these tests twice: HAProxy is the agent's, or somebody else's.
macro_rules! both_ways {
    ($($name:ident)*) => { $(
        mod $name {
            use super::*;
            #[tokio::test]
            async fn supervised() { super::$name(Supervised).await }
            #[tokio::test]
            async fn attached() { super::$name(Attached).await }
        }
    )* };
}

mod addresses;
mod base;
mod both_ways;
mod burst;
mod conversation;
mod crash;
mod drain;
mod dry_run;
mod faults;
mod flapping;
mod growth;
mod hold;
mod hostile;
mod judged;
mod list;
mod listeners;
mod load;
mod names;
mod no_reload;
mod old_workers;
mod reading;
mod second_agent;
mod secrets;
mod starved;
mod taken_out;
mod trouble;
mod udp;
mod unread;
mod worker;
