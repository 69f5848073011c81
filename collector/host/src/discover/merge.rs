//! Why a VM's memory cannot be merged, in sentences for the user. Pure.
//!
//! KSM merges private anonymous memory that was marked mergeable, and nothing else
//! (Documentation/admin-guide/mm/ksm.rst, Linux 6.18).

use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::text::bytes;
use huddle_model::vm::{GuestRegion, MemoryKind, VmmKind};

/// One sentence for each reason, with how much memory it concerns and what to do; empty where all of
/// it can be merged. `ksm` is unavailable, with its reason, on kernels without KSM.
pub fn cannot_merge(memory: &[GuestRegion], vmm: VmmKind, ksm: &Availability<KsmState>) -> Vec<String> {
    let of = |kind| bytes_of(memory, kind);
    let mut reasons = Vec::new();
    if memory.is_empty() {
        return reasons;
    }
    if of(MemoryKind::SharedMemory) > 0 {
        let size = bytes(of(MemoryKind::SharedMemory));
        let remedy = private_memory(vmm);
        reasons.push(format!(
            "{size} of its memory is shared memory (memfd, /dev/shm or System V); KSM merges private \
             anonymous memory only; {remedy}"
        ));
    }
    if of(MemoryKind::SharedFile) > 0 {
        let size = bytes(of(MemoryKind::SharedFile));
        let remedy = private_memory(vmm);
        reasons.push(format!(
            "{size} of its memory is a shared mapping of a file; KSM merges private anonymous memory only, and VMs \
             share it only where they map one file; {remedy}"
        ));
    }
    if of(MemoryKind::PrivateFile) > 0 {
        let size = bytes(of(MemoryKind::PrivateFile));
        reasons.push(format!(
            "{size} of its memory is a private mapping of a file: pages that it did not write are the file's, which VMs \
             that map it share without KSM; KSM merges those that it wrote, where they are marked mergeable"
        ));
    }
    if of(MemoryKind::Device) > 0 {
        let size = bytes(of(MemoryKind::Device));
        reasons.push(format!("{size} of its memory is of a DAX device, which KSM never merges"));
    }
    if of(MemoryKind::HugeTlb) > 0 {
        let size = bytes(of(MemoryKind::HugeTlb));
        reasons.push(format!(
            "{size} of its memory is hugetlbfs pages, which KSM never merges; start it without \
             hugetlbfs (transparent huge pages are no obstacle, KSM splits them)"
        ));
    }
    if of(MemoryKind::Anonymous) > 0 {
        let size = bytes(of(MemoryKind::Anonymous));
        let remedy = mark_mergeable(vmm);
        reasons.push(format!("{size} of its memory is not marked mergeable, so KSM skips it; {remedy}"));
    }
    reasons.extend(ksm_off(bytes(memory.iter().map(GuestRegion::len_bytes).sum()), ksm));
    reasons
}

/// What of the memory cannot be merged because it is pinned; `None` where that is nothing that KSM would merge
/// otherwise. KSM merges no page with more references than mappings (`write_protect_page`, mm/ksm.c, Linux 6.18).
pub fn pinned(memory: &[GuestRegion], pinned_bytes: u64) -> Option<String> {
    let mergeable = bytes_of(memory, MemoryKind::Mergeable);
    if pinned_bytes == 0 || mergeable == 0 {
        return None;
    }
    Some(format!(
        "{} of the memory of its process is pinned in place, of {} that are marked mergeable: KSM merges no pinned \
         page; devices that are passed through (VFIO) and buffers registered with io_uring pin memory, so start it \
         without them",
        bytes(pinned_bytes),
        bytes(mergeable)
    ))
}

/// Whether KSM as a whole keeps memory from being merged. Stopped with merged pages (`run` 0 after
/// merging) is no obstacle to measuring what is merged, so it is not one here.
fn ksm_off(size: String, ksm: &Availability<KsmState>) -> Option<String> {
    match ksm {
        Availability::Unavailable(reason) => Some(format!("none of its {size} can be merged: {reason}")),
        Availability::Available(state) if state.run != 1 && state.pages_sharing == 0 => Some(format!(
            "none of its {size} can be merged now: KSM is stopped (run is {}) and nothing is merged; \
             start it with `echo 1 > /sys/kernel/mm/ksm/run`",
            state.run
        )),
        Availability::Available(_) => None,
    }
}

fn private_memory(vmm: VmmKind) -> &'static str {
    match vmm {
        VmmKind::QemuKvm | VmmKind::QemuTcg => {
            "start QEMU without memory-backend-memfd or memory-backend-file and without share=on"
        }
        VmmKind::CloudHypervisor => "start cloud-hypervisor with --memory shared=off,mergeable=on",
        VmmKind::Crosvm => "crosvm always uses a memfd, so its guests cannot be merged",
        VmmKind::Firecracker => "Firecracker uses a memfd where it has vhost-user devices; start it without",
        VmmKind::OtherKvm | VmmKind::Process | VmmKind::Cgroup | VmmKind::Unknown => {
            "give it private anonymous memory"
        }
        VmmKind::XenPv | VmmKind::XenPvh | VmmKind::XenHvm | VmmKind::Xen => "KSM cannot merge Xen's memory",
    }
}

