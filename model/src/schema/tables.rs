//! The tables: one macro generates the row type, the columns and the conversion between them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Cell, CellOf, Column, Row, UuidText, Value};
use crate::id::VmKind;

/// A visitor of the rows of each table.
pub trait TableVisitor {
    /// Its error.
    type Error;
    /// Called once per table, in the order of [`Table::ALL`].
    fn visit<R: Row>(&mut self, rows: &[R]) -> Result<(), Self::Error>;
}

macro_rules! tables {
    ($(
        #[doc = $row_doc:literal]
        $row:ident, $table:ident, $name:ident {
            $( #[doc = $meaning:literal] $field:ident: $type:ty, $unit:literal; )+
        }
    )+) => {
        /// A table of a recording.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Table {
            $( #[doc = $row_doc] $table, )+
        }

        impl Table {
            /// All tables.
            pub const ALL: &'static [Self] = &[$( Self::$table, )+];

            /// Its name, which is also that of its directory in the run.
            pub fn name(self) -> &'static str {
                match self { $( Self::$table => stringify!($name), )+ }
            }

            /// Meaning of a row, one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $( Self::$table => $row_doc.trim_ascii(), )+ }
            }

            /// Its columns, in the order of the file.
            pub fn columns(self) -> &'static [Column] {
                match self { $( Self::$table => <$row as Row>::COLUMNS, )+ }
            }
        }

        /// Rows for every table.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Rows {
            $( #[doc = $row_doc] pub $name: Vec<$row>, )+
        }

        impl Rows {
            /// Number of rows of `table`.
            pub fn count(&self, table: Table) -> u64 {
                match table { $( Table::$table => self.$name.len() as u64, )+ }
            }

            /// Appends the rows of `more`.
            pub fn append(&mut self, more: Self) {
                $( self.$name.extend(more.$name); )+
            }

            /// Passes the rows of each table to `visitor`, and stops at its first error.
            pub fn visit<V: TableVisitor>(&self, visitor: &mut V) -> Result<(), V::Error> {
                $( visitor.visit(&self.$name)?; )+
                Ok(())
            }
        }

        $(
            #[doc = $row_doc]
            #[derive(Clone, Debug, PartialEq)]
            pub struct $row {
                $( #[doc = $meaning] pub $field: $type, )+
            }

            impl Row for $row {
                const TABLE: Table = Table::$table;
                const COLUMNS: &'static [Column] = &[$( Column {
                    name: stringify!($field),
                    kind: <$type as Cell>::KIND,
                    unit: $unit,
                    nullable: <$type as Cell>::NULLABLE,
                    meaning: $meaning.trim_ascii(),
                }, )+];
                const CELLS: &'static [CellOf<Self>] = &[$( $name::$field, )+];
                fn of<'a>(mut cell: impl FnMut(usize) -> Value<'a>) -> Option<Self> {
                    // Fields are evaluated in the order of writing, which is that of the columns.
                    let mut next = 0..;
                    let mut cell = || next.next().map_or(Value::Null, &mut cell);
                    Some(Self { $( $field: <$type as Cell>::of(cell())?, )+ })
                }
            }

            mod $name {
                use super::*;
                $( pub(super) fn $field(row: &$row) -> Value<'_> { Cell::value(&row.$field) } )+
            }
        )+
    };
}

