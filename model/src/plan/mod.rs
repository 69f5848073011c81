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
//! more cache domains than VMs. No policy goes over a share unless the VM may run nowhere else, and
//! then a reason of the plan says so. A limit in vCPUs per CPU lowers the share where it is below it; it
//! never raises one. VMs that are to be kept apart are never in one domain, unless there is no other that
//! they may run in; a reason says that too.
//!
//! # VMs with several vCPUs
//! A VM shares all its memory with itself, so its vCPUs stay in one domain where a share has room for
//! all of them, and are spread over as few domains as possible where none has. A VM whose vCPU
//! threads are not known cannot be placed; a reason says so.

mod board;
mod exact;
mod expected;
mod instance;
mod limits;
mod opposed;
mod paper;
mod search;
mod sharing;
mod simple;
mod what_if;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::matrix::SharingMatrix;
use crate::topology::{CacheDomain, DomainId, Topology};
use crate::vm::Vm;
use board::Board;

pub use exact::{Exact, exact};
pub use expected::Expected;
pub use instance::{Bins, Instance};
pub use limits::{BadLimit, PlanLimits};
pub use search::search;
pub use what_if::{WhatIf, what_if};

/// What a policy may know of one VM, beside the matrix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanVm {
    /// Domains it may run in; `None` for all.
    pub allowed: Option<BTreeSet<DomainId>>,
    /// Domain each vCPU is placed in now, in order of vCPU; empty or shorter when unknown. Only breaks
    /// ties, so that equally good placements do not move VMs to and fro.
    pub current: Vec<Option<DomainId>>,
}

impl PlanVm {
    /// What a VM found on a host may and does: it may run in the domains that its cgroup allows some
    /// CPU of, and a vCPU is placed in a domain when its affinity lies within.
    pub fn of(vm: &Vm, topology: &Topology) -> Self {
        let allowed = topology.domains().iter().filter(|domain| !domain.cpus.is_disjoint(&vm.allowed_cpus));
        let current = vm.vcpus.iter().map(|vcpu| {
            let within =
                |domain: &&CacheDomain| !vcpu.affinity.is_empty() && vcpu.affinity.is_subset(&domain.cpus);
            topology.domains().iter().find(within).map(|domain| domain.id)
        });
        Self { allowed: Some(allowed.map(|domain| domain.id).collect()), current: current.collect() }
    }
}

/// Everything a plan depends on.
#[derive(Clone, Copy, Debug)]
pub struct PlanInput<'a> {
    matrix: &'a SharingMatrix,
    topology: &'a Topology,
    vms: &'a [PlanVm],
    apart: &'a [(usize, usize)],
    vcpus_per_cpu: Option<f64>,
}

impl<'a> PlanInput<'a> {
    /// `vms` is in the order of `matrix.vms()`; VMs beyond its end have no limits and no known place.
    pub fn new(matrix: &'a SharingMatrix, topology: &'a Topology, vms: &'a [PlanVm]) -> Self {
        Self { matrix, topology, vms, apart: &[], vcpus_per_cpu: None }
    }

    /// Pairs of VMs (positions in the matrix) that must not share a cache: tenants that do not trust each
    /// other.
    #[must_use]
    pub fn apart(self, pairs: &'a [(usize, usize)]) -> Self {
        Self { apart: pairs, ..self }
    }

