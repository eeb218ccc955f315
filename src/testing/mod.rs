//! Simulations, and the fakes that they run on.

mod announce;