fn mark_mergeable(vmm: VmmKind) -> &'static str {
    const PRCTL: &str =
        "have it call madvise(MADV_MERGEABLE), or prctl(PR_SET_MEMORY_MERGE) before it starts";
    match vmm {
        VmmKind::QemuKvm | VmmKind::QemuTcg => {
            "start QEMU with -machine mem-merge=on, or under prctl(PR_SET_MEMORY_MERGE)"
        }
        VmmKind::CloudHypervisor => "start cloud-hypervisor with --memory mergeable=on",
        _ => PRCTL,
    }
}

fn bytes_of(memory: &[GuestRegion], kind: MemoryKind) -> u64 {
    memory.iter().filter(|region| region.kind == kind).map(GuestRegion::len_bytes).sum()
}

#[cfg(test)]
mod tests {
    use huddle_model::vm::TaskId;

    use super::*;

    fn region(kind: MemoryKind, mib: u64) -> GuestRegion {
        let process = Some(TaskId { id: 1, start_ticks: 1 });
        GuestRegion { process, start: 1 << 20, end: (1 + mib) << 20, kind }
    }

    fn running() -> Availability<KsmState> {
        Availability::Available(KsmState { run: 1, ..KsmState::default() })
    }

    #[test]
    fn memory_that_merges_has_no_reason() {
        let memory = [region(MemoryKind::Mergeable, 64)];
        assert_eq!(cannot_merge(&memory, VmmKind::QemuKvm, &running()), Vec::<String>::new());
        assert_eq!(cannot_merge(&[], VmmKind::QemuKvm, &running()), Vec::<String>::new());
    }

    #[test]
    fn each_kind_has_its_reason_its_size_and_its_remedy() {
        for (kind, vmm, words) in [
            (MemoryKind::SharedMemory, VmmKind::QemuTcg, ["64 MiB", "shared memory (memfd", "share=on"]),
            (MemoryKind::HugeTlb, VmmKind::QemuKvm, ["64 MiB", "hugetlbfs", "without"]),
            (MemoryKind::SharedFile, VmmKind::QemuKvm, ["64 MiB", "shared mapping of a file", "share=on"]),
            (MemoryKind::PrivateFile, VmmKind::Firecracker, ["64 MiB", "private mapping", "did not write"]),
            (MemoryKind::Device, VmmKind::QemuKvm, ["64 MiB", "DAX", "never"]),
            (MemoryKind::Anonymous, VmmKind::QemuKvm, ["64 MiB", "not marked", "mem-merge=on"]),
            (MemoryKind::Anonymous, VmmKind::CloudHypervisor, ["64 MiB", "not marked", "mergeable=on"]),
            (MemoryKind::Anonymous, VmmKind::Process, ["64 MiB", "not marked", "PR_SET_MEMORY_MERGE"]),
        ] {
            let memory = [region(MemoryKind::Mergeable, 1), region(kind, 64)];
            let reasons = cannot_merge(&memory, vmm, &running());
            assert_eq!(reasons.len(), 1, "{reasons:?}");
            for word in words {
                assert!(reasons[0].contains(word), "{word}: {reasons:?}");
            }
        }
    }

    #[test]
    fn pinned_memory_has_its_size() {
        let memory = [region(MemoryKind::Mergeable, 16), region(MemoryKind::SharedMemory, 8)];
        let reason = pinned(&memory, 12 << 20).unwrap();
        for words in ["12 MiB of the memory", "of 16 MiB that are marked", "pinned", "io_uring", "VFIO"] {
            assert!(reason.contains(words), "{words}: {reason}");
        }
        assert_eq!(pinned(&memory, 0), None);
        assert_eq!(pinned(&memory[1..], 12 << 20), None, "it would not be merged anyway");
    }

    #[test]
    fn ksm_that_is_off_or_missing_is_a_reason_and_stopped_after_merging_is_none() {
        let memory = [region(MemoryKind::Mergeable, 2)];
        let reasons = |ksm| cannot_merge(&memory, VmmKind::QemuKvm, &ksm);
        let state = |run, pages_sharing| {
            Availability::Available(KsmState { run, pages_sharing, ..KsmState::default() })
        };
        for run in [0, 2] {
            let stopped = reasons(state(run, 0));
            assert!(
                stopped[0].contains(&format!("run is {run}")) && stopped[0].contains("2 MiB"),
                "{stopped:?}"
            );
        }
        assert_eq!(reasons(state(0, 5)), Vec::<String>::new());
        let missing = reasons(Availability::Unavailable("this kernel has no KSM".into()));
        assert!(missing[0].contains("no KSM"), "{missing:?}");
    }
}
