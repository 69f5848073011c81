//! Cache domains and usable CPUs from `/sys/devices/system/cpu`
//! (Documentation/ABI/testing/sysfs-devices-system-cpu, Linux 6.18).

use std::collections::BTreeMap;
use std::path::Path;

use huddle_model::cpuset::CpuSet;
use huddle_model::topology::{CacheInfo, Topology, TopologyError};

use super::{HostError, HostRoot, numa, optional, read_cpus, read_number, read_text, status};

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

/// The CPUs that are online.
pub fn online_cpus(root: &HostRoot) -> Result<CpuSet, HostError> {
    read_cpus(&root.sys(CPUS).join("online"))
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
    let caches = caches(root, &usable)?;
    let levels = data_levels(&caches);
    if levels.is_empty() {
        let path = root.sys(format!("{CPUS}/cpu{}/cache", usable.first().unwrap_or(0)));
        return Err(TopologyReadError::NoCaches { path: path.display().to_string() });
    }
    if let Some(asked) = level.filter(|asked| !levels.contains(asked)) {
        return Err(TopologyReadError::NoSuchLevel { asked, levels });
    }
    let nodes = nodes(root)?;
    let topology = Topology::from_caches(&caches, &usable, level, |cpu| nodes.get(&cpu).copied())?;
    Ok(topology.with_cores(cores(root, &usable)?))
}

/// The usable CPUs of each core that has more than one (SMT); a CPU in none of them is a core of its own.
fn cores(root: &HostRoot, usable: &CpuSet) -> Result<Vec<CpuSet>, HostError> {
    let mut cores: Vec<CpuSet> = Vec::new();
    for cpu in usable.iter() {
        // `core_cpus_list` since Linux 5.3; the other name is older and means the same.
        let directory = root.sys(format!("{CPUS}/cpu{cpu}/topology"));
        let named = |name: &str| optional(read_cpus(&directory.join(name)));
        let siblings = match named("core_cpus_list")? {
            Some(siblings) => Some(siblings),
            None => named("thread_siblings_list")?,
        };
        let core = siblings.map(|siblings| siblings.intersection(usable)).filter(|core| core.len() > 1);
        cores.extend(core.filter(|core| !cores.contains(core)));
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
    let mut caches: Vec<CacheInfo> = Vec::new();
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
            if !caches.contains(&cache) {
                caches.push(cache);
            }
        }
    }
    Ok(caches)
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
mod tests {
    use super::*;

