//! Plans while nothing is merged: they move nothing.
//!
//! Method `merged` measures what is merged. Where it finds that no two VMs share a frame, VMs that are
//! equal look like VMs that have nothing in common: a policy that goes by sharing would place them by chance, and
//! often apart. So its plan waits, and says why nothing is merged as far as that is known. What counts as a basis
//! nevertheless:
//! - method `content`, and a matrix from a file: there a 0 is an answer;
//! - a policy that does not go by sharing ([`Policy::goes_by_sharing`]);
//! - with policy `sharing`, working sets that the user configured;
//! - VMs to be kept apart: they are placed, and no others.

use super::{Plan, PlanInput, Policy};
use crate::availability::Availability;
use crate::ksm::KsmState;
use crate::matrix::{Method, SharingMatrix, Weigh};
use crate::vm::{MemoryKind, Vm};

/// What is known about why nothing is merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergingState {
    /// KSM, or why its state is unknown.
    pub ksm: Availability<KsmState>,
    /// Names of the VMs with memory that KSM may merge.
    pub mergeable: Vec<String>,
    /// Those of them of whose memory KSM has not seen a page yet, as far as the kernel reports that.
    pub unseen: Vec<String>,
}

impl MergingState {
    /// The state for these VMs. `is_seen` tells whether KSM has seen memory of a VM; `None` where that is unknown.
    pub fn of(vms: &[Vm], ksm: Availability<KsmState>, mut is_seen: impl FnMut(&Vm) -> Option<bool>) -> Self {
        let mergeable: Vec<&Vm> =
            vms.iter().filter(|vm| vm.memory_bytes(MemoryKind::Mergeable) > 0).collect();
        let names = |vms: &[&Vm]| vms.iter().map(|vm| vm.name.clone()).collect();
        let unseen: Vec<&Vm> = mergeable.iter().copied().filter(|vm| is_seen(vm) == Some(false)).collect();
        Self { ksm, mergeable: names(&mergeable), unseen: names(&unseen) }
    }

    /// Why nothing is merged, and what to do, as a clause. It has no counts: a loop reports it again only when it
    /// changes.
    fn why(&self) -> String {
        let ksm = match &self.ksm {
            Availability::Unavailable(reason) => return format!("whether KSM merges is unknown: {reason}"),
            Availability::Available(ksm) => ksm,
        };
        if self.mergeable.is_empty() {
            return "none of their memory can be merged (`huddle vms` says why)".into();
        }
        if let [only] = self.mergeable.as_slice() {
            return format!("only the memory of {only} can be merged (`huddle vms` says why)");
        }
        if ksm.run != 1 {
            return format!(
                "KSM is stopped (run is {}); start it with `echo 1 > /sys/kernel/mm/ksm/run`, or `huddle run --ksm-run`",
                ksm.run
            );
        }
        if ksm.full_scans == 0 {
            return "KSM has not completed its first pass (full_scans is 0)".into();
        }
        if !self.unseen.is_empty() {
            return format!(
                "KSM has not come to the memory of {} since it was allocated",
                some(&self.unseen)
            );
        }
        "KSM runs and has merged none of their pages with each other: it merges a page on its second visit at the \
         earliest, and only with an equal one"
            .into()
    }
}

/// Most names in a sentence.
const MAX_NAMES: usize = 4;

/// Names for a sentence, not all of them if they are many.
fn some(names: &[String]) -> String {
    let (last, first) = match names {
        [] => return String::new(),
        [only] => return only.clone(),
        _ if names.len() > MAX_NAMES => {
            (format!("{} more", names.len() - MAX_NAMES + 1), &names[..MAX_NAMES - 1])
        }
        [first @ .., last] => (last.clone(), first),
    };
    format!("{} and {last}", first.join(", "))
}

impl Policy {
    /// Whether it places VMs by what they share. The others do without: `spread`, `random`, `load`, `none`.
    pub fn goes_by_sharing(self) -> bool {
        matches!(self, Self::Paper | Self::Sharing | Self::Exact | Self::Opposed)
    }

    /// Whether this measurement gives the policy nothing to go by, since nothing is merged yet.
    pub fn waits_for_merging(self, input: &PlanInput<'_>) -> bool {
        let matrix = input.measured_matrix();
        let is_about_merging = match matrix.method() {
            Method::Merged | Method::Events => true,
            Method::Content | Method::File => false,
        };
        let shares = |(i, j)| shares_merged(matrix, i, j) || shares_files(matrix, i, j);
        self.goes_by_sharing()
            && is_about_merging
            && matrix.len() > 1
            && !matrix.pairs().any(shares)
            && !(self == Self::Sharing && input.has_configured_working_set())
    }

