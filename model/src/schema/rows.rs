//! The rows that one round of the loop becomes.

use super::table::table;
use crate::snapshot::Snapshot;
use crate::vm::MemoryKind;

table! {
    /// What one VM shares with another, in one round.
    SharingRow of Sharing {
        begin_us: u64, "Begin of the round, microseconds since the Unix epoch.";
        end_us: u64, "End of the round, microseconds since the Unix epoch.";
        round: u64, "Number of the round, from 1.";
        vm: String, "The VM whose used frames are the whole of the rate.";
        other: String, "The VM it shares with.";
        shared_frames: Option<u64>, "Distinct frames, not zero-filled, that both map.";
        rate: f64, "shared_frames over the frames that vm uses, 0 to 1.";
        method: String, "How it was measured.";
    }
}

table! {
    /// What one VM's memory consists of, in one round.
    VmRow of Vms {
        begin_us: u64, "Begin of the round, microseconds since the Unix epoch.";
        end_us: u64, "End of the round, microseconds since the Unix epoch.";
        round: u64, "Number of the round, from 1.";
        vm: String, "Name of the VM.";
        pid: i64, "Its process.";
        vmm: String, "What runs it.";
        vcpus: u64, "How many vCPU threads are known.";
        mergeable_bytes: u64, "Size of its guest memory that is marked mergeable.";
        anonymous_bytes: u64, "Size of its private anonymous guest memory that is not marked mergeable.";
        shared_memory_bytes: u64, "Size of its guest memory in memfd or other shared memory.";
        hugetlb_bytes: u64, "Size of its guest memory in hugetlbfs.";
        pages_resident: Option<u64>, "Pages of guest memory in physical memory.";
        pages_used: Option<u64>, "Resident pages on frames that are not zero-filled.";
        frames_used: Option<u64>, "Distinct frames that are not zero-filled.";
        pages_zero: Option<u64>, "Resident pages on zero-filled frames.";
        self_shared_pages: Option<u64>, "Pages on a frame that another page of the same VM maps too.";
    }
}

table! {
    /// Where one vCPU was placed, in one round.
    PlacementRow of Placements {
        at_us: u64, "End of the round, microseconds since the Unix epoch.";
        round: u64, "Number of the round, from 1.";
        policy: String, "The policy.";
        vm: String, "Name of the VM.";
        vcpu: u64, "Number of the vCPU within the VM.";
        tid: Option<i64>, "Its thread.";
        domain: u64, "Cache domain it was placed in.";
        cpus: String, "CPUs of that domain, as a list like 0-3,8.";
        pinned: bool, "Whether pinning was done, rather than only planned.";
    }
}

table! {
    /// One reason of one plan.
    DecisionRow of Decisions {
        at_us: u64, "End of the round, microseconds since the Unix epoch.";
        round: u64, "Number of the round, from 1.";
        policy: Option<String>, "The policy; null when there was nothing to plan with.";
        shared_within_frames: Option<u64>, "Frames shared by pairs within one domain.";
        shared_total_frames: Option<u64>, "Frames shared by all pairs.";
        threads_changed: Option<u64>, "Threads whose affinity was changed; null when nothing was pinned.";
        threads_unchanged: Option<u64>, "Threads that were in place already.";
        threads_skipped: Option<u64>, "Threads passed over.";
        reason: String, "One reason, or why there is no plan.";
    }
}

table! {
    /// KSM's counters and settings at the end of one round (Documentation/admin-guide/mm/ksm.rst).
    KsmRow of Ksm {
        at_us: u64, "End of the round, microseconds since the Unix epoch.";
        round: u64, "Number of the round, from 1.";
        run: u64, "0 stopped, 1 running, 2 unmerged.";
        full_scans: u64, "Complete passes.";
        pages_shared: u64, "Merged frames.";
        pages_sharing: u64, "Pages beyond the first on merged frames.";
        pages_unshared: u64, "Pages that are unique.";
        pages_volatile: u64, "Pages that change too fast.";
        pages_skipped: Option<u64>, "Pages that smart_scan passed over.";
        ksm_zero_pages: Option<i64>, "Pages put on the kernel's zero page.";
        general_profit_bytes: Option<i64>, "Memory saved less its bookkeeping.";
        pages_to_scan: u64, "Pages ksmd looks at before it sleeps.";
        sleep_ms: u64, "How long it sleeps, in milliseconds.";
        smart_scan: Option<u64>, "1 when pages that did not merge are looked at less often.";
        max_page_sharing: Option<u64>, "Most pages on one merged frame.";
        merge_across_nodes: Option<u64>, "0 when pages of different NUMA nodes are never merged.";
        use_zero_pages: Option<u64>, "1 when zero-filled pages go to the kernel's zero page.";
        advisor_mode: Option<String>, "none or scan-time.";
        own_cpu_us: Option<u64>, "CPU time that huddle itself has used so far, in microseconds.";
    }
}

