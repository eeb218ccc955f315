//! `sidekick agent` and `sidekick list` on a real HAProxy and a real etcd.
//!
//! Both ways to run HAProxy go through the same tests where it can make a difference.

mod both_ways;
mod harness;
mod hostile;
mod list;
mod trouble;