    /// Two sockets of four CPUs, L2 per pair of threads, L3 per socket.
    fn two_sockets() -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let write = |path: String, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("{text}\n")).unwrap();
        };
        write("proc/self/status".into(), "CapEff:\t0\nCpus_allowed_list:\t0-63");
        write("sys/devices/system/cpu/online".into(), "0-7");
        write("sys/devices/system/cpu/isolated".into(), "");
        write("sys/devices/system/node/online".into(), "0,2");
        write("sys/devices/system/node/node0/cpulist".into(), "0-3");
        write("sys/devices/system/node/node2/cpulist".into(), "4-7");
        for cpu in 0..8u32 {
            let pair = format!("{}-{}", cpu / 2 * 2, cpu / 2 * 2 + 1);
            let socket = format!("{}-{}", cpu / 4 * 4, cpu / 4 * 4 + 3);
            for (index, level, kind, size, shared) in [
                (0, "1", "Data", "48K", &pair),
                (1, "1", "Instruction", "32K", &pair),
                (2, "2", "Unified", "2048K", &pair),
                (3, "3", "Unified", "20M", &socket),
            ] {
                let at = format!("sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
                write(format!("{at}/level"), level);
                write(format!("{at}/type"), kind);
                write(format!("{at}/size"), size);
                write(format!("{at}/shared_cpu_list"), shared);
            }
        }
        (dir, root)
    }

    fn domains(topology: &Topology) -> Vec<(String, Option<u64>, Option<u32>)> {
        let domain = topology.domains().iter();
        domain
            .map(|domain| (domain.cpus.to_string(), domain.size_bytes, domain.nodes.first().copied()))
            .collect()
    }

    #[test]
    fn domains_are_drawn_at_the_default_and_the_asked_level() {
        let (_dir, root) = two_sockets();
        let topology = read(&root, None).unwrap();
        let size = Some(20 << 20);
        assert_eq!(topology.level(), Some(3));
        assert_eq!(domains(&topology), [("0-3".into(), size, Some(0)), ("4-7".into(), size, Some(2))]);
        assert_eq!(read(&root, Some(2)).unwrap().domains().len(), 4);
        let error = read(&root, Some(4)).unwrap_err().to_string();
        assert!(error.contains("level 4") && error.contains("1, 2, 3"), "{error}");
    }

    #[test]
    fn siblings_are_told_by_either_name() {
        let (_dir, root) = two_sockets();
        let count = || {
            let topology = read(&root, None).unwrap();
            let cores = topology.domains().iter().map(|domain| topology.cores_in(domain));
            cores.collect::<Vec<_>>()
        };
        assert_eq!(count(), [4, 4], "nothing is told");
        for (cpu, name, list) in
            [(0, "core_cpus_list", "0-1"), (1, "core_cpus_list", "0-1"), (6, "thread_siblings_list", "6-7")]
        {
            let directory = root.sys(format!("{CPUS}/cpu{cpu}/topology"));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join(name), list).unwrap();
        }
        assert_eq!(count(), [3, 3]);
        std::fs::write(root.sys("devices/system/cpu/isolated"), "1\n").unwrap();
        assert_eq!(count(), [3, 3], "the core of CPU 0 has one usable CPU left");
    }

    #[test]
    fn only_usable_cpus_count() {
        let (_dir, root) = two_sockets();
        std::fs::write(root.sys("devices/system/cpu/isolated"), "2-3\n").unwrap();
        std::fs::write(root.proc("self/status"), "CapEff:\t0\nCpus_allowed_list:\t1-3,6\n").unwrap();
        assert_eq!(usable_cpus(&root).unwrap().to_string(), "1,6");
        let topology = read(&root, Some(3)).unwrap();
        assert_eq!(topology.cpus().to_string(), "1,6");
        std::fs::write(root.proc("self/status"), "CapEff:\t0\nCpus_allowed_list:\t2\n").unwrap();
        let error = read(&root, None).unwrap_err().to_string();
        assert!(error.contains("isolated are 2-3") && error.contains("taskset"), "{error}");
    }

    #[test]
    fn a_host_that_hides_its_caches_is_told_apart_from_one_with_many() {
        let (_dir, root) = two_sockets();
        for cpu in 0..8 {
            std::fs::remove_dir_all(root.sys(format!("devices/system/cpu/cpu{cpu}/cache"))).unwrap();
        }
        assert!(matches!(read(&root, None), Err(TopologyReadError::NoCaches { .. })));
        std::fs::remove_file(root.sys("devices/system/cpu/online")).unwrap();
        assert!(matches!(read(&root, None), Err(TopologyReadError::Host(_))));
    }

    #[test]
    fn damage_is_named() {
        let (_dir, root) = two_sockets();
        let size = root.sys("devices/system/cpu/cpu5/cache/index3/size");
        for text in ["20Q", "K", "99999999999999999999K"] {
            std::fs::write(&size, text).unwrap();
            let error = read(&root, None).unwrap_err().to_string();
            assert!(error.contains("cpu5/cache/index3/size") && error.contains(text), "{error}");
        }
    }

    #[test]
    fn this_host_has_usable_cpus() {
        let root = HostRoot::real();
        let usable = usable_cpus(&root).unwrap();
        assert!(!usable.is_empty());
        match read(&root, None) {
            Ok(topology) => assert_eq!(topology.cpus(), usable),
            Err(error) => assert!(matches!(error, TopologyReadError::NoCaches { .. }), "{error}"),
        }
    }
}
