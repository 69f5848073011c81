//! The contents of each cache domain, computed once per view, not per frame.
//!
//! Units: distinct frames. What a pair shares within a domain is its shared frames times the
//! part of its pairs of vCPUs that meet there, as a plan counts it (`Plan::shared_within`).

use std::collections::HashMap;
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::SharingMatrix;
use huddle_model::topology::{CacheDomain, DomainId};
use huddle_model::trial::Phase;
use huddle_model::view::View as LoopView;
use huddle_model::vm::{Vcpu, Vm};
use ratatui::text::Span;

/// The source of the placement shown in the boxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Basis {
    /// What is in force, by a plan.
    Pinned,
    /// What is in force, while a trial runs.
    Tried,
    /// The domains that vCPUs are bound to by their affinity, or last ran in where they are not bound: plans
    /// are pinned only after a trial.
    Bound,
    /// The plan, which is not applied for this reason.
    PlannedOnly(String),
    /// As `Bound`, because no plan places anything; with the reason.
    NotPlaced(String),
}

/// A VM in a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name with its vCPUs there: `web x2` if all are there, else `web[0,2]`.
    pub(crate) label: String,
    /// Columns of the label.
    pub(crate) width: usize,
}

/// A domain with its contents.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DomainLoad {
    pub(crate) domain: CacheDomain,
    pub(crate) members: Vec<Member>,
    pub(crate) vcpus: usize,
    /// Frames that pairs share within the domain.
    pub(crate) within_frames: Availability<u64>,
}

impl DomainLoad {
    /// Lines that the members take in `width` columns.
    pub(crate) fn lines(&self, width: usize) -> usize {
        let mut lines = 0;
        let mut left = 0;
        for member in &self.members {
            if lines == 0 || member.width + 2 > left {
                lines += 1;
                left = width;
            }
            left = left.saturating_sub(member.width + 2);
        }
        lines
    }
}

/// The overview's figures.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Overview {
    pub(crate) domains: Availability<Vec<DomainLoad>>,
    pub(crate) basis: Basis,
    /// vCPUs in no box: placed by the kernel, or of unknown place.
    pub(crate) elsewhere: usize,
    pub(crate) within_frames: Availability<u64>,
    pub(crate) total_frames: Availability<u64>,
    /// Where the vCPUs of each VM are, by the VM's name; a VM of which nothing is known has no entry.
    homes: HashMap<String, Home>,
}

/// The domains of a VM's vCPUs: positions in [`Overview::domains`], ascending, with the part of the vCPUs there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Home {
    pub(crate) parts: Vec<(usize, f64)>,
}

impl Home {
    /// The domain of all of its vCPUs.
    pub(crate) fn only(&self) -> Option<usize> {
        match self.parts[..] {
            [(domain, 1.0)] => Some(domain),
            _ => None,
        }
    }

    /// The part of the pairs of vCPUs of two VMs that meet in a domain, 0 to 1.
    pub(crate) fn meets(&self, other: &Self) -> f64 {
        let with = |(domain, part): &(usize, f64)| {
            other.parts.iter().find(|(own, _)| own == domain).map_or(0.0, |(_, own)| part * own)
        };
        self.parts.iter().map(with).sum()
    }
}

