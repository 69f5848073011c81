//! Events as users write them: by the kernel's names and in the notation of perf(1) (perf-list(1), Linux 6.18).
//! What a text means on a host, where it depends on the host, is [`resolve`](super::resolve)'s part.

use std::str::FromStr;

use perf_event::events::{Cache, CacheId, CacheOp, CacheResult, Hardware, Software};

use super::events::{EventCode, EventSpec, ROLES};

/// Text that is not an event, or not one of this host's PMU.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Neither a name nor a raw event.
    #[error(
        "{text:?} is not an event; expected one of {}, a raw event such as r412e, event=0x2e,umask=0x41, or PMU/EVENT/",
        names()
    )]
    Unknown {
        /// The text.
        text: String,
    },
    /// A raw event, or one of a PMU, that cannot be read.
    #[error(
        "the event {text:?} cannot be read: {why}; expected r and hexadecimal digits, as r412e, or fields, as \
         event=0x2e,umask=0x41, cpu/event=0x2e,umask=0x41/ or armv8_pmuv3_0/ll_cache_miss_rd/"
    )]
    Notation {
        /// The text.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// An event that its PMU on this host does not have in this form.
    #[error("the event {text:?} is not one of this host: {why}")]
    Host {
        /// The text.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// Not `ROLE=EVENT`.
    #[error(
        "{text:?} does not name a role; expected ROLE=EVENT with a role of {}, as llc_misses=r412e",
        roles()
    )]
    Choice {
        /// The text.
        text: String,
    },
}

/// An event as it was written; what it is on a host, [`EventSpec`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventText {
    /// A name of the kernel's.
    Named(EventSpec),
    /// `rHEX`: the `config` of the cores' PMU.
    Raw {
        /// As it was written.
        text: String,
        /// The number.
        config: u64,
    },
    /// Fields of an event, and names of events that stand for fields.
    Fields {
        /// As it was written.
        text: String,
        /// The PMU; `None`: that of the cores.
        pmu: Option<String>,
        /// The fields in their order.
        terms: Vec<Term>,
    },
}

/// One field of an event (`umask=0x41`), or a name alone: an event of the PMU's, or a field with the value 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The field or the event.
    pub name: String,
    /// The field's value; `None` for a name alone.
    pub value: Option<u64>,
}

const fn hardware(event: Hardware) -> EventCode {
    EventCode::Hardware(event)
}

const fn software(event: Software) -> EventCode {
    EventCode::Software(event)
}

/// One of the kernel's events of the last-level cache.
const fn last_level(operation: CacheOp, result: CacheResult) -> EventCode {
    EventCode::Cache(Cache { which: CacheId::LL, operation, result })
}

/// The names of perf(1).
const NAMES: [(&str, EventCode); 18] = [
    ("cycles", hardware(Hardware::CPU_CYCLES)),
    ("ref-cycles", hardware(Hardware::REF_CPU_CYCLES)),
    ("instructions", hardware(Hardware::INSTRUCTIONS)),
    ("cache-references", hardware(Hardware::CACHE_REFERENCES)),
    ("cache-misses", hardware(Hardware::CACHE_MISSES)),
    ("branches", hardware(Hardware::BRANCH_INSTRUCTIONS)),
    ("branch-misses", hardware(Hardware::BRANCH_MISSES)),
    ("LLC-loads", last_level(CacheOp::READ, CacheResult::ACCESS)),
    ("LLC-load-misses", last_level(CacheOp::READ, CacheResult::MISS)),
    ("LLC-stores", last_level(CacheOp::WRITE, CacheResult::ACCESS)),
    ("LLC-store-misses", last_level(CacheOp::WRITE, CacheResult::MISS)),
    ("task-clock", software(Software::TASK_CLOCK)),
    ("cpu-clock", software(Software::CPU_CLOCK)),
    ("page-faults", software(Software::PAGE_FAULTS)),
    ("minor-faults", software(Software::PAGE_FAULTS_MIN)),
    ("major-faults", software(Software::PAGE_FAULTS_MAJ)),
    ("context-switches", software(Software::CONTEXT_SWITCHES)),
    ("cpu-migrations", software(Software::CPU_MIGRATIONS)),
];

fn names() -> String {
    NAMES.map(|(name, _)| name).join(", ")
}

fn roles() -> String {
    ROLES.map(|(key, _)| key).join(", ")
}

impl EventSpec {
    /// The event of one of the kernel's names; which names there are, the error of [`EventText`] lists.
    pub fn named(name: &str) -> Option<Self> {
        let (name, code) = NAMES.into_iter().find(|(known, _)| *known == name)?;
        Some(Self::new(name, code))
    }
}

impl FromStr for EventText {
    type Err = EventError;

    /// A name of the table, `rHEX`, fields alone, or `PMU/fields and names/`.
    fn from_str(text: &str) -> Result<Self, EventError> {
        let text = text.trim();
        if let Some(event) = EventSpec::named(text) {
            return Ok(Self::Named(event));
        }
        let wrong = |why: String| EventError::Notation { text: text.to_owned(), why };
        if let Some((pmu, rest)) = text.split_once('/') {
            let (fields, modifiers) =
                rest.rsplit_once('/').ok_or_else(|| wrong("it has no closing /".into()))?;
            if !modifiers.is_empty() {
                return Err(wrong(format!(
                    "nothing may follow the closing / ({modifiers:?}): what part of a thread is counted, is the same \
                     for all events (--guest-only)"
                )));
            }
            if pmu.is_empty() || !pmu.bytes().all(is_of_name) {
                return Err(wrong(format!("{pmu:?} is not the name of a PMU")));
            }
            let terms = terms(fields).map_err(wrong)?;
            return Ok(Self::Fields { text: text.to_owned(), pmu: Some(pmu.to_owned()), terms });
        }
        if text.contains('=') {
            let terms = terms(text).map_err(wrong)?;
            return Ok(Self::Fields { text: text.to_owned(), pmu: None, terms });
        }
        match text.strip_prefix('r') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                let config = u64::from_str_radix(digits, 16);
                let config = config.map_err(|_| wrong("it has more than 64 bits".into()))?;
                Ok(Self::Raw { text: text.to_owned(), config })
            }
            _ => Err(EventError::Unknown { text: text.to_owned() }),
        }
    }
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_-.".contains(&byte)
}

