//! Observations of VMs, by window.

use super::Table;
use crate::id::VmKind;
use crate::schema::{Cell, CellOf, Column, Row, UuidText, Value};

rows! {
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
        /// Number of the trial since the start of the loop, from 1; null outside of trials, and for VMs that are no part of it.
        trial: Option<u32>, "number";
        /// The placement of a trial that was in force; null where `trial` is.
        arm: Option<String>, "none";
        /// Number of the block of the trial, from 0; null where `trial` is.
        block: Option<u32>, "number";
        /// Wall time between the middles of the two readings of the counters; null when there were not two.
        interval_ns: Option<u64>, "ns";
        /// How long the counters were enabled while the thread ran, or how long it ran where they were never on the PMU; null like `interval_ns`.
        time_enabled_ns: Option<u64>, "ns";
        /// How long of that they were on the PMU: less than enabled means that counts are scaled estimates, 0 that there are none.
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
        /// The processor's exit reason, as `environment.exit_reasons` of the manifest numbers them.
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
}