table! {
    /// Something that happened.
    EventRow of Events {
        at_us: u64, "When, microseconds since the Unix epoch.";
        round: u64, "Number of the round, from 1.";
        kind: String, "What sort of thing.";
        vm: Option<String>, "The VM it concerns.";
        message: String, "One sentence.";
    }
}

/// All rows of one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// One a ordered pair of VMs.
    pub sharing: Vec<SharingRow>,
    /// One a VM.
    pub vms: Vec<VmRow>,
    /// One a placed vCPU.
    pub placements: Vec<PlacementRow>,
    /// One a reason.
    pub decisions: Vec<DecisionRow>,
    /// One, or none when KSM tells nothing.
    pub ksm: Vec<KsmRow>,
    /// One an event.
    pub events: Vec<EventRow>,
}

impl Rows {
    /// The rows of one round.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            sharing: sharing(snapshot),
            vms: vms(snapshot),
            placements: placements(snapshot),
            decisions: decisions(snapshot),
            ksm: ksm(snapshot),
            events: events(snapshot),
        }
    }
}

fn sharing(snapshot: &Snapshot) -> Vec<SharingRow> {
    let Some(matrix) = snapshot.matrix.value() else { return Vec::new() };
    let names = || matrix.vms().iter().map(|vm| &vm.name).enumerate();
    let mut rows = Vec::new();
    for (i, vm) in names() {
        for (j, other) in names().filter(|(j, _)| *j != i) {
            rows.push(SharingRow {
                begin_us: snapshot.begin_unix_us,
                end_us: snapshot.end_unix_us,
                round: snapshot.round,
                vm: vm.clone(),
                other: other.clone(),
                shared_frames: matrix.shared_frames(i, j),
                rate: matrix.rate(i, j),
                method: matrix.method().to_string(),
            });
        }
    }
    rows
}

fn vms(snapshot: &Snapshot) -> Vec<VmRow> {
    let memory_of = |name: &str| {
        let vms = snapshot.matrix.value()?.vms();
        vms.iter().find(|vm| vm.name == name)?.memory
    };
    let row = |vm: &crate::vm::Vm| {
        let memory = memory_of(&vm.name);
        VmRow {
            begin_us: snapshot.begin_unix_us,
            end_us: snapshot.end_unix_us,
            round: snapshot.round,
            vm: vm.name.clone(),
            pid: vm.process.id.into(),
            vmm: vm.vmm.to_string(),
            vcpus: vm.vcpus.len() as u64,
            mergeable_bytes: vm.memory_bytes(MemoryKind::Mergeable),
            anonymous_bytes: vm.memory_bytes(MemoryKind::Anonymous),
            shared_memory_bytes: vm.memory_bytes(MemoryKind::SharedMemory),
            hugetlb_bytes: vm.memory_bytes(MemoryKind::HugeTlb),
            pages_resident: memory.map(|memory| memory.pages_resident),
            pages_used: memory.map(|memory| memory.pages_used),
            frames_used: memory.map(|memory| memory.frames_used),
            pages_zero: memory.map(|memory| memory.pages_zero),
            self_shared_pages: memory.map(|memory| memory.self_shared_pages),
        }
    };
    snapshot.vms.iter().map(row).collect()
}

fn placements(snapshot: &Snapshot) -> Vec<PlacementRow> {
    let Some(plan) = snapshot.plan.value() else { return Vec::new() };
    let tid = |name: &str, index: u32| {
        let vm = snapshot.vms.iter().find(|vm| vm.name == name)?;
        Some(i64::from(vm.vcpus.iter().find(|vcpu| vcpu.index == index)?.thread.id))
    };
    let cpus =
        |domain| plan.domains.iter().find(|found| found.id == domain).map(|found| found.cpus.to_string());
    let row = |placed: &crate::plan::VcpuPlacement| PlacementRow {
        at_us: snapshot.end_unix_us,
        round: snapshot.round,
        policy: plan.policy.to_string(),
        vm: placed.vm.clone(),
        vcpu: placed.vcpu.into(),
        tid: tid(&placed.vm, placed.vcpu),
        domain: placed.domain.0.into(),
        cpus: cpus(placed.domain).unwrap_or_default(),
        pinned: snapshot.pinned.value().is_some(),
    };
    plan.placement.iter().map(row).collect()
}