tables! {
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
        /// process or xen_domain; null where the matrix does not say.
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
        /// The shared frames as a part (0 to 1) of the frames that `vm` uses.
        rate: f64, "fraction";
        /// How it was measured: merged (frames that both map), events, content or file.
        method: String, "none";
        /// How long measuring the whole matrix took; null where the matrix does not say.
        measured_in_us: Option<u64>, "us";
        /// Part (0 to 1) of the resident pages that was looked at; null where the matrix does not say.
        coverage: Option<f64>, "fraction";
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
        /// Guest memory in shared memory, which KSM never merges.
        shared_memory_bytes: u64, "bytes";
        /// Guest memory in hugetlbfs, which KSM never merges.
        hugetlb_bytes: u64, "bytes";
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
        /// Resident pages that are part of a huge page; null where it was not asked.
        pages_huge: Option<u64>, "pages";
        /// Why part of its memory cannot be merged, a sentence a line; null when all of it can.
        cannot_merge: Option<String>, "none";
    }

    /// Planned place of one vCPU in one round.
    PlacementRow, Placements, placements {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// Name of the VM.
        vm: String, "none";
        /// process or xen_domain; null where that is not known.
        vm_kind: Option<VmKind>, "none";
        /// The process that holds the VM, of a vCPU of a control group that of its thread; null on Xen.
        vm_pid: Option<i32>, "number";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// Number of the vCPU within the VM, from 0.
        vcpu: u32, "number";
        /// Id of the host thread that runs it; null on Xen.
        thread: Option<i32>, "number";
        /// Start time of that thread after boot, which distinguishes it from a later one of the same id; null on Xen.
        thread_start_ticks: Option<u64>, "ticks";
        /// CPUs the thread could run on when the round found it, before anything was changed, as a cpulist.
        cpus_before: String, "none";
        /// CPU the thread last ran on; null where the kernel did not say.
        last_cpu: Option<u32>, "number";
        /// Cache domain it is planned for; null when it is left to the kernel or there is no plan.
        domain: Option<u32>, "number";
        /// CPUs of that domain as a cpulist; null when there is no domain.
        cpus: Option<String>, "none";
        /// NUMA nodes of that domain, as a list like `cpus`; null where they are not known or there is no domain.
        nodes: Option<String>, "none";
        /// Whether the thread now runs in its domain; null when that is not known or nothing is planned.
        applied: Option<bool>, "none";
        /// Why `applied` is not true; null if it is.
        not_applied_reason: Option<String>, "none";
    }

    /// What was decided in one round: one row per round.
    DecisionRow, Decisions, decisions {
        /// When the round began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the round ended, since the Unix epoch.
        end_us: i64, "us";
        /// Rounds since the start of the run, from 1.
        round: u64, "count";
        /// The policy that planned; null when there is no plan.
        policy: Option<String>, "none";
        /// Why the plan is as it is, a sentence a line in the order of decision; null when there is no plan.
        reasons: Option<String>, "none";
        /// Frames shared by pairs within one domain; null when rates only are known or nothing is placed.
        shared_within_frames: Option<u64>, "frames";
        /// Frames shared by all pairs; null when rates only are known or there is no plan.
        shared_total_frames: Option<u64>, "frames";
        /// Whether an affinity was changed in this round; null when pinning was not available.
        changed: Option<bool>, "none";
        /// Threads whose affinity was changed; null like `changed`.
        threads_changed: Option<u32>, "count";
        /// Threads that were already in place; null like `changed`.
        threads_unchanged: Option<u32>, "count";
        /// Threads skipped because they were gone or replaced; null like `changed`.
        threads_skipped: Option<u32>, "count";
        /// Why there is no sharing matrix; null when there is one.
        sharing_unavailable: Option<String>, "none";
        /// Why there is no topology; null when there is one.
        topology_unavailable: Option<String>, "none";
        /// Why there is no plan; null when there is one.
        plan_unavailable: Option<String>, "none";
        /// Why nothing could be pinned; null when it could.
        pin_unavailable: Option<String>, "none";
        /// Outcome of pinning: done, dry_run, no_plan or failed; null in recordings that lack it.
        pinning: Option<String>, "none";
        /// CPU time that huddle itself has used since its start; null where it was not available.
        own_cpu_us: Option<u64>, "us";
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
        /// Pages beyond the first on those frames, which is what is saved.
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

    /// One event.
    EventRow, Events, events {
        /// When it happened, since the Unix epoch.
        at_us: i64, "us";
        /// The round it happened in, from 1; 0 before the first.
        round: u64, "count";
        /// Kind of the event.
        kind: String, "none";
        /// The VM it concerns; null if it concerns none.
        vm: Option<String>, "none";
        /// process or xen_domain; null where there is no VM or that is not known.
        vm_kind: Option<VmKind>, "none";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// One sentence.
        message: String, "none";
    }

    /// The counters of one vCPU in one window: one row per vCPU and window, null where there is no counter.
    CounterRow, Counters, counters {
        /// When the window began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the window ended, since the Unix epoch.
        end_us: i64, "us";
        /// Windows since the start of the run, from 1.
        window: u64, "count";
        /// The round whose placement was in force.
        round: u64, "count";
        /// Name of the VM.
        vm: String, "none";
        /// process or xen_domain; null where that is not known.
        vm_kind: Option<VmKind>, "none";
        /// The process that holds the VM, of a vCPU of a control group that of its thread; null on Xen.
        vm_pid: Option<i32>, "number";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// Number of the vCPU within the VM, from 0.
        vcpu: u32, "number";
        /// Id of the host thread that runs it; null on Xen.
        thread: Option<i32>, "number";
        /// Start time of that thread after boot, which distinguishes it from a later one of the same id; null on Xen.
        thread_start_ticks: Option<u64>, "ticks";
        /// Cache domain it ran in for most of the window; null when it did not run or where is not known.
        domain: Option<u32>, "number";
        /// Number of the trial since the start of the loop, from 1; null outside of trials.
        trial: Option<u32>, "number";
        /// The placement of a trial that was in force; null outside of trials.
        arm: Option<String>, "none";
        /// Number of the block of the trial, from 0; null outside of trials.
        block: Option<u32>, "number";
        /// Wall time between the middles of the two readings of the counters; null when there were not two.
        interval_ns: Option<u64>, "ns";
        /// How long the counters were enabled while the thread ran; null like `interval_ns`.
        time_enabled_ns: Option<u64>, "ns";
        /// How long of that they were on the PMU: less than enabled means that counts are scaled estimates.
        time_running_ns: Option<u64>, "ns";
        /// CPU time that the vCPU used, on all CPUs together; null where that was not measured.
        run_ns: Option<u64>, "ns";
        /// Processor cycles, scaled to the time enabled; null when not counted.
        cycles: Option<f64>, "count";
        /// Instructions retired, scaled to the time enabled; null when not counted.
        instructions: Option<f64>, "count";
        /// Look-ups of the last-level cache, scaled to the time enabled; null when not counted.
        llc_references: Option<f64>, "count";
        /// Look-ups of the last-level cache that missed, scaled to the time enabled; null when not counted.
        llc_misses: Option<f64>, "count";
        /// Why `llc_misses` is null; null when it is not.
        unavailable: Option<String>, "none";
        /// Moves of the thread between CPUs; null when not watched.
        migrations: Option<u64>, "count";
        /// Moves of the thread between cache domains; null when not watched.
        domain_migrations: Option<u64>, "count";
        /// Pages of the VM that left their merged frame in the window; null when not watched.
        pages_broken: Option<u64>, "pages";
        /// Entries into guest mode; null when not watched.
        guest_entries: Option<u64>, "count";
        /// Time in guest mode; null when not watched.
        guest_ns: Option<u64>, "ns";
        /// Exits from guest mode; null when not watched.
        guest_exits: Option<u64>, "count";
    }

    /// Where one vCPU ran in one window: one row per vCPU, window and CPU that it used.
    ResidencyRow, Residency, residency {
        /// When the window began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the window ended, since the Unix epoch.
        end_us: i64, "us";
        /// Windows since the start of the run, from 1.
        window: u64, "count";
        /// The round whose placement was in force.
        round: u64, "count";
        /// Name of the VM.
        vm: String, "none";
        /// process or xen_domain; null where that is not known.
        vm_kind: Option<VmKind>, "none";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// Number of the vCPU within the VM, from 0.
        vcpu: u32, "number";
        /// Id of the host thread that runs it; null on Xen.
        thread: Option<i32>, "number";
        /// The CPU.
        cpu: u32, "number";
        /// Cache domain of that CPU; null when it is in none or there is no topology.
        domain: Option<u32>, "number";
        /// CPU time the thread used there; null when not watched.
        run_ns: Option<u64>, "ns";
        /// Times it was switched away from there; null when not watched.
        switches: Option<u64>, "count";
        /// Samples of the software clock in it there; null if none were taken.
        clock_samples: Option<u64>, "count";
        /// Samples of last-level cache misses in it there; null if none were taken.
        miss_samples: Option<u64>, "count";
    }

    /// Exits of one vCPU from guest mode in one window: one row per vCPU, window and reason.
    ExitRow, Exits, exits {
        /// When the window began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the window ended, since the Unix epoch.
        end_us: i64, "us";
        /// Windows since the start of the run, from 1.
        window: u64, "count";
        /// The round whose placement was in force.
        round: u64, "count";
        /// Name of the VM.
        vm: String, "none";
        /// process or xen_domain; null where that is not known.
        vm_kind: Option<VmKind>, "none";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// Number of the vCPU within the VM, from 0.
        vcpu: u32, "number";
        /// The processor's exit reason, as its vendor numbers them.
        reason: u32, "number";
        /// Number of exits.
        exits: u64, "count";
    }

    /// KSM's work on one VM in one window.
    MergingRow, Merging, merging {
        /// When the window began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the window ended, since the Unix epoch.
        end_us: i64, "us";
        /// Windows since the start of the run, from 1.
        window: u64, "count";
        /// The round whose placement was in force.
        round: u64, "count";
        /// Name of the VM.
        vm: String, "none";
        /// process or xen_domain; null where that is not known.
        vm_kind: Option<VmKind>, "none";
        /// The process that holds the VM; null on Xen.
        vm_pid: Option<i32>, "number";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// Pages of it that are merged at the end of the window; null when the kernel did not say.
        pages_merged_now: Option<u64>, "pages";
        /// Pages merged; null when not watched.
        pages_merged: Option<u64>, "pages";
        /// Pages that left a merged frame; null when not watched.
        pages_broken: Option<u64>, "pages";
        /// Failed merges; null when not watched.
        merges_failed: Option<u64>, "count";
    }

    /// The processor's own monitoring (resctrl, or PSR on Xen) of one VM and one cache in one window.
    OccupancyRow, Occupancy, occupancy {
        /// When the window began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the window ended, since the Unix epoch.
        end_us: i64, "us";
        /// Windows since the start of the run, from 1.
        window: u64, "count";
        /// The round whose placement was in force.
        round: u64, "count";
        /// Name of the VM.
        vm: String, "none";
        /// process or xen_domain; null where that is not known.
        vm_kind: Option<VmKind>, "none";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// The cache, by the kernel's number.
        cache: u32, "number";
        /// Its cache domain; null if domains are of another level.
        domain: Option<u32>, "number";
        /// Bytes of the cache that hold lines of the VM at the end of the window; null when not available.
        llc_bytes: Option<u64>, "bytes";
        /// Bytes moved between memory and any node in the window; null when not available.
        memory_total_bytes: Option<u64>, "bytes";
        /// Bytes moved between memory and the cache's own node in the window; null when not available.
        memory_local_bytes: Option<u64>, "bytes";
    }

    /// Reports of a workload in one window: one row per VM that reported.
    ReportRow, Reported, reported {
        /// When the window began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the window ended, since the Unix epoch.
        end_us: i64, "us";
        /// Windows since the start of the run, from 1.
        window: u64, "count";
        /// The round whose placement was in force.
        round: u64, "count";
        /// Name of the VM.
        vm: String, "none";
        /// process or xen_domain; null where that is not known.
        vm_kind: Option<VmKind>, "none";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// Number of the trial since the start of the loop, from 1; null outside of trials.
        trial: Option<u32>, "number";
        /// The placement of a trial that was in force; null outside of trials.
        arm: Option<String>, "none";
        /// Number of the block of the trial, from 0; null outside of trials.
        block: Option<u32>, "number";
        /// Operations done in the window.
        operations: u64, "count";
        /// Mean latency of an operation; null when it was not reported.
        latency_us: Option<f64>, "us";
    }

    /// One request to a server, with its response time: one row per request.
    ResponseRow, Responses, responses {
        /// When the request was sent, or, in an open loop, was to be sent, since the Unix epoch.
        at_us: i64, "us";
        /// Windows since the start of the run, from 1; 0 where there are no windows.
        window: u64, "count";
        /// The round whose placement was in force; 0 where there are no rounds.
        round: u64, "count";
        /// Name of the VM that served it.
        vm: String, "none";
        /// process or xen_domain; null where that is not known.
        vm_kind: Option<VmKind>, "none";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number of the domain of Xen; null for a VM that a process holds.
        domid: Option<u32>, "number";
        /// Number of the trial since the start of the loop, from 1; null outside of trials.
        trial: Option<u32>, "number";
        /// The placement that was in force; null outside of trials and experiments.
        arm: Option<String>, "none";
        /// Number of the block of the trial or experiment; null outside of them.
        block: Option<u32>, "number";
        /// From then until the response was complete, or until the request failed; null when not known.
        latency_us: Option<f64>, "us";
        /// HTTP status; null without a response or where the protocol has none.
        status: Option<u32>, "number";
        /// Why it is not a good response: connection, timed_out, status or body; null for a good one.
        failure: Option<String>, "none";
    }

    /// One BPF program in one window: one row per program, including those that do not run.
    ProgramRow, Programs, programs {
        /// When the window began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the window ended, since the Unix epoch.
        end_us: i64, "us";
        /// Windows since the start of the run, from 1.
        window: u64, "count";
        /// The round whose placement was in force.
        round: u64, "count";
        /// Its name.
        program: String, "none";
        /// How often it ran; null when it is not attached or the kernel keeps no statistics.
        runs: Option<u64>, "count";
        /// Total time of these runs; null like `runs`.
        run_ns: Option<u64>, "ns";
        /// Why `runs` is null; null when it is not.
        unavailable: Option<String>, "none";
    }

    /// One window: cost of observation, losses, and counted events.
    WindowRow, Windows, windows {
        /// When the window began, since the Unix epoch.
        begin_us: i64, "us";
        /// When the window ended, since the Unix epoch.
        end_us: i64, "us";
        /// Windows since the start of the run, from 1.
        window: u64, "count";
        /// The round whose placement was in force.
        round: u64, "count";
        /// CPU time of this process in the window; null where it was not available.
        own_cpu_us: Option<u64>, "us";
        /// CPU time of it for reading counters and probes; null where it was not available.
        reading_cpu_us: Option<u64>, "us";
        /// Time that all BPF programs ran in the window; null when the kernel keeps no statistics.
        programs_ns: Option<u64>, "ns";
        /// Starts and ends of KSM passes that were lost; null when no probes run.
        lost_pass_events: Option<u64>, "count";
        /// KSM events that were lost; null when no probes run.
        lost_ksm_events: Option<u64>, "count";
        /// Reasons of guest exits that were lost; null when no probes run.
        lost_exit_reasons: Option<u64>, "count";
        /// Threads that could not be watched; null when no probes run.
        lost_vcpu_threads: Option<u64>, "count";
        /// Event counted for cycles; null if there is none.
        cycles_event: Option<String>, "none";
        /// Event counted for instructions; null if there is none.
        instructions_event: Option<String>, "none";
        /// Event counted for look-ups of the last-level cache; null if there is none.
        llc_references_event: Option<String>, "none";
        /// Event counted for misses of the last-level cache; null if there is none.
        llc_misses_event: Option<String>, "none";
    }

    /// Outcome of a trial of a placement: one row per decision.
    TrialRow, Trials, trials {
        /// When it was decided, since the Unix epoch.
        begin_us: i64, "us";
        /// The round whose plan was tried.
        round: u64, "count";
        /// Objective: mpki, miss_ratio, ipc or reported.
        objective: String, "none";
        /// The proposal.
        proposal: String, "none";
        /// Expected relative change, positive is better; null if unknown.
        expected_change: Option<f64>, "fraction";
        /// Observed relative change, paired by block, positive is better; null if there was no trial.
        observed_change: Option<f64>, "fraction";
        /// Lower end of its 95 % interval; null if there are too few blocks.
        observed_low: Option<f64>, "fraction";
        /// Upper end of its 95 % interval; null if there are too few blocks.
        observed_high: Option<f64>, "fraction";
        /// Number of pairs of blocks.
        blocks: u64, "count";
        /// kept, taken_back (reverted), aborted or not_tried.
        outcome: String, "none";
        /// The reason, one sentence.
        reason: String, "none";
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An unknown table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown table {0:?}")]
pub struct UnknownTable(String);

impl std::str::FromStr for Table {
    type Err = UnknownTable;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .copied()
            .find(|table| table.name() == name)
            .ok_or_else(|| UnknownTable(name.to_owned()))
    }
}
