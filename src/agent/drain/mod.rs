//! Instances that drain: their idle sessions are ended, and the agent gives its word when they are drained. Pure.

pub(crate) mod drain_state;
mod idle_sessions;

#[cfg(test)]
mod tests;
