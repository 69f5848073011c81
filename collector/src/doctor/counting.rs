//! Which counters open here: the events of the configured set, and those of the kernel itself.

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;
use huddle_model::observation::CountedEvent;

use super::{Finding, Item};
use huddle_observe::perf::{EventSet, EventSpec, Scope};

const AREA: &str = "counters";
const PRIVILEGE: &str = "run huddle as root, or with CAP_PERFMON";

/// Opens the events on the calling thread, and closes them again.
pub(super) fn try_out(set: &EventSet) -> Vec<Finding> {
    let software = EventSet::only([(CounterRole::LlcMisses, EventSpec::page_faults())]).probe();
    let may_count = software.iter().any(|counted| counted.event.value().is_some());
    let judge = |counted: &CountedEvent| judge(counted, set.event(counted.role), set.scope(), may_count);
    let mut findings: Vec<Finding> = set.probe().iter().map(judge).collect();
    findings
        .extend(software.iter().filter(|counted| counted.role == CounterRole::LlcMisses).map(judge_software));
    findings
}

fn judge(counted: &CountedEvent, chosen: &Availability<EventSpec>, scope: Scope, may_count: bool) -> Finding {
    let (name, with, without) = match counted.role {
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
    match (&counted.event, chosen.value()) {
        (Availability::Available(event), Some(chosen)) if chosen.is_software() => item.degraded(
            format!("{event}, which the kernel counts"),
            "its rates say nothing about a cache",
            "take the choice out of the configuration on a host with a PMU",
        ),
        (Availability::Available(event), _) => item.good(format!("{event}, {scope}"), with),
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

    fn counted(role: CounterRole, event: Result<&str, &str>) -> CountedEvent {
        CountedEvent { role, event: event.map(str::to_owned).into() }
    }

    #[test]
    fn an_event_is_good_only_when_it_opened_and_is_the_hardwares() {
        let set = EventSet::of(None);
        let judged = |role, event| judge(&counted(role, event), set.event(role), Scope::GuestOnly, true);
        let finding = judged(CounterRole::LlcMisses, Ok("cache-misses"));
        assert!(
            finding.state == State::Good && finding.value == "cache-misses, in the guest only",
            "{finding:?}"
        );
        let finding = judged(CounterRole::Instructions, Err("no such counter (ENOENT)"));
        assert!(finding.state == State::Missing && finding.value.contains("ENOENT"), "{finding:?}");
        assert!(finding.meaning.contains("MPKI") && finding.remedy.is_some());

        let set = EventSet::only([(CounterRole::LlcMisses, EventSpec::page_faults())]);
        let chosen = set.event(CounterRole::LlcMisses);
        let finding = judge(&counted(CounterRole::LlcMisses, Ok("page-faults")), chosen, set.scope(), true);
        assert!(
            finding.state == State::Degraded && finding.meaning.contains("nothing about a cache"),
            "{finding:?}"
        );
        let cycles = set.event(CounterRole::Cycles);
        let finding = judge(&counted(CounterRole::Cycles, Err("not asked for")), cycles, set.scope(), true);
        assert!(finding.remedy.unwrap().contains("name an event"));
        let denied = counted(CounterRole::LlcMisses, Err("not allowed (EACCES)"));
        let finding = judge(&denied, chosen, set.scope(), false);
        assert_eq!(finding.remedy.as_deref(), Some(PRIVILEGE), "another event would not help");
    }

    #[test]
    fn without_software_events_nothing_counts() {
        assert_eq!(judge_software(&counted(CounterRole::LlcMisses, Ok("page-faults"))).state, State::Good);
        let finding = judge_software(&counted(CounterRole::LlcMisses, Err("not allowed (EACCES)")));
        assert!(finding.state == State::Missing && finding.value.contains("EACCES"), "{finding:?}");
    }
}