    /// The plan for a measurement of the VMs as they are now. While nothing is merged it moves nothing
    /// ([`Plan::waiting`]); `merging` is only asked then.
    pub fn plan_measured(self, input: &PlanInput<'_>, merging: impl FnOnce() -> MergingState) -> Plan {
        if !self.waits_for_merging(input) {
            return self.plan(input);
        }
        let matrix = input.measured_matrix();
        let waiting = match matrix.weigh() {
            Weigh::All => self.unmerged(input, &merging()),
            Weigh::Read => self.unread(input),
        };
        let is_kept_apart =
            |vm: &str| input.apart.iter().any(|(i, j)| input.name(*i) == vm || input.name(*j) == vm);
        let mut reasons = self.notes(input);
        let mut placement = Vec::new();
        if !input.apart.is_empty() {
            placement = self.plan(input).placement;
            placement.retain(|placed| is_kept_apart(&placed.vm));
        }
        reasons.insert(0, waiting.clone());
        Plan {
            policy: self,
            domains: input.topology().domains().to_vec(),
            placement,
            shared_within: None,
            shared_total: matrix.pairs().map(|(i, j)| matrix.shared_frames(i, j)).sum(),
            expected: None,
            waiting: Some(waiting),
            reasons,
        }
    }

    fn unmerged(self, input: &PlanInput<'_>, merging: &MergingState) -> String {
        format!(
            "nothing is merged now: no two of the {} VMs share a merged page, so policy {self} has nothing to go by and \
             moves {}; {}; `huddle matrix --method content` shows what they could share, and a loop with \
             [sharing] method = \"content\" places by it",
            input.matrix.len(),
            input.what_moves(),
            merging.why()
        )
    }

    fn unread(self, input: &PlanInput<'_>) -> String {
        format!(
            "nothing that is shared is read: no two of the {} VMs read a frame that they share, so policy {self} has nothing \
             to go by and moves {}; [sharing] weigh = \"all\" counts all shared frames",
            input.matrix.len(),
            input.what_moves()
        )
    }
}

/// Whether two VMs share frames that are not of the page cache.
fn shares_merged(matrix: &SharingMatrix, i: usize, j: usize) -> bool {
    match (matrix.shared_frames(i, j), matrix.shared_file_frames(i, j)) {
        (Some(all), Some(of_files)) => all > of_files,
        _ => matrix.rate(i, j) > 0.0 || matrix.rate(j, i) > 0.0,
    }
}

/// Whether two VMs share frames of the page cache, and have at least half of their pages there: what KSM may add is then
/// the smaller part. A few pages of one file, as of a library, tell nothing of what is to come.
fn shares_files(matrix: &SharingMatrix, i: usize, j: usize) -> bool {
    let mostly_files = |vm: usize| {
        let memory = matrix.vms()[vm].memory;
        memory.is_some_and(|memory| {
            memory.pages_file.is_some_and(|of_files| 2 * of_files >= memory.pages_resident)
        })
    };
    matrix.shared_file_frames(i, j).is_some_and(|frames| frames > 0) && mostly_files(i) && mostly_files(j)
}

