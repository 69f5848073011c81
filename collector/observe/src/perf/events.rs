//! Events, and those that rates are computed from on each kind of processor ([`processors`](super::processors)).

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use perf_event::Builder;
use perf_event::events::{Cache, Hardware, Raw, Software};

use super::meaning::EventMeaning;
use super::processors::{Pair, Vendor, arm_events};
use huddle_host::cpuinfo::{self, Processor};
use huddle_host::event_source::{self, Pmu};
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
    /// What it counts, if a document says so.
    pub meaning: Option<EventMeaning>,
    /// What the user should know about it, one sentence.
    pub note: Option<String>,
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
    /// An event of a PMU, in the PMU's own encoding.
    Raw {
        /// `type` of `perf_event_attr`: [`PERF_TYPE_RAW`], or the number of the PMU in sysfs.
        pmu_type: u32,
        /// The words `config`, `config1` and `config2`.
        raw: Raw,
    },
}

/// The PMU of the cores (include/uapi/linux/perf_event.h, Linux 6.18); of one kind of cores, where there are several.
pub const PERF_TYPE_RAW: u32 = 4;

impl EventCode {
    /// A builder with the event and no other setting.
    pub(crate) fn builder(&self) -> Builder<'static> {
        match self {
            Self::Hardware(event) => Builder::new(*event),
            Self::Cache(event) => Builder::new(event.clone()),
            Self::Software(event) => Builder::new(*event),
            Self::Raw { pmu_type, raw } => {
                let mut builder = Builder::new(*raw);
                builder.attrs_mut().type_ = *pmu_type;
                builder
            }
        }
    }
}

impl EventSpec {
    pub(super) fn new(name: impl Into<String>, code: EventCode) -> Self {
        Self { name: name.into(), code, meaning: None, note: None }
    }

    /// A raw event of the core's counters, in the processor's own encoding (`config` of `perf_event_attr`).
    pub fn raw(name: impl Into<String>, config: u64) -> Self {
        Self::new(name, EventCode::Raw { pmu_type: PERF_TYPE_RAW, raw: Raw::new(config) })
    }

    pub(super) fn hardware(name: &str, event: Hardware) -> Self {
        Self::new(name, EventCode::Hardware(event))
    }

    fn software(name: &str, event: Software) -> Self {
        Self::new(name, EventCode::Software(event))
    }

    /// The same event, of which is known what it counts.
    pub(super) fn meaning(self, meaning: EventMeaning) -> Self {
        Self { meaning: Some(meaning), ..self }
    }

    /// Whether the kernel counts it itself, on any host.
    pub fn is_software(&self) -> bool {
        matches!(self.code, EventCode::Software(_))
    }

    /// The code of a raw event; `None` for an event with a kernel name.
    pub fn raw_code(&self) -> Option<u64> {
        match &self.code {
            EventCode::Raw { raw, .. } => Some(raw.config),
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

impl CacheEvents {
    /// The events to count on this host.
    ///
    /// # Errors
    /// `/proc/cpuinfo` or what sysfs says of the cores' events cannot be read.
    pub fn for_host(root: &HostRoot) -> Result<Self, HostError> {
        let vendor = Vendor::of(&cpuinfo::read(root)?);
        let pmus = event_source::core_pmus(root)?;
        let pair = match &vendor {
            Vendor::Arm(cores) => arm_events(&pmus, cores)?,
            _ => vendor.pair(),
        };
        let mut events = Self::with(pair);
        if let Some(note) = one_kind_note(&pmus)? {
            let Self { cycles, instructions, llc_references, llc_misses } = &mut events;
            for event in [cycles, instructions, llc_references, llc_misses] {
                if let Availability::Available(event) = event {
                    event.note = Some(note.clone());
                }
            }
        }
        Ok(events)
    }

    /// The events to count on a processor of x86. `None`: unknown, so that nothing is claimed to be the last-level
    /// cache.
    pub fn of(processor: Option<&Processor>) -> Self {
        let unknown = || Vendor::Other("a processor that is not known".into());
        Self::with(processor.cloned().map_or_else(unknown, Vendor::of_x86).pair())
    }

    fn with(Pair { references, misses }: Pair) -> Self {
        let hardware = |name, event| Availability::Available(EventSpec::hardware(name, event));
        Self {
            cycles: hardware("cycles", Hardware::CPU_CYCLES),
            instructions: hardware("instructions", Hardware::INSTRUCTIONS),
            llc_references: references,
            llc_misses: misses,
        }
    }
}

/// What to say of the kernel's own events where cores are of several kinds: the kernel gives such an event to the PMU
/// of one kind (`perf_init_event`, kernel/events/core.c; on x86 that with [`PERF_TYPE_RAW`], cpu_core).
pub(super) fn one_kind_note(pmus: &[Pmu]) -> Result<Option<String>, HostError> {
    if pmus.len() < 2 {
        return Ok(None);
    }
    let mut counting = None;
    for pmu in pmus {
        if huddle_host::optional(pmu.type_id())? == Some(PERF_TYPE_RAW) {
            counting = Some(of_cpus(pmu)?);
        }
    }
    let names: Vec<&str> = pmus.iter().map(Pmu::name).collect();
    let kinds = names.join(", ");
    Ok(Some(match counting {
        Some(counting) => {
            format!("the cores are of several kinds ({kinds}): counted only while a thread is on {counting}")
        }
        None => format!("the cores are of several kinds ({kinds}): counted on the cores of one kind only"),
    }))
}

/// A PMU and its CPUs, in words.
pub(super) fn of_cpus(pmu: &Pmu) -> Result<String, HostError> {
    Ok(match pmu.cpus()? {
        Some(cpus) => format!("{} (CPUs {cpus})", pmu.name()),
        None => pmu.name().to_owned(),
    })
}

#[cfg(test)]
mod tests;
