//! Placing VMs on cache domains.
//!
//! A policy is a pure function of a [`PlanInput`]: equal input gives an equal [`Plan`], on any host
//! and offline. Units: vCPUs for load and shares, frames for what is shared, rates from 0 to 1.
//!
//! # The share of a domain
//! With `V` vCPUs to place and `C` usable CPUs, a domain of `c` CPUs has the proportional part
//! `V * c / C`. Its share is that part rounded down, and the vCPUs left over by rounding go to
//! domains with a fractional part, one each: so 17 vCPUs on 16 equal CPUs give one domain 2 and none
//! 3. On a host with CPUs to spare the share is at least the two largest VMs together, as far as the
//! domain has one CPU for each of their vCPUs: else no pair could ever run together on a host with
//! more cache domains than VMs. There, a core counts as one CPU if vCPUs of different core scheduling cookies would meet
//! on it. No policy goes over a share unless the VM may run nowhere else, and
//! then a reason of the plan says so. A limit in vCPUs per CPU, or per core where siblings (SMT) are not
//! to count as two, lowers the share where it is below it; it never raises one. VMs that are to be kept
//! apart are never in one domain, a domain's VMs do not use more CPU time than its limit, and a VM stays on
//! the NUMA node of its memory, unless they may run in no other domain; a reason says that,
//! too. All of these are of [`PlanLimits`], and only set if the user sets them.
//!
//! # VMs with several vCPUs
//! A VM shares all its memory with itself, so its vCPUs stay in one domain where a share has room for
//! all of them, and are spread over as few domains as possible where none has. A VM whose vCPU
//! threads are not known cannot be placed; a reason says so. So does one where a VM is placed on cores of several
//! classes (performance, efficient, low power): policies do not weigh them.
//!
//! # Before anything is merged
//! [`Policy::plan`] takes a matrix as an answer. A measurement of what is merged, in which no two VMs share anything,
//! is none yet: [`Policy::plan_measured`] then moves nothing.

mod anywhere;
mod apart;
mod classes;
mod commands;
mod contention;
mod cookies;
mod exact;
mod expected;
mod instance;
mod json;
mod keeping;
mod limits;
mod misses;
mod named_vms;
mod nodes;
mod paper;
mod placement_state;
mod search;
mod search_state;
mod sharing;
mod simple;
mod unmerged;
mod vcpu_limits;
mod what_if;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::matrix::{SharingMatrix, Weigh};
use crate::observation::{Observation, VcpuObservation};
use crate::topology::{CacheDomain, DomainId, Topology};
use crate::vm::Vm;
use placement_state::{Bound, PlacementState};
use sharing::Goal;

pub use commands::{Commands, Manager};
pub use exact::{Exact, exact};
pub use expected::Expected;
pub use instance::{Bins, Instance, ItemGroup};
pub use json::PlanOfVms;
pub use keeping::Broken;
pub use limits::{BadLimit, PlanLimits};
pub use misses::{
    CacheBasis, DomainMisses, ExpectedMisses, MissBasis, RatesBy, SharedBy, VmMisses, WorkingSet,
    WorkingSetSource,
};
pub use named_vms::{Applied, NamedVms};
pub use search::search;
pub use unmerged::MergingState;
pub use vcpu_limits::VcpuRules;
pub use what_if::{MissSources, WhatIf, what_if};

/// Input of a policy about one VM, in addition to the matrix.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlanVm {
    /// Domains it may run in; `None` for all.
    pub allowed: Option<BTreeSet<DomainId>>,
    /// Current domain of each vCPU, in order of vCPU; empty or shorter if unknown. Only breaks ties, so that
    /// equally good placements do not move VMs back and forth.
    pub current: Vec<Option<DomainId>>,
    /// Numbers of its vCPUs in their order, which may have gaps; empty for 0, 1, 2, ...
    pub vcpus: Vec<u32>,
    /// CPUs that its vCPUs recently kept busy, on average; `None` if unknown.
    pub cpus_busy: Option<f64>,
    /// Bytes of a cache that it uses without contention; `None` if unknown. 0, as an idle VM or a new monitoring group has
    /// it, is what it occupied and says nothing of what it uses: plans take it as unknown.
    pub working_set_bytes: Option<u64>,
    /// Pages of its memory on each NUMA node; empty if unknown.
    pub node_pages: BTreeMap<u32, u64>,
    /// What single vCPUs may and shall not do.
    pub rules: VcpuRules,
    /// Core scheduling cookie of each vCPU, in order of vCPU, 0 for none; empty if unknown.
    pub core_cookies: Vec<u64>,
}

