//! Capabilities (capabilities(7)): each mode keeps its own.

use caps::{CapSet, Capability, CapsHashSet};

use super::Mode;

/// Files of other users that the user names: a recording, a matrix.
const FILES: &[Capability] = &[Capability::CAP_DAC_READ_SEARCH];

/// VMs of other users: their /proc/PID and memory, and their QMP sockets; without CAP_DAC_OVERRIDE root is
/// refused what belongs to libvirt's user.
const VMS: &[Capability] =
    &[Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH, Capability::CAP_DAC_OVERRIDE];

/// Frame numbers in /proc/PID/pagemap and kpageflags; and for a fast scan of merged frames, of page tables and of
/// mappings BPF programs, and kernel symbols for the zero page.
const FRAMES: &[Capability] =
    &[Capability::CAP_SYS_ADMIN, Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYSLOG];

/// Affinities of other users' threads.
const AFFINITIES: &[Capability] = &[Capability::CAP_SYS_NICE];

fn needed(mode: Mode) -> impl Iterator<Item = Capability> {
    let groups: &[&[Capability]] = match mode {
        Mode::Offline => &[FILES],
        Mode::Contents | Mode::Sketch => &[VMS],
        Mode::Frames | Mode::Watch => &[VMS, FRAMES],
        Mode::Examine | Mode::Pin | Mode::Loop => &[VMS, FRAMES, AFFINITIES],
        Mode::Restore => &[VMS, AFFINITIES],
    };
    groups.iter().copied().flatten().copied()
}

/// Drops every capability that this mode does not need.
pub(super) fn keep(mode: Mode) {
    let needed: CapsHashSet = needed(mode).collect();
    for set in [CapSet::Ambient, CapSet::Bounding, CapSet::Effective, CapSet::Permitted, CapSet::Inheritable]
    {
        if let Err(error) = keep_in(set, &needed) {
            // A process without CAP_SETPCAP keeps its bounding set, which then has no effect.
            tracing::debug!("capabilities that are not needed are kept: {set:?}: {error}");
        }
    }
}

fn keep_in(set: CapSet, needed: &CapsHashSet) -> Result<(), caps::errors::CapsError> {
    let had = caps::read(None, set)?;
    if had.is_subset(needed) {
        return Ok(());
    }
    match set {
        // These two can only be changed one by one.
        CapSet::Ambient | CapSet::Bounding => {
            had.difference(needed).try_for_each(|capability| caps::drop(None, set, *capability))
        }
        _ => caps::set(None, set, &had.intersection(needed).copied().collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::MODES;
    use super::*;

    #[test]
    fn only_pinning_modes_may_pin_and_offline_mode_reads_no_processes() {
        for mode in MODES {
            let kept: CapsHashSet = needed(mode).collect();
            let pins = matches!(mode, Mode::Pin | Mode::Loop | Mode::Restore | Mode::Examine);
            assert_eq!(kept.contains(&Capability::CAP_SYS_NICE), pins, "{mode:?}");
            assert_eq!(kept.contains(&Capability::CAP_SYS_PTRACE), mode != Mode::Offline, "{mode:?}");
            let frames = !matches!(mode, Mode::Offline | Mode::Contents | Mode::Sketch | Mode::Restore);
            assert_eq!(kept.contains(&Capability::CAP_SYS_ADMIN), frames, "{mode:?}");
        }
    }
}
