//! Which counters open here: the events of the configured set, and those of the kernel itself.

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::observation::CountedEvent;

use super::{Finding, Item};
use huddle_observe::perf::meaning::EventMeaning;
use huddle_observe::perf::{EventSet, EventSpec, Scope, TriedEvent};

const AREA: &str = "counters";
const PRIVILEGE: &str = "run huddle as root, or with CAP_PERFMON";

/// Opens the events on the calling thread, lets it look up the caches, and closes them again.
pub(super) fn try_out(set: &EventSet) -> Vec<Finding> {
    let software = EventSet::only([(CounterRole::LlcMisses, EventSpec::page_faults())]).probe();
    let may_count = software.iter().any(|counted| counted.event.value().is_some());
    let mut findings: Vec<Finding> =
        set.try_out().iter().map(|tried| judge(tried, set.scope(), may_count)).collect();
    findings
        .extend(software.iter().filter(|counted| counted.role == CounterRole::LlcMisses).map(judge_software));
    findings
}

fn judge(tried: &TriedEvent, scope: Scope, may_count: bool) -> Finding {
    let (name, with, without) = match tried.role {
        CounterRole::Cycles => ("pmu.cycles", "instructions per cycle can be computed", "there is no IPC"),
        CounterRole::Instructions => {
            ("pmu.instructions", "misses can be related to work done", "there is neither MPKI nor IPC")
        }
        CounterRole::LlcReferences => {
            ("pmu.llc_references", "the miss ratio can be computed", "there is no miss ratio")
        }
        CounterRole::LlcMisses => (
            "pmu.llc_misses",
            "whether a placement saves misses is measured",
            "whether a placement saves misses cannot be seen, only what workloads report",
        ),
    };
    let item = Item { area: AREA, item: name };
    let scope = match scope {
        Scope::GuestOnly => "in the guest only",
        Scope::HostAndGuest => "in the guest and for it",
    };
    match (&tried.event, tried.chosen.value()) {
        (Availability::Available(event), Some(chosen)) if chosen.is_software() => item.degraded(
            format!("{event}, which the kernel counts"),
            "its rates say nothing about a cache",
            "take the choice out of the configuration on a host with a PMU",
        ),
        (Availability::Available(event), Some(_)) if tried.counted == Some(0) => item.degraded(
            format!("{event} opens, and counted nothing while huddle read 32 MiB of memory"),
            "an event that the processor does not have reads 0 for ever: until it counts on some vCPU, it is reported \
             as unavailable",
            "choose another event: --event ROLE=EVENT, or [counters] in the config",
        ),
        (Availability::Available(event), Some(EventSpec { note: Some(note), meaning, .. })) => item.degraded(
            described(event, meaning.as_ref(), scope),
            note.clone(),
            "choose another event: --event ROLE=EVENT, or [counters] in the config",
        ),
        (Availability::Available(event), chosen) => {
            let meaning = chosen.and_then(|chosen| chosen.meaning.as_ref());
            item.good(described(event, meaning, scope), with)
        }
        // No event was chosen, or the table has none.
        (Availability::Unavailable(reason), None) => item.missing(
            reason,
            without,
            Some("name an event: --event ROLE=EVENT, or [counters] in the config"),
        ),
        (Availability::Unavailable(reason), Some(_)) if !may_count => {
            item.missing(reason, without, Some(PRIVILEGE))
        }
        (Availability::Unavailable(reason), Some(_)) => item.missing(
            reason,
            without,
            Some(
                "use a host with a PMU (bare metal, or a cloud VM of a type that has one), or name another \
                 event: --event ROLE=EVENT",
            ),
        ),
    }
}

/// An event with what it counts and where that is documented.
fn described(event: &str, meaning: Option<&EventMeaning>, scope: &str) -> String {
    match meaning {
        Some(meaning) => format!("{event}, {scope}; {meaning} ({})", meaning.source),
        None => format!("{event}, {scope}"),
    }
}

