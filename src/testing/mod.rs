//! Fakes of the outside world, and simulations in seeded virtual time.

mod agent_simulation;
mod announce;
pub(crate) mod config_grammar;
pub(crate) mod fake_haproxy;
mod fake_servers;
mod fake_sessions;
mod reconcile_simulation;
pub(crate) mod seeds;
