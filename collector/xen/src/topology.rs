//! Cache domains of a Xen host. Xen reports which CPUs are on one core, socket and NUMA node, but nothing
//! about caches: each core is assumed to have one second-level cache, each socket one third-level cache.
//! Where that is wrong (processors with several dies) the user configures the caches.

use std::collections::BTreeMap;

use huddle_model::cpuset::CpuSet;
use huddle_model::topology::{CacheInfo, Topology, TopologyError};

use super::toolstack::{Machine, PhysicalCpu};
use huddle_host::{HostRoot, topology};

/// The level at which a socket has one cache.
const SOCKET_LEVEL: u8 = 3;

/// The level at which a core has one cache.
const CORE_LEVEL: u8 = 2;

/// Facts about caches that Xen does not report.
#[derive(Clone, Debug, Default)]
pub struct KnownCaches {
    /// The CPUs of each last-level cache, as configured; empty for one per socket.
    pub last_level: Vec<CpuSet>,
    /// Size of a cache of each level in bytes, as the processor reports to dom0.
    pub size_bytes: BTreeMap<u8, u64>,
}

impl KnownCaches {
    /// With the cache sizes of the processor (CPUID, through dom0's sysfs). Which CPUs share a cache is
    /// reported only for dom0's own vCPUs, which is useless here.
    pub fn of_host(root: &HostRoot, last_level: Vec<CpuSet>) -> Self {
        let first: CpuSet = [0].into_iter().collect();
        let caches = topology::caches(root, &first).unwrap_or_default();
        let data = caches.into_iter().filter(|cache| !cache.instruction_only);
        let size_bytes = data.filter_map(|cache| Some((cache.level, cache.size_bytes?))).collect();
        Self { last_level, size_bytes }
    }
}

/// Why there are no cache domains.
#[derive(Debug, thiserror::Error)]
pub enum XenTopologyError {
    /// A level that is neither a core's nor a socket's.
    #[error(
        "Xen reports only sockets and cores, taken as caches of level {SOCKET_LEVEL} and {CORE_LEVEL}; \
         there is none of level {0}"
    )]
    NoSuchLevel(u8),
    /// CPUs of a cache that do not exist.
    #[error(
        "[xen] last_level_caches names CPUs {given}, but the host has {existing}; give each CPU once, as `xl info -n` numbers them"
    )]
    NoSuchCpu {
        /// The configured CPUs.
        given: CpuSet,
        /// The existing CPUs.
        existing: CpuSet,
    },
    /// The configured caches are not a valid topology.
    #[error(transparent)]
    Topology(#[from] TopologyError),
}

/// The cache domains of the CPUs that are in a cpupool, at `level` or at the highest that has more than one.
///
/// # Errors
/// No such level; configured caches with other CPUs.
pub fn topology(
    machine: &Machine,
    known: &KnownCaches,
    level: Option<u8>,
) -> Result<Topology, XenTopologyError> {
    if let Some(level) = level.filter(|level| ![CORE_LEVEL, SOCKET_LEVEL].contains(level)) {
        return Err(XenTopologyError::NoSuchLevel(level));
    }
    let existing: CpuSet = machine.cpus.iter().map(|cpu| cpu.cpu).collect();
    if let Some(given) = known.last_level.iter().find(|cpus| !cpus.is_subset(&existing)) {
        return Err(XenTopologyError::NoSuchCpu { given: given.clone(), existing });
    }
    let in_pools: CpuSet = machine.pools.iter().flat_map(|pool| pool.cpus.iter()).collect();
    let cores: Vec<CpuSet> = grouped(&machine.cpus, |cpu| (cpu.socket, cpu.core));
    let sockets = match known.last_level.is_empty() {
        true => grouped(&machine.cpus, |cpu| (cpu.socket, 0)),
        false => known.last_level.clone(),
    };
    let of_level = |level: u8, sets: &[CpuSet]| -> Vec<CacheInfo> {
        let size_bytes = known.size_bytes.get(&level).copied();
        let cache = |cpus: &CpuSet| CacheInfo {
            level,
            instruction_only: false,
            shared_cpus: cpus.clone(),
            size_bytes,
        };
        sets.iter().map(cache).collect()
    };
    let caches = [of_level(CORE_LEVEL, &cores), of_level(SOCKET_LEVEL, &sockets)].concat();
    let node_of = |cpu| machine.cpus.iter().find(|known| known.cpu == cpu).and_then(|known| known.node);
    let usable = in_pools.intersection(&existing);
    let topology = Topology::from_caches(&caches, &usable, level, node_of)?;
    let siblings = cores.iter().map(|core| core.intersection(&usable)).filter(|core| core.len() > 1);
    Ok(topology.with_cores(siblings.collect()))
}

fn grouped<K: Ord>(cpus: &[PhysicalCpu], key: impl Fn(&PhysicalCpu) -> K) -> Vec<CpuSet> {
    let mut sets = BTreeMap::<K, CpuSet>::new();
    for cpu in cpus {
        sets.entry(key(cpu)).or_default().insert(cpu.cpu);
    }
    sets.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::super::toolstack::CpuPool;
    use super::*;

    /// Two sockets of two cores with two threads each; core numbers start again on each socket.
    fn machine() -> Machine {
        let cpu = |cpu: u32| PhysicalCpu { cpu, core: cpu / 2 % 2, socket: cpu / 4, node: Some(cpu / 4) };
        let pool = CpuPool { id: 0, cpus: "0-7".parse().unwrap() };
        Machine { cpus: (0..8).map(cpu).collect(), pools: vec![pool] }
    }

    fn domains(topology: &Topology) -> Vec<String> {
        topology.domains().iter().map(|domain| domain.cpus.to_string()).collect()
    }

    #[test]
    fn a_socket_is_a_last_level_cache_and_a_core_a_second_level_one() {
        let known = KnownCaches { size_bytes: [(3, 20 << 20)].into(), ..KnownCaches::default() };
        let sockets = topology(&machine(), &known, None).unwrap();
        assert_eq!((sockets.level(), domains(&sockets)), (Some(3), vec!["0-3".into(), "4-7".into()]));
        assert_eq!(
            (sockets.domains()[1].size_bytes, &sockets.domains()[1].nodes),
            (Some(20 << 20), &[1].into())
        );
        assert_eq!(sockets.cores_in(&sockets.domains()[0]), 2);
        let cores = topology(&machine(), &known, Some(2)).unwrap();
        assert_eq!(domains(&cores), ["0-1", "2-3", "4-5", "6-7"]);
        assert!(topology(&machine(), &known, Some(1)).is_err());
    }

    #[test]
    fn one_socket_has_its_cores_for_domains_and_cpus_without_a_pool_are_in_none() {
        let mut machine = machine();
        machine.cpus.truncate(4);
        machine.pools[0].cpus = "1-3".parse().unwrap();
        let cores = topology(&machine, &KnownCaches::default(), None).unwrap();
        assert_eq!((cores.level(), domains(&cores)), (Some(2), vec!["1".into(), "2-3".into()]));
    }

    #[test]
    fn configured_caches_replace_sockets() {
        let given = |lists: &[&str]| KnownCaches {
            last_level: lists.iter().map(|list| list.parse().unwrap()).collect(),
            ..KnownCaches::default()
        };
        let dies = topology(&machine(), &given(&["0-1", "2-3", "4-5", "6-7"]), None).unwrap();
        assert_eq!((dies.level(), domains(&dies).len()), (Some(3), 4));
        let error = topology(&machine(), &given(&["0-9"]), None).unwrap_err().to_string();
        assert!(error.contains("0-9") && error.contains("0-7"), "{error}");
    }
}
