//! Cache domains: the sets of CPUs under one cache.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cpuset::CpuSet;

/// Number of a cache domain within one [`Topology`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DomainId(pub u32);

impl std::fmt::Display for DomainId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The usable CPUs under one cache at the chosen level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "FileDomain", into = "FileDomain")]
pub struct CacheDomain {
    /// Unique within the topology.
    pub id: DomainId,
    /// Usable CPUs (online, allowed, not isolated), never empty.
    pub cpus: CpuSet,
    /// Size of the cache in bytes, if known.
    pub size_bytes: Option<u64>,
    /// NUMA nodes of its CPUs: usually one, several if a cache spans them; empty if unknown.
    pub nodes: BTreeSet<u32>,
}

impl CacheDomain {
    /// The NUMA nodes as a list like a cpulist (`0`, `0-1`, `0,2`); `None` if unknown.
    pub fn nodes_text(&self) -> Option<String> {
        let list: CpuSet = self.nodes.iter().copied().collect();
        (!list.is_empty()).then(|| list.to_string())
    }
}

/// The JSON of a cache domain: `node` if it is on one node, `nodes` if it spans several.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDomain {
    id: DomainId,
    cpus: CpuSet,
    #[serde(default)]
    size_bytes: Option<u64>,
    #[serde(default)]
    node: Option<u32>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    nodes: BTreeSet<u32>,
}

impl From<FileDomain> for CacheDomain {
    fn from(file: FileDomain) -> Self {
        let FileDomain { id, cpus, size_bytes, node, mut nodes } = file;
        nodes.extend(node);
        Self { id, cpus, size_bytes, nodes }
    }
}

impl From<CacheDomain> for FileDomain {
    fn from(domain: CacheDomain) -> Self {
        let CacheDomain { id, cpus, size_bytes, nodes } = domain;
        let (node, nodes) = match nodes.len() {
            0 | 1 => (nodes.first().copied(), BTreeSet::new()),
            _ => (None, nodes),
        };
        Self { id, cpus, size_bytes, node, nodes }
    }
}

/// The JSON of a topology, before it is checked.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    level: Option<u8>,
    domains: Vec<CacheDomain>,
    #[serde(default)]
    cores: Vec<CpuSet>,
}

impl TryFrom<File> for Topology {
    type Error = TopologyError;

    fn try_from(file: File) -> Result<Self, TopologyError> {
        Ok(Self::new(file.level, file.domains)?.with_cores(file.cores))
    }
}

/// The cache domains of a host at one cache level: non-empty, disjoint, ids unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "File")]
pub struct Topology {
    /// Cache level of the domains; `None` if they come from a file.
    level: Option<u8>,
    domains: Vec<CacheDomain>,
    /// CPUs of one core each (SMT siblings); empty if unknown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cores: Vec<CpuSet>,
}

/// An invalid topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// No domain at all.
    #[error(
        "the topology has no domain; give at least one, as {{\"domains\":[{{\"id\":0,\"cpus\":[0,1]}}]}}"
    )]
    NoDomain,
    /// A domain without CPUs.
    #[error("domain {0} of the topology has no CPU; give it one or leave it out")]
    EmptyDomain(DomainId),
    /// A CPU in two domains.
    #[error(
        "CPU {cpu} is in domain {first} and in domain {second} of the topology; a CPU has one cache at a level"
    )]
    Overlap {
        /// The CPU.
        cpu: u32,
        /// The first domain with it.
        first: DomainId,
        /// The second domain with it.
        second: DomainId,
    },
    /// Two domains with one id.
    #[error("two domains of the topology have the id {0}; ids must differ")]
    DuplicateId(DomainId),
    /// Not the JSON of a topology.
    #[error(
        "not a topology: {0}; expected {{\"domains\":[{{\"id\":0,\"cpus\":[0,1],\"size_bytes\":20971520,\"node\":0}}]}}"
    )]
    Json(String),
}

/// One cache from sysfs, unrestricted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheInfo {
    /// Level, 1 being nearest to the core.
    pub level: u8,
    /// Whether it holds instructions only (such caches form no domains).
    pub instruction_only: bool,
    /// CPUs that share it.
    pub shared_cpus: CpuSet,
    /// Size in bytes, if sysfs has it.
    pub size_bytes: Option<u64>,
}

impl Topology {
    /// A topology of valid `domains`, in ascending order of id.
    pub fn new(level: Option<u8>, mut domains: Vec<CacheDomain>) -> Result<Self, TopologyError> {
        if domains.is_empty() {
            return Err(TopologyError::NoDomain);
        }
        domains.sort_by_key(|domain| domain.id);
        let mut owner = BTreeMap::new();
        let mut ids = BTreeSet::new();
        for domain in &domains {
            if domain.cpus.is_empty() {
                return Err(TopologyError::EmptyDomain(domain.id));
            }
            if !ids.insert(domain.id) {
                return Err(TopologyError::DuplicateId(domain.id));
            }
            for cpu in domain.cpus.iter() {
                if let Some(first) = owner.insert(cpu, domain.id) {
                    return Err(TopologyError::Overlap { cpu, first, second: domain.id });
                }
            }
        }
        Ok(Self { level, domains, cores: Vec::new() })
    }

