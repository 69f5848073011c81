//! Plans, decisions and trials, by round.

use super::Table;
use crate::id::VmKind;
use crate::schema::{Cell, CellOf, Column, Row, UuidText, Value};

rows! {
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
        /// Whether it was bound to that domain at the end of the round; null when nothing is planned.
        applied: Option<bool>, "none";
        /// Why `applied` is not true; null if it is.
        not_applied_reason: Option<String>, "none";
        /// Cache domain it was bound to at the end of the round, by the plan or a trial; null where by neither, or not known.
        in_force: Option<u32>, "number";
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
        /// Lower end of its 95 % confidence sequence (up to version 5: interval); null if there are too few blocks.
        observed_low: Option<f64>, "fraction";
        /// Upper end of the same; null like `observed_low`.
        observed_high: Option<f64>, "fraction";
        /// Number of pairs of blocks.
        blocks: u64, "count";
        /// kept, taken_back (reverted), aborted or not_tried.
        outcome: String, "none";
        /// The reason, one sentence.
        reason: String, "none";
        /// Number of the trial within the run, from 1, as in tables with `arm`; null if there was none, or not known.
        trial: Option<u32>, "number";
        /// Evidence (e-value) that the proposal is better; null without a complete block, or not known.
        evidence: Option<f64>, "none";
        /// Evidence that was required to keep it, by the error budget of the day; null like `evidence`.
        evidence_required: Option<f64>, "none";
    }
}
