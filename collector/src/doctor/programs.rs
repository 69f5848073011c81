//! Which BPF programs this kernel lets huddle attach.

use huddle_model::availability::Availability;
use huddle_model::counters::CounterRole;

use super::{Finding, Item};
use huddle_host::HostRoot;
use huddle_host::architecture::Architecture;
use huddle_observe::perf::EventSet;
use huddle_observe::probes::program::{Program, ProgramStatus};
use huddle_observe::probes::{ProbeConfig, ProbeError, Probes};
use huddle_sharing::{KernelAccess, KernelMappings};

const AREA: &str = "BPF programs";

/// Attaches each program and detaches it again; they record nothing meanwhile. Misses are sampled by the event of the set.
pub(super) fn try_out(root: &HostRoot, set: &EventSet) -> Vec<Finding> {
    let miss_event = set.event(CounterRole::LlcMisses).clone();
    let remedies =
        Remedies { architecture: Architecture::of(root), is_event_known: miss_event.value().is_some() };
    let miss_event = Some(miss_event);
    match Probes::load(root, &ProbeConfig { miss_event, ..ProbeConfig::default() }) {
        Ok(probes) => probes.programs.status().iter().map(|status| judge(status, remedies)).collect(),
        Err(error) => {
            let attached = Availability::Unavailable(error.to_string());
            let status = |program| ProgramStatus { program, attached: attached.clone() };
            let judge =
                |status| Finding { remedy: Some(remedy_of_all(&error).into()), ..judge(&status, remedies) };
            Program::ALL.map(status).map(judge).into()
        }
    }
}

/// Whether page tables can be read instead of pagemap.
pub(super) fn try_out_page_tables(root: &HostRoot) -> Finding {
    judge_page_tables(huddle_sharing::page_tables_readable(root), Architecture::of(root))
}

fn judge_page_tables(readable: Result<(), String>, architecture: Architecture) -> Finding {
    const REMEDY: &str = "run huddle as root (or with CAP_BPF and CAP_PERFMON), on a kernel from 5.17 on with \
                          CONFIG_DEBUG_INFO_BTF that is not locked down for confidentiality";
    let item = Item { area: AREA, item: "page_tables" };
    match readable {
        Ok(()) => item.good("are read", "a scan reads from the page tables themselves which frames VMs map, and with --weigh read which they read"),
        Err(reason) => item.missing(
            reason,
            "a scan reads /proc/PID/pagemap instead, which takes 2 to 12 times as long and finds the same; what VMs read \
             (--weigh read) is not seen",
            (architecture == Architecture::X86).then_some(REMEDY),
        ),
    }
}

/// Whether flags of mappings can be read without smaps.
pub(super) fn try_out_mapping_flags(root: &HostRoot) -> Finding {
    judge_mapping_flags(KernelMappings::new(root.clone(), KernelAccess::default()).try_out())
}

fn judge_mapping_flags(readable: Result<(), String>) -> Finding {
    const REMEDY: &str = "run huddle as root (or with CAP_BPF and CAP_PERFMON), on a kernel from 6.1 on with \
                          CONFIG_DEBUG_INFO_BTF that is not locked down for confidentiality";
    let item = Item { area: AREA, item: "mapping_flags" };
    match readable {
        Ok(()) => item.good("are read", "discovery reads in the kernel's memory which mappings KSM looks at"),
        Err(reason) => item.missing(
            reason,
            "discovery reads /proc/PID/smaps instead, which takes longer than a scan and finds the same",
            Some(REMEDY),
        ),
    }
}

/// The remedy if no program can be tried.
fn remedy_of_all(error: &ProbeError) -> &'static str {
    match error {
        ProbeError::Types { .. } | ProbeError::Btf { .. } => {
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y, and run huddle as root"
        }
        _ => "run huddle as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN",
    }
}

/// What remedies depend on.
#[derive(Clone, Copy)]
struct Remedies {
    architecture: Architecture,
    /// Whether there is an event to sample misses by.
    is_event_known: bool,
}