fn decisions(snapshot: &Snapshot) -> Vec<DecisionRow> {
    let plan = snapshot.plan.value();
    let pinned = snapshot.pinned.value();
    let row = |reason: &str| DecisionRow {
        at_us: snapshot.end_unix_us,
        round: snapshot.round,
        policy: plan.map(|plan| plan.policy.to_string()),
        shared_within_frames: plan.and_then(|plan| plan.shared_within),
        shared_total_frames: plan.and_then(|plan| plan.shared_total),
        threads_changed: pinned.map(|pinned| pinned.changed.into()),
        threads_unchanged: pinned.map(|pinned| pinned.unchanged.into()),
        threads_skipped: pinned.map(|pinned| pinned.skipped.into()),
        reason: reason.to_owned(),
    };
    match plan {
        Some(plan) => plan.reasons.iter().map(|reason| row(reason)).collect(),
        None => snapshot.plan.reason().map(row).into_iter().collect(),
    }
}

fn ksm(snapshot: &Snapshot) -> Vec<KsmRow> {
    let row = |ksm: &crate::ksm::KsmState| KsmRow {
        at_us: snapshot.end_unix_us,
        round: snapshot.round,
        run: ksm.run,
        full_scans: ksm.full_scans,
        pages_shared: ksm.pages_shared,
        pages_sharing: ksm.pages_sharing,
        pages_unshared: ksm.pages_unshared,
        pages_volatile: ksm.pages_volatile,
        pages_skipped: ksm.pages_skipped,
        ksm_zero_pages: ksm.ksm_zero_pages,
        general_profit_bytes: ksm.general_profit_bytes,
        pages_to_scan: ksm.pages_to_scan,
        sleep_ms: ksm.sleep_millisecs,
        smart_scan: ksm.smart_scan,
        max_page_sharing: ksm.max_page_sharing,
        merge_across_nodes: ksm.merge_across_nodes,
        use_zero_pages: ksm.use_zero_pages,
        advisor_mode: ksm.advisor_mode.clone(),
        own_cpu_us: snapshot.own_cpu_us.value().copied(),
    };
    snapshot.ksm.value().map(row).into_iter().collect()
}

fn events(snapshot: &Snapshot) -> Vec<EventRow> {
    let row = |event: &crate::snapshot::Event| EventRow {
        at_us: event.at_unix_us,
        round: snapshot.round,
        kind: event.kind.name().to_owned(),
        vm: event.vm.clone(),
        message: event.message.clone(),
    };
    snapshot.events.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::availability::Availability;
    use crate::matrix::SharingMatrix;
    use crate::schema::{Cell, Row, Table};

    fn snapshot() -> Snapshot {
        let none = || "not here".to_owned();
        Snapshot {
            round: 3,
            begin_unix_us: 10,
            end_unix_us: 20,
            ksm: Availability::Unavailable(none()),
            topology: Availability::Unavailable(none()),
            vms: Vec::new(),
            matrix: Availability::Available(
                SharingMatrix::from_file_text("vm,a,b\na,-,50\nb,25,-\n").unwrap(),
            ),
            plan: Availability::Unavailable("nothing to plan with".into()),
            pinned: Availability::Unavailable(none()),
            events: Vec::new(),
            own_cpu_us: Availability::Unavailable(none()),
        }
    }

    #[test]
    fn a_round_becomes_rows_with_nulls_for_what_is_unavailable() {
        let rows = Rows::of(&snapshot());
        assert_eq!(rows.sharing.len(), 2);
        assert_eq!((rows.sharing[1].rate, rows.sharing[1].shared_frames), (0.25, None));
        assert_eq!(rows.decisions.len(), 1);
        assert_eq!((rows.decisions[0].policy.clone(), rows.decisions[0].threads_changed), (None, None));
        assert!(rows.ksm.is_empty(), "no KSM is no row, not a row of zeros");
    }

    #[test]
    fn cells_and_columns_agree() {
        let rows = Rows::of(&snapshot());
        let row = &rows.sharing[0];
        let by_name = |name: &str| {
            let at = SharingRow::COLUMNS.iter().position(|column| column.name == name).unwrap();
            row.cell(at)
        };
        assert_eq!(by_name("other"), Cell::Text(Some("b")));
        assert_eq!(by_name("shared_frames"), Cell::U64(None));
        assert_eq!(by_name("rate"), Cell::F64(Some(0.5)));
    }

    #[test]
    fn every_column_says_what_it_means_and_names_differ() {
        for table in Table::ALL {
            let mut names: Vec<&str> = table.columns().iter().map(|column| column.name).collect();
            assert!(table.columns().iter().all(|column| column.meaning.ends_with('.')), "{}", table.name());
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), table.columns().len(), "{}", table.name());
        }
    }
}
