//! `sidekick agent` and `sidekick list` on a real HAProxy and a real etcd.
//!
//! Where it can make a difference, a test runs in both modes of HAProxy.

// A test whose set-up fails is a failed test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub
)]

/// Each of these tests in both modes: HAProxy is the agent's child, or another service manager's.
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
mod doctor;
mod drain;
mod drain_word;
mod dry_run;
mod faults;
mod flapping;
mod growth;
mod hold;
mod hostile;
mod judged;
mod list;
mod list_watch;
mod listen;
mod listeners;
mod load;
mod names;
mod no_reload;
mod old_workers;
mod page;
mod reading;
mod second_agent;
mod secrets;
mod starved;
mod stuck;
mod taken_out;
mod targets;
mod trouble;
mod udp;
mod unread;
mod worker;
