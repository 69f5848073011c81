//! Events as users write them: by the kernel's names, as in perf(1), or raw.

use std::str::FromStr;

use perf_event::events::{Cache, CacheId, CacheOp, CacheResult, Hardware, Software};

use super::events::{EventCode, EventSpec, ROLES};

/// Text that is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// Neither a name nor a raw event.
    #[error(
        "{text:?} is not an event; expected one of {}, a raw event such as r412e, or event=0x2e,umask=0x41",
        names()
    )]
    Unknown {
        /// The text.
        text: String,
    },
    /// A raw event whose code cannot be read.
    #[error(
        "the raw event {text:?} cannot be read: {why}; expected r and hexadecimal digits, as r412e, or \
             event=0x2e,umask=0x41"
    )]
    Raw {
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

impl FromStr for EventSpec {
    type Err = EventError;

    /// A name of the table, `rHEX` (the `config` of `PERF_TYPE_RAW`), or `event=N,umask=N` in the layout
    /// of x86 (Intel SDM volume 3, IA32_PERFEVTSELx; AMD's PERF_CTL has four more bits of the event at
    /// 35:32), optionally enclosed in `cpu/` and `/`. The event keeps the text as its name.
    fn from_str(text: &str) -> Result<Self, EventError> {
        let text = text.trim();
        if let Some((name, code)) = NAMES.into_iter().find(|(name, _)| *name == text) {
            return Ok(Self { name: name.to_owned(), code });
        }
        let raw = |why: String| EventError::Raw { text: text.to_owned(), why };
        let terms = text.strip_prefix("cpu/").and_then(|rest| rest.strip_suffix('/')).unwrap_or(text);
        if terms.contains('=') {
            return Ok(Self::raw(text, fields(terms).map_err(raw)?));
        }
        match text.strip_prefix('r') {
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
                let config = u64::from_str_radix(digits, 16);
                Ok(Self::raw(text, config.map_err(|_| raw("it has more than 64 bits".into()))?))
            }
            _ => Err(EventError::Unknown { text: text.to_owned() }),
        }
    }
}

fn fields(terms: &str) -> Result<u64, String> {
    let mut config = 0;
    let mut has_event = false;
    let mut seen = Vec::new();
    for term in terms.split(',') {
        let (key, value) = term.split_once('=').ok_or_else(|| format!("{term:?} is not KEY=NUMBER"))?;
        let number = match value.strip_prefix("0x") {
            // `from_str_radix` would accept a sign.
            Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16).ok(),
            Some(_) => None,
            None => value.parse().ok().filter(|_| !value.starts_with('+')),
        };
        let number = number.ok_or_else(|| format!("{value:?} of {key} is not a number"))?;
        let (bits, largest) = match key {
            "event" => (number & 0xff | (number >> 8) << 32, 0xfff),
            "umask" => (number << 8, 0xff),
            "edge" => (number << 18, 1),
            "inv" => (number << 23, 1),
            "cmask" => (number << 24, 0xff),
            _ => return Err(format!("{key:?} is not one of event, umask, edge, inv, cmask")),
        };
        if number > largest {
            return Err(format!("{key} is {value}, beyond {largest:#x}"));
        }
        if seen.contains(&key) {
            return Err(format!("{key} is given twice"));
        }
        seen.push(key);
        has_event |= key == "event";
        config |= bits;
    }
    if has_event { Ok(config) } else { Err("it has no event".into()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `type` of `perf_event_attr` (include/uapi/linux/perf_event.h, Linux 6.18).
    const HARDWARE: u32 = 0;
    const SOFTWARE: u32 = 1;
    const HW_CACHE: u32 = 3;
    const RAW: u32 = 4;

    /// `type` and `config` as passed to the kernel.
    fn config(text: &str) -> (u32, u64) {
        let event: EventSpec = text.parse().unwrap();
        assert_eq!(event.name, text.trim());
        let builder = event.code.builder();
        (builder.attrs().type_, builder.attrs().config)
    }

    #[test]
    fn names_and_raw_events_are_read() {
        assert_eq!(config("instructions"), (HARDWARE, 1));
        // The file `event` of /sys/bus/event_source has the same numbers; perf(1) opens 0x10002.
        assert_eq!(config("LLC-load-misses"), (HW_CACHE, 0x1_0002));
        assert_eq!(config("LLC-stores"), (HW_CACHE, 0x102));
        assert_eq!(config(" page-faults\n"), (SOFTWARE, 2));
        assert_eq!(config("r412e"), (RAW, 0x412e));
        assert_eq!(config("event=0x2e,umask=0x41"), (RAW, 0x412e));
        assert_eq!(config("cpu/event=67,umask=0x5c/"), (RAW, 0x5c43));
        assert_eq!(config("event=0x1c7,cmask=1,inv=1,edge=1").1, 0x1_0184_00c7);
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
            ("umask=1", "has no event"),
            ("event=0x1000", "beyond 0xfff"),
            ("event=1,umask=256", "beyond 0xff"),
            ("event=+1", "not a number"),
            ("event=0x", "not a number"),
            ("event=1,event=2", "twice"),
            ("event=1,period=3", "\"period\""),
            ("event=1,", "not KEY=NUMBER"),
        ] {
            let error = text.parse::<EventSpec>().unwrap_err().to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_event_or_a_sentence(text in "(event=|umask=|cpu/|r)?[ -~]{0,20}") {
            if let Err(error) = text.parse::<EventSpec>() {
                prop_assert!(!error.to_string().is_empty());
            }
        }

        #[test]
        fn any_raw_code_is_used_unchanged(code in any::<u64>()) {
            let event: EventSpec = format!("r{code:x}").parse().unwrap();
            prop_assert_eq!(event.raw_code(), Some(code));
        }
    }
}