impl PlanVm {
    /// Input for a VM found on a host: it may run in the domains with some CPU that the cgroups of its vCPUs allow,
    /// vCPUs that their owner bound stay where they are, and a vCPU is placed in a domain if its affinity lies within it.
    pub fn of(vm: &Vm, topology: &Topology) -> Self {
        let (rules, allowed) = VcpuRules::of(vm, topology);
        let current = vm.vcpus.iter().map(|vcpu| {
            let within =
                |domain: &&CacheDomain| !vcpu.affinity.is_empty() && vcpu.affinity.is_subset(&domain.cpus);
            topology.domains().iter().find(within).map(|domain| domain.id)
        });
        Self {
            allowed: Some(allowed),
            rules,
            current: current.collect(),
            // Those of some vCPUs alone say nothing about a core.
            core_cookies: vm
                .vcpus
                .iter()
                .map(|vcpu| vcpu.limits.core_cookie)
                .collect::<Option<_>>()
                .unwrap_or_default(),
            vcpus: vm.vcpus.iter().map(|vcpu| vcpu.index).collect(),
            ..Self::default()
        }
    }

    /// Adds the observation of a window: the CPU time of the VM's vCPUs, and its occupancy of the caches that
    /// are the domains.
    #[must_use]
    pub fn observed(mut self, vm: &Vm, seen: &Observation) -> Self {
        let window_ns = seen.end_unix_us.saturating_sub(seen.begin_unix_us) as f64 * 1000.0;
        // By name: the vCPUs of a cgroup belong to several processes.
        let mine = || seen.vcpus.iter().filter(|vcpu| vcpu.vm == vm.name);
        let run_ns = mine().map(VcpuObservation::run_ns);
        let run_ns = run_ns.sum::<Option<u64>>().filter(|_| mine().next().is_some() && window_ns > 0.0);
        self.cpus_busy = run_ns.map(|run_ns| run_ns as f64 / window_ns);
        let occupied = seen.occupancy.value().into_iter().flatten();
        let occupied: Vec<_> = occupied.filter(|of| of.vm == vm.name && of.domain.is_some()).collect();
        let bytes = occupied.iter().map(|of| of.llc_bytes.value().copied()).sum::<Option<u64>>();
        self.working_set_bytes = bytes.filter(|_| !occupied.is_empty());
        self
    }
}

/// Everything a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    matrix: &'a SharingMatrix,
    /// The matrix for figures, if the plan is made from a weighted one.
    measured: Option<&'a SharingMatrix>,
    topology: &'a Topology,
    vms: &'a [PlanVm],
    apart: &'a [(usize, usize)],
    limits: Option<&'a PlanLimits>,
}

impl<'a> PlanInput<'a> {
    /// `vms` is in the order of `matrix.vms()`; VMs beyond its end have no limits and an unknown place.
    pub fn new(matrix: &'a SharingMatrix, topology: &'a Topology, vms: &'a [PlanVm]) -> Self {
        Self { matrix, measured: None, topology, vms, apart: &[], limits: None }
    }

    /// Pairs of VMs (positions in the matrix) that must not share a cache: tenants that do not trust each
    /// other.
    #[must_use]
    pub fn apart(self, pairs: &'a [(usize, usize)]) -> Self {
        Self { apart: pairs, ..self }
    }

    /// The user's limits, except for VMs to keep apart, which are pairs of this matrix
    /// ([`PlanLimits::pairs_apart`], [`PlanInput::apart`]).
    #[must_use]
    pub fn limits(self, limits: &'a PlanLimits) -> Self {
        Self { limits: Some(limits), ..self }
    }

    /// The measured matrix, if the plan is made from one in which some VMs have lower weights: the plan's
    /// figures of shared frames come from this one.
    #[must_use]
    pub fn measured(self, measured: &'a SharingMatrix) -> Self {
        Self { measured: Some(measured), ..self }
    }

