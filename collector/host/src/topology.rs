//! Cache domains and usable CPUs from `/sys/devices/system/cpu`
//! (Documentation/ABI/testing/sysfs-devices-system-cpu, Linux 6.18).

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use huddle_model::cache::HostCache;
use huddle_model::cpuset::CpuSet;
use huddle_model::topology::{CacheDomain, CacheInfo, CacheSets, Topology, TopologyError};

use super::architecture::Architecture;
use super::{
    HostError, HostRoot, core_class, numa, online, optional, read_cpus, read_number, read_text, status,
};

/// Why the cache domains of this host are not known.
#[derive(Debug, thiserror::Error)]
pub enum TopologyReadError {
    /// A file could not be read or understood.
    #[error(transparent)]
    Host(#[from] HostError),
    /// All CPUs are offline, forbidden or isolated.
    #[error(
        "no CPU is usable: online are {online}, this process may use {allowed}, isolated are {isolated}; \
         start huddle with a wider affinity (taskset) or cpuset"
    )]
    NoUsableCpu {
        /// Online CPUs.
        online: CpuSet,
        /// CPUs in this process's affinity.
        allowed: CpuSet,
        /// CPUs taken from the scheduler by `isolcpus=`.
        isolated: CpuSet,
    },
    /// sysfs has no cache directory for any usable CPU.
    #[error(
        "this host does not report its caches ({path} is missing, as in some cloud VMs), so cache domains \
         are not known; give them with --topology FILE where a command takes it"
    )]
    NoCaches {
        /// The directory looked for.
        path: String,
    },
    /// No usable CPU has a cache at the level that was asked for.
    #[error("no usable CPU has a cache at level {asked}; this host has levels {}; choose one of them with --cache-level", list(.levels))]
    NoSuchLevel {
        /// The level asked for.
        asked: u8,
        /// The levels there are, ascending.
        levels: Vec<u8>,
    },
    /// What sysfs says makes no topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

