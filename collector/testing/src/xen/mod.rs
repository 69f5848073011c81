//! A real Xen in QEMU, for tests and benchmarks that boot it.

pub mod dom0;
pub mod host;
pub mod plain;