    /// Most vCPUs on a domain for each of its CPUs.
    #[must_use]
    pub fn vcpus_per_cpu(self, most: Option<f64>) -> Self {
        Self { vcpus_per_cpu: most, ..self }
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

    /// The rate a pair is ranked by: the higher of its two directions, since a small VM that lies
    /// wholly within a large one gains as much as two equal ones.
    fn pair_rate(&self, i: usize, j: usize) -> f64 {
        self.matrix.rate(i, j).max(self.matrix.rate(j, i))
    }
}

/// How VMs are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The paper's greedy: pairs in descending rate share a domain.
    Paper,
    /// Least sharing within domains: the causal control of `paper`.
    Opposed,
    /// The most shared frames within domains, by search.
    Sharing,
    /// The same, the optimum: for small hosts, the yardstick of the others.
    Exact,
    /// VMs spread evenly, whatever they share.
    Spread,
    /// VMs anywhere, by a fixed seed.
    Random,
    /// VMs stay where they are as far as the load is even.
    Load,
    /// Leave it to the kernel.
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
        let mut reasons = Vec::new();
        reasons.extend(input.topology.single_domain_note());
        let placed = match self {
            Self::Paper => Some(paper::place(input)),
            Self::Opposed => Some(opposed::place(input)),
            Self::Sharing => Some(sharing::place(input, false)),
            Self::Exact => Some(sharing::place(input, true)),
            Self::Spread => Some(simple::spread(input)),
            Self::Random => Some(simple::random(input)),
            Self::Load => Some(simple::load(input)),
            Self::None => None,
        };
        let (placement, shared_within, expected) = match placed {
            Some(board) => {
                let placement = board.placement();
                let within = shared_within(input, &board);
                let expected = Expected::of(input, &placement, within, board.bound());
                reasons.extend(board.into_reasons());
                reasons.extend(expected.map(|expected| expected.to_string()));
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
                .matrix
                .pairs()
                .map(|(i, j)| input.matrix.shared_frames(i, j))
                .sum::<Option<u64>>(),
            expected,
            reasons,
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A policy name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy {0:?}; choose paper, sharing, exact, opposed, spread, random, load or none")]
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

/// Where one vCPU shall run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VcpuPlacement {
    /// Name of the VM.
    pub vm: String,
    /// Number of the vCPU within the VM.
    pub vcpu: u32,
    /// Domain on whose CPUs it shall run.
    pub domain: DomainId,
}

/// A placement with its reasons.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Plan {
    /// The policy that made it.
    pub policy: Policy,
    /// The domains it speaks of.
    pub domains: Vec<CacheDomain>,
    /// One entry a placed vCPU, in the order of the matrix, then of the vCPU; vCPUs not named are
    /// left to the kernel.
    pub placement: Vec<VcpuPlacement>,
    /// Frames shared by pairs within one domain; the part of a pair that is split over domains counts
    /// by the part of its pairs of vCPUs that meet. `None` when the matrix has rates only or nothing
    /// is placed.
    pub shared_within: Option<u64>,
    /// Frames shared by all pairs; `None` when the matrix has rates only.
    pub shared_total: Option<u64>,
    /// What it brings and costs; `None` when the matrix has rates only or nothing is placed.
    #[serde(default)]
    pub expected: Option<Expected>,
    /// Why, one sentence each, in the order of decision.
    pub reasons: Vec<String>,
}

impl Plan {
    /// The domain of a vCPU; `None` when it is left to the kernel.
    pub fn domain_of(&self, vm: &str, vcpu: u32) -> Option<&CacheDomain> {
        let placement = self.placement.iter().find(|placed| placed.vm == vm && placed.vcpu == vcpu)?;
        self.domains.iter().find(|domain| domain.id == placement.domain)
    }
}

impl Serialize for Plan {
    /// The JSON `huddle/plan/1`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Out<'a> {
            schema: &'static str,
            policy: Policy,
            domains: &'a [CacheDomain],
            placement: &'a [VcpuPlacement],
            shared_within: Option<u64>,
            shared_total: Option<u64>,
            expected: Option<Expected>,
            reasons: &'a [String],
        }
        Out {
            schema: "huddle/plan/1",
            policy: self.policy,
            domains: &self.domains,
            placement: &self.placement,
            shared_within: self.shared_within,
            shared_total: self.shared_total,
            expected: self.expected,
            reasons: &self.reasons,
        }
        .serialize(serializer)
    }
}

fn shared_within(input: &PlanInput<'_>, board: &Board<'_>) -> Option<u64> {
    let within =
        |(i, j)| input.matrix.shared_frames(i, j).map(|shared| shared as f64 * board.meeting_fraction(i, j));
    input.matrix.pairs().map(within).sum::<Option<f64>>().map(|frames| frames.round() as u64)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod search_tests;