    /// The matrix as it was measured.
    pub fn measured_matrix(&self) -> &'a SharingMatrix {
        self.measured.unwrap_or(self.matrix)
    }

    /// Where the cache domains are.
    pub fn topology(&self) -> &'a Topology {
        self.topology
    }

    /// What the VMs share.
    pub fn matrix(&self) -> &'a SharingMatrix {
        self.matrix
    }

    fn vcpus(&self, vm: usize) -> u32 {
        self.matrix.vms()[vm].vcpus
    }

    /// The number of a VM's vCPU, by its position.
    fn number(&self, vm: usize, position: usize) -> u32 {
        let known = self.vms.get(vm).and_then(|vm| vm.vcpus.get(position).copied());
        known.unwrap_or(u32::try_from(position).unwrap_or(u32::MAX))
    }

    fn name(&self, vm: usize) -> &'a str {
        &self.matrix.vms()[vm].name
    }

    fn is_allowed(&self, vm: usize, domain: DomainId) -> bool {
        self.vms.get(vm).and_then(|vm| vm.allowed.as_ref()).is_none_or(|allowed| allowed.contains(&domain))
    }

    /// How many vCPUs of `vm` are in `domain` now.
    fn current_vcpus(&self, vm: usize, domain: DomainId) -> usize {
        self.vms.get(vm).map_or(0, |vm| vm.current.iter().filter(|current| **current == Some(domain)).count())
    }

    /// Maximum number of vCPUs on a domain by the user's limits.
    fn most_vcpus(&self, domain: &CacheDomain) -> u64 {
        let Some(limits) = self.limits else { return u64::MAX };
        // Rounding tolerance, so that 0.1 of 10 CPUs is 1.
        let of = |most: f64, units: usize| (most * units as f64 + 1e-9).floor() as u64;
        let by_cpu = limits.vcpus_per_cpu.map(|most| of(most, domain.cpus.len()));
        let by_core = limits.vcpus_per_core.map(|most| of(most, self.topology.cores_in(domain)));
        by_cpu.into_iter().chain(by_core).min().unwrap_or(u64::MAX)
    }

    /// Maximum number of CPUs that the VMs of a domain may keep busy; `None` for any number.
    fn most_busy(&self, domain: &CacheDomain) -> Option<f64> {
        Some(self.limits?.load_per_cpu? * domain.cpus.len() as f64)
    }

    /// CPUs that a VM keeps busy; all of its vCPUs if unknown.
    fn cpus_busy(&self, vm: usize) -> f64 {
        self.vms.get(vm).and_then(|vm| vm.cpus_busy).unwrap_or_else(|| f64::from(self.vcpus(vm)))
    }

    /// The working set of a VM in frames of the matrix: as configured, or else as measured.
    fn working_set_frames(&self, vm: usize) -> Option<u64> {
        let bytes = self.configured_working_set_bytes(vm).or_else(|| self.measured_working_set_bytes(vm));
        bytes.map(|bytes| self.matrix.page_size().pages_in(bytes))
    }

    /// The working set that the user set, in bytes; never 0.
    fn configured_working_set_bytes(&self, vm: usize) -> Option<u64> {
        let kib = self.limits?.working_set_of(&self.matrix.vms()[vm])?;
        Some(kib.saturating_mul(1024))
    }

    /// The working set that was measured, in bytes; never 0.
    fn measured_working_set_bytes(&self, vm: usize) -> Option<u64> {
        self.vms.get(vm)?.working_set_bytes.filter(|bytes| *bytes > 0)
    }

    /// The rate a pair is ranked by: the higher of its two directions, since a small VM that is completely
    /// shared with a large one gains as much as two equal ones.
    fn pair_rate(&self, i: usize, j: usize) -> f64 {
        self.matrix.rate(i, j).max(self.matrix.rate(j, i))
    }
}

/// Policies of placement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The paper's greedy: pairs in descending rate share a domain.
    Paper,
    /// The least that caches save: the causal control of `paper`.
    Opposed,
    /// The most that caches save, by search, and exact where it is small.
    Sharing,
    /// The same, by the optimum: for small hosts, and as a reference for the others.
    Exact,
    /// VMs spread evenly, whatever they share.
    Spread,
    /// VMs anywhere, by a fixed seed.
    Random,
    /// VMs stay where they are unless the load is uneven.
    Load,
    /// The kernel places all VMs.
    None,
}