fn judge_software(counted: &CountedEvent) -> Finding {
    let item = Item { area: AREA, item: "perf.software" };
    match &counted.event {
        Availability::Available(event) => item
            .good(format!("{event} is counted"), "counters per vCPU work, as far as the hardware has them"),
        Availability::Unavailable(reason) => item.missing(reason, "no counter works at all", Some(PRIVILEGE)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use huddle_host::cpuinfo::Processor;

    fn counted(role: CounterRole, event: Result<&str, &str>) -> CountedEvent {
        CountedEvent { role, event: event.map(str::to_owned).into() }
    }

    fn tried(
        set: &EventSet,
        role: CounterRole,
        event: Result<&str, &str>,
        counted: Option<u64>,
    ) -> TriedEvent {
        let event = event.map(str::to_owned).into();
        TriedEvent { role, chosen: set.event(role).clone(), event, counted }
    }

    #[test]
    fn an_event_is_good_only_when_it_opened_and_is_the_hardwares() {
        let intel = Processor { vendor: "GenuineIntel".into(), family: 6, model: 143 };
        let set = EventSet::of(Some(&intel));
        let judged = |role, event, counted| judge(&tried(&set, role, event, counted), Scope::GuestOnly, true);
        let finding = judged(CounterRole::LlcMisses, Ok("cache-misses"), Some(7));
        assert_eq!(finding.state, State::Good);
        assert!(finding.value.starts_with("cache-misses, in the guest only; the L3: "), "{finding:?}");
        assert!(
            finding.value.contains("prefetches") && finding.value.contains("(Intel perfmon: "),
            "{finding:?}"
        );
        let finding = judged(CounterRole::Cycles, Ok("cycles"), None);
        assert_eq!((finding.state, finding.value.as_str()), (State::Good, "cycles, in the guest only"));
        let finding = judged(CounterRole::Instructions, Err("no such counter (ENOENT)"), None);
        assert!(finding.state == State::Missing && finding.value.contains("ENOENT"), "{finding:?}");
        assert!(finding.meaning.contains("MPKI") && finding.remedy.is_some());
        // It opens and reads 0.
        let finding = judged(CounterRole::LlcMisses, Ok("cache-misses"), Some(0));
        assert!(finding.state == State::Degraded && finding.value.contains("counted nothing"), "{finding:?}");

        let set = EventSet::only([(CounterRole::LlcMisses, EventSpec::page_faults())]);
        let page_faults = tried(&set, CounterRole::LlcMisses, Ok("page-faults"), None);
        let finding = judge(&page_faults, set.scope(), true);
        assert!(
            finding.state == State::Degraded && finding.meaning.contains("nothing about a cache"),
            "{finding:?}"
        );
        let cycles = tried(&set, CounterRole::Cycles, Err("not asked for"), None);
        assert!(judge(&cycles, set.scope(), true).remedy.unwrap().contains("name an event"));
        let denied = tried(&set, CounterRole::LlcMisses, Err("not allowed (EACCES)"), None);
        let finding = judge(&denied, set.scope(), false);
        assert_eq!(finding.remedy.as_deref(), Some(PRIVILEGE), "another event would not help");
    }

    #[test]
    fn what_should_be_known_of_an_event_is_no_good_news() {
        let mut event = EventSpec::raw("cache-misses", 0);
        event.note = Some("cache-misses counts the first-level data cache".into());
        let set = EventSet::only([(CounterRole::LlcMisses, event)]);
        let finding =
            judge(&tried(&set, CounterRole::LlcMisses, Ok("cache-misses"), Some(9)), set.scope(), true);
        assert_eq!(finding.state, State::Degraded);
        assert!(
            finding.meaning.contains("first-level data cache") && finding.remedy.is_some(),
            "{finding:?}"
        );
    }

    #[test]
    fn without_software_events_nothing_counts() {
        assert_eq!(judge_software(&counted(CounterRole::LlcMisses, Ok("page-faults"))).state, State::Good);
        let finding = judge_software(&counted(CounterRole::LlcMisses, Err("not allowed (EACCES)")));
        assert!(finding.state == State::Missing && finding.value.contains("EACCES"), "{finding:?}");
    }
}
