//! ARM. The kernel's generic events count the first-level data cache (`armv8_pmuv3_perf_map`, drivers/perf/arm_pmuv3.c,
//! Linux 6.18). The architecture has LL_CACHE_RD and LL_CACHE_MISS_RD, reads of the last-level cache, and L3D_CACHE and
//! L3D_CACHE_REFILL (Arm Architecture Reference Manual, D13.12.3), in processors that have them. A processor that lacks
//! one still opens it by number and reads 0, so the kernel's list decides, which comes from PMCEID: sysfs, or, where
//! there is none, `PERF_TYPE_HW_CACHE`, which is checked against the same list (`__armv8_pmuv3_map_event`).
//!
//! What they count is by core: github.com/ARM-software/data, directory pmu, 2025-01-17.

use huddle_host::HostError;
use huddle_host::arm_core::ArmCore;
use huddle_host::event_source::Pmu;
use huddle_model::availability::Availability;
use perf_event::events::{Cache, CacheId, CacheOp, CacheResult};

use super::super::events::{EventCode, EventSpec};
use super::super::meaning::{CountedCache, EventMeaning, Requests};
use super::Pair;

/// What the generic events count.
pub(super) const GENERIC: EventMeaning = EventMeaning {
    cache: CountedCache::L1Data,
    requests: Requests::ReadsAndWrites,
    source: "drivers/perf/arm_pmuv3.c, Linux 6.18",
};

/// Names of references and misses in sysfs, the pair that is preferred first, with the numbers that they must have.
const PAIRS: [[(&str, u64); 2]; 2] =
    [[("ll_cache_rd", 0x36), ("ll_cache_miss_rd", 0x37)], [("l3d_cache", 0x2b), ("l3d_cache_refill", 0x2a)]];

/// What LL_CACHE_RD and LL_CACHE_MISS_RD count on cores of these kinds.
pub(in super::super) fn last_level(cores: &[ArmCore]) -> EventMeaning {
    // Neoverse N1, V1, N2, V2, N3 and V3, E1, Cortex-A76, and Azure Cobalt 100, whose cores are Neoverse N2.
    const SOURCED: [(u32, u32); 9] = [
        (0x41, 0xd0c),
        (0x41, 0xd40),
        (0x41, 0xd49),
        (0x41, 0xd4f),
        (0x41, 0xd8e),
        (0x41, 0xd84),
        (0x41, 0xd4a),
        (0x41, 0xd0b),
        (0x6d, 0xd49),
    ];
    let is_sourced = |core: &ArmCore| SOURCED.contains(&(core.implementer, core.part));
    if !cores.is_empty() && cores.iter().all(is_sourced) {
        EventMeaning {
            cache: CountedCache::SystemOrCluster,
            requests: Requests::Reads,
            source: "Arm's PMU data of the core (github.com/ARM-software/data), LL_CACHE_RD and LL_CACHE_MISS_RD",
        }
    } else {
        EventMeaning {
            cache: CountedCache::LastOfArm,
            requests: Requests::Reads,
            source: "Arm Architecture Reference Manual, D13.12.3, LL_CACHE_RD and LL_CACHE_MISS_RD",
        }
    }
}

const L3: EventMeaning = EventMeaning {
    cache: CountedCache::L3OfCluster,
    requests: Requests::ReadsAndWrites,
    source: "Arm Architecture Reference Manual, D13.12.3, L3D_CACHE and L3D_CACHE_REFILL",
};

/// The kernel's names for reads of the last-level cache, which it checks itself.
fn checked_by_kernel(cores: &[ArmCore]) -> Pair {
    let event = |name: &str, result| EventSpec {
        code: EventCode::Cache(Cache { which: CacheId::LL, operation: CacheOp::READ, result }),
        ..EventSpec::raw(name, 0)
    };
    Pair::both(
        event("LLC-loads", CacheResult::ACCESS),
        event("LLC-load-misses", CacheResult::MISS),
        last_level(cores),
    )
}

/// The events of ARM's cores with these PMUs.
///
/// # Errors
/// What sysfs says of an event cannot be read.
pub(in super::super) fn events(pmus: &[Pmu], cores: &[ArmCore]) -> Result<Pair, HostError> {
    let pmu = match pmus {
        [] => return Ok(checked_by_kernel(cores)),
        [pmu] => pmu,
        several => {
            let names: Vec<&str> = several.iter().map(Pmu::name).collect();
            return Ok(Pair::none(&format!(
                "the cores are of several kinds ({}), and an event counts on the cores of one kind only, while \
                 threads move between them; name one, as --event llc_misses={}/ll_cache_miss_rd/",
                names.join(", "),
                names[0]
            )));
        }
    };
    for (pair, meaning) in PAIRS.into_iter().zip([last_level(cores), L3]) {
        let [references, misses] = pair.map(|(name, number)| -> Result<_, HostError> {
            let listed = pmu.event(name)?.is_some_and(|text| text == format!("event={number:#06x}"));
            Ok(if listed {
                Availability::Available(EventSpec::raw(name, number).meaning(meaning))
            } else {
                Availability::Unavailable(format!("the PMU {} has no event {name}", pmu.name()))
            })
        });
        let (references, misses) = (references?, misses?);
        if misses.value().is_some() {
            return Ok(Pair { references, misses });
        }
    }
    Ok(Pair::none(&format!(
        "the PMU {} has neither the event ll_cache_miss_rd nor l3d_cache_refill, and the generic event counts the \
         first-level cache; name another event in the configuration",
        pmu.name()
    )))
}
