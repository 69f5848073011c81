//! The rule that makes cache domains of what a host reports.
//!
//! At a level each cache is a domain: its usable CPUs. A CPU without a cache at that level (low-power cores, gaps in
//! the firmware's tables) is no domain of its own, or every vCPU placed there would be confined to one CPU. It belongs
//! to the next wider cache, else to the widest narrower one that it shares with others, else to its NUMA node. Where
//! even the highest level has only caches of one CPU each, no shared cache is known (some ARM servers do not describe
//! their system cache, some hypervisors none at all), and the domains are the NUMA nodes.

use std::collections::{BTreeMap, BTreeSet};

use super::{CacheDomain, CacheInfo, DomainId};
use crate::cpuset::CpuSet;

/// Domains, and how they came about.
#[derive(Debug)]
pub(super) struct Drawn {
    /// The level; `None` if the domains are NUMA nodes.
    pub(super) level: Option<u8>,
    /// The domains in ascending order of their first CPU.
    pub(super) domains: Vec<CacheDomain>,
    /// What was inferred, one sentence each.
    pub(super) notes: Vec<String>,
}

/// A set of CPUs that is to be a domain, with the size of its cache.
type Part = (CpuSet, Option<u64>);

/// The domains of `usable` at `level`, or at the highest level at which there are several.
pub(super) fn draw(
    caches: &[CacheInfo],
    usable: &CpuSet,
    level: Option<u8>,
    node_of: &impl Fn(u32) -> Option<u32>,
) -> Drawn {
    let data: Vec<&CacheInfo> = caches.iter().filter(|cache| !cache.instruction_only).collect();
    let host = Host { data, usable, node_of };
    if let Some(level) = level {
        let mut drawn = host.at(level);
        drawn.notes.extend(host.of_one_cpu_each(level));
        return drawn;
    }
    let levels = host.levels();
    let Some(highest) = levels.last().copied() else { return host.by_nodes("the host reports no caches") };
    if usable.len() > 1 && !host.caches(highest).any(is_shared) {
        let why = format!("each cache up to level {highest} belongs to one CPU, so no shared cache is known");
        return host.by_nodes(&why);
    }
    let several = levels.iter().rev().map(|level| (*level, host.at(*level)));
    let Some((level, mut drawn)) = several.into_iter().find(|(_, drawn)| drawn.domains.len() > 1) else {
        return host.at(highest);
    };
    if level < highest {
        drawn.notes.push(format!(
            "all usable CPUs share one cache at level {highest}, so the domains are the caches at level {level}"
        ));
        drawn.notes.extend(host.of_one_cpu_each(level));
    }
    drawn
}

fn is_shared(cache: &CacheInfo) -> bool {
    cache.shared_cpus.len() > 1
}

struct Host<'a, F> {
    /// Caches that hold data.
    data: Vec<&'a CacheInfo>,
    usable: &'a CpuSet,
    node_of: &'a F,
}

