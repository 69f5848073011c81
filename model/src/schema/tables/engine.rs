//! Events and cost of huddle itself.

use super::Table;
use crate::id::VmKind;
use crate::schema::{Cell, CellOf, Column, Row, UuidText, Value};

rows! {
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
}
