//! Xen, from its first domain (dom0): the domains as VMs, their memory, affinities, cache monitoring and
//! memory sharing.
//!
//! What huddle asks of Xen are the traits of [`toolstack`]: [`toolstack::Toolstack`] for domains and
//! affinities, [`toolstack::ForeignMemory`] for their pages, [`toolstack::CacheMonitor`] and
//! [`toolstack::MemorySharing`] for what some hosts have. Behind them are Xen's own C libraries, loaded at run
//! time ([`library`]); where they are not there or of an unknown version, the program `xl` lists and pins
//! ([`xl`]). Nothing of Xen is needed to build huddle, and a host without it is never asked.

pub mod library;
pub mod observer;
pub mod stages;
pub mod toolstack;
pub mod topology;
pub mod vms;
pub mod xenstore;

use huddle_model::availability::Availability;

use self::library::{LibraryMemory, LibraryMonitor, LibraryToolstack};
use self::toolstack::{CacheMonitor, ForeignMemory, Toolstack, XenError};
use crate::host::HostRoot;

/// Whether this is a domain that controls a Xen host: `/proc/xen/capabilities` (xenfs) says `control_d`
/// (drivers/xen/xenfs/super.c, Linux 6.1).
pub fn is_control_domain(root: &HostRoot) -> bool {
    std::fs::read_to_string(root.proc("xen/capabilities")).is_ok_and(|text| text.contains("control_d"))
}

/// Opens what can list and pin on this host: Xen's libraries.
///
/// # Errors
/// When it cannot be opened.
pub fn open(root: &HostRoot) -> Result<Box<dyn Toolstack>, XenError> {
    Ok(Box::new(LibraryToolstack::open(root)?))
}

/// Opens what maps the pages of domains.
///
/// # Errors
/// Without Xen's libraries or the right to use them.
pub fn open_memory(root: &HostRoot) -> Result<Box<dyn ForeignMemory>, XenError> {
    Ok(Box::new(LibraryMemory::open(root)?))
}

/// Opens the processor's cache monitoring.
pub fn open_monitor(root: &HostRoot) -> Availability<Box<dyn CacheMonitor>> {
    LibraryMonitor::open(root).map(|monitor| Box::new(monitor) as _).into()
}
