//! Which events to count on which processor.
//!
//! The kernel's generic `cache-misses` is the last-level cache on Intel; on AMD it is the L2
//! (arch/x86/events/amd/core.c, Linux 6.18), and AMD's L3 counters count per cache, not per thread. There
//! the fills of the data cache by where they came from tell what the L3 had not: AMD's Processor
//! Programming References for families 17h, 19h and 1Ah, event 0x43.

use huddle_model::availability::Availability;
use perf_event_open_sys::bindings;

use huddle_host::{HostError, HostRoot, read_text};

/// One event, as perf_event_open(2) takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSpec {
    /// What is really counted, for the recording.
    pub name: String,
    /// `type` of `perf_event_attr`.
    pub kind: u32,
    /// `config` of `perf_event_attr`.
    pub config: u64,
}

impl EventSpec {
    /// A raw event of the core's counters, in the processor's own code.
    pub fn raw(name: impl Into<String>, config: u64) -> Self {
        Self { name: name.into(), kind: bindings::PERF_TYPE_RAW, config }
    }

    fn hardware(name: &str, config: u32) -> Self {
        Self { name: name.into(), kind: bindings::PERF_TYPE_HARDWARE, config: config.into() }
    }

    fn software(name: &str, config: u32) -> Self {
        Self { name: name.into(), kind: bindings::PERF_TYPE_SOFTWARE, config: config.into() }
    }

    /// Whether the kernel counts it itself, on any host.
    pub fn is_software(&self) -> bool {
        self.kind == bindings::PERF_TYPE_SOFTWARE
    }

    /// Whether it is in the processor's own code.
    pub fn is_raw(&self) -> bool {
        self.kind == bindings::PERF_TYPE_RAW
    }

    /// Page faults of the thread.
    pub fn page_faults() -> Self {
        Self::software("page-faults", bindings::PERF_COUNT_SW_PAGE_FAULTS)
    }

    /// Switches away from the thread.
    pub fn context_switches() -> Self {
        Self::software("context-switches", bindings::PERF_COUNT_SW_CONTEXT_SWITCHES)
    }

    /// Moves of the thread between CPUs.
    pub fn cpu_migrations() -> Self {
        Self::software("cpu-migrations", bindings::PERF_COUNT_SW_CPU_MIGRATIONS)
    }
}

/// The events that rates are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEvents {
    /// Clock cycles of the core.
    pub cycles: Availability<EventSpec>,
    /// Instructions retired.
    pub instructions: Availability<EventSpec>,
    /// Look-ups of the last-level cache.
    pub llc_references: Availability<EventSpec>,
    /// Those it could not serve.
    pub llc_misses: Availability<EventSpec>,
}

/// Vendor, family and model of the first CPU, as `/proc/cpuinfo` has them on x86.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Processor {
    /// `vendor_id`.
    pub vendor: String,
    /// `cpu family`.
    pub family: u32,
    /// `model`.
    pub model: u32,
}

impl Processor {
    /// Reads `/proc/cpuinfo`; `None` where it does not say (other architectures).
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(root: &HostRoot) -> Result<Option<Self>, HostError> {
        Ok(Self::parse(&read_text(&root.proc("cpuinfo"))?))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                (name.trim() == key).then(|| value.trim().to_owned())
            })
        };
        Some(Self {
            vendor: value("vendor_id")?,
            family: value("cpu family")?.parse().ok()?,
            model: value("model")?.parse().ok()?,
        })
    }
}

impl CacheEvents {
    /// The events to count on a processor (`None`: unknown, the kernel's generic events are taken).
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
                Availability::Available(EventSpec::hardware(
                    "cache-references",
                    bindings::PERF_COUNT_HW_CACHE_REFERENCES,
                )),
                Availability::Available(EventSpec::hardware(
                    "cache-misses",
                    bindings::PERF_COUNT_HW_CACHE_MISSES,
                )),
            ),
        };
        let hardware = |name, config| Availability::Available(EventSpec::hardware(name, config));
        Self {
            cycles: hardware("cycles", bindings::PERF_COUNT_HW_CPU_CYCLES),
            instructions: hardware("instructions", bindings::PERF_COUNT_HW_INSTRUCTIONS),
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
            let event = misses.value().unwrap();
            assert_eq!((event.kind, event.config & 0xff), (bindings::PERF_TYPE_RAW, 0x43));
        }
        assert_eq!(amd(0x19).llc_misses.value().unwrap().config, 0x5c43);
        assert_eq!(amd(0x19).llc_references.value().unwrap().config, 0x5e43);
        assert!(amd(0x15).llc_misses.reason().unwrap().contains("0x15"));
    }

    #[test]
    fn cpuinfo_is_read_and_other_architectures_are_unknown() {
        let text =
            "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: x\n";
        let intel = Processor::parse(text).unwrap();
        assert_eq!(intel, Processor { vendor: "GenuineIntel".into(), family: 6, model: 143 });
        assert_eq!(CacheEvents::of(Some(&intel)).llc_misses.value().unwrap().name, "cache-misses");
        assert_eq!(Processor::parse("CPU implementer\t: 0x41\n"), None);
    }
}
