//! Intel: LONGEST_LAT_CACHE.REFERENCE and .MISS (event 0x2e, unit masks 0x4f and 0x41), which are architectural: Intel
//! SDM volume 3, "Architectural Performance Monitoring", and CPUID leaf 0AH, EBX bits 3 and 4, says where they are
//! missing. They are what the kernel's generic events count (`intel_perfmon_event_map`, arch/x86/events/intel/core.c,
//! Linux 6.18), and the kernel refuses those that CPUID denies, so the generic events are asked for.
//!
//! What they include differs by model: the event files of github.com/intel/perfmon, 2026-08-13.

use std::ops::RangeInclusive;

use huddle_host::cpuinfo::Processor;
use perf_event::events::Hardware;

use super::super::events::EventSpec;
use super::super::meaning::{CountedCache, EventMeaning, Requests};
use super::Pair;

/// The event files by model, of family 6.
const MODELS: [(&[RangeInclusive<u32>], EventMeaning); 6] = [
    // Sandy Bridge, Ivy Bridge, Haswell and Broadwell, with their servers.
    (
        &[0x2a..=0x2a, 0x2d..=0x2d, 0x3a..=0x3a, 0x3c..=0x3f, 0x45..=0x47, 0x4f..=0x4f, 0x56..=0x56],
        EventMeaning {
            cache: CountedCache::L3,
            requests: Requests::DemandWithL1Prefetches,
            source: "Intel perfmon: SNB, JKT, IVB, IVT, HSW, HSX, BDW, BDX, BDW-DE",
        },
    ),
    // Skylake, Kaby Lake, Comet Lake; Skylake-SP and Cascade Lake.
    (
        &[0x4e..=0x4e, 0x5e..=0x5e, 0x8e..=0x8e, 0x9e..=0x9e, 0xa5..=0xa6, 0x55..=0x55],
        EventMeaning {
            cache: CountedCache::L3,
            requests: Requests::WithL1AndL2Prefetches,
            source: "Intel perfmon: SKL, SKX, CLX (not all misses of the L3)",
        },
    ),
    // Ice Lake, Tiger Lake, Rocket Lake; Ice Lake-SP, Sapphire, Emerald and Granite Rapids; the performance cores of
    // Alder Lake and later.
    (
        &[
            0x7d..=0x7e,
            0x8c..=0x8d,
            0xa7..=0xa7,
            0x6a..=0x6a,
            0x6c..=0x6c,
            0x8f..=0x8f,
            0xcf..=0xcf,
            0xad..=0xae,
            0x97..=0x97,
            0x9a..=0x9a,
            0xb7..=0xb7,
            0xba..=0xba,
            0xbf..=0xbf,
            0xaa..=0xaa,
            0xac..=0xac,
            0xbd..=0xbd,
            0xb5..=0xb5,
            0xc5..=0xc6,
            0xcc..=0xcc,
            0xd5..=0xd5,
            0xe5..=0xe5,
        ],
        EventMeaning {
            cache: CountedCache::L3,
            requests: Requests::WithL1AndL2Prefetches,
            source: "Intel perfmon: ICL, ICX, SPR, EMR, GNR, ADL, MTL, LNL, ARL, PTL (without prefetches of the L3)",
        },
    ),
    // Snow Ridge, Elkhart Lake, Jasper Lake; Sierra Forest, Grand Ridge, Clearwater Forest; Alder Lake-N.
    (
        &[0x86..=0x86, 0x96..=0x96, 0x9c..=0x9c, 0xaf..=0xaf, 0xb6..=0xb6, 0xdd..=0xdd, 0xbe..=0xbe],
        EventMeaning {
            cache: CountedCache::L3OrL2,
            requests: Requests::DemandWithL1Prefetches,
            source: "Intel perfmon: SNR, EHL, SRF, GRR, CWF",
        },
    ),
    // Silvermont, Airmont, Goldmont and Goldmont Plus.
    (
        &[
            0x37..=0x37,
            0x4a..=0x4a,
            0x4d..=0x4d,
            0x4c..=0x4c,
            0x5a..=0x5a,
            0x5c..=0x5c,
            0x5f..=0x5f,
            0x7a..=0x7a,
        ],
        EventMeaning {
            cache: CountedCache::L2AsLast,
            requests: Requests::CoreWithL1Prefetches,
            source: "Intel perfmon: SLM, GLM, GLP",
        },
    ),
    // Knights Landing and Knights Mill.
    (
        &[0x57..=0x57, 0x85..=0x85],
        EventMeaning {
            cache: CountedCache::L2AsLast,
            requests: Requests::CoreWithL1Prefetches,
            source: "Intel perfmon: KNL",
        },
    ),
];

/// Of Nehalem, Westmere and models that are not listed.
const ARCHITECTURAL: EventMeaning = EventMeaning {
    cache: CountedCache::Last,
    requests: Requests::CoreWithL1Prefetches,
    source: "Intel SDM volume 3, architectural events of the last level cache",
};

/// What the architectural events count; `None` before there were any (Pentium 4 has family 15).
pub(super) fn meaning(processor: &Processor) -> Option<EventMeaning> {
    if processor.family < 6 || processor.family == 15 {
        return None;
    }
    let has = |models: &[RangeInclusive<u32>]| models.iter().any(|range| range.contains(&processor.model));
    let listed = MODELS.iter().find(|(models, _)| processor.family == 6 && has(models));
    Some(listed.map_or(ARCHITECTURAL, |(_, meaning)| *meaning))
}

pub(super) fn events(processor: &Processor) -> Pair {
    match meaning(processor) {
        Some(meaning) => Pair::both(
            EventSpec::hardware("cache-references", Hardware::CACHE_REFERENCES),
            EventSpec::hardware("cache-misses", Hardware::CACHE_MISSES),
            meaning,
        ),
        None => Pair::none(&format!(
            "Intel family {:#x} has no architectural events of the last-level cache; name a raw event in the \
             configuration",
            processor.family
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(family: u32, model: u32) -> EventMeaning {
        meaning(&Processor { vendor: "GenuineIntel".into(), family, model }).unwrap()
    }

    #[test]
    fn what_is_included_differs_by_model() {
        for (model, cache, requests) in [
            (0x1a, CountedCache::Last, Requests::CoreWithL1Prefetches),
            (0x3f, CountedCache::L3, Requests::DemandWithL1Prefetches),
            (0x55, CountedCache::L3, Requests::WithL1AndL2Prefetches),
            (0x8f, CountedCache::L3, Requests::WithL1AndL2Prefetches),
            (0xad, CountedCache::L3, Requests::WithL1AndL2Prefetches),
            (0xaf, CountedCache::L3OrL2, Requests::DemandWithL1Prefetches),
            (0x57, CountedCache::L2AsLast, Requests::CoreWithL1Prefetches),
        ] {
            let found = of(6, model);
            assert_eq!((found.cache, found.requests), (cache, requests), "{model:#x}");
        }
        // A later family has no list yet, and the architecture's words.
        assert_eq!(of(19, 1), ARCHITECTURAL);
        assert_eq!(meaning(&Processor { vendor: "GenuineIntel".into(), family: 15, model: 4 }), None);
    }

    #[test]
    fn each_model_is_in_one_list() {
        for model in 0..=0xff {
            let lists = MODELS.iter().filter(|(models, _)| models.iter().any(|range| range.contains(&model)));
            assert!(lists.count() <= 1, "{model:#x}");
        }
    }
}
