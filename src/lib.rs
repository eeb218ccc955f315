//! x
pub mod agent;
pub mod announce;
pub mod backoff;
pub mod cli;
pub mod clock;
pub mod config;
pub mod endpoint;
pub mod etcd;
pub mod explain;
pub mod list;
pub mod shutdown;
pub mod systemd;
pub mod telemetry;
