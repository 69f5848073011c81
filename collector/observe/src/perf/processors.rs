//! Which events stand for references to and misses of the last-level cache, by processor, from public documents.
//! A processor that no document here covers has none: nothing is guessed (docs/decisions/events-by-processor.md).

mod amd;
mod arm;
mod intel;

use huddle_host::arm_core::ArmCore;
use huddle_host::cpuinfo::{CpuInfo, Processor};
use huddle_model::availability::Availability;

use super::events::EventSpec;
use super::meaning::EventMeaning;

pub(super) use arm::{events as arm_events, last_level as arm_last_level};

/// Whose processor it is, as far as that decides what an event counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Vendor {
    /// Intel.
    Intel(Processor),
    /// AMD, or Hygon.
    Amd(Processor),
    /// ARM, with each kind of its cores.
    Arm(Vec<ArmCore>),
    /// Another, or not known; with its name.
    Other(String),
}

/// Events of references and misses, or why there are none.
pub(super) struct Pair {
    pub(super) references: Availability<EventSpec>,
    pub(super) misses: Availability<EventSpec>,
}

impl Pair {
    pub(super) fn none(reason: &str) -> Self {
        let none = || Availability::Unavailable(reason.to_owned());
        Self { references: none(), misses: none() }
    }

    fn both(references: EventSpec, misses: EventSpec, meaning: EventMeaning) -> Self {
        let with = |event: EventSpec| Availability::Available(event.meaning(meaning));
        Self { references: with(references), misses: with(misses) }
    }
}

impl Vendor {
    pub(super) fn of(info: &CpuInfo) -> Self {
        let cores = info.arm_cores();
        match info.processor() {
            _ if !cores.is_empty() || info.is_arm() => Self::Arm(cores),
            Some(processor) => Self::of_x86(processor),
            None => Self::Other("a processor that /proc/cpuinfo does not identify".into()),
        }
    }

    pub(super) fn of_x86(processor: Processor) -> Self {
        match processor.vendor.as_str() {
            "GenuineIntel" => Self::Intel(processor),
            "AuthenticAMD" | "HygonGenuine" => Self::Amd(processor),
            other => Self::Other(format!("a processor of {other}")),
        }
    }

    /// The events of x86 and of unknown processors; those of ARM depend on what sysfs lists.
    pub(super) fn pair(&self) -> Pair {
        match self {
            Self::Intel(processor) => intel::events(processor),
            Self::Amd(processor) => amd::events(processor),
            Self::Arm(_) => Pair::none("what ARM's cores count is not known without sysfs"),
            Self::Other(what) => Pair::none(&format!(
                "which events count the last-level cache of {what} is not known; name one, as --event \
                 llc_misses=cache-misses (the kernel's generic event, whatever cache that is here)"
            )),
        }
    }

    /// What the kernel's generic events `cache-references` and `cache-misses` count, if it is known.
    pub(super) fn generic(&self) -> Option<EventMeaning> {
        match self {
            Self::Intel(processor) => intel::meaning(processor),
            Self::Amd(_) => Some(amd::GENERIC),
            Self::Arm(_) => Some(arm::GENERIC),
            Self::Other(_) => None,
        }
    }
}
