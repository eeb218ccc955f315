//! `sidekick agent`
pub mod apply;
pub mod diff;
pub mod layout;
pub mod presence;
pub mod render;
pub mod table;
