//! Loads and guests whose instructions are known, for hosts whose counters are known (`cargo xtask host`).
#![allow(clippy::print_stdout, reason = "what tests wait for")]

pub mod counters;
pub mod data;
pub mod guest;
pub mod known_loop;
pub mod spin;
pub mod terminal;
pub mod writes;