fn judge(status: &ProgramStatus, remedies: Remedies) -> Finding {
    let ProgramStatus { program, attached } = status;
    let item = Item { area: AREA, item: program.name() };
    match attached {
        Availability::Available(()) => item.good("attaches", format!("gives: {}", program.gives())),
        Availability::Unavailable(reason) => {
            let meaning = format!("missing without it: {}", program.gives());
            item.missing(reason, meaning, Some(remedy(*program, remedies)))
        }
    }
}

fn remedy(program: Program, remedies: Remedies) -> &'static str {
    match program {
        Program::KsmStartScan
        | Program::KsmStopScan
        | Program::KsmMergeOnePage
        | Program::KsmMergeWithKsmPage
        | Program::KsmRemoveRmapItem
        | Program::KsmRemoveKsmPage => {
            "run huddle as root, on a kernel from 6.4 on with CONFIG_KSM, CONFIG_MEMCG and CONFIG_DEBUG_INFO_BTF"
        }
        Program::SchedSwitch | Program::SchedMigrateTask => {
            "run huddle as root, on a kernel from 5.16 on with CONFIG_DEBUG_INFO_BTF"
        }
        Program::SampleClock => "run huddle as root, or with CAP_BPF and CAP_PERFMON",
        Program::SampleMisses if !remedies.is_event_known => {
            "name an event: --event llc_misses=EVENT, or [counters] in the config"
        }
        Program::SampleMisses => {
            "use a host whose PMU can sample (bare metal, or a cloud VM of a type that has one); pmu.llc_misses says \
             whether misses are counted"
        }
        Program::KvmEntry | Program::KvmExit => remedies.architecture.kvm_tracepoints_remedy(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn every_program_has_its_line_in_either_state() {
        let remedies = Remedies { architecture: Architecture::X86, is_event_known: true };
        for program in Program::ALL {
            let good = judge(&ProgramStatus { program, attached: Availability::Available(()) }, remedies);
            assert!(good.state == State::Good && good.item == program.name() && good.remedy.is_none());
            let attached = Availability::Unavailable("the kernel refused".into());
            let missing = judge(&ProgramStatus { program, attached }, remedies);
            assert_eq!((missing.state, missing.value.as_str()), (State::Missing, "the kernel refused"));
            assert!(missing.meaning.contains(program.gives()) && missing.remedy.is_some(), "{missing:?}");
        }
    }

    #[test]
    fn without_an_event_the_remedy_is_to_name_one() {
        let remedy = |is_event_known| {
            remedy(Program::SampleMisses, Remedies { architecture: Architecture::Arm64, is_event_known })
        };
        assert!(remedy(false).contains("--event llc_misses="), "{}", remedy(false));
        assert!(remedy(true).contains("whose PMU can sample"), "{}", remedy(true));
    }

    #[test]
    fn page_tables_have_a_remedy_where_there_is_one() {
        let judge_page_tables = |readable| super::judge_page_tables(readable, Architecture::X86);
        assert_eq!(judge_page_tables(Ok(())).state, State::Good);
        let refused = judge_page_tables(Err("no types".into()));
        assert_eq!((refused.state, refused.value.as_str()), (State::Missing, "no types"));
        assert!(refused.remedy.is_some());
        assert_eq!(super::judge_page_tables(Err("not x86".into()), Architecture::Arm64).remedy, None);
        assert_eq!(judge_mapping_flags(Ok(())).state, State::Good);
        let refused = judge_mapping_flags(Err("no types".into()));
        assert!(refused.state == State::Missing && refused.remedy.is_some(), "{refused:?}");
    }

    #[test]
    fn without_the_kernels_types_each_program_has_that_reason() {
        let dir = tempfile::tempdir().unwrap();
        let findings = try_out(&HostRoot::at(dir.path()), &EventSet::only([]));
        assert_eq!(findings.len(), Program::ALL.len());
        assert!(
            findings.iter().all(|finding| finding.value.contains("CONFIG_DEBUG_INFO_BTF")),
            "{findings:?}"
        );
    }
}