impl Overview {
    pub(crate) fn of(view: &LoopView) -> Self {
        let plan = view.round.plan.value();
        let (basis, places) = match &view.round.plan {
            // With trials a plan is only a proposal.
            Availability::Available(_) if let Some(comparison) = view.comparison.value() => {
                let basis = match comparison.phase {
                    Phase::Trial { .. } | Phase::Recorded(Some(_)) => Basis::Tried,
                    _ if view.in_force.is_empty() => Basis::Bound,
                    _ => Basis::Pinned,
                };
                (basis, places_in_force(view))
            }
            Availability::Available(plan) if !plan.placement.is_empty() => match view.pinning.reason() {
                None => (Basis::Pinned, places_in_force(view)),
                Some(reason) => (Basis::PlannedOnly(reason.to_owned()), planned_places(view)),
            },
            Availability::Available(plan) => {
                let reason = match plan.waiting {
                    Some(_) => "nothing is merged now".to_owned(),
                    None => format!("policy {} places nothing", plan.policy),
                };
                (Basis::NotPlaced(reason), bound_places(view))
            }
            Availability::Unavailable(reason) => (Basis::NotPlaced(reason.clone()), bound_places(view)),
        };
        let domains = match (&view.round.topology, plan) {
            (Availability::Available(topology), _) => Ok(topology.domains()),
            (Availability::Unavailable(_), Some(plan)) if !plan.domains.is_empty() => Ok(&plan.domains[..]),
            (Availability::Unavailable(reason), _) => Err(reason.clone()),
        };
        let total_frames = total_frames(&view.round.matrix);
        let homes = domains.as_ref().map_or_else(|_| HashMap::new(), |domains| homes(domains, &places));
        let loads = domains.map(|domains| loads(domains, &places, &view.round.matrix));
        let placed: usize = loads.iter().flatten().map(|load| load.vcpus).sum();
        let all: usize = places.iter().map(|place| place.vcpus.len()).sum();
        let within_frames = match &loads {
            Err(reason) => Availability::Unavailable(reason.clone()),
            Ok(_) if all > 0 && placed == 0 => Availability::Unavailable(NO_PLACE.to_owned()),
            Ok(loads) => loads
                .iter()
                .try_fold(0u64, |sum, load| match &load.within_frames {
                    Availability::Available(frames) => Ok(sum + frames),
                    Availability::Unavailable(reason) => Err(reason.clone()),
                })
                .into(),
        };
        Self { domains: loads.into(), basis, elsewhere: all - placed, within_frames, total_frames, homes }
    }

    /// The domains of a VM's vCPUs; `None` if nothing is known of them.
    pub(crate) fn home(&self, vm: &str) -> Option<&Home> {
        self.homes.get(vm)
    }

    /// The mark of a domain in the strips of the heatmap: its number, or its position where numbers are long.
    pub(crate) fn mark(&self, domain: usize) -> String {
        let id =
            self.domains.value().and_then(|domains| domains.get(domain)).map_or(0, |load| load.domain.id.0);
        if id < 1000 { id.to_string() } else { format!("#{domain}") }
    }

    /// Columns of the longest mark; 0 without domains.
    pub(crate) fn longest_mark(&self) -> u16 {
        let marks = (0..self.domain_count()).map(|domain| self.mark(domain).len());
        u16::try_from(marks.max().unwrap_or(0)).unwrap_or(u16::MAX)
    }

    /// Whether the domain of some vCPU is known, or there is none.
    pub(crate) fn is_place_known(&self) -> bool {
        let placed = self.domains.value().into_iter().flatten().any(|load| load.vcpus > 0);
        placed || self.elsewhere == 0
    }

    pub(crate) fn domain_count(&self) -> usize {
        self.domains.value().map_or(0, Vec::len)
    }
}

/// Why nothing is known to be shared within domains, where no vCPU has a place.
const NO_PLACE: &str = "the domain of no vCPU is known";

/// A VM with the domain of each vCPU.
struct Place<'a> {
    vm: &'a str,
    vcpus: Vec<(u32, Option<DomainId>)>,
}

