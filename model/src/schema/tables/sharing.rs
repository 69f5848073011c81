//! What VMs are and what they share, by round.

use super::Table;
use crate::id::VmKind;
use crate::schema::{Cell, CellOf, Column, Row, UuidText, Value};

rows! {
    /// What one VM shares with another in one round: one row per ordered pair.
    SharingRow, Sharing, sharing {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// The VM whose used frames are the whole of the rate.
        vm: String, "none";
        /// process or xen_domain; null if the matrix lacks it.
        vm_kind: Option<VmKind>, "none";
        /// Its process; null for a domain of Xen and where the matrix does not say.
        vm_pid: Option<i32>, "number";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or the matrix does not say.
        uuid: Option<UuidText>, "none";
        /// Number of its domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// The VM it shares with.
        other: String, "none";
        /// What the other VM is, as `vm_kind`.
        other_kind: Option<VmKind>, "none";
        /// Process of the other VM, null like `vm_pid`.
        other_pid: Option<i32>, "number";
        /// UUID of the other VM, null like `uuid`.
        other_uuid: Option<UuidText>, "none";
        /// Domain of the other VM, null like `domid`.
        other_domid: Option<u32>, "number";
        /// Distinct frames, not zero-filled, that both map; null where only rates are known.
        shared_frames: Option<u64>, "frames";
        /// Those of the shared frames that are of the page cache (a mapped file, a memfd, shared memory); null where that was not measured.
        shared_file_frames: Option<u64>, "frames";
        /// Those of the shared frames that both VMs read within `read_window_ms`; null where that was not measured, or reads of one of them are not seen.
        shared_frames_read: Option<u64>, "frames";
        /// Least time between clearing the accessed bit of a page and reading it again; null where reads were not measured.
        read_window_ms: Option<u32>, "ms";
        /// The shared frames as a part (0 to 1) of the frames that `vm` uses.
        rate: f64, "fraction";
        /// How it was measured: merged (frames that both map), content, file, or (earlier releases) events.
        method: String, "none";
        /// How long measuring the whole matrix took; null if the matrix lacks it.
        measured_in_us: Option<u64>, "us";
        /// Share (0 to 1) of the resident pages that was read; of a sample, of the contents that were compared; null if the matrix lacks it.
        coverage: Option<f64>, "fraction";
        /// What told which frames the VMs map: page_tables or pagemap; null where no frames were read, or the matrix lacks it.
        read_by: Option<String>, "none";
        /// Why page tables were not read; null where they were, or no frames were.
        read_by_reason: Option<String>, "none";
    }

    /// One VM of a group of VMs that map the same frames, in one round; none where only pairs were counted.
    GroupRow, Groups, groups {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// Number of the group in this round, from 1 for the one that saves most; 0 for the row of all shared frames of other groups.
        group_number: u32, "number";
        /// Frames, not zero-filled, that the VMs of the group map and no others; the same in all rows of a group. Of group 0 at most so many.
        frames: u64, "frames";
        /// One VM of the group; null for group 0, whose VMs are known by pairs only (table sharing).
        vm: Option<String>, "none";
        /// process or xen_domain; null like `vm`, and where the matrix does not say.
        vm_kind: Option<VmKind>, "none";
        /// Its process; null like `vm_kind` and for a domain of Xen.
        vm_pid: Option<i32>, "number";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or the matrix does not say.
        uuid: Option<UuidText>, "none";
        /// Number of its domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
    }

    /// One VM in one round.
    VmRow, Vms, vms {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// Its name, unique within the round.
        vm: String, "none";
        /// process or xen_domain; null in recordings before version 4.
        vm_kind: Option<VmKind>, "none";
        /// The process that holds it; null for a domain of Xen.
        pid: Option<i32>, "number";
        /// Start time of that process after boot, which distinguishes it from a later one of the same pid; null like `pid`.
        start_ticks: Option<u64>, "ticks";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// What runs it.
        vmm: String, "none";
        /// How many vCPUs it has.
        vcpus: u32, "count";
        /// Guest memory that KSM may merge.
        mergeable_bytes: u64, "bytes";
        /// Private anonymous guest memory that is not marked mergeable.
        anonymous_bytes: u64, "bytes";
        /// Guest memory in private mappings of files, which share what was not written through the page cache; null in recordings before version 5.
        private_file_bytes: Option<u64>, "bytes";
        /// Guest memory in shared mappings of ordinary files, which KSM never merges; null like `private_file_bytes`.
        shared_file_bytes: Option<u64>, "bytes";
        /// Guest memory in shared memory, which KSM never merges.
        shared_memory_bytes: u64, "bytes";
        /// Guest memory in hugetlbfs, which KSM never merges.
        hugetlb_bytes: u64, "bytes";
        /// Guest memory of DAX devices, which KSM never merges; null like `private_file_bytes`.
        device_bytes: Option<u64>, "bytes";
        /// Small mergeable blocks beside the guest's RAM: firmware, video memory; null like `private_file_bytes`, and then among `mergeable_bytes`.
        firmware_bytes: Option<u64>, "bytes";
        /// Pages of guest memory in physical memory; null where the scan did not measure this VM.
        pages_resident: Option<u64>, "pages";
        /// Resident pages on frames that are not zero-filled; null like `pages_resident`.
        pages_used: Option<u64>, "pages";
        /// Distinct frames that are not zero-filled; null like `pages_resident`.
        frames_used: Option<u64>, "frames";
        /// Resident pages on the kernel's zero page or on a merged zero-filled frame; null like `pages_resident`.
        pages_zero: Option<u64>, "pages";
        /// Pages that share a frame with another page of the same VM; null like `pages_resident`.
        self_shared_pages: Option<u64>, "pages";
        /// Resident pages on frames of the page cache; null where that was not measured.
        pages_file: Option<u64>, "pages";
        /// Why it is not seen what the VM reads; null where it is, or was not to be measured.
        reads_unavailable: Option<String>, "none";
        /// Why part of its memory cannot be merged, a sentence a line; null when all of it can.
        cannot_merge: Option<String>, "none";
    }

    /// KSM's counters and settings in one round: one row per round, all null but the reason where KSM cannot be read.
    KsmRow, Ksm, ksm {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// Why KSM could not be read; null when it could.
        unavailable: Option<String>, "none";
        /// KSM's file `run`: 0 stopped, 1 running, 2 stopped and everything unmerged.
        ksm_run: Option<u64>, "number";
        /// Complete passes over all mergeable memory.
        full_scans: Option<u64>, "count";
        /// Merged frames, which the kernel calls pages.
        pages_shared: Option<u64>, "pages";
        /// Pages beyond the first on those frames, the savings.
        pages_sharing: Option<u64>, "pages";
        /// Pages that were scanned and are unique.
        pages_unshared: Option<u64>, "pages";
        /// Pages that change too fast to be merged.
        pages_volatile: Option<u64>, "pages";
        /// Pages that smart_scan skipped; null where the kernel has no such file.
        pages_skipped: Option<u64>, "pages";
        /// Pages merged with the kernel's zero page by use_zero_pages; null where the kernel has no such file.
        ksm_zero_pages: Option<i64>, "pages";
        /// Memory saved less its bookkeeping; null where the kernel has no such file.
        general_profit_bytes: Option<i64>, "bytes";
        /// Pages that ksmd scans before it sleeps.
        pages_to_scan: Option<u64>, "pages";
        /// How long ksmd sleeps.
        sleep_millisecs: Option<u64>, "ms";
        /// 1 if pages that did not merge before are scanned less often; null where the kernel has no such file.
        smart_scan: Option<u64>, "number";
        /// Maximum number of pages on one merged frame; null where the kernel has no such file.
        max_page_sharing: Option<u64>, "count";
        /// 0 if pages of different NUMA nodes are never merged; null where the kernel has no such file.
        merge_across_nodes: Option<u64>, "number";
        /// 1 if zero-filled pages are merged with the kernel's zero page; null where the kernel has no such file.
        use_zero_pages: Option<u64>, "number";
        /// none or scan-time; null where the kernel has no such file.
        advisor_mode: Option<String>, "none";
    }
}
