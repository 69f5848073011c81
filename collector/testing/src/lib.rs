//! What tests, benchmarks and examples of several packages share. Never a normal dependency.
#![allow(clippy::unwrap_used, reason = "support of tests: what fails, panics")]

pub mod figures;
pub mod fixtures;
pub mod ksm;
pub mod memory;
pub mod older;
pub mod output;
pub mod reader;
#[cfg(feature = "recordings")]
pub mod readers_loop;
#[cfg(feature = "recordings")]
pub mod recording;
pub mod sample;
pub mod sample_observed;
pub mod tmux;
pub mod xen;
