//! What this host lets huddle measure, each gap with its reason and remedy.
//!
//! Nothing here changes the host or needs a privilege; what cannot be found out says so. Whether
//! something *works* is only claimed where it was tried: `/dev/kvm` that opens is not a guest that
//! runs at native speed. [`try_out`] opens the events on its own thread, and attaches each BPF program
//! for a moment; both are gone when it returns.

mod counting;
#[cfg(test)]
mod fixture;
mod memory;
mod merging;
mod observing;
mod privileges;
mod processor;
mod programs;
mod schedulers;
mod watchdog;
mod xen;

pub(crate) use schedulers::core_scheduling;
use serde::Serialize;

use huddle_host::{HostError, HostRoot};
use huddle_observe::perf::EventSet;

/// How good a finding is for the results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Good,
    /// Results are possible, with the limits in the meaning.
    Degraded,
    /// Not there, not allowed, or not possible to find out.
    Missing,
}

/// One line of `huddle doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to, as a heading.
    pub area: &'static str,
    /// Stable name, like `ksm.run`.
    pub item: &'static str,
    /// How good it is.
    pub state: State,
    /// What was read.
    pub value: String,
    /// What it means for a result.
    pub meaning: String,
    /// What to do about it, where something can be done.
    pub remedy: Option<String>,
}

impl From<Finding> for huddle_model::schema::Finding {
    fn from(found: Finding) -> Self {
        let state = match found.state {
            State::Good => "good",
            State::Degraded => "degraded",
            State::Missing => "missing",
        };
        Self {
            area: found.area.to_owned(),
            item: found.item.to_owned(),
            state: state.to_owned(),
            value: found.value,
            meaning: found.meaning,
            remedy: found.remedy,
        }
    }
}

/// All findings that need no trial, in the order of the areas.
pub(crate) fn examine(root: &HostRoot) -> Vec<Finding> {
    let mut findings = privileges::examine(root);
    findings.extend(merging::examine(root));
    findings.extend(memory::examine(root));
    findings.extend(processor::examine(root));
    findings.extend(observing::examine(root));
    findings.extend(xen::examine(root));
    findings
}

/// Tries out which events of the set open, and which BPF programs attach.
pub(crate) fn try_out(root: &HostRoot, set: &EventSet) -> Vec<Finding> {
    let mut findings = counting::try_out(set);
    findings.extend(programs::try_out(root, set));
    findings.push(programs::try_out_page_tables(root));
    findings.push(programs::try_out_mapping_flags(root));
    findings
}

/// Area and item of a finding.
#[derive(Clone, Copy)]
struct Item {
    area: &'static str,
    item: &'static str,
}

impl Item {
    fn good(self, value: impl Into<String>, meaning: impl Into<String>) -> Finding {
        self.finding(State::Good, value.into(), meaning.into(), None)
    }

    fn degraded(self, value: impl Into<String>, meaning: impl Into<String>, remedy: &str) -> Finding {
        self.finding(State::Degraded, value.into(), meaning.into(), Some(remedy))
    }

    fn missing(self, value: impl Into<String>, meaning: impl Into<String>, remedy: Option<&str>) -> Finding {
        self.finding(State::Missing, value.into(), meaning.into(), remedy)
    }

    /// A file that could not be read or understood: nothing is claimed.
    fn unknown(self, error: &HostError) -> Finding {
        let remedy = error.is_denied().then_some("run huddle as root");
        let meaning = "not known, so it may influence results unnoticed";
        self.finding(State::Missing, format!("not known: {error}"), meaning.into(), remedy)
    }

    fn finding(self, state: State, value: String, meaning: String, remedy: Option<&str>) -> Finding {
        let Self { area, item } = self;
        Finding { area, item, state, value, meaning, remedy: remedy.map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use huddle_observe::probes::program::Program;

    fn sound(findings: &[Finding]) {
        let items: BTreeSet<&str> = findings.iter().map(|finding| finding.item).collect();
        assert_eq!(items.len(), findings.len(), "items are unique");
        let mut areas: Vec<&str> = findings.iter().map(|finding| finding.area).collect();
        areas.dedup();
        assert_eq!(
            areas.iter().collect::<BTreeSet<_>>().len(),
            areas.len(),
            "areas stay together: {areas:?}"
        );
        for finding in findings {
            assert!(!finding.value.is_empty() && !finding.meaning.is_empty(), "{finding:?}");
            assert!(!finding.value.contains('\n'), "{finding:?}");
            assert!(finding.state != State::Degraded || finding.remedy.is_some(), "{finding:?}");
        }
    }

    #[test]
    fn this_host_is_examined() {
        let findings = examine(&HostRoot::real());
        sound(&findings);
        for finding in &findings {
            println!("{finding:?}");
        }
        assert!(findings.iter().any(|finding| finding.item == "ksm.run"));
    }

    #[test]
    fn findings_of_trials_on_this_host_have_a_reason() {
        let root = HostRoot::real();
        let mut findings = examine(&root);
        findings.extend(try_out(&root, &EventSet::for_host(&root).unwrap()));
        sound(&findings);
        for program in Program::ALL {
            assert!(findings.iter().any(|finding| finding.item == program.name()), "{program:?}");
        }
    }

    #[test]
    fn without_any_facts_nothing_is_reported_as_good() {
        let dir = tempfile::tempdir().unwrap();
        let findings = examine(&HostRoot::at(dir.path()));
        sound(&findings);
        let good: Vec<&str> = findings
            .iter()
            .filter(|finding| finding.state == State::Good)
            .map(|finding| finding.item)
            .collect();
        // A kernel that lacks these features has no such file: absence is the good news.
        assert_eq!(
            good,
            [
                "thp.enabled",
                "thp.khugepaged",
                "numa.balancing",
                "cpu.smt",
                "sched.ext",
                "kvm.mediated_vpmu",
                "nmi_watchdog"
            ]
        );
    }

    #[test]
    fn json_has_the_documented_fields() {
        let item = Item { area: "merging", item: "ksm.run" };
        let json = serde_json::to_value(item.degraded("0", "nothing merges", "echo 1")).unwrap();
        let expected = serde_json::json!({
            "area": "merging", "item": "ksm.run", "state": "degraded", "value": "0",
            "meaning": "nothing merges", "remedy": "echo 1",
        });
        assert_eq!(json, expected);
    }
}
