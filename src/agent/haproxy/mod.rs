//! HAProxy: its configuration file, its runtime API and its processes.

pub(crate) mod api;
pub mod base_config;
pub(crate) mod bind_errors;
pub(crate) mod bind_probe;
pub(crate) mod config_file;
pub(crate) mod executor;
pub mod file_content;
pub mod health;
pub mod last_speaker;
pub(crate) mod local_servers;
pub(crate) mod master_socket;
pub mod parse;
pub(crate) mod process;
pub mod process_list;
pub mod render;
pub(crate) mod running_config;
pub mod runtime;
pub mod server_defaults;
pub mod server_state;
pub mod session_list;
pub(crate) mod sessions;
mod tcp_diagnosis;
