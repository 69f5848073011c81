//! What is known of VMs and caches for an estimate of misses, and from where.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::MissBasis;
use crate::cache::estimate::CacheShape;
use crate::matrix::{SharedGroup, SharingMatrix, Weigh};
use crate::plan::PlanInput;
use crate::topology::DomainId;

/// Where a working set is known from, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkingSetSource {
    /// The user's `working_set_kib`.
    Configured,
    /// The occupancy of the caches (resctrl). At least that: under contention a VM has less of the cache than it uses, and
    /// never more than the cache has.
    Occupancy,
    /// The frames that it shares and was seen to read. At least these: what it has alone is not seen.
    SharedReads,
}

/// The working set of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkingSet {
    /// Its name.
    pub vm: String,
    /// What it uses again and again, in bytes.
    pub bytes: u64,
    /// Where that is known from.
    pub source: WorkingSetSource,
}

/// What the proportions of reads are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RatesBy {
    /// CPU time in the last window of observation.
    CpuTime,
    /// vCPUs, each reading equally often.
    Vcpus,
}

/// Which shared frames are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SharedBy {
    /// Those that were seen to be read.
    Reads,
    /// As large a part as of all frames of a VM.
    EvenUse,
}

/// The cache of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheBasis {
    /// The domain.
    pub domain: DomainId,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Lines in a set.
    pub ways: u32,
    /// Whether that is the usual number, since it is not known.
    pub ways_assumed: bool,
    /// Bytes of a line.
    pub line_bytes: u32,
    /// Whether that is the usual one, since it is not known.
    pub line_assumed: bool,
}

/// All of it, in the order of the matrix.
pub(super) struct Inputs {
    working_sets: Vec<WorkingSet>,
    rates_by: RatesBy,
    shared_by: SharedBy,
    caches: Vec<CacheBasis>,
    /// Reads of all vCPUs of a VM in a unit of time.
    pub(super) rates: Vec<f64>,
    /// Sets of VMs with the bytes that they map in common.
    pub(super) groups: Vec<(Vec<u32>, f64)>,
    /// Of the bytes that a VM maps the part that is in its working set.
    pub(super) parts: Vec<f64>,
    /// Bytes of its working set that no group has.
    pub(super) own: Vec<f64>,
}

/// Least rate of a VM, as a part of that of the busiest one: what nobody was seen to do may be done yet.
const LEAST_RATE: f64 = 1e-3;

impl Inputs {
    /// # Errors
    /// What is not known, as one clause.
    pub(super) fn of(input: &PlanInput<'_>) -> Result<Self, String> {
        let matrix = input.measured_matrix();
        let caches = caches(input)?;
        let of_reads = if matrix.weigh() == Weigh::All { matrix.of_reads().ok() } else { None };
        let shared = of_reads.as_ref().unwrap_or(matrix);
        let shared_by = if shared.weigh() == Weigh::Read { SharedBy::Reads } else { SharedBy::EvenUse };
        let read = (shared_by == SharedBy::Reads).then_some(shared);
        let working_sets =
            (0..matrix.len()).map(|vm| working_set(input, read, vm)).collect::<Result<Vec<_>, _>>()?;
        let groups = groups(shared)?;
        let mut in_groups = vec![0.0; matrix.len()];
        groups.iter().for_each(|(vms, bytes)| vms.iter().for_each(|vm| in_groups[*vm as usize] += bytes));
        let mut inputs = Self {
            working_sets,
            rates_by: RatesBy::Vcpus,
            shared_by,
            caches,
            rates: Vec::new(),
            groups,
            parts: Vec::new(),
            own: Vec::new(),
        };
        for (vm, in_groups) in in_groups.into_iter().enumerate() {
            let set = inputs.working_sets[vm].bytes as f64;
            // What is read is in use; of what is only mapped an even part is.
            let mapped = match shared_by {
                SharedBy::Reads => set,
                SharedBy::EvenUse => {
                    let memory = matrix.vms()[vm].memory;
                    let memory =
                        memory.ok_or_else(|| format!("the memory of {} is unknown", input.name(vm)))?;
                    matrix.page_size().bytes_of(memory.frames_used) as f64
                }
            };
            let mapped = mapped.max(set).max(in_groups);
            let part = if mapped > 0.0 { set / mapped } else { 0.0 };
            inputs.parts.push(part);
            inputs.own.push((mapped - in_groups) * part);
        }
        (inputs.rates_by, inputs.rates) = rates(input);
        Ok(inputs)
    }

    /// The working set of a VM in bytes.
    pub(super) fn working_set_bytes(&self, vm: usize) -> f64 {
        self.working_sets[vm].bytes as f64
    }

    /// # Errors
    /// The cache of the domain has no shape that can be, as one clause.
    pub(super) fn shape(&self, domain: DomainId) -> Result<CacheShape, String> {
        let cache = self.caches.iter().find(|cache| cache.domain == domain);
        let cache = cache.ok_or_else(|| format!("the cache of domain {domain} is unknown"))?;
        CacheShape::new(cache.size_bytes, cache.ways, cache.line_bytes)
            .map_err(|error| format!("domain {domain}: {error}"))
    }

    pub(super) fn into_basis(self, miss_over_hit: u32) -> MissBasis {
        let Self { working_sets, rates_by, shared_by, caches, .. } = self;
        MissBasis { working_sets, rates_by, shared_by, caches, miss_over_hit }
    }
}