impl Policy {
    /// All policies, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::Paper,
        Self::Sharing,
        Self::Exact,
        Self::Opposed,
        Self::Spread,
        Self::Random,
        Self::Load,
        Self::None,
    ];

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Paper => "paper",
            Self::Opposed => "opposed",
            Self::Sharing => "sharing",
            Self::Exact => "exact",
            Self::Spread => "spread",
            Self::Random => "random",
            Self::Load => "load",
            Self::None => "none",
        }
    }

    /// Places the VMs of `input`.
    pub fn plan(self, input: &PlanInput<'_>) -> Plan {
        let mut reasons = self.notes(input);
        // Policy none places nothing, so it needs no node limits.
        let near = nodes::narrowed(input).filter(|_| self != Self::None);
        let near = near.map(|(vms, notes)| nodes::apart_first(input, vms, notes));
        let input = &match &near {
            Some((vms, notes)) => {
                reasons.extend(notes.iter().cloned());
                PlanInput { vms, ..*input }
            }
            None => *input,
        };
        let placed = match self {
            Self::Paper => Some(paper::place(input)),
            Self::Opposed => Some(sharing::place(input, Goal::Least)),
            Self::Sharing => Some(sharing::place(input, Goal::Most)),
            Self::Exact => Some(sharing::place(input, Goal::Optimum)),
            Self::Spread => Some(simple::spread(input)),
            Self::Random => Some(simple::random(input)),
            Self::Load => Some(simple::load(input)),
            Self::None => None,
        };
        let (placement, shared_within, expected) = match placed {
            Some(placed_so_far) => {
                let (placement, notes) = input.with_vcpu_rules(placed_so_far.placement());
                let within = shared_within(input, &placed_so_far);
                // A bound of weighted frames is not one of frames.
                let bound = placed_so_far.bound().filter(|_| input.measured.is_none());
                let saved = input.measured_matrix().saved_frames(&placed_so_far.presence());
                let expected = Expected::of(input, &placement, within.zip(saved), bound);
                reasons.extend(placed_so_far.into_reasons());
                reasons.extend(notes);
                reasons.extend(classes::reasons(input, &placement));
                reasons.extend(expected.iter().map(Expected::to_string));
                let misses = expected.as_ref().and_then(|expected| expected.misses.as_ref());
                reasons.extend(misses.map(ExpectedMisses::to_string));
                (placement, within, expected)
            }
            None => {
                reasons.push("policy none: every vCPU is left to the kernel's scheduler".into());
                (Vec::new(), None, None)
            }
        };
        Plan {
            policy: self,
            domains: input.topology.domains().to_vec(),
            placement,
            shared_within,
            shared_total: input
                .measured_matrix()
                .pairs()
                .map(|(i, j)| input.measured_matrix().shared_frames(i, j))
                .sum(),
            expected,
            waiting: None,
            reasons,
        }
    }

    /// What every plan says about the topology and about limits.
    fn notes(self, input: &PlanInput<'_>) -> Vec<String> {
        let mut notes = input.topology.notes().to_vec();
        notes.extend(input.topology.single_domain_note());
        if input.matrix.weigh() == Weigh::Read && self.goes_by_sharing() {
            notes.push(
                "shared frames count as far as both VMs read them ([sharing] weigh = \"read\")".to_owned(),
            );
        }
        notes.extend(input.limits.into_iter().flat_map(|limits| limits.problems(input.matrix)));
        notes
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A policy name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {0:?}; choose paper, sharing, exact, opposed, spread, random, load or none")]
pub struct UnknownPolicy(String);

impl std::str::FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|policy| policy.name() == name)
            .ok_or_else(|| UnknownPolicy(name.to_owned()))
    }
}

/// The domain of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VcpuPlacement {
    /// Name of the VM.
    pub vm: String,
    /// Number of the vCPU within the VM.
    pub vcpu: u32,
    /// Domain on whose CPUs it is to run.
    pub domain: DomainId,
}

/// A placement with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Plan {
    /// The policy that made it.
    pub policy: Policy,
    /// The domains of the plan.
    #[serde(default)]
    pub domains: Vec<CacheDomain>,
    /// One entry per placed vCPU, in the order of the matrix, then of the vCPU; other vCPUs are placed by the
    /// kernel.
    pub placement: Vec<VcpuPlacement>,
    /// Frames shared by pairs within one domain; a pair that is split over domains counts by the fraction of
    /// its pairs of vCPUs that meet. `None` if the matrix has only rates or nothing is placed.
    pub shared_within: Option<u64>,
    /// Frames shared by all pairs; `None` if the matrix has only rates.
    pub shared_total: Option<u64>,
    /// Its gain and cost; `None` if the matrix has only rates or nothing is placed.
    #[serde(default)]
    pub expected: Option<Expected>,
    /// Why the policy moves nothing for now: nothing is merged. vCPUs that are not in `placement` then stay as
    /// they are, also those that were pinned earlier.
    #[serde(default)]
    pub waiting: Option<String>,
    /// The reasons, one sentence each, in the order of decision.
    #[serde(default)]
    pub reasons: Vec<String>,
}

impl Plan {
    /// The domain of a vCPU; `None` if it is placed by the kernel.
    pub fn domain_of(&self, vm: &str, vcpu: u32) -> Option<&CacheDomain> {
        let placement = self.placement.iter().find(|placed| placed.vm == vm && placed.vcpu == vcpu)?;
        self.domains.iter().find(|domain| domain.id == placement.domain)
    }
}

fn shared_within(input: &PlanInput<'_>, placed_so_far: &PlacementState<'_>) -> Option<u64> {
    let within = |(i, j)| {
        input
            .measured_matrix()
            .shared_frames(i, j)
            .map(|shared| shared as f64 * placed_so_far.meeting_fraction(i, j))
    };
    input.measured_matrix().pairs().map(within).sum::<Option<f64>>().map(|frames| frames.round() as u64)
}

#[cfg(test)]
mod tests;