impl<F: Fn(u32) -> Option<u32>> Host<'_, F> {
    fn levels(&self) -> Vec<u8> {
        let levels: BTreeSet<u8> = self.data.iter().map(|cache| cache.level).collect();
        levels.into_iter().collect()
    }

    fn caches(&self, level: u8) -> impl Iterator<Item = &CacheInfo> {
        self.data.iter().copied().filter(move |cache| cache.level == level)
    }

    /// Says so where each cache at a level belongs to one CPU.
    fn of_one_cpu_each(&self, level: u8) -> Option<String> {
        let mut caches = self.caches(level).peekable();
        let is_alone = self.usable.len() > 1 && caches.peek().is_some() && !caches.any(is_shared);
        is_alone.then(|| {
            format!(
                "each cache at level {level} belongs to one CPU: a vCPU placed on one runs on that CPU alone"
            )
        })
    }

    fn at(&self, level: u8) -> Drawn {
        let mut left = self.usable.clone();
        let mut parts: Vec<Part> = Vec::new();
        let mut notes = Vec::new();
        for cache in self.caches(level) {
            let cpus = cache.shared_cpus.intersection(&left);
            if !cpus.is_empty() {
                left = left.difference(&cpus);
                parts.push((cpus, cache.size_bytes));
            }
        }
        let levels = self.levels();
        for wider in levels.iter().filter(|wider| **wider > level) {
            for cache in self.caches(*wider) {
                let cpus = cache.shared_cpus.intersection(&left);
                if cpus.len() < 2 {
                    continue;
                }
                left = left.difference(&cpus);
                notes.push(format!(
                    "{} have no cache at level {level}: they count as one domain, by the cache at level {wider}",
                    named(&cpus)
                ));
                // The size is that of a domain only if it has the whole cache.
                let has_all = cache.shared_cpus.intersection(self.usable) == cpus;
                parts.push((cpus, cache.size_bytes.filter(|_| has_all)));
            }
        }
        for narrower in levels.iter().rev().filter(|narrower| **narrower < level) {
            for cache in self.caches(*narrower).filter(|cache| is_shared(cache)) {
                let cpus = cache.shared_cpus.intersection(self.usable);
                // One that is also of CPUs with a cache at the level contradicts that.
                if cpus.is_empty() || !cpus.is_subset(&left) {
                    continue;
                }
                left = left.difference(&cpus);
                notes.push(format!(
                    "{} no cache at level {level}: their domain is the cache at level {narrower}",
                    having(&cpus)
                ));
                parts.push((cpus, cache.size_bytes));
            }
        }
        for (node, cpus) in self.nodes(&left) {
            let by =
                node.map_or_else(|| "no NUMA node is known".to_owned(), |node| format!("NUMA node {node}"));
            let beside = if cpus.len() == 1 { self.largest_on(node, &mut parts) } else { None };
            if let Some((joined, _)) = beside {
                notes.push(format!(
                    "{} no cache at level {level}: counted to the domain of CPUs {joined}, by {by}",
                    having(&cpus)
                ));
                joined.extend(&cpus);
            } else {
                notes.push(format!(
                    "{} no cache at level {level} and share none of another: one domain, by {by}",
                    having(&cpus)
                ));
                parts.push((cpus, None));
            }
        }
        self.drawn(Some(level), parts, notes)
    }

    /// The largest part with CPUs of the node, for a CPU that would be alone.
    fn largest_on<'p>(&self, node: Option<u32>, parts: &'p mut [Part]) -> Option<&'p mut Part> {
        let here = parts.iter_mut().filter(|(cpus, _)| cpus.iter().any(|cpu| (self.node_of)(cpu) == node));
        here.max_by_key(|(cpus, _)| (cpus.len(), std::cmp::Reverse(cpus.first())))
    }

    /// `cpus` by their node; those whose node is unknown are together.
    fn nodes(&self, cpus: &CpuSet) -> BTreeMap<Option<u32>, CpuSet> {
        let mut nodes = BTreeMap::<Option<u32>, CpuSet>::new();
        for cpu in cpus.iter() {
            nodes.entry((self.node_of)(cpu)).or_default().insert(cpu);
        }
        nodes
    }

    fn by_nodes(&self, why: &str) -> Drawn {
        let nodes = self.nodes(self.usable);
        let note = match nodes.keys().all(Option::is_some) {
            true => format!("{why}: the domains are the NUMA nodes"),
            false => format!("{why}, and not all NUMA nodes are: CPUs without a known node are one domain"),
        };
        self.drawn(None, nodes.into_values().map(|cpus| (cpus, None)).collect(), vec![note])
    }

    fn drawn(&self, level: Option<u8>, mut parts: Vec<Part>, notes: Vec<String>) -> Drawn {
        parts.sort_by_key(|(cpus, _)| cpus.first());
        let domain = |((cpus, size_bytes), id): (Part, u32)| {
            let nodes = cpus.iter().filter_map(self.node_of).collect();
            CacheDomain { id: DomainId(id), cpus, size_bytes, nodes }
        };
        Drawn { level, domains: parts.into_iter().zip(0..).map(domain).collect(), notes }
    }
}

/// `CPU 7`, `CPUs 2-5`.
fn named(cpus: &CpuSet) -> String {
    if cpus.len() == 1 { format!("CPU {cpus}") } else { format!("CPUs {cpus}") }
}

fn having(cpus: &CpuSet) -> String {
    format!("{} {}", named(cpus), if cpus.len() == 1 { "has" } else { "have" })
}
