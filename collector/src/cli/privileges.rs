//! Least privilege: of what root may, huddle keeps what its features need (see docs/privileges.md).

use caps::{CapSet, Capability, CapsHashSet};

/// What some feature needs, and which.
const NEEDED: [Capability; 8] = [
    // Frame numbers in /proc/PID/pagemap, and kpageflags.
    Capability::CAP_SYS_ADMIN,
    // /proc/PID of other users.
    Capability::CAP_SYS_PTRACE,
    // Affinities of other users' threads.
    Capability::CAP_SYS_NICE,
    // BPF programs.
    Capability::CAP_BPF,
    // BPF programs that trace, and perf events of other users' threads.
    Capability::CAP_PERFMON,
    // QMP sockets and files of other users; without it root is refused what belongs to libvirt's user.
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_DAC_READ_SEARCH,
    // Kernel symbols, for the scan's zero-filled frames.
    Capability::CAP_SYSLOG,
];

/// Gives up every capability that no feature needs, for this process and what it might ever start.
/// To be called before the first thread: threads started later inherit it.
///
/// What cannot be given up is said in the log and kept: it harms nobody who would not be harmed without.
pub(crate) fn drop_unneeded() {
    for set in [CapSet::Ambient, CapSet::Bounding, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable]
    {
        if let Err(error) = keep_needed(set) {
            tracing::debug!("capabilities that are not needed are kept: {set:?}: {error}");
        }
    }
}

fn keep_needed(set: CapSet) -> Result<(), caps::errors::CapsError> {
    let had = caps::read(None, set)?;
    let needed: CapsHashSet = had.iter().copied().filter(|capability| NEEDED.contains(capability)).collect();
    if needed.len() == had.len() {
        return Ok(());
    }
    match set {
        // These two can only be changed one by one.
        CapSet::Ambient | CapSet::Bounding => {
            had.difference(&needed).try_for_each(|capability| caps::drop(None, set, *capability))
        }
        _ => caps::set(None, set, &needed),
    }
}