fn caches(input: &PlanInput<'_>) -> Result<Vec<CacheBasis>, String> {
    let sets: BTreeMap<_, _> = input.topology().sets().iter().map(|sets| (sets.domain, sets)).collect();
    let of = |domain: &crate::topology::CacheDomain| {
        let size_bytes = domain.size_bytes;
        let size_bytes =
            size_bytes.ok_or_else(|| format!("the size of the cache of domain {} is unknown", domain.id))?;
        let sets = sets.get(&domain.id);
        let (ways, line) = (sets.and_then(|sets| sets.ways), sets.and_then(|sets| sets.line_bytes));
        Ok(CacheBasis {
            domain: domain.id,
            size_bytes,
            ways: ways.unwrap_or(CacheShape::USUAL_WAYS),
            ways_assumed: ways.is_none(),
            line_bytes: line.unwrap_or(CacheShape::USUAL_LINE_BYTES),
            line_assumed: line.is_none(),
        })
    };
    input.topology().domains().iter().map(of).collect()
}

/// `read`: the matrix of shared frames that were seen to be read.
fn working_set(input: &PlanInput<'_>, read: Option<&SharingMatrix>, vm: usize) -> Result<WorkingSet, String> {
    let of = |bytes, source| Ok(WorkingSet { vm: input.name(vm).to_owned(), bytes, source });
    if let Some(bytes) = input.configured_working_set_bytes(vm) {
        return of(bytes, WorkingSetSource::Configured);
    }
    if let Some(bytes) = input.measured_working_set_bytes(vm) {
        return of(bytes, WorkingSetSource::Occupancy);
    }
    let frames = read.map_or(0, |read| frames_in_groups(read, vm));
    if frames > 0 {
        return of(input.matrix.page_size().bytes_of(frames), WorkingSetSource::SharedReads);
    }
    // What uses nothing is not known to do so: it was idle, or just begun to be watched.
    let occupied_none = input.vms.get(vm).is_some_and(|vm| vm.working_set_bytes == Some(0));
    let seen = if occupied_none { " (it occupied no cache when it was measured)" } else { "" };
    Err(format!("the working set of {} is unknown{seen}; set it in [plan] working_set_kib", input.name(vm)))
}

/// Frames that a VM shares with any other; where the groups are not known, at least those of one pair.
fn frames_in_groups(matrix: &SharingMatrix, vm: usize) -> u64 {
    let groups = matrix.shared_groups().map_or(&[][..], |groups| groups.groups());
    let mine = groups.iter().filter(|group| group.vms.binary_search(&(vm as u32)).is_ok());
    let listed = mine.fold(0u64, |sum, group| sum.saturating_add(group.frames));
    let pairs = (0..matrix.len()).filter_map(|other| matrix.shared_frames(vm, other));
    listed.max(pairs.max().unwrap_or(0))
}

/// The listed groups, and of what is not listed each pair, which counts a frame of three VMs as three.
fn groups(matrix: &SharingMatrix) -> Result<Vec<(Vec<u32>, f64)>, String> {
    let bytes = |frames: u64| matrix.page_size().bytes_of(frames) as f64;
    let listed = matrix.shared_groups();
    let of = |SharedGroup { vms, frames }: &SharedGroup| (vms.clone(), bytes(*frames));
    let mut groups: Vec<_> = listed.map_or(&[][..], |listed| listed.groups()).iter().map(of).collect();
    if !listed.is_some_and(|listed| listed.is_complete()) {
        let pairs = matrix.frames_by_pairs().ok_or("the matrix has rates only, no frames")?;
        let left = matrix.pairs().filter(|(i, j)| pairs[*i][*j] > 0);
        groups.extend(left.map(|(i, j)| (vec![i as u32, j as u32], bytes(pairs[i][j]))));
    }
    Ok(groups)
}

/// By CPU time if it is known of all VMs and some of them run.
fn rates(input: &PlanInput<'_>) -> (RatesBy, Vec<f64>) {
    let vms = 0..input.matrix.len();
    let busy = vms.clone().map(|vm| input.vms.get(vm)?.cpus_busy).collect::<Option<Vec<f64>>>();
    let most = busy.iter().flatten().copied().fold(0.0, f64::max);
    match busy.filter(|_| most > 0.0 && most.is_finite()) {
        Some(busy) => (RatesBy::CpuTime, busy.iter().map(|busy| busy.max(most * LEAST_RATE)).collect()),
        None => (RatesBy::Vcpus, vms.map(|vm| f64::from(input.vcpus(vm).max(1))).collect()),
    }
}

impl std::fmt::Display for MissBasis {
    /// One clause.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [
            (WorkingSetSource::Configured, "as configured"),
            (WorkingSetSource::Occupancy, "as they occupied caches, or more"),
            (WorkingSetSource::SharedReads, "of the shared frames that were read, or more"),
        ];
        let count = |source| self.working_sets.iter().filter(|set| set.source == source).count();
        let used: Vec<_> = names.into_iter().filter(|(source, _)| count(*source) > 0).collect();
        f.write_str("working sets ")?;
        for (at, (source, name)) in used.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            match used.len() {
                1 => f.write_str(name)?,
                _ => write!(f, "{comma}{name} for {} of {} VMs", count(*source), self.working_sets.len())?,
            }
        }
        f.write_str(", used evenly; reads by ")?;
        f.write_str(match self.rates_by {
            RatesBy::CpuTime => "CPU time",
            RatesBy::Vcpus => "vCPUs",
        })?;
        if self.caches.iter().any(|cache| cache.ways_assumed) {
            write!(f, "; caches of {} ways assumed", CacheShape::USUAL_WAYS)?;
        }
        if self.caches.iter().any(|cache| cache.line_assumed) {
            write!(f, "; lines of {} bytes assumed", CacheShape::USUAL_LINE_BYTES)?;
        }
        Ok(())
    }
}
