//! Which container is announced at which key, and why not. Pure.

pub mod caveat;
pub mod check;
pub mod check_settings;
pub mod claim_checks;
pub mod claims;
pub mod container;
pub mod eligibility;
pub mod first_look;
pub mod host_source;
pub mod labels;
pub mod layouts;
pub mod life;
pub mod process;
pub mod reason;
pub mod redis_reply;
pub mod refusal;
pub mod registrator;
pub mod stop;
pub mod target;
