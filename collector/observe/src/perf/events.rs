//! The events to count on each kind of processor.
//!
//! The kernel's generic `cache-misses` is the last-level cache on Intel; on AMD it is the L2
//! (arch/x86/events/amd/core.c, Linux 6.18), and AMD's L3 counters count per cache, not per thread. There
//! the fills of the data cache are counted by source, which shows what missed the L3: AMD's Processor
//! Programming References for families 17h, 19h and 1Ah, event 0x43.
//!
//! On ARM it is the first-level data cache (`armv8_pmuv3_perf_map`, drivers/perf/arm_pmuv3.c, Linux 6.18). There the
//! architecture has LL_CACHE_RD and LL_CACHE_MISS_RD, reads of the last-level cache (Arm Architecture Reference Manual,
//! D13.12.3), in processors that have them. Other events can be opened and read 0, so sysfs decides.

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use perf_event::Builder;
use perf_event::events::{Cache, Hardware, Raw, Software};

use huddle_host::core_pmu::{self, CorePmu};
use huddle_host::cpuinfo::{self, Processor};
use huddle_host::{HostError, HostRoot};

/// Roles by their name in the configuration.
pub(super) const ROLES: [(&str, CounterRole); 4] = [
    ("cycles", CounterRole::Cycles),
    ("instructions", CounterRole::Instructions),
    ("llc_references", CounterRole::LlcReferences),
    ("llc_misses", CounterRole::LlcMisses),
];

/// One event for perf_event_open(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSpec {
    /// Name of the event that is really counted, for the recording.
    pub name: String,
    /// How it is specified to the kernel.
    pub code: EventCode,
}

/// The kinds of events that huddle counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventCode {
    /// The kernel's generic name for an event of the processor.
    Hardware(Hardware),
    /// The kernel's generic name for an event of one cache.
    Cache(Cache),
    /// Counted by the kernel itself, on any host.
    Software(Software),
    /// A raw event code of the processor.
    Raw(Raw),
}

impl EventCode {
    /// A builder with the event and no other setting.
    pub(super) fn builder(&self) -> Builder<'static> {
        match self {
            Self::Hardware(event) => Builder::new(*event),
            Self::Cache(event) => Builder::new(event.clone()),
            Self::Software(event) => Builder::new(*event),
            Self::Raw(event) => Builder::new(*event),
        }
    }
}

impl EventSpec {
    /// A raw event of the core's counters, in the processor's own encoding (`config` of `perf_event_attr`).
    pub fn raw(name: impl Into<String>, config: u64) -> Self {
        Self { name: name.into(), code: EventCode::Raw(Raw::new(config)) }
    }

    fn hardware(name: &str, event: Hardware) -> Self {
        Self { name: name.into(), code: EventCode::Hardware(event) }
    }

    fn software(name: &str, event: Software) -> Self {
        Self { name: name.into(), code: EventCode::Software(event) }
    }

    /// Whether the kernel counts it itself, on any host.
    pub fn is_software(&self) -> bool {
        matches!(self.code, EventCode::Software(_))
    }

    /// The code of a raw event; `None` for an event with a kernel name.
    pub fn raw_code(&self) -> Option<u64> {
        match &self.code {
            EventCode::Raw(raw) => Some(raw.config),
            _ => None,
        }
    }

    /// Page faults of the thread.
    pub fn page_faults() -> Self {
        Self::software("page-faults", Software::PAGE_FAULTS)
    }

    /// Switches away from the thread.
    pub fn context_switches() -> Self {
        Self::software("context-switches", Software::CONTEXT_SWITCHES)
    }

    /// Moves of the thread between CPUs.
    pub fn cpu_migrations() -> Self {
        Self::software("cpu-migrations", Software::CPU_MIGRATIONS)
    }
}

/// The events that rates are computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEvents {
    /// Clock cycles of the core.
    pub cycles: Availability<EventSpec>,
    /// Instructions retired.
    pub instructions: Availability<EventSpec>,
    /// Look-ups of the last-level cache.
    pub llc_references: Availability<EventSpec>,
    /// Misses of the last-level cache.
    pub llc_misses: Availability<EventSpec>,
}

/// ARM's events for references and misses, as sysfs names them.
const ARM: [&str; 2] = ["ll_cache_rd", "ll_cache_miss_rd"];

impl CacheEvents {
    /// The events to count on this host.
    ///
    /// # Errors
    /// `/proc/cpuinfo` or what sysfs says of ARM's events cannot be read.
    pub fn for_host(root: &HostRoot) -> Result<Self, HostError> {
        let info = cpuinfo::read(root)?;
        match info.is_arm() {
            true => Ok(Self::of_arm(&core_pmu::arm(root, &ARM)?)),
            false => Ok(Self::of(info.processor().as_ref())),
        }
    }

    /// The events to count on ARM's cores. Threads move between cores, so all kinds of them must have an event.
    pub fn of_arm(pmus: &[CorePmu]) -> Self {
        let event = |name: &str| {
            let Some(first) = pmus.first() else {
                return Err("the kernel lists no counters of ARM's cores (armv8_* in \
                     /sys/bus/event_source/devices), and the generic event counts the first-level cache"
                    .to_owned());
            };
            let number = first.events.get(name).copied();
            match pmus.iter().find(|pmu| pmu.events.get(name).copied() != number || number.is_none()) {
                Some(without) => Err(format!(
                    "the PMU {} has no event {name}, and the generic event counts the first-level cache; name a raw \
                     event in the configuration",
                    without.name
                )),
                None => Ok(EventSpec::raw(name, number.unwrap_or_default())),
            }
        };
        let [references, misses] = ARM.map(|name| event(name).into());
        Self { llc_references: references, llc_misses: misses, ..Self::of(None) }
    }

