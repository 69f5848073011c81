//! Attaching programs one by one, each with its own reason if that fails.

use std::collections::BTreeMap;

use aya::programs::perf_event::{
    PerfEventConfig, PerfEventLink, PerfEventScope, SamplePolicy, SoftwareEvent,
};
use aya::programs::tp_btf::BtfTracePointLink;
use aya::programs::{BtfTracePoint, PerfEvent, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use huddle_abi::NO_OFFSET;
use huddle_model::availability::Availability;
use nix::errno::Errno;

use super::btf::KernelTypes;
use super::kvm::KvmFormat;
use super::program::{Program, ProgramStatus};
use super::{ProbeConfig, one_line};
use crate::perf::events::EventSpec;

/// The globals of the object that hold offsets, with structure and path of each field.
const FIELDS: [(&str, &str, &[&str]); 7] = [
    ("TASK_PID", "task_struct", &["pid"]),
    ("TASK_TGID", "task_struct", &["tgid"]),
    ("TASK_GROUP_LEADER", "task_struct", &["group_leader"]),
    ("TASK_START_BOOTTIME", "task_struct", &["start_boottime"]),
    ("TASK_CPU_TIME", "task_struct", &["se", "sum_exec_runtime"]),
    ("TASK_CPU", "task_struct", &["thread_info", "cpu"]),
    ("MM_OWNER", "mm_struct", &["owner"]),
];

const FIELD_REMEDY: &str = "mm_struct.owner needs CONFIG_MEMCG, the others Linux 5.16 or later";

/// The offsets of this kernel's fields, or why they are missing.
pub(super) struct Offsets(BTreeMap<&'static str, Result<u32, String>>);

impl Offsets {
    pub(super) fn find(types: &KernelTypes) -> Self {
        let find = |&(global, structure, path): &(&'static str, &str, &[&str])| {
            let offset = types.offset_bytes(structure, path);
            (global, offset.map_err(|error| error.to_string()))
        };
        Self(FIELDS.iter().map(find).collect())
    }

    pub(super) fn set<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for (name, offset) in &self.0 {
            let value: &'a u32 = offset.as_ref().unwrap_or(&NO_OFFSET);
            loader.override_global(name, value, true);
        }
    }

    fn missing(&self, needed: &[&str]) -> Option<String> {
        needed.iter().find_map(|name| self.0.get(name)?.as_ref().err().cloned())
    }
}

/// The offsets that a program uses.
fn needs(program: Program) -> &'static [&'static str] {
    match program {
        Program::KsmMergeOnePage | Program::KsmMergeWithKsmPage | Program::KsmRemoveRmapItem => {
            &["MM_OWNER", "TASK_GROUP_LEADER", "TASK_START_BOOTTIME", "TASK_TGID"]
        }
        Program::SchedSwitch => &["TASK_PID", "TASK_START_BOOTTIME", "TASK_CPU_TIME"],
        Program::SchedMigrateTask => &["TASK_PID", "TASK_START_BOOTTIME", "TASK_CPU"],
        _ => &[],
    }
}

/// Facts of this kernel.
#[derive(Clone, Copy)]
pub(super) struct Kernel<'a> {
    pub(super) btf: &'a Btf,
    pub(super) offsets: &'a Offsets,
    pub(super) kvm: &'a KvmFormat,
    /// What to count as a miss of the last-level cache.
    pub(super) miss_event: &'a Availability<EventSpec>,
}

/// Attaches programs of one loaded object and records the outcome of each.
pub(super) struct Attacher<'a> {
    pub(super) ebpf: &'a mut Ebpf,
    pub(super) kernel: Kernel<'a>,
    config: &'a ProbeConfig,
    status: BTreeMap<Program, Availability<()>>,
}

impl<'a> Attacher<'a> {
    pub(super) fn new(ebpf: &'a mut Ebpf, kernel: Kernel<'a>, config: &'a ProbeConfig) -> Self {
        Self { ebpf, kernel, config, status: BTreeMap::new() }
    }

    /// Attaches a program to the tracepoint of its name; dropping the link detaches it.
    pub(super) fn tracepoint(&mut self, program: Program) -> Availability<BtfTracePointLink> {
        let link = self.wanted(program).and_then(|()| self.try_tracepoint(program));
        self.note(program, link)
    }

    /// Records the outcome for `status` and returns it.
    pub(super) fn note<T>(&mut self, program: Program, outcome: Result<T, String>) -> Availability<T> {
        let outcome = Availability::from(outcome);
        let status = match outcome.reason() {
            Some(reason) => Availability::Unavailable(reason.to_owned()),
            None => Availability::Available(()),
        };
        self.status.insert(program, status);
        outcome
    }

    /// Checks that the program is requested and that this kernel has the fields it reads.
    pub(super) fn wanted(&self, program: Program) -> Result<(), String> {
        if !self.config.programs.contains(&program) {
            return Err(format!("the BPF program {} is not requested", program.name()));
        }
        match self.kernel.offsets.missing(needs(program)) {
            None => Ok(()),
            Some(missing) => {
                let name = program.name();
                Err(format!("the BPF program {name} cannot run: {missing}; {FIELD_REMEDY}"))
            }
        }
    }

    fn try_tracepoint(&mut self, program: Program) -> Result<BtfTracePointLink, String> {
        let name = program.name();
        let failed = |error: ProgramError| match error {
            ProgramError::Btf(_) => format!(
                "this kernel has no tracepoint {name} ({}); KSM's came with Linux 6.4 and CONFIG_KSM",
                one_line(&error)
            ),
            _ => format!("the BPF program {name} cannot be attached: {}", one_line(&error)),
        };
        let loaded = self.ebpf.program_mut(name).ok_or_else(|| format!("the BPF object has no {name}"))?;
        let tracepoint: &mut BtfTracePoint = loaded.try_into().map_err(failed)?;
        tracepoint.load(name, self.kernel.btf).map_err(failed)?;
        let link = tracepoint.attach().map_err(failed)?;
        tracepoint.take_link(link).map_err(failed)
    }

