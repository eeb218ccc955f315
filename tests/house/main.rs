//! The house's order: which file may import which, which is pure, and how long a file and a function are.

// A source file that can't be read is a failed test.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub
)]

mod imports;
mod purity;
mod shape;
mod source;
