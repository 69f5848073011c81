//! Cache domains: the sets of CPUs under one cache.

mod classes;
mod domains;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cpuset::CpuSet;
use crate::schema::TopologyFact;
pub use classes::{CoreClass, CoreClasses};

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

/// How the cache of a domain is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheSets {
    /// The domain.
    pub domain: DomainId,
    /// Lines in a set; `None` if unknown.
    #[serde(default)]
    pub ways: Option<u32>,
    /// Bytes of a line; `None` if unknown.
    #[serde(default)]
    pub line_bytes: Option<u32>,
}

/// The JSON of a topology, before it is checked.
#[derive(Deserialize)]
struct File {
    #[serde(default)]
    level: Option<u8>,
    domains: Vec<CacheDomain>,
    #[serde(default)]
    cores: Vec<CpuSet>,
    #[serde(default)]
    classes: CoreClasses,
    #[serde(default)]
    by_node: bool,
    #[serde(default)]
    sets: Vec<CacheSets>,
    #[serde(default)]
    notes: Vec<String>,
}

impl Topology {
    /// As a manifest has it.
    pub(crate) fn from_fact(fact: &TopologyFact) -> Result<Self, TopologyError> {
        Self::try_from(File {
            level: fact.level,
            domains: fact.domains.clone(),
            cores: fact.cores.clone(),
            classes: fact.classes.clone(),
            by_node: fact.by_node,
            sets: fact.sets.clone(),
            notes: fact.notes.clone(),
        })
    }
}

impl TryFrom<File> for Topology {
    type Error = TopologyError;

    fn try_from(file: File) -> Result<Self, TopologyError> {
        let topology = Self::new(file.level, file.domains)?;
        let topology = topology.with_cores(file.cores).with_classes(file.classes).with_notes(file.notes);
        let topology = topology.with_sets(file.sets);
        Ok(Self { by_node: file.by_node, ..topology })
    }
}

/// The cache domains of a host at one cache level: non-empty, disjoint, ids unique.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "File")]
pub struct Topology {
    /// Cache level of the domains; `None` if they come from a file or are NUMA nodes.
    level: Option<u8>,
    domains: Vec<CacheDomain>,
    /// CPUs of one core each (SMT siblings); empty if unknown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cores: Vec<CpuSet>,
    /// Classes of the cores; empty if all are of one class or unknown.
    #[serde(skip_serializing_if = "CoreClasses::is_empty")]
    classes: CoreClasses,
    /// Whether the domains are NUMA nodes, since no shared cache is known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    by_node: bool,
    /// How the caches are divided; empty if unknown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sets: Vec<CacheSets>,
    /// What was inferred about the domains, one sentence each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
        let (cores, classes, notes) = (Vec::new(), CoreClasses::default(), Vec::new());
        Ok(Self { level, domains, cores, classes, by_node: false, sets: Vec::new(), notes })
    }

    /// The same with cores: the CPUs of each (SMT siblings), disjoint.
    #[must_use]
    pub fn with_cores(self, cores: Vec<CpuSet>) -> Self {
        Self { cores, ..self }
    }

    /// The same with the classes of the cores; those of other CPUs than the domains' are dropped, and all if one class
    /// is left.
    #[must_use]
    pub fn with_classes(self, classes: CoreClasses) -> Self {
        let classes = classes.within(&self.cpus());
        let classes = if classes.len() > 1 { classes } else { CoreClasses::default() };
        Self { classes, ..self }
    }

    /// The same with how the caches of its domains are divided.
    #[must_use]
    pub fn with_sets(self, sets: Vec<CacheSets>) -> Self {
        Self { sets, ..self }
    }

    /// The same with more notes.
    #[must_use]
    pub fn with_notes(mut self, notes: impl IntoIterator<Item = String>) -> Self {
        self.notes.extend(notes);
        self
    }

    /// Classes of the cores; empty if all are of one class or unknown.
    pub fn classes(&self) -> &CoreClasses {
        &self.classes
    }

    /// Classes of the cores of a domain; empty if all cores of the host are of one class or unknown.
    pub fn classes_in(&self, domain: &CacheDomain) -> CoreClasses {
        self.classes.within(&domain.cpus)
    }

    /// CPUs of one core each (SMT siblings); empty if unknown.
    pub fn cores(&self) -> &[CpuSet] {
        &self.cores
    }

    /// How the caches of domains are divided, as far as known.
    pub fn sets(&self) -> &[CacheSets] {
        &self.sets
    }

    /// Whether the domains are NUMA nodes, since no shared cache is known.
    pub fn is_by_node(&self) -> bool {
        self.by_node
    }

    /// What was inferred about the domains because the host does not report it, one sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
    /// [`Topology::single_domain_note`]). Usable CPUs without a cache at the level belong to the next wider cache, or
    /// the widest narrower one that they share, or to their NUMA node. Where no cache at all is shared, the domains
    /// are the NUMA nodes. [`Topology::notes`] says so. Domains are numbered from 0 in ascending order of their first
    /// CPU. `node_of` returns the NUMA node of a CPU.
    pub fn from_caches(
        caches: &[CacheInfo],
        usable: &CpuSet,
        level: Option<u8>,
        node_of: impl Fn(u32) -> Option<u32>,
    ) -> Result<Self, TopologyError> {
        let drawn = domains::draw(caches, usable, level, &node_of);
        let topology = Self::new(drawn.level, drawn.domains)?.with_notes(drawn.notes);
        Ok(Self { by_node: drawn.level.is_none(), ..topology })
    }

    /// The cache level of the domains; `None` if they come from a file or are NUMA nodes.
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
        if self.by_node {
            return Some(format!(
                "all usable CPUs ({}) are one domain, since no shared cache is known: every placement is the same; \
                 give the cache domains with --topology FILE where a command takes it",
                only.cpus
            ));
        }
        let level = self.level.map_or_else(String::new, |level| format!(" at level {level}"));
        Some(format!(
            "all usable CPUs ({}) share one cache{level}: every placement is the same; \
             choose a lower --cache-level, or a host with more caches",
            only.cpus
        ))
    }
}