/// The plan's; a vCPU that its owner bound, which no plan places, is where its CPUs are.
fn planned_places(view: &LoopView) -> Vec<Place<'_>> {
    let domain_of = domain_of_cpus(view);
    let Some(plan) = view.round.plan.value() else { return Vec::new() };
    let mut places: Vec<Place<'_>> = Vec::new();
    let mut position: HashMap<&str, usize> = HashMap::new();
    for placed in &plan.placement {
        let at = *position.entry(&placed.vm).or_insert_with(|| {
            places.push(Place { vm: &placed.vm, vcpus: Vec::new() });
            places.len() - 1
        });
        places[at].vcpus.push((placed.vcpu, Some(placed.domain)));
    }
    for vm in view.round.vms.iter() {
        let at = *position.entry(&vm.name).or_insert_with(|| {
            places.push(Place { vm: &vm.name, vcpus: Vec::new() });
            places.len() - 1
        });
        let vcpus = &mut places[at].vcpus;
        for vcpu in &vm.vcpus {
            if !vcpus.iter().any(|(index, _)| *index == vcpu.index) {
                let bound = vcpu.limits.binding.as_ref();
                vcpus.push((vcpu.index, bound.and_then(|bound| only_domain(&bound.cpus, &domain_of))));
            }
        }
    }
    places
}

/// The domain huddle has bound a vCPU to, and for others as [`bound_places`].
fn places_in_force(view: &LoopView) -> Vec<Place<'_>> {
    let domain_of = domain_of_cpus(view);
    let vcpus = |vm: &Vm| {
        let place = |vcpu: &Vcpu| {
            view.in_force.domain(&vm.name, vcpu.index).or_else(|| bound_place(vcpu, &domain_of))
        };
        vm.vcpus.iter().map(|vcpu| (vcpu.index, place(vcpu))).collect()
    };
    view.round.vms.iter().map(|vm| Place { vm: &vm.name, vcpus: vcpus(vm) }).collect()
}

/// The domain a vCPU is bound to by its affinity, or in which it last ran if it is not bound.
fn bound_places(view: &LoopView) -> Vec<Place<'_>> {
    let domain_of = domain_of_cpus(view);
    let vcpus = |vm: &Vm| vm.vcpus.iter().map(|vcpu| (vcpu.index, bound_place(vcpu, &domain_of))).collect();
    view.round.vms.iter().map(|vm| Place { vm: &vm.name, vcpus: vcpus(vm) }).collect()
}

fn bound_place(vcpu: &Vcpu, domain_of: &HashMap<u32, DomainId>) -> Option<DomainId> {
    only_domain(&vcpu.affinity, domain_of).or_else(|| domain_of.get(&vcpu.last_cpu?).copied())
}

/// The domain that has all of these CPUs.
fn only_domain(cpus: &CpuSet, domain_of: &HashMap<u32, DomainId>) -> Option<DomainId> {
    let mut domains = cpus.iter().map(|cpu| domain_of.get(&cpu).copied());
    domains.next().flatten().filter(|first| domains.all(|domain| domain == Some(*first)))
}

fn domain_of_cpus(view: &LoopView) -> HashMap<u32, DomainId> {
    let domains = view.round.topology.value().map_or(&[][..], |topology| topology.domains());
    domains.iter().flat_map(|domain| domain.cpus.iter().map(|cpu| (cpu, domain.id))).collect()
}

