//! What tests, benchmarks and examples of several packages share. Never a normal dependency.
#![allow(clippy::unwrap_used, reason = "support of tests: what fails, panics")]

pub mod fixtures;