    /// The same with cores: the CPUs of each (SMT siblings), disjoint.
    #[must_use]
    pub fn with_cores(self, cores: Vec<CpuSet>) -> Self {
        Self { cores, ..self }
    }

    /// Number of cores of a domain; a CPU whose core is unknown counts as one.
    pub fn cores_in(&self, domain: &CacheDomain) -> usize {
        let known = self.cores.iter().filter(|core| !core.is_disjoint(&domain.cpus));
        let (mut cores, mut rest) = (0, domain.cpus.clone());
        for core in known {
            cores += 1;
            rest = rest.difference(core);
        }
        cores + rest.len()
    }

    /// Reads the JSON of `--topology FILE`.
    pub fn from_json(text: &str) -> Result<Self, TopologyError> {
        let file: File =
            serde_json::from_str(text).map_err(|error| TopologyError::Json(error.to_string()))?;
        Self::try_from(file)
    }

    /// The domains of a host: `caches` restricted to the `usable` CPUs.
    ///
    /// With `level`, the domains of that level; otherwise those of the highest level at which the usable CPUs
    /// form more than one domain, and of the highest existing level if no level does (then there is a
    /// [`Topology::single_domain_note`]). A usable CPU without a cache at the level (an offline description,
    /// or a core without it) gets its own domain, without a size. Domains are numbered from 0 in ascending
    /// order of their first CPU. `node_of` returns the NUMA node of a CPU.
    pub fn from_caches(
        caches: &[CacheInfo],
        usable: &CpuSet,
        level: Option<u8>,
        node_of: impl Fn(u32) -> Option<u32>,
    ) -> Result<Self, TopologyError> {
        let mut levels: Vec<u8> =
            caches.iter().filter(|cache| !cache.instruction_only).map(|cache| cache.level).collect();
        levels.sort_unstable();
        levels.dedup();
        let at = |level: u8| domains_at(caches, usable, level, &node_of);
        let (level, domains) = match level {
            Some(level) => (Some(level), at(level)),
            None => match levels.iter().rev().map(|level| (*level, at(*level))).find(|(_, d)| d.len() > 1) {
                Some((level, domains)) => (Some(level), domains),
                None => match levels.last() {
                    Some(level) => (Some(*level), at(*level)),
                    None => (None, domains_at(&[], usable, 0, &node_of)),
                },
            },
        };
        Self::new(level, domains)
    }

    /// The cache level of the domains; `None` if they come from a file.
    pub fn level(&self) -> Option<u8> {
        self.level
    }

    /// The domains in ascending order of id.
    pub fn domains(&self) -> &[CacheDomain] {
        &self.domains
    }

    /// The domain with this id.
    pub fn domain(&self, id: DomainId) -> Option<&CacheDomain> {
        self.domains.iter().find(|domain| domain.id == id)
    }

    /// The domain that contains `cpu`.
    pub fn domain_of(&self, cpu: u32) -> Option<DomainId> {
        self.domains.iter().find(|domain| domain.cpus.contains(cpu)).map(|domain| domain.id)
    }

    /// All CPUs of all domains.
    pub fn cpus(&self) -> CpuSet {
        self.domains.iter().flat_map(|domain| domain.cpus.iter()).collect()
    }

    /// The note for the user if there is only one domain, so that placement cannot matter.
    pub fn single_domain_note(&self) -> Option<String> {
        let [only] = self.domains.as_slice() else { return None };
        let level = self.level.map_or_else(String::new, |level| format!(" at level {level}"));
        Some(format!(
            "all usable CPUs ({}) share one cache{level}: every placement is the same; \
             choose a lower --cache-level, or a host with more caches",
            only.cpus
        ))
    }
}

