//! What an event that a user wrote is on a host: its fields are placed as sysfs says
//! (`huddle_host::event_source`), never by the layout of another architecture.
//!
//! A host without the PMU, or where an event would read 0 for ever, has the event as unavailable, with the reason: one
//! configuration serves many hosts. A field that the PMU does not have, or a value that does not fit it, is an error.

#[cfg(test)]
pub(super) mod fixture;

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use perf_event::events::{Hardware, Raw};

use super::events::{EventCode, EventSpec, PERF_TYPE_RAW, of_cpus, one_kind_note};
use super::parse::{EventError, EventText, Term, terms};
use super::processors::{Vendor, arm_last_level};
use huddle_host::cpuinfo;
use huddle_host::event_source::{self, ConfigWord, Pmu};
use huddle_host::{HostError, HostRoot};

/// Why an event is not to be counted.
enum Refusal {
    /// This host does not have it.
    Unavailable(String),
    /// It is wrong for this host's PMU.
    Wrong(String),
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl EventText {
    /// The event on this host.
    ///
    /// # Errors
    /// Its PMU has no such field or event, or a value does not fit.
    pub fn resolve(&self, root: &HostRoot) -> Result<Availability<EventSpec>, EventError> {
        let resolved = match self {
            Self::Named(event) => named(root, event),
            Self::Raw { text, config } => raw(root, text, *config),
            Self::Fields { text, pmu, terms } => fields(root, text, pmu.as_deref(), terms),
        };
        match resolved {
            Ok(event) => Ok(Availability::Available(event)),
            Err(Refusal::Unavailable(reason)) => {
                Ok(Availability::Unavailable(format!("{:?} cannot be counted here: {reason}", self.text())))
            }
            Err(Refusal::Wrong(why)) => Err(EventError::Host { text: self.text().to_owned(), why }),
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Named(event) => &event.name,
            Self::Raw { text, .. } | Self::Fields { text, .. } => text,
        }
    }
}

/// One of the kernel's events: what it counts differs by processor.
fn named(root: &HostRoot, event: &EventSpec) -> Result<EventSpec, Refusal> {
    let mut event = event.clone();
    if event.is_software() {
        return Ok(event);
    }
    let vendor = Vendor::of(&cpuinfo::read(root)?);
    let kinds = one_kind_note(&event_source::core_pmus(root)?)?;
    let is_of_cache = match &event.code {
        EventCode::Hardware(code) => [Hardware::CACHE_REFERENCES, Hardware::CACHE_MISSES].contains(code),
        _ => false,
    };
    if is_of_cache {
        event.meaning = vendor.generic();
        let counts = match (&vendor, event.meaning) {
            (Vendor::Intel(_), Some(_)) => None,
            (_, Some(meaning)) => Some(meaning.to_string()),
            (Vendor::Other(what), None) => Some(format!("what {what} means by it")),
            (_, None) => Some("not known which cache".to_owned()),
        };
        event.note = counts.map(|counts| format!("{} counts {counts}", event.name));
    } else if let (EventCode::Cache(_), Vendor::Arm(cores)) = (&event.code, &vendor) {
        event.meaning = Some(arm_last_level(cores));
    }
    event.note = match (event.note, kinds) {
        (Some(note), Some(kinds)) => Some(format!("{note}; {kinds}")),
        (note, kinds) => note.or(kinds),
    };
    Ok(event)
}

/// A number for the cores' PMU. Where sysfs has the fields of its events, no bit may be outside of them: the kernel
/// would leave it out, and count another event.
fn raw(root: &HostRoot, text: &str, config: u64) -> Result<EventSpec, Refusal> {
    let pmus = event_source::core_pmus(root)?;
    let mut event = EventSpec::raw(text, config);
    event.note = one_kind_note(&pmus)?;
    if let [pmu] = &pmus[..] {
        let mut mask = 0;
        for name in pmu.fields()? {
            let field = pmu.field(&name).ok().flatten().filter(|field| field.word == ConfigWord::Config);
            mask |= field.map_or(0, |field| field.mask());
        }
        if mask != 0 && config & !mask != 0 {
            return Err(Refusal::Wrong(format!(
                "bits {:#x} are in no field of the PMU {}, whose events have bits {mask:#x}",
                config & !mask,
                pmu.name()
            )));
        }
        exists(pmu, config)?;
    }
    Ok(event)
}

/// An event of ARM's architecture that the PMU does not list would read 0 for ever.
fn exists(pmu: &Pmu, config: u64) -> Result<(), Refusal> {
    // Common events (`ARMV8_PMUV3_MAX_COMMON_EVENTS` and `ARMV8_PMUV3_EXT_COMMON_EVENT_BASE`,
    // include/linux/perf/arm_pmuv3.h, Linux 6.18); others are the implementer's, and listed nowhere.
    let is_common = matches!(config, 0..0x40 | 0x4000..0x4040);
    if !pmu.is_arm() || !is_common {
        return Ok(());
    }
    match pmu.event_numbers()? {
        Some(numbers) if !numbers.contains(&config) => Err(Refusal::Unavailable(format!(
            "the PMU {} does not list event {config:#x} among those of the architecture that it has \
             (/sys/bus/event_source/devices/{}/events), and an event that it does not have reads 0 for ever",
            pmu.name(),
            pmu.name()
        ))),
        _ => Ok(()),
    }
}

fn fields(root: &HostRoot, text: &str, pmu: Option<&str>, terms: &[Term]) -> Result<EventSpec, Refusal> {
    let cores = event_source::core_pmus(root)?;
    let pmu = match pmu {
        Some(name) => by_name(event_source::pmus(root)?, name, &cores)?,
        None => of_cores(&cores)?.clone(),
    };
    if pmu.is_uncore() {
        return Err(Refusal::Wrong(format!(
            "the PMU {} counts outside of the cores, for all CPUs of its file cpumask together, and cannot count \
             threads",
            pmu.name()
        )));
    }
    let mut values = BTreeMap::new();
    let mut words = [0; 3];
    for term in terms {
        place(&pmu, term, &mut values, &mut words)?;
    }
    let mut config = [0; 3];
    for (word, bits) in values.values() {
        config[place_of(*word)] |= bits;
    }
    for (config, word) in config.iter_mut().zip(words) {
        *config |= word;
    }
    let has_event =
        values.contains_key("event") || terms.iter().any(|term| ConfigWord::of(&term.name).is_some());
    if !has_event && pmu.field("event")?.is_some() {
        return Err(Refusal::Wrong("it has no event".into()));
    }
    exists(&pmu, config[0])?;
    let [config, config1, config2] = config;
    let raw = Raw::new(config).config1(config1).config2(config2);
    let pmu_type = match huddle_host::optional(pmu.type_id())? {
        Some(pmu_type) => pmu_type,
        None if cores.len() == 1 && cores[0] == pmu => PERF_TYPE_RAW,
        None => return Err(Refusal::Unavailable(format!("the PMU {} has no type in sysfs", pmu.name()))),
    };
    let mut event = EventSpec::new(text, EventCode::Raw { pmu_type, raw });
    event.note = match cores.contains(&pmu) {
        false => Some(format!(
            "the PMU {} is not that of the cores: its rates say nothing about a cache",
            pmu.name()
        )),
        true if cores.len() > 1 => {
            Some(format!("{text} is counted only while a thread is on {}", of_cpus(&pmu)?))
        }
        true => None,
    };
    let vendor = Vendor::of(&cpuinfo::read(root)?);
    if let (Vendor::Arm(arm), true, 0x36 | 0x37) = (&vendor, pmu.is_arm(), config) {
        event.meaning = Some(arm_last_level(arm));
    }
    Ok(event)
}

/// The PMU of a name, or, as in perf(1), of a name without its number: `armv8_pmuv3` is `armv8_pmuv3_0`.
fn by_name(pmus: Vec<Pmu>, name: &str, cores: &[Pmu]) -> Result<Pmu, Refusal> {
    if let Some(pmu) = pmus.iter().find(|pmu| pmu.name() == name) {
        return Ok(pmu.clone());
    }
    let is_number = |rest: &str| {
        let digits = rest.strip_prefix('_').unwrap_or(rest);
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut found = pmus.iter().filter(|pmu| pmu.name().strip_prefix(name).is_some_and(is_number));
    match (found.next(), found.next()) {
        (Some(pmu), None) => Ok(pmu.clone()),
        (Some(one), Some(other)) if one.is_uncore() && other.is_uncore() => Ok(one.clone()),
        (Some(one), Some(other)) => Err(Refusal::Wrong(format!(
            "{name} is the name of several PMUs, such as {} and {}; name one",
            one.name(),
            other.name()
        ))),
        (None, _) => Err(Refusal::Unavailable(match cores {
            [] => format!("this host has no PMU {name}, and none of its cores"),
            cores => format!("this host has no PMU {name}; that of its cores is {}", listed(cores)),
        })),
    }
}

fn listed(pmus: &[Pmu]) -> String {
    pmus.iter().map(Pmu::name).collect::<Vec<_>>().join(", ")
}

/// The PMU of the cores, whose fields are meant where none is named.
fn of_cores(cores: &[Pmu]) -> Result<&Pmu, Refusal> {
    match cores {
        [pmu] => Ok(pmu),
        [] => Err(Refusal::Unavailable(
            "this host has no PMU of its cores (/sys/bus/event_source/devices), which would say where the fields of \
             an event belong"
                .into(),
        )),
        several => Err(Refusal::Wrong(format!(
            "the cores are of several kinds, each with its own PMU ({}); name one, as {}/EVENT/",
            listed(several),
            several[0].name()
        ))),
    }
}

fn place_of(word: ConfigWord) -> usize {
    match word {
        ConfigWord::Config => 0,
        ConfigWord::Config1 => 1,
        ConfigWord::Config2 => 2,
    }
}

/// Puts one term into the event: `values` has the fields by name, where a later one replaces an earlier one, as perf(1)
/// does; `words` has what was given as `config=`.
fn place(
    pmu: &Pmu,
    term: &Term,
    values: &mut BTreeMap<String, (ConfigWord, u64)>,
    words: &mut [u64; 3],
) -> Result<(), Refusal> {
    let Term { name, value } = term;
    if let (None, Some(event)) = (value, pmu.event(name)?) {
        let parts = terms(&event).map_err(|why| {
            Refusal::Wrong(format!("the event {name} of the PMU {} is {event:?}: {why}", pmu.name()))
        })?;
        for part in parts {
            let part = Term { value: part.value.or(Some(1)), ..part };
            place(pmu, &part, values, words)?;
        }
        return Ok(());
    }
    if let (Some(value), Some(word)) = (value, ConfigWord::of(name)) {
        words[place_of(word)] |= value;
        return Ok(());
    }
    let Some(field) = pmu.field(name)? else {
        let what = if value.is_some() { "field" } else { "event or field" };
        let fields = pmu.fields()?;
        return Err(if fields.is_empty() {
            Refusal::Unavailable(format!("the PMU {} has no fields in sysfs", pmu.name()))
        } else {
            Refusal::Wrong(format!(
                "the PMU {} has no {what} {name}; its fields are {}",
                pmu.name(),
                fields.join(", ")
            ))
        });
    };
    let value = value.unwrap_or(1);
    let bits = field.place(value).ok_or_else(|| {
        Refusal::Wrong(format!(
            "{name} is {value:#x}, beyond {:#x}, the largest value of this field of the PMU {}",
            field.largest(),
            pmu.name()
        ))
    })?;
    values.insert(name.clone(), (field.word, bits));
    Ok(())
}

#[cfg(test)]
mod tests;
