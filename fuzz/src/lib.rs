//! The properties that the tests replay on the same corpus, `tests/corpus/`.

#[path = "../../tests/fuzz/properties.rs"]
mod properties;

pub use properties::*;
pub use sidekick::announce::fuzz::*;