fn domains_at(
    caches: &[CacheInfo],
    usable: &CpuSet,
    level: u8,
    node_of: &impl Fn(u32) -> Option<u32>,
) -> Vec<CacheDomain> {
    let mut left = usable.clone();
    let mut found: Vec<(CpuSet, Option<u64>)> = Vec::new();
    for cache in caches.iter().filter(|cache| cache.level == level && !cache.instruction_only) {
        let cpus = cache.shared_cpus.intersection(&left);
        if !cpus.is_empty() {
            left = left.difference(&cpus);
            found.push((cpus, cache.size_bytes));
        }
    }
    found.extend(left.iter().map(|cpu| ([cpu].into_iter().collect(), None)));
    found.sort_by_key(|(cpus, _)| cpus.first());
    found
        .into_iter()
        .zip(0u32..)
        .map(|((cpus, size_bytes), id)| {
            let nodes = cpus.iter().filter_map(node_of).collect();
            CacheDomain { id: DomainId(id), cpus, size_bytes, nodes }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cache(level: u8, cpus: &str, kib: u64) -> CacheInfo {
        CacheInfo {
            level,
            instruction_only: false,
            shared_cpus: cpus.parse().unwrap(),
            size_bytes: Some(kib * 1024),
        }
    }

    /// Two sockets of two cores with two threads: private L2, one L3 per socket.
    fn two_sockets() -> Vec<CacheInfo> {
        let mut caches = vec![cache(3, "0-3", 20480), cache(3, "4-7", 20480)];
        for core in 0..4u32 {
            caches.push(cache(2, &format!("{}-{}", core * 2, core * 2 + 1), 256));
        }
        caches
    }

    #[test]
    fn siblings_are_one_core() {
        let usable = "0-6".parse().unwrap();
        let topology = Topology::from_caches(&two_sockets(), &usable, Some(3), |_| None).unwrap();
        let counted = |topology: &Topology| -> Vec<usize> {
            topology.domains().iter().map(|domain| topology.cores_in(domain)).collect()
        };
        assert_eq!(counted(&topology), [4, 3], "cores are unknown");
        let cores = ["0-1", "2-3", "6-7"].map(|core| core.parse().unwrap()).to_vec();
        let topology = topology.with_cores(cores);
        // In the second socket the core of 4 and 5 is unknown, and 7 is not usable.
        assert_eq!(counted(&topology), [2, 3]);
        let text = serde_json::to_string(&topology).unwrap();
        assert_eq!(Topology::from_json(&text).unwrap(), topology);
    }

    fn cpus(topology: &Topology) -> Vec<String> {
        topology.domains().iter().map(|domain| domain.cpus.to_string()).collect()
    }

    #[test]
    fn the_default_level_is_the_highest_that_separates_the_usable_cpus() {
        let all = "0-7".parse().unwrap();
        let topology = Topology::from_caches(&two_sockets(), &all, None, |cpu| Some(cpu / 4)).unwrap();
        assert_eq!((topology.level(), cpus(&topology)), (Some(3), vec!["0-3".into(), "4-7".into()]));
        assert_eq!(topology.domains()[1].nodes, [1].into());

        let one_socket = "0-3".parse().unwrap();
        let topology = Topology::from_caches(&two_sockets(), &one_socket, None, |_| None).unwrap();
        assert_eq!((topology.level(), cpus(&topology)), (Some(2), vec!["0-1".into(), "2-3".into()]));
        assert_eq!(topology.single_domain_note(), None);
    }

    #[test]
    fn a_single_domain_has_a_note() {
        let topology =
            Topology::from_caches(&two_sockets(), &"0-1".parse().unwrap(), None, |_| None).unwrap();
        assert_eq!(topology.level(), Some(3));
        assert!(topology.single_domain_note().unwrap().contains("(0-1) share one cache at level 3"));
    }

    #[test]
    fn a_given_level_is_used_and_cpus_without_a_cache_are_alone() {
        let topology =
            Topology::from_caches(&[cache(2, "0-1", 256)], &"0-2".parse().unwrap(), Some(2), |_| None)
                .unwrap();
        assert_eq!(cpus(&topology), ["0-1", "2"]);
        assert_eq!(topology.domains()[1].size_bytes, None);
    }

    #[test]
    fn invalid_files_are_rejected() {
        for (json, word) in [
            (r#"{"domains":[]}"#, "no domain"),
            (r#"{"domains":[{"id":0,"cpus":[]}]}"#, "no CPU"),
            (r#"{"domains":[{"id":0,"cpus":[0,1]},{"id":1,"cpus":[1]}]}"#, "CPU 1 is in domain 0"),
            (r#"{"domains":[{"id":0,"cpus":[0]},{"id":0,"cpus":[1]}]}"#, "id 0"),
            (r#"{"domains":[{"id":0,"cpus":[-1]}]}"#, "not a topology"),
            (r#"{"domains":[{"id":0,"cpus":[0],"size":1}]}"#, "size"),
            ("", "not a topology"),
        ] {
            let error = Topology::from_json(json).unwrap_err().to_string();
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn the_documented_json_is_read() {
        let json = r#"{"domains":[{"id":0,"cpus":[0,1],"size_bytes":20971520,"node":0}]}"#;
        let topology = Topology::from_json(json).unwrap();
        assert_eq!(topology.domain_of(1), Some(DomainId(0)));
        assert_eq!(topology.domain_of(2), None);
    }

    proptest! {
        #[test]
        fn domains_partition_the_usable_cpus(
            caches in proptest::collection::vec((1u8..4, proptest::collection::btree_set(0u32..16, 1..6)), 0..12),
            usable in proptest::collection::btree_set(0u32..16, 1..16),
            level in proptest::option::of(1u8..4),
        ) {
            let caches: Vec<_> = caches.into_iter().map(|(level, cpus)| CacheInfo {
                level, instruction_only: false, shared_cpus: cpus.into_iter().collect(), size_bytes: None,
            }).collect();
            let usable: CpuSet = usable.into_iter().collect();
            let topology = Topology::from_caches(&caches, &usable, level, |_| None).unwrap();
            prop_assert_eq!(topology.cpus(), usable.clone());
            let total: usize = topology.domains().iter().map(|domain| domain.cpus.len()).sum();
            prop_assert_eq!(total, usable.len());
        }
    }
}
