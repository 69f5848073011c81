//! Schedulers of the kernel that decide where threads run, besides affinities.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::chosen;

/// The settings of cache-aware scheduling (CONFIG_SCHED_CACHE, Linux 7.2), as the kernel writes them, by their names
/// below `/sys/kernel/debug/sched`. It pulls the threads of one process to one last-level cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CacheAware(pub BTreeMap<String, String>);

/// The settings that switch it: that of Linux 7.2, that of earlier versions, and the scheduler's feature.
const SWITCHES: [&str; 3] = ["llc_balancing/enabled", "llc_enabled", "SCHED_CACHE"];

impl CacheAware {
    /// Whether a switch is on; it has an effect where a NUMA node has several last-level caches. What is chosen may be
    /// a number, or one of several words in brackets (`always advise [never]`).
    pub fn is_on(&self) -> bool {
        let switches = SWITCHES.iter().filter_map(|name| self.0.get(*name));
        let is_off = |text: &str| matches!(chosen(text), "0" | "N" | "n" | "off" | "never");
        switches.into_iter().any(|text| !is_off(text))
    }
}

impl fmt::Display for CacheAware {
    /// `llc_balancing/enabled=never, llc_balancing/overaggr_pct=50`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, text)) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            write!(f, "{separator}{name}={}", chosen(text))?;
        }
        Ok(())
    }
}

/// The scheduler that a BPF program brings along (sched_ext, Documentation/scheduler/sched-ext.rst, Linux 6.18). It
/// keeps affinities, but may leave threads waiting for the CPUs that they are bound to, or move them as it likes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedExt {
    /// `enabled`, `disabled` or a state between.
    pub state: String,
    /// Name of the scheduler; `None` if none is loaded.
    pub scheduler: Option<String>,
    /// Whether it has all threads, not only those that ask for it; `None` if unknown.
    pub switches_all: Option<bool>,
}

impl SchedExt {
    /// Whether it schedules threads.
    pub fn is_active(&self) -> bool {
        self.state != "disabled"
    }

    /// Name of the scheduler, for a sentence.
    pub fn name(&self) -> &str {
        self.scheduler.as_deref().unwrap_or("without a name")
    }
}

impl fmt::Display for SchedExt {
    /// `enabled: scx_layered`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.state)?;
        match &self.scheduler {
            Some(name) => write!(f, ": {name}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_in_brackets_is_that_choice() {
        let of = |name: &str, text: &str| CacheAware([(name.to_owned(), text.to_owned())].into());
        for name in SWITCHES {
            for (text, is_on) in [
                ("always advise [never]", false),
                ("[always] advise never", true),
                ("always [advise] never", true),
                ("0", false),
                ("N", false),
                ("1", true),
                ("Y", true),
            ] {
                assert_eq!(of(name, text).is_on(), is_on, "{name} {text}");
            }
        }
        assert!(!of("llc_balancing/aggr_tolerance", "1").is_on(), "no switch");
        let never = of("llc_balancing/enabled", "always advise [never]");
        assert_eq!(never.to_string(), "llc_balancing/enabled=never");
    }
}
