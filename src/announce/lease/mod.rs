//! The lease and its keys in etcd: decided by the registrar, done by the executor.

mod audit;
mod batch;
mod event_log;
pub mod executor;
mod grant;
mod history;
mod key_state;
pub mod key_waits;
mod metrics;
pub mod ownership;
pub mod protocol;
pub mod registrar;
pub mod shutdown_report;

pub use key_waits::KeyWait;
pub use metrics::LeaseMetrics;
