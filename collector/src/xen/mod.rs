//! Xen, from its first domain (dom0): the domains as VMs, their memory, affinities, cache monitoring and
//! memory sharing.
//!
//! What huddle asks of Xen are the traits of [`toolstack`]: [`toolstack::Toolstack`] for domains and
//! affinities, [`toolstack::ForeignMemory`] for their pages, [`toolstack::CacheMonitor`] and
//! [`toolstack::MemorySharing`] for what some hosts have. Behind them are Xen's own C libraries, loaded at run
//! time ([`library`]); where they are not there or of an unknown version, the program `xl` lists and pins
//! ([`xl`]). Nothing of Xen is needed to build huddle, and a host without it is never asked.

#[cfg(test)]
pub(crate) mod fake_memory;
pub mod merging;
pub mod toolstack;

use crate::host::HostRoot;

/// Whether this is a domain that controls a Xen host: `/proc/xen/capabilities` (xenfs) says `control_d`
/// (drivers/xen/xenfs/super.c, Linux 6.1).
pub fn is_control_domain(root: &HostRoot) -> bool {
    std::fs::read_to_string(root.proc("xen/capabilities")).is_ok_and(|text| text.contains("control_d"))
}