fn loads(
    domains: &[CacheDomain],
    places: &[Place<'_>],
    matrix: &Availability<Arc<SharingMatrix>>,
) -> Vec<DomainLoad> {
    let position: HashMap<&str, usize> = match matrix {
        Availability::Available(matrix) => {
            matrix.vms().iter().enumerate().map(|(index, vm)| (vm.name.as_str(), index)).collect()
        }
        Availability::Unavailable(_) => HashMap::new(),
    };
    let index: HashMap<DomainId, usize> =
        domains.iter().enumerate().map(|(at, domain)| (domain.id, at)).collect();
    // For each domain: position in the matrix, share of the VM's vCPUs in the domain.
    let mut shares: Vec<Vec<(usize, f64)>> = vec![Vec::new(); domains.len()];
    let mut members: Vec<Vec<Member>> = vec![Vec::new(); domains.len()];
    let mut vcpus = vec![0; domains.len()];
    for place in places {
        let mut here: Vec<(usize, Vec<u32>)> = Vec::new();
        for (vcpu, domain) in &place.vcpus {
            let Some(at) = domain.and_then(|domain| index.get(&domain)).copied() else { continue };
            match here.iter_mut().find(|(domain, _)| *domain == at) {
                Some((_, list)) => list.push(*vcpu),
                None => here.push((at, vec![*vcpu])),
            }
        }
        for (at, list) in here {
            vcpus[at] += list.len();
            members[at].push(member(place, &list));
            if let Some(row) = position.get(place.vm) {
                shares[at].push((*row, list.len() as f64 / place.vcpus.len() as f64));
            }
        }
    }
    let figures = domains.iter().zip(members).zip(vcpus).zip(shares);
    figures
        .map(|(((domain, members), vcpus), shares)| DomainLoad {
            domain: domain.clone(),
            members,
            vcpus,
            within_frames: within(matrix, &shares),
        })
        .collect()
}

fn homes(domains: &[CacheDomain], places: &[Place<'_>]) -> HashMap<String, Home> {
    let index: HashMap<DomainId, usize> =
        domains.iter().enumerate().map(|(at, domain)| (domain.id, at)).collect();
    let home = |place: &Place<'_>| {
        let mut parts: Vec<(usize, f64)> = Vec::new();
        let known = place.vcpus.iter().filter_map(|(_, domain)| index.get(&(*domain)?).copied());
        let each = 1.0 / place.vcpus.len() as f64;
        for at in known {
            match parts.iter_mut().find(|(domain, _)| *domain == at) {
                Some((_, part)) => *part += 1.0,
                None => parts.push((at, 1.0)),
            }
        }
        parts.sort_by_key(|(domain, _)| *domain);
        // Counted first, so that all of them are exactly 1.
        let all = place.vcpus.len() as f64;
        parts.iter_mut().for_each(|(_, part)| *part = if *part == all { 1.0 } else { *part * each });
        (!parts.is_empty()).then(|| (place.vm.to_owned(), Home { parts }))
    };
    places.iter().filter_map(home).collect()
}

fn member(place: &Place<'_>, here: &[u32]) -> Member {
    let label = if here.len() == place.vcpus.len() {
        format!("{} x{}", place.vm, here.len())
    } else {
        let list: Vec<String> = here.iter().map(u32::to_string).collect();
        format!("{}[{}]", place.vm, list.join(","))
    };
    let width = Span::raw(&label).width();
    Member { label, width }
}

fn within(matrix: &Availability<Arc<SharingMatrix>>, shares: &[(usize, f64)]) -> Availability<u64> {
    let matrix = match matrix {
        Availability::Available(matrix) => matrix,
        Availability::Unavailable(reason) => return Availability::Unavailable(reason.clone()),
    };
    let mut sum = 0.0;
    for (nth, (i, here)) in shares.iter().enumerate() {
        for (j, there) in &shares[nth + 1..] {
            match matrix.shared_frames(*i, *j) {
                Some(frames) => sum += frames as f64 * here * there,
                None => return Availability::Unavailable(RATES_ONLY.into()),
            }
        }
    }
    // A matrix of rates has no frames, which a single VM would hide.
    match frames_known(matrix) {
        true => Availability::Available(sum.round() as u64),
        false => Availability::Unavailable(RATES_ONLY.into()),
    }
}

/// Why a matrix of rates has no frames.
pub(crate) const RATES_ONLY: &str = "the matrix holds rates only";

fn frames_known(matrix: &SharingMatrix) -> bool {
    matrix.is_empty() || matrix.shared_frames(0, 0).is_some()
}

fn total_frames(matrix: &Availability<Arc<SharingMatrix>>) -> Availability<u64> {
    match matrix {
        Availability::Unavailable(reason) => Availability::Unavailable(reason.clone()),
        Availability::Available(matrix) => {
            match matrix.pairs().map(|(i, j)| matrix.shared_frames(i, j)).sum::<Option<u64>>() {
                Some(frames) if frames_known(matrix) => Availability::Available(frames),
                _ => Availability::Unavailable(RATES_ONLY.into()),
            }
        }
    }
}
