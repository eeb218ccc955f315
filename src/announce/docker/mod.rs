//! What the Docker Engine says: asked with deadlines, watched for ever.

pub mod calls;
pub mod client;
pub mod events;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod inspect;
mod inspect_queue;
pub mod process;
mod relist;
pub mod watcher;
