//! `--listen`: metrics, health and the page, over HTTP. Nothing here changes anything.
//!
//! The listener has a thread of its own (docs/adr/0024). The jobs hand it the latest state by `watch` channels and by
//! counters, and never wait for it.

mod content_policy;
pub mod exposition;
mod feed;
pub mod metrics;
pub mod page;
mod page_changes;
pub mod server;

#[cfg(test)]
mod tests;