    /// Attaches a sampling program to a perf event on every online CPU.
    pub(super) fn samples(&mut self, program: Program) -> Availability<Vec<PerfEventLink>> {
        let links = self.wanted(program).and_then(|()| self.try_samples(program));
        self.note(program, links)
    }

    fn try_samples(&mut self, program: Program) -> Result<Vec<PerfEventLink>, String> {
        let name = program.name();
        let (event, policy) = match program {
            Program::SampleMisses => {
                (self.miss_event()?, SamplePolicy::Period(self.config.misses_per_sample))
            }
            _ => (
                PerfEventConfig::Software(SoftwareEvent::CpuClock),
                SamplePolicy::Frequency(self.config.clock_samples_hz),
            ),
        };
        let failed = |error: ProgramError| {
            let why = match (program, self.kernel.miss_event.value()) {
                (Program::SampleMisses, Some(event)) => cannot_sample(event, &error),
                _ => String::new(),
            };
            format!("the BPF program {name} cannot be attached: {}{why}", one_line(&error))
        };
        let cpus = aya::util::online_cpus().map_err(|(path, error)| format!("{path}: {error}"))?;
        let loaded = self.ebpf.program_mut(name).ok_or_else(|| format!("the BPF object has no {name}"))?;
        let sampler: &mut PerfEvent = loaded.try_into().map_err(failed)?;
        sampler.load().map_err(failed)?;
        let mut links = Vec::new();
        for cpu in cpus {
            let scope = PerfEventScope::AllProcessesOneCpu { cpu };
            let link = sampler.attach(event, scope, policy, false).map_err(failed)?;
            links.push(sampler.take_link(link).map_err(failed)?);
        }
        Ok(links)
    }

    fn miss_event(&self) -> Result<PerfEventConfig, String> {
        self.kernel
            .miss_event
            .value()
            .map_or_else(|| Err(self.kernel.miss_event.reason().unwrap_or_default().to_owned()), sampled)
    }

    pub(super) fn into_status(self) -> Vec<ProgramStatus> {
        self.status.into_iter().map(|(program, attached)| ProgramStatus { program, attached }).collect()
    }
}

/// An event in the loader's types.
fn sampled(event: &EventSpec) -> Result<PerfEventConfig, String> {
    let builder = event.code.builder();
    let attrs = builder.attrs();
    if attrs.config1 != 0 || attrs.config2 != 0 {
        return Err(format!(
            "{} cannot be sampled, only counted: the loader of BPF programs passes no config1 and config2",
            event.name
        ));
    }
    Ok(PerfEventConfig::Pmu { pmu_type: attrs.type_, config: attrs.config })
}

/// What the kernel's refusal of an event means. That it cannot be sampled says nothing of whether it is counted.
fn cannot_sample(event: &EventSpec, error: &ProgramError) -> String {
    let errno = match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error().map(Errno::from_raw),
        _ => None,
    };
    let why = match errno {
        Some(Errno::ENOENT | Errno::ENODEV) => "this host has no such counter on every CPU",
        Some(Errno::EOPNOTSUPP) => {
            "the counters of this host cannot interrupt, so that they count and cannot sample"
        }
        _ => return format!(" (event {})", event.name),
    };
    format!(" (event {}: {why})", event.name)
}

#[cfg(test)]
mod tests {
    use std::io;

    use aya::sys::SyscallError;

    use super::*;
    use crate::perf::EventText;
    use huddle_host::HostRoot;

    fn config(text: &str) -> Result<(u32, u64), String> {
        let event = text.parse::<EventText>().unwrap().resolve(&HostRoot::real()).unwrap();
        match sampled(event.value().unwrap())? {
            PerfEventConfig::Pmu { pmu_type, config } => Ok((pmu_type, config)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_sampled_is_the_event_that_was_chosen() {
        // PERF_TYPE_HARDWARE, _SOFTWARE, _HW_CACHE and _RAW.
        for (text, expected) in [
            ("cache-misses", (0, 3)),
            ("instructions", (0, 1)),
            ("page-faults", (1, 2)),
            ("LLC-load-misses", (3, 0x1_0002)),
            ("r412e", (4, 0x412e)),
        ] {
            assert_eq!(config(text), Ok(expected), "{text}");
        }
        let mut event = EventSpec::raw("cpu/event=0xb7,offcore_rsp=1/", 0xb7);
        event.code = crate::perf::events::EventCode::Raw {
            pmu_type: 4,
            raw: perf_event::events::Raw::new(0xb7).config1(1),
        };
        assert!(sampled(&event).unwrap_err().contains("cannot be sampled, only counted"));
    }

    #[test]
    fn a_refusal_never_denies_counters_that_work() {
        let event = EventSpec::raw("r8", 8);
        let refused = |errno: Errno| {
            let io_error = io::Error::from_raw_os_error(errno as i32);
            cannot_sample(
                &event,
                &ProgramError::SyscallError(SyscallError { call: "perf_event_open", io_error }),
            )
        };
        assert!(refused(Errno::EOPNOTSUPP).contains("count and cannot sample"));
        assert!(refused(Errno::ENOENT).contains("event r8: this host has no such counter"));
        for errno in [Errno::EOPNOTSUPP, Errno::EINVAL, Errno::EACCES, Errno::EBUSY] {
            assert!(!refused(errno).contains("no hardware counters"), "{errno}");
        }
    }
}
