//! What the benches measure with.

mod samples;
pub mod usage;

pub use samples::{Samples, header};
