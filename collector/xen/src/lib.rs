//! Xen, from its first domain (dom0): the domains as VMs, their memory, affinities, cache monitoring and
//! memory sharing.
//!
//! huddle uses Xen through the traits of [`toolstack`]: [`toolstack::Toolstack`] for domains and affinities,
//! [`toolstack::ForeignMemory`] for their pages, [`toolstack::CacheMonitor`] and [`toolstack::MemorySharing`]
//! for features of some hosts. They are implemented with Xen's own C libraries, loaded at run time
//! ([`library`]); where these are missing or of an unknown version, the program `xl` lists and pins ([`xl`]).
//! Nothing of Xen is needed to build huddle, and nothing of it is used on other hosts.

pub mod affinity;
pub mod contents;
#[cfg(test)]
pub(crate) mod fake_memory;
pub mod library;
pub mod merging;
pub mod observer;
pub mod stages;
pub mod toolstack;
pub mod topology;
pub mod vms;
pub mod xenstore;
pub mod xl;

use huddle_model::availability::Availability;

use self::library::{LibraryMemory, LibraryMonitor, LibrarySharing, LibraryToolstack};
use self::toolstack::{CacheMonitor, ForeignMemory, MemorySharing, Toolstack, XenError};
use self::xl::Xl;
use huddle_host::{HostRoot, read_text};

/// Whether this is the control domain of a Xen host: `/proc/xen/capabilities` (xenfs) contains `control_d`
/// (drivers/xen/xenfs/super.c, Linux 6.1).
pub fn is_control_domain(root: &HostRoot) -> bool {
    std::fs::read_to_string(root.proc("xen/capabilities")).is_ok_and(|text| text.contains("control_d"))
}

/// Opens the toolstack for listing and pinning: Xen's libraries, or `xl` if those of the running version are
/// unknown or missing.
///
/// # Errors
/// When neither works.
pub fn open(root: &HostRoot) -> Result<Box<dyn Toolstack>, XenError> {
    match LibraryToolstack::open(root) {
        Ok(toolstack) => Ok(Box::new(toolstack)),
        Err(error @ (XenError::NoLibrary { .. } | XenError::UnknownVersion { .. })) => match Xl::find(root) {
            Ok(xl) => {
                tracing::debug!("{error}; `xl` lists and pins instead");
                Ok(Box::new(xl))
            }
            Err(_) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Opens the mapping of domains' pages.
///
/// # Errors
/// When Xen's libraries of the running version are missing, or may not be used.
pub fn open_memory(root: &HostRoot) -> Result<Box<dyn ForeignMemory>, XenError> {
    Ok(Box::new(LibraryMemory::open(root)?))
}

/// Opens Xen's memory sharing. Whether this Xen supports it shows only at the first call.
///
/// # Errors
/// When Xen's libraries of the running version are missing, or may not be used.
pub fn open_sharing(root: &HostRoot) -> Result<Box<dyn MemorySharing>, XenError> {
    Ok(Box::new(LibrarySharing::open(root)?))
}

/// Opens the processor's cache monitoring.
pub fn open_monitor(root: &HostRoot) -> Availability<Box<dyn CacheMonitor>> {
    match LibraryMonitor::open(root) {
        Ok(monitor) => Availability::Available(Box::new(monitor)),
        Err(error @ (XenError::NoLibrary { .. } | XenError::UnknownVersion { .. })) => match Xl::find(root) {
            // Whether it is supported shows at the first call.
            Ok(xl) => Availability::Available(Box::new(xl)),
            Err(_) => Availability::Unavailable(error.to_string()),
        },
        Err(error) => Availability::Unavailable(error.to_string()),
    }
}

/// The running version of Xen, as reported by the kernel (Documentation/ABI/stable/sysfs-hypervisor-xen);
/// `None` on other hosts.
pub fn running_version(root: &HostRoot) -> Option<String> {
    let part = |name: &str| {
        let text = read_text(&root.sys(format!("hypervisor/version/{name}"))).ok()?;
        text.trim().parse::<u32>().ok()
    };
    Some(format!("{}.{}", part("major")?, part("minor")?))
}

/// Longest text of a domain's owner or of a program that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 256;

/// Untrusted text for display: characters that could upset a terminal are escaped, and long text is cut.
fn plain(text: &str) -> String {
    huddle_model::text::plain_short(text, MAX_TEXT_BYTES)
}
