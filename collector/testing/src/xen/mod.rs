//! What tests that boot a real Xen have in common besides the host.

pub mod plain;
