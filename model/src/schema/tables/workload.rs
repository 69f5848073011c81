//! Work of VMs: reports and responses.

use super::Table;
use crate::id::VmKind;
use crate::schema::{Cell, CellOf, Column, Row, UuidText, Value};

rows! {
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
        /// Number of the trial since the start of the loop, from 1; null outside of trials, and for VMs that are no part of it.
        trial: Option<u32>, "number";
        /// The placement of a trial that was in force; null where `trial` is.
        arm: Option<String>, "none";
        /// Number of the block of the trial, from 0; null where `trial` is.
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
}
