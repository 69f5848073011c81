//! The caches of machines that are documented, and those of a host.

use super::{CacheDescription, CacheError, CacheModel, Inclusion, PrivateLevel, Replacement};
use crate::topology::{CacheInfo, Topology};

/// The names of the machines.
///
/// - `paper`: two sockets with a Xeon E5-2680 (Sandy Bridge-EP), the machine of Ito and Kono. Level 3 of 20 MiB in eight
///   slices of 20 ways (Intel, "Xeon Processor E5-2600 Product Family Uncore Performance Monitoring Guide", 327043-001,
///   2.3.1: slices of 2.5 MB, up to 20 ways), inclusive; level 2 of 256 KiB and 8 ways (Intel, "64 and IA-32 Architectures
///   Optimization Reference Manual", cache parameters of Sandy Bridge). Replacement as measured on desktop processors of
///   the same architecture: [`Replacement::MruN`] in level 3, [`Replacement::TreePlru`] in level 2. Slices as measured for
///   eight cores (Maurice et al., "Reverse Engineering Intel Last-Level Cache Complex Addressing Using Performance
///   Counters", RAID 2015); the set within a slice by address bits 6 to 16 (Seaborn, "L3 cache mapping on Sandy Bridge
///   CPUs", 2015).
/// - `epyc-16`: a socket of EPYC 7002 (Zen 2), 16 complexes of four cores with 16 MiB each; `epyc-32`: one of EPYC 7003
///   (Zen 3), eight complexes of eight cores with 32 MiB. Level 3 of 16 ways, filled by what leaves the level 2 of 512 KiB
///   and 8 ways of each core, and mostly exclusive of it (WikiChip, "Zen", memory hierarchy; 7-cpu.com, "Zen2"; AMD,
///   "Software Optimization Guide" for families 17h, 56305, and 19h, 56665). Their replacement is not documented: LRU is
///   assumed. Real ones keep a line that they give out if it is likely to be shared; here it leaves, and is found in the
///   private cache of the other core.
pub const PRESETS: [&str; 3] = ["paper", "epyc-16", "epyc-32"];

/// Address bits that choose one of eight slices, by bit of its number (Maurice et al., 2015, for eight cores).
const EIGHT_SLICES: [u64; 3] = [0x1B_5F57_5440, 0x2E_B5FA_A880, 0x3C_CCC9_3100];

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

impl CacheModel {
    /// A machine of [`PRESETS`]; `None` for another name.
    pub fn preset(name: &str) -> Option<Self> {
        let description = match name {
            "paper" => CacheDescription {
                name: name.to_owned(),
                domains: 2,
                size_bytes: 20 * MIB,
                ways: 20,
                line_bytes: 64,
                replacement: Replacement::MruN,
                inclusion: Inclusion::Inclusive,
                slice_masks: EIGHT_SLICES.to_vec(),
                private: Some(PrivateLevel {
                    size_bytes: 256 * KIB,
                    ways: 8,
                    replacement: Replacement::TreePlru,
                }),
            },
            "epyc-16" => epyc(name, 16, 16 * MIB),
            "epyc-32" => epyc(name, 8, 32 * MIB),
            _ => return None,
        };
        Self::try_from(description).ok()
    }

    /// The caches of a host at the level of its domains, in the order of their ids, and the private level above them, the
    /// largest that one core has alone. What sysfs does not tell is assumed: LRU in both, and no inclusion.
    ///
    /// # Errors
    /// No cache at that level; size, ways or line unknown; caches that differ; a geometry that cannot be simulated.
    pub fn of_host(name: &str, topology: &Topology, caches: &[HostCache]) -> Result<Self, CacheError> {
        let level = topology.level().unwrap_or(0);
        let shared = topology.domains().iter().map(|domain| {
            let of_domain = |cache: &&HostCache| {
                cache.info.level == level
                    && !cache.info.instruction_only
                    && !cache.info.shared_cpus.is_disjoint(&domain.cpus)
            };
            caches.iter().find(of_domain).ok_or(CacheError::NoHostCache(level))
        });
        let shared = shared.collect::<Result<Vec<_>, _>>()?;
        let first = shared.first().ok_or(CacheError::NoHostCache(level))?;
        if let Some(other) = shared.iter().find(|other| other.shape() != first.shape()) {
            return Err(CacheError::DifferentCaches { first: first.to_string(), second: other.to_string() });
        }
        let (size_bytes, ways, line_bytes) = first.known()?;
        let cores = topology.cores();
        let is_private = |cache: &&HostCache| {
            let cpus = &cache.info.shared_cpus;
            let in_domains = topology.domains().iter().any(|domain| !domain.cpus.is_disjoint(cpus));
            let of_one_core =
                cpus.len() == 1 || cores.iter().any(|core| cpus.iter().all(|cpu| core.contains(cpu)));
            cache.info.level < level
                && cache.info.level > 1
                && !cache.info.instruction_only
                && in_domains
                && of_one_core
        };
        let private = caches.iter().filter(is_private).max_by_key(|cache| cache.info.size_bytes);
        let private = private.map(HostCache::known).transpose()?;
        let private = private.map(|(size_bytes, ways, _)| PrivateLevel {
            size_bytes,
            ways,
            replacement: Replacement::Lru,
        });
        Self::try_from(CacheDescription {
            name: name.to_owned(),
            domains: topology.domains().len() as u32,
            size_bytes,
            ways,
            line_bytes,
            replacement: Replacement::Lru,
            inclusion: Inclusion::NonInclusive,
            slice_masks: Vec::new(),
            private,
        })
    }
}

fn epyc(name: &str, domains: u32, size_bytes: u64) -> CacheDescription {
    let private = PrivateLevel { size_bytes: 512 * KIB, ways: 8, replacement: Replacement::Lru };
    CacheDescription {
        name: name.to_owned(),
        domains,
        size_bytes,
        ways: 16,
        line_bytes: 64,
        replacement: Replacement::Lru,
        inclusion: Inclusion::Victim,
        slice_masks: Vec::new(),
        private: Some(private),
    }
}

/// A cache of a host with what `/sys/devices/system/cpu/cpu*/cache/index*` has besides
/// (Documentation/ABI/testing/sysfs-devices-system-cpu, Linux 6.18).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostCache {
    /// Level, CPUs and size.
    pub info: CacheInfo,
    /// `ways_of_associativity`; `None` if missing or 0.
    pub ways: Option<u32>,
    /// `coherency_line_size`, in bytes; `None` if missing or 0.
    pub line_bytes: Option<u32>,
}

impl HostCache {
    fn shape(&self) -> (Option<u64>, Option<u32>, Option<u32>) {
        (self.info.size_bytes, self.ways, self.line_bytes)
    }

    /// Size, ways and line.
    fn known(&self) -> Result<(u64, u32, u32), CacheError> {
        let unknown = |what| CacheError::UnknownOfHost(what, self.info.level);
        Ok((
            self.info.size_bytes.ok_or_else(|| unknown("size"))?,
            self.ways.ok_or_else(|| unknown("ways"))?,
            self.line_bytes.ok_or_else(|| unknown("line size"))?,
        ))
    }
}

impl std::fmt::Display for HostCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known =
            |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
        write!(
            f,
            "{} bytes in {} ways of {} bytes on CPUs {}",
            known(self.info.size_bytes),
            known(self.ways.map(u64::from)),
            known(self.line_bytes.map(u64::from)),
            self.info.shared_cpus
        )
    }
}
