//! AMD. The kernel's generic events count the L2 (`amd_f17h_perfmon_event_map`, arch/x86/events/amd/core.c, Linux
//! 6.18), and AMD's L3 counters count per cache, not per thread. But event 0x43 counts the demand fills of the data
//! cache by where the line came from, which shows what missed the L3:
//! - Zen 1: PPR for family 17h models 01h and 08h, 54945 revision 3.03, section 2.1.15.4.2, PMCx043; Hygon's Dhyana
//!   (family 18h) is of the same design.
//! - Zen 2 to 6: tools/perf/pmu-events/arch/x86/amdzen2 to amdzen6 (events `ls_refills_from_sys` and
//!   `ls_dmnd_fills_from_sys`), Linux 7.0.
//!
//! Generations by model: `bsp_init_amd`, arch/x86/kernel/cpu/amd.c, Linux 6.18.

use huddle_host::cpuinfo::Processor;

use super::super::events::EventSpec;
use super::super::meaning::{CountedCache, EventMeaning, Requests};
use super::Pair;

/// What the generic events count.
pub(super) const GENERIC: EventMeaning = EventMeaning {
    cache: CountedCache::L2,
    requests: Requests::CoreWithL1Prefetches,
    source: "arch/x86/events/amd/core.c, Linux 6.18",
};

/// Sources of a fill: unit masks of event 0x43.
struct Fills {
    /// From within the core complex, beyond the L2.
    inside: u64,
    /// From outside of it: caches of other complexes, memory, devices.
    outside: u64,
    meaning: EventMeaning,
}

/// Zen 1 and 2: local caches, which another complex of the same die is as well; local memory, remote caches and memory.
const ZEN_1_2: Fills = Fills {
    inside: 0x02,
    outside: 0x08 | 0x10 | 0x40,
    meaning: EventMeaning {
        cache: CountedCache::L3OfComplexOrDie,
        requests: Requests::DemandDataFills,
        source: "AMD PPR 54945 3.03, PMCx043; Linux amdzen2",
    },
};

/// Zen 3: the caches of other complexes have masks of their own.
const ZEN_3: Fills = Fills {
    inside: 0x02,
    outside: 0x04 | 0x08 | 0x10 | 0x40,
    meaning: EventMeaning {
        cache: CountedCache::L3OfComplex,
        requests: Requests::DemandDataFills,
        source: "Linux amdzen3, PMCx043",
    },
};

/// Zen 4 to 6: also extension memory (CXL).
const ZEN_4: Fills = Fills {
    outside: ZEN_3.outside | 0x80,
    meaning: EventMeaning { source: "Linux amdzen4, amdzen5 and amdzen6, PMCx043", ..ZEN_3.meaning },
    ..ZEN_3
};

fn fills(family: u32, model: u32) -> Option<Fills> {
    match (family, model) {
        (0x17 | 0x18, _) => Some(ZEN_1_2),
        (0x19, 0x00..=0x0f | 0x20..=0x5f) => Some(ZEN_3),
        (0x19, 0x10..=0x1f | 0x60..=0xaf) => Some(ZEN_4),
        // Zen 5 and 6, which count the same.
        (0x1a, _) => Some(ZEN_4),
        _ => None,
    }
}

fn fill(name: &str, mask: u64) -> EventSpec {
    EventSpec::raw(format!("{name}(0x43:{mask:#04x})"), mask << 8 | 0x43)
}

pub(super) fn events(processor: &Processor) -> Pair {
    let Processor { family, model, .. } = processor;
    match fills(*family, *model) {
        Some(Fills { inside, outside, meaning }) => Pair::both(
            fill("amd.demand_fills_beyond_l2", inside | outside),
            fill("amd.demand_fills_beyond_l3", outside),
            meaning,
        ),
        None => Pair::none(&format!(
            "AMD family {family:#x}, model {model:#x} has no counter of L3 misses per thread that huddle knows; name \
             a raw event in the configuration"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(family: u32, model: u32) -> Pair {
        events(&Processor { vendor: "AuthenticAMD".into(), family, model })
    }

    #[test]
    fn fills_from_beyond_the_l3_are_its_misses() {
        // Naples, Rome, Dhyana; Milan; Genoa, Bergamo; Turin.
        for (family, model, references, misses) in [
            (0x17, 0x01, 0x5a43, 0x5843),
            (0x17, 0x31, 0x5a43, 0x5843),
            (0x18, 0x00, 0x5a43, 0x5843),
            (0x19, 0x01, 0x5e43, 0x5c43),
            (0x19, 0x11, 0xde43, 0xdc43),
            (0x19, 0xa0, 0xde43, 0xdc43),
            (0x1a, 0x02, 0xde43, 0xdc43),
        ] {
            let pair = pair(family, model);
            let code = |event: &huddle_model::availability::Availability<EventSpec>| {
                event.value().unwrap().raw_code().unwrap()
            };
            assert_eq!(
                (code(&pair.references), code(&pair.misses)),
                (references, misses),
                "{family:#x}:{model:#x}"
            );
        }
        assert!(pair(0x15, 1).misses.reason().unwrap().contains("0x15"));
        assert!(pair(0x19, 0xf0).misses.reason().unwrap().contains("0xf0"));
    }
}