/// Reads `event=0x2e,umask=0x41` or `cache-misses,cmask=1`. No field may be given twice.
pub(super) fn terms(text: &str) -> Result<Vec<Term>, String> {
    let mut terms: Vec<Term> = Vec::new();
    for term in text.split(',') {
        let (name, value) = match term.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (term.trim(), None),
        };
        if name.is_empty() || !name.bytes().all(is_of_name) {
            return Err(format!("{term:?} is neither FIELD=NUMBER nor the name of an event"));
        }
        if terms.iter().any(|other| other.name == name) {
            return Err(format!("{name} is given twice"));
        }
        let number =
            |value: &str| number(value).ok_or_else(|| format!("{value:?} of {name} is not a number"));
        terms.push(Term { name: name.to_owned(), value: value.map(number).transpose()? });
    }
    Ok(terms)
}

fn number(text: &str) -> Option<u64> {
    // `from_str_radix` and `parse` would accept a sign.
    match text.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
        Some(_) => None,
        None => text.parse().ok().filter(|_| !text.starts_with('+')),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `type` of `perf_event_attr` (include/uapi/linux/perf_event.h, Linux 6.18).
    const HARDWARE: u32 = 0;
    const SOFTWARE: u32 = 1;
    const HW_CACHE: u32 = 3;

    /// `type` and `config` as passed to the kernel.
    fn config(text: &str) -> (u32, u64) {
        let event = match text.parse().unwrap() {
            EventText::Named(event) => event,
            other => panic!("{other:?}"),
        };
        assert_eq!(event.name, text.trim());
        let builder = event.code.builder();
        (builder.attrs().type_, builder.attrs().config)
    }

    fn fields(text: &str) -> (Option<String>, Vec<(String, Option<u64>)>) {
        match text.parse().unwrap() {
            EventText::Fields { pmu, terms, .. } => {
                (pmu, terms.into_iter().map(|term| (term.name, term.value)).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_and_raw_events_are_read() {
        assert_eq!(config("instructions"), (HARDWARE, 1));
        // The file `event` of /sys/bus/event_source has the same numbers; perf(1) opens 0x10002.
        assert_eq!(config("LLC-load-misses"), (HW_CACHE, 0x1_0002));
        assert_eq!(config("LLC-stores"), (HW_CACHE, 0x102));
        assert_eq!(config(" page-faults\n"), (SOFTWARE, 2));
        assert_eq!(" r412e".parse(), Ok(EventText::Raw { text: "r412e".into(), config: 0x412e }));
    }

    #[test]
    fn the_notation_of_perf_is_read() {
        let term = |name: &str, value| (name.to_owned(), value);
        let both = vec![term("event", Some(0x2e)), term("umask", Some(0x41))];
        assert_eq!(fields("event=0x2e,umask=0x41"), (None, both.clone()));
        assert_eq!(fields("cpu/event=46,umask=0x41/"), (Some("cpu".into()), both));
        let named = |pmu: &str| (Some(pmu.to_owned()), vec![term("ll_cache_miss_rd", None)]);
        assert_eq!(fields("armv8_pmuv3_0/ll_cache_miss_rd/"), named("armv8_pmuv3_0"));
        assert_eq!(fields("armv8_pmuv3/ll_cache_miss_rd/"), named("armv8_pmuv3"));
        let terms = vec![term("cache-misses", None), term("edge", None), term("cmask", Some(1))];
        assert_eq!(fields("cpu/cache-misses,edge,cmask=1/"), (Some("cpu".into()), terms));
    }

    #[test]
    fn errors_name_the_mistake_and_the_expected_form() {
        for (text, word) in [
            ("", "not an event"),
            ("cache-mises", "cache-misses"),
            ("r", "not an event"),
            ("rxyz", "not an event"),
            ("r+1", "not an event"),
            ("r11111111111111111", "more than 64 bits"),
            ("event=+1", "not a number"),
            ("event=0x", "not a number"),
            ("event=0x+1", "not a number"),
            ("event=?", "not a number"),
            ("event=1,event=2", "twice"),
            ("event=1,", "neither FIELD=NUMBER"),
            ("event=1,../type", "no closing /"),
            ("event=1/type/", "\"event=1\" is not the name of a PMU"),
            ("cpu/event=1", "no closing /"),
            ("cpu/event=1/u", "--guest-only"),
            ("cpu//", "neither FIELD=NUMBER"),
            ("/event=1/", "\"\" is not the name of a PMU"),
            ("cpu/../type/", "neither FIELD=NUMBER"),
        ] {
            let error = text.parse::<EventText>().unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_event_or_a_sentence(text in "(event=|umask=|cpu/|r)?[ -~]{0,20}/?") {
            if let Err(error) = text.parse::<EventText>() {
                prop_assert!(!error.to_string().is_empty());
            }
        }

        #[test]
        fn any_raw_code_is_read_unchanged(code in any::<u64>()) {
            let text = format!("r{code:x}");
            prop_assert_eq!(text.parse(), Ok(EventText::Raw { text, config: code }));
        }
    }
}