fn list(levels: &[u8]) -> String {
    levels.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

const CPUS: &str = "devices/system/cpu";

/// The CPUs that are online, see [`online::read`].
pub fn online_cpus(root: &HostRoot) -> Result<CpuSet, HostError> {
    Ok(online::read(root)?.cpus)
}

/// The CPUs that may ever be online.
pub fn possible_cpus(root: &HostRoot) -> Result<CpuSet, HostError> {
    read_cpus(&root.sys(CPUS).join("possible"))
}

/// The CPUs that `isolcpus=` and its like took from the scheduler's balancing; empty where the kernel
/// does not tell.
pub fn isolated_cpus(root: &HostRoot) -> Result<CpuSet, HostError> {
    Ok(known_isolated_cpus(root)?.unwrap_or_default())
}

/// The same; `None` where the kernel does not tell.
pub fn known_isolated_cpus(root: &HostRoot) -> Result<Option<CpuSet>, HostError> {
    optional(read_cpus(&root.sys(CPUS).join("isolated")))
}

/// Whether cores run several threads at once.
///
/// # Errors
/// [`HostError::is_gone`] is true where the kernel knows no SMT.
pub fn smt_active(root: &HostRoot) -> Result<bool, HostError> {
    Ok(read_number::<u64>(&root.sys(CPUS).join("smt/active"))? != 0)
}

/// The CPUs that placements may use: online, in the affinity of this process, not isolated.
///
/// The affinity is the one this process runs with, so a `taskset` in front of huddle, inherited,
/// narrows the answer. It may be empty; [`read`] makes that an error.
pub fn usable_cpus(root: &HostRoot) -> Result<CpuSet, HostError> {
    let allowed = status::own(root)?.cpus_allowed;
    Ok(online_cpus(root)?.intersection(&allowed).difference(&isolated_cpus(root)?))
}

/// The cache domains of the usable CPUs, at `level` or at the default one of
/// [`Topology::from_caches`].
pub fn read(root: &HostRoot, level: Option<u8>) -> Result<Topology, TopologyReadError> {
    let usable = usable_cpus(root)?;
    if usable.is_empty() {
        return Err(TopologyReadError::NoUsableCpu {
            online: online_cpus(root)?,
            allowed: status::own(root)?.cpus_allowed,
            isolated: isolated_cpus(root)?,
        });
    }
    let geometries = cache_geometries(root, &usable)?;
    let caches: Vec<CacheInfo> = geometries.iter().map(|cache| cache.info.clone()).collect();
    let levels = data_levels(&caches);
    if levels.is_empty() {
        let path = root.sys(format!("{CPUS}/cpu{}/cache", usable.first().unwrap_or(0)));
        return Err(TopologyReadError::NoCaches { path: path.display().to_string() });
    }
    if let Some(asked) = level.filter(|asked| !levels.contains(asked)) {
        return Err(TopologyReadError::NoSuchLevel { asked, levels });
    }
    let nodes = nodes(root)?;
    // At a level that was asked for, the kernel is taken at its word.
    let (caches, assumed) = match level {
        Some(_) => (caches, None),
        None => described(root, caches, &usable)?,
    };
    let topology = Topology::from_caches(&caches, &usable, level, |cpu| nodes.get(&cpu).copied())?;
    let classes = core_class::read(root, &usable, &caches)?;
    let contradiction = online::read(root)?.contradiction;
    let sets = sets(&topology, &geometries);
    Ok(topology
        .with_sets(sets)
        .with_cores(cores(root, &usable)?)
        .with_classes(classes)
        .with_notes(contradiction.into_iter().chain(assumed)))
}

/// The caches without those that the kernel only assumes. Where the firmware of an ARM host describes none, the
/// kernel knows of the levels alone, takes all but the first for one cache of all CPUs (`cache_leaves_are_shared`,
/// drivers/base/cacheinfo.c, Linux 6.18), and reports no sizes. Then the clusters of the firmware's map of CPUs
/// (`cluster_cpus_list`, Documentation/admin-guide/cputopology.rst) stand for second-level caches, if there are
/// several.
fn described(
    root: &HostRoot,
    mut caches: Vec<CacheInfo>,
    usable: &CpuSet,
) -> Result<(Vec<CacheInfo>, Option<String>), HostError> {
    let is_assumed = |cache: &CacheInfo| {
        cache.level > 1 && cache.size_bytes.is_none() && usable.is_subset(&cache.shared_cpus)
    };
    let is_described =
        |cache: &CacheInfo| cache.size_bytes.is_some() || (cache.level > 1 && !is_assumed(cache));
    let has_assumed = usable.len() > 1 && caches.iter().any(is_assumed);
    if !has_assumed || caches.iter().any(is_described) || Architecture::of(root) != Architecture::Arm64 {
        return Ok((caches, None));
    }
    caches.retain(|cache| !is_assumed(cache));
    let mut clusters: Vec<CpuSet> = Vec::new();
    for cpu in usable.iter() {
        if clusters.iter().any(|cluster| cluster.contains(cpu)) {
            continue;
        }
        let list = optional(read_cpus(&root.sys(format!("{CPUS}/cpu{cpu}/topology/cluster_cpus_list"))))?;
        clusters.extend(list.filter(|list| list.contains(cpu)));
    }
    let mut note =
        "the firmware describes no caches (the kernel reports no sizes), so that all CPUs share one is an \
                    assumption of the kernel, which is not used"
            .to_owned();
    if clusters.len() > 1 && clusters.iter().any(|cluster| cluster.len() > 1) {
        note.push_str("; the domains are the clusters of CPUs that the firmware names");
        let shared =
            |shared_cpus| CacheInfo { level: 2, instruction_only: false, shared_cpus, size_bytes: None };
        caches.extend(clusters.into_iter().map(shared));
    }
    Ok((caches, Some(note)))
}

/// The usable CPUs of each core that has more than one (SMT); a CPU in none of them is a core of its own.
fn cores(root: &HostRoot, usable: &CpuSet) -> Result<Vec<CpuSet>, HostError> {
    let mut cores: Vec<CpuSet> = Vec::new();
    let mut known = CpuSet::new();
    for cpu in usable.iter() {
        // A host of 1,920 CPUs has 960 cores: each is read once.
        if known.contains(cpu) {
            continue;
        }
        // `core_cpus_list` since Linux 5.3; the other name is older and means the same.
        let directory = root.sys(format!("{CPUS}/cpu{cpu}/topology"));
        let named = |name: &str| optional(read_cpus(&directory.join(name)));
        let siblings = match named("core_cpus_list")? {
            Some(siblings) => Some(siblings),
            None => named("thread_siblings_list")?,
        };
        let core = siblings.map(|siblings| siblings.intersection(usable)).filter(|core| core.len() > 1);
        if let Some(core) = core.filter(|core| core.is_disjoint(&known)) {
            known.extend(&core);
            cores.push(core);
        }
    }
    Ok(cores)
}

/// The levels at which there are caches that hold data, ascending.
pub fn data_levels(caches: &[CacheInfo]) -> Vec<u8> {
    let data = caches.iter().filter(|cache| !cache.instruction_only);
    let mut levels: Vec<u8> = data.map(|cache| cache.level).collect();
    levels.sort_unstable();
    levels.dedup();
    levels
}

/// The distinct caches of these CPUs.
pub fn caches(root: &HostRoot, cpus: &CpuSet) -> Result<Vec<CacheInfo>, HostError> {
    Ok(distinct_caches(root, cpus)?.into_iter().map(|(cache, _)| cache).collect())
}

/// The same with ways and line, as far as they are reported; of caches that are told apart by nothing else, one.
pub fn cache_geometries(root: &HostRoot, cpus: &CpuSet) -> Result<Vec<HostCache>, HostError> {
    let number = |index: &Path, file: &str| -> Result<Option<u32>, HostError> {
        Ok(optional(read_number::<u32>(&index.join(file)))?.filter(|number| *number > 0))
    };
    let geometry = |(info, index): (CacheInfo, PathBuf)| {
        let (ways, line_bytes) =
            (number(&index, "ways_of_associativity")?, number(&index, "coherency_line_size")?);
        Ok(HostCache { info, ways, line_bytes })
    };
    distinct_caches(root, cpus)?.into_iter().map(geometry).collect()
}

/// Each with the directory of one of its CPUs.
fn distinct_caches(root: &HostRoot, cpus: &CpuSet) -> Result<Vec<(CacheInfo, PathBuf)>, HostError> {
    let mut caches: Vec<(CacheInfo, PathBuf)> = Vec::new();
    let mut known: HashSet<CacheInfo> = HashSet::new();
    for cpu in cpus.iter() {
        let directory = root.sys(format!("{CPUS}/cpu{cpu}/cache"));
        // Indexes are numbered from 0 without gaps (drivers/base/cacheinfo.c).
        for index in 0u32.. {
            let index = directory.join(format!("index{index}"));
            let Some(level) = optional(read_number::<u8>(&index.join("level")))? else { break };
            let kind = optional(read_text(&index.join("type")))?;
            // A core that tells no sharing is taken to have the cache for itself.
            let shared_cpus = optional(read_cpus(&index.join("shared_cpu_list")))?
                .filter(|shared| shared.contains(cpu))
                .unwrap_or_else(|| [cpu].into_iter().collect());
            let cache = CacheInfo {
                level,
                instruction_only: kind.is_some_and(|kind| kind.trim() == "Instruction"),
                shared_cpus,
                size_bytes: size_bytes(&index.join("size"))?,
            };
            if known.insert(cache.clone()) {
                caches.push((cache, index));
            }
        }
    }
    Ok(caches)
}

/// How the caches of the domains are divided, as far as sysfs tells.
fn sets(topology: &Topology, caches: &[HostCache]) -> Vec<CacheSets> {
    let of_domain = |domain: &CacheDomain| {
        let is_it = |cache: &&HostCache| {
            Some(cache.info.level) == topology.level()
                && !cache.info.instruction_only
                && !cache.info.shared_cpus.is_disjoint(&domain.cpus)
        };
        let HostCache { ways, line_bytes, .. } = *caches.iter().find(is_it)?;
        (ways.is_some() || line_bytes.is_some()).then_some(CacheSets { domain: domain.id, ways, line_bytes })
    };
    topology.domains().iter().filter_map(of_domain).collect()
}

/// `2048K`, as sysfs prints sizes; `None` where it is not reported.
fn size_bytes(path: &Path) -> Result<Option<u64>, HostError> {
    let Some(text) = optional(read_text(path))? else { return Ok(None) };
    let text = text.trim();
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" => Some(1u64),
        "K" => Some(1 << 10),
        "M" => Some(1 << 20),
        "G" => Some(1 << 30),
        _ => None,
    };
    let size = unit.and_then(|unit| digits.parse::<u64>().ok()?.checked_mul(unit));
    size.map(Some).ok_or_else(|| HostError::parse(path, text, "a size like 2048K"))
}

/// The NUMA node of each CPU; empty on kernels without NUMA.
fn nodes(root: &HostRoot) -> Result<BTreeMap<u32, u32>, HostError> {
    let mut nodes = BTreeMap::new();
    let directory = root.sys("devices/system/node");
    let Some(online) = optional(numa::online_nodes(root))? else { return Ok(nodes) };
    for node in online.iter() {
        let list = optional(read_cpus(&directory.join(format!("node{node}/cpulist"))))?;
        nodes.extend(list.unwrap_or_default().iter().map(|cpu| (cpu, node)));
    }
    Ok(nodes)
}

#[cfg(test)]
mod tests;
