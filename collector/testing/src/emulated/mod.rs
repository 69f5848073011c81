//! Hosts in QEMU's emulator, for tests and benchmarks that boot them.

pub mod host;
pub mod programs;
pub mod trials;