impl PlanInput<'_> {
    /// What a plan that waits moves.
    fn what_moves(&self) -> &'static str {
        if self.apart.is_empty() { "nothing" } else { "only the VMs that [plan] apart names" }
    }

    fn has_configured_working_set(&self) -> bool {
        let of = |limits: &super::PlanLimits| {
            limits.contention != Some(0.0)
                && self.matrix.vms().iter().any(|vm| limits.working_set_of(vm).is_some())
        };
        self.limits.is_some_and(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuset::CpuSet;
    use crate::matrix::{MatrixVm, MemoryUse};
    use crate::plan::PlanLimits;
    use crate::topology::{CacheDomain, DomainId, Topology};

    fn matrix(method: Method, vms: usize, shared: u64) -> SharingMatrix {
        let memory = Some(MemoryUse { frames_used: 100, ..MemoryUse::default() });
        let vm = |at| MatrixVm { memory, vcpus: 2, ..MatrixVm::named(format!("vm{at}")) };
        let mut frames = vec![vec![0; vms]; vms];
        if vms > 1 {
            frames[0][vms - 1] = shared;
        }
        SharingMatrix::measured(method, (0..vms).map(vm).collect(), &frames, 1.0, 1.0)
    }

    fn topology() -> Topology {
        let domain = |id: u32| CacheDomain {
            id: DomainId(id),
            cpus: (id * 4..id * 4 + 4).collect::<CpuSet>(),
            size_bytes: Some(1 << 20),
            nodes: Default::default(),
        };
        Topology::new(Some(3), vec![domain(0), domain(1)]).unwrap()
    }

    fn running(full_scans: u64) -> Availability<KsmState> {
        Availability::Available(KsmState { run: 1, full_scans, ..KsmState::default() })
    }

    fn state(ksm: Availability<KsmState>, mergeable: &[&str], unseen: &[&str]) -> MergingState {
        let names = |of: &[&str]| of.iter().map(|name| (*name).to_owned()).collect();
        MergingState { ksm, mergeable: names(mergeable), unseen: names(unseen) }
    }

    fn plan(policy: Policy, matrix: &SharingMatrix) -> Plan {
        let topology = topology();
        policy.plan_measured(&PlanInput::new(matrix, &topology, &[]), || {
            state(running(3), &["vm0", "vm1"], &[])
        })
    }

    #[test]
    fn equal_vms_before_the_first_pass_are_left_where_they_are() {
        for method in [Method::Merged, Method::Events] {
            for policy in [Policy::Paper, Policy::Sharing, Policy::Exact, Policy::Opposed] {
                let plan = plan(policy, &matrix(method, 2, 0));
                let waiting = plan.waiting.as_deref().unwrap();
                assert_eq!((plan.placement.len(), plan.shared_total, plan.expected), (0, Some(0), None));
                assert!(waiting.contains("nothing is merged now") && waiting.contains("--method content"));
                assert_eq!(plan.reasons[0], waiting);
            }
        }
    }

    #[test]
    fn what_does_not_depend_on_merging_is_placed() {
        let placed = |plan: Plan| plan.waiting.is_none() && plan.placement.len() == 4;
        for policy in [Policy::Spread, Policy::Random, Policy::Load] {
            assert!(placed(plan(policy, &matrix(Method::Merged, 2, 0))), "{policy}");
        }
        // A zero of contents, or of a file, is an answer; and one shared frame is one.
        assert!(placed(plan(Policy::Paper, &matrix(Method::Content, 2, 0))));
        assert!(placed(plan(Policy::Paper, &matrix(Method::File, 2, 0))));
        assert!(placed(plan(Policy::Paper, &matrix(Method::Merged, 2, 1))));
        // One VM shares with nobody, whatever is merged.
        let alone = plan(Policy::Paper, &matrix(Method::Merged, 1, 0));
        assert_eq!((alone.waiting, alone.placement.len()), (None, 2));
        let none = plan(Policy::None, &matrix(Method::Merged, 2, 0));
        assert_eq!((none.waiting, none.placement.len()), (None, 0));
    }

    #[test]
    fn pages_of_files_are_a_basis_where_they_are_most_of_the_memory() {
        let plan_with = |pages_file, shared: u64| {
            let memory = MemoryUse {
                pages_resident: 100,
                pages_used: 100,
                frames_used: 100,
                pages_file: Some(pages_file),
                ..MemoryUse::default()
            };
            let vm = |at| MatrixVm { memory: Some(memory), vcpus: 2, ..MatrixVm::named(format!("vm{at}")) };
            let frames = |shared| vec![vec![0, shared], vec![0, 0]];
            let matrix =
                SharingMatrix::measured(Method::Merged, (0..2).map(vm).collect(), &frames(shared), 1.0, 1.0);
            plan(Policy::Paper, &matrix.with_file_frames(&frames(9)))
        };
        assert!(plan_with(10, 9).waiting.is_some(), "a library");
        assert!(plan_with(10, 10).waiting.is_none(), "one page is merged");
        assert!(plan_with(60, 9).waiting.is_none(), "clones of a snapshot");
    }

    #[test]
    fn what_the_user_asks_for_besides_sharing_is_kept() {
        let (matrix, topology) = (matrix(Method::Merged, 3, 0), topology());
        let merging = || state(running(3), &["vm0", "vm1", "vm2"], &[]);
        let input = PlanInput::new(&matrix, &topology, &[]);
        let apart = [(0, 2)];
        let plan = Policy::Paper.plan_measured(&input.apart(&apart), merging);
        let names: Vec<&str> = plan.placement.iter().map(|placed| placed.vm.as_str()).collect();
        assert_eq!(names, ["vm0", "vm0", "vm2", "vm2"]);
        assert_ne!(plan.domain_of("vm0", 0), plan.domain_of("vm2", 0));
        assert!(plan.waiting.is_some() && plan.reasons.iter().any(|reason| reason.contains("apart")));

        let limits = PlanLimits { working_set_kib: [("vm1".to_owned(), 64)].into(), ..PlanLimits::default() };
        let input = input.limits(&limits);
        assert_eq!(Policy::Sharing.plan_measured(&input, merging).placement.len(), 6);
        assert_eq!(Policy::Paper.plan_measured(&input, merging).placement.len(), 0);
    }

    #[test]
    fn the_reason_is_the_nearest_one() {
        let both = &["a", "b"][..];
        let stopped = |run| Availability::Available(KsmState { run, full_scans: 9, ..KsmState::default() });
        for (state, words) in [
            (state(Availability::Unavailable("no KSM here".into()), both, &[]), "unknown: no KSM here"),
            (state(running(3), &[], &[]), "none of their memory can be merged"),
            (state(stopped(0), both, both), "run is 0"),
            (state(stopped(2), both, both), "run is 2"),
            (state(running(0), both, both), "full_scans is 0"),
            (state(running(3), both, both), "not come to the memory of a and b"),
            (state(running(3), &["a"], &[]), "only the memory of a"),
            (state(running(3), both, &[]), "second visit"),
        ] {
            assert!(state.why().contains(words), "{words}: {}", state.why());
        }
        let many: Vec<String> = (0..9).map(|at| format!("vm{at}")).collect();
        assert_eq!(some(&many), "vm0, vm1, vm2 and 6 more");
        assert_eq!(some(&many[..4]), "vm0, vm1, vm2 and vm3");
    }
}