    /// The events to count on a processor (`None`: unknown, so the kernel's generic events).
    pub fn of(processor: Option<&Processor>) -> Self {
        let (references, misses) = match processor {
            Some(amd) if matches!(amd.vendor.as_str(), "AuthenticAMD" | "HygonGenuine") => {
                match fills(amd.family) {
                    Some((inside, outside)) => (
                        Availability::Available(fill("amd.demand_fills_beyond_l2", inside | outside)),
                        Availability::Available(fill("amd.demand_fills_beyond_l3", outside)),
                    ),
                    None => {
                        let reason = format!(
                            "AMD family {:#x} has no counter of L3 misses per thread that huddle knows; name \
                             a raw event in the configuration",
                            amd.family
                        );
                        (Availability::Unavailable(reason.clone()), Availability::Unavailable(reason))
                    }
                }
            }
            _ => (
                Availability::Available(EventSpec::hardware("cache-references", Hardware::CACHE_REFERENCES)),
                Availability::Available(EventSpec::hardware("cache-misses", Hardware::CACHE_MISSES)),
            ),
        };
        let hardware = |name, event| Availability::Available(EventSpec::hardware(name, event));
        Self {
            cycles: hardware("cycles", Hardware::CPU_CYCLES),
            instructions: hardware("instructions", Hardware::INSTRUCTIONS),
            llc_references: references,
            llc_misses: misses,
        }
    }
}

/// Unit masks of event 0x43 (demand fills of the data cache by source): fills from within the cache
/// domain beyond the L2, and fills from outside of it.
fn fills(family: u32) -> Option<(u64, u64)> {
    match family {
        // Zen 1 and 2: local L3; then local memory, remote cache, remote memory. A fill from another L3
        // of the same die counts as local there, so misses are a lower bound.
        0x17 | 0x18 => Some((0x02, 0x08 | 0x10 | 0x40)),
        // Zen 3 and 4: also caches of other domains on the same node.
        0x19 => Some((0x02, 0x04 | 0x08 | 0x10 | 0x40)),
        // Zen 5: also other kinds of memory.
        0x1a => Some((0x02, 0x04 | 0x08 | 0x10 | 0x40 | 0x80)),
        _ => None,
    }
}

fn fill(name: &str, mask: u64) -> EventSpec {
    EventSpec::raw(format!("{name}(0x43:{mask:#04x})"), mask << 8 | 0x43)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amd(family: u32) -> CacheEvents {
        CacheEvents::of(Some(&Processor { vendor: "AuthenticAMD".into(), family, model: 1 }))
    }

    #[test]
    fn amd_never_counts_the_generic_event_as_l3() {
        for family in [0x17, 0x19, 0x1a] {
            let misses = amd(family).llc_misses;
            assert_eq!(misses.value().unwrap().raw_code().unwrap() & 0xff, 0x43);
        }
        assert_eq!(amd(0x19).llc_misses.value().unwrap().raw_code(), Some(0x5c43));
        assert_eq!(amd(0x19).llc_references.value().unwrap().raw_code(), Some(0x5e43));
        assert!(amd(0x15).llc_misses.reason().unwrap().contains("0x15"));
    }

    #[test]
    fn arm_counts_the_last_level_cache_where_all_cores_have_its_events() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("")).unwrap();
        let neoverse = "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        std::fs::write(root.proc("cpuinfo"), neoverse).unwrap();
        let misses = || CacheEvents::for_host(&root).unwrap().llc_misses;
        let reason = |words: &str| assert!(misses().reason().unwrap().contains(words), "{:?}", misses());
        reason("no counters of ARM's cores");

        let events = |pmu: &str| root.sys(format!("bus/event_source/devices/{pmu}/events"));
        std::fs::create_dir_all(events("armv8_pmuv3_0")).unwrap();
        reason("the PMU armv8_pmuv3_0 has no event ll_cache_miss_rd");
        for (name, number) in [("ll_cache_rd", "0x0036"), ("ll_cache_miss_rd", "0x0037")] {
            std::fs::write(events("armv8_pmuv3_0").join(name), format!("event={number}\n")).unwrap();
        }
        let found = CacheEvents::for_host(&root).unwrap();
        let code = |event: &Availability<EventSpec>| {
            let event = event.value().unwrap();
            (event.name.clone(), event.raw_code())
        };
        assert_eq!(code(&found.llc_misses), ("ll_cache_miss_rd".into(), Some(0x37)));
        assert_eq!(code(&found.llc_references), ("ll_cache_rd".into(), Some(0x36)));
        assert_eq!(found.cycles.value().unwrap().name, "cycles");

        // A second kind of cores, without them.
        std::fs::create_dir_all(events("armv8_cortex_a55")).unwrap();
        reason("armv8_cortex_a55 has no event");
        // What is not ARM is as before, whatever sysfs lists.
        std::fs::write(root.proc("cpuinfo"), "vendor_id: GenuineIntel\ncpu family: 6\nmodel: 143\n").unwrap();
        assert_eq!(misses().value().unwrap().name, "cache-misses");
    }

    #[test]
    fn other_processors_count_the_generic_events() {
        let intel = Processor { vendor: "GenuineIntel".into(), family: 6, model: 143 };
        for processor in [Some(&intel), None] {
            let events = CacheEvents::of(processor);
            assert_eq!(events.llc_misses.value().unwrap().name, "cache-misses");
            assert_eq!(events.llc_references.value().unwrap().name, "cache-references");
        }
    }
}
