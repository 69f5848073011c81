//! The BPF programs: loaded, attached, and read.
//!
//! Each program is optional: one that this kernel refuses leaves the others working, and its reason is
//! in [`Programs::status`]. Nothing is pinned in bpffs: programs, maps and links live as long as the file
//! descriptors of this process, so they are gone after any exit, also after `kill -9`.

pub mod btf;
pub mod cost;
pub mod ksm;
pub mod losses;
pub mod pass;
pub mod program;
pub mod threads;

mod attach;
mod kvm;
mod mapped;
mod object;

use std::collections::BTreeMap;
use std::path::PathBuf;

use aya::maps::{Map, MapError};
use aya::{Ebpf, EbpfLoader};
use huddle_model::availability::Availability;

use super::perf::events::{CacheEvents, EventSpec};
use attach::Attacher;
use cost::ProgramCost;
use huddle_host::{HostError, HostRoot, kernel};
use ksm::KsmProbe;
use losses::LossReader;
use pass::ProbeTrigger;
use program::{Program, ProgramStatus};
use threads::{Sizes, ThreadProbe};

/// Why no probe works.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel's types cannot be read.
    #[error(
        "BPF programs need the kernel's types, but {} cannot be read: {source}; use a kernel built with \
         CONFIG_DEBUG_INFO_BTF",
        path.display()
    )]
    Types {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The kernel's types cannot be parsed.
    #[error("{}: {source}", path.display())]
    Btf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: btf::BtfError,
    },
    /// The host's number of CPUs or its processor is unknown.
    #[error("the probes cannot be adapted to this host: {0}")]
    Host(#[from] HostError),
    /// The maps cannot be created.
    #[error("the BPF maps cannot be created: {reason}; run as root, or with CAP_BPF and CAP_PERFMON")]
    Load {
        /// The error of the kernel or the loader.
        reason: String,
    },
    /// A map cannot be read or written.
    #[error("the BPF map {map} cannot be used: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// The kernel's error.
        source: MapError,
    },
}

/// Which programs to attach, and their limits.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The programs to attach; the others are unavailable as not requested.
    pub programs: Vec<Program>,
    /// How many threads can be watched at once; each takes 32 bytes per CPU in the kernel.
    pub max_threads: u32,
    /// How many processes KSM's merges can be counted for; events of further processes are counted as lost.
    pub max_ksm_processes: u32,
    /// Samples of the software clock per second and CPU.
    pub clock_samples_hz: u64,
    /// Last-level cache misses from one sample to the next.
    pub misses_per_sample: u64,
    /// The event that stands for such a miss, or why there is none; `None`: that of this host's processor.
    pub miss_event: Option<Availability<EventSpec>>,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        // 97 is prime, so that samples are not in phase with the tick or a guest's timer.
        Self {
            programs: Program::ALL.to_vec(),
            max_threads: 1024,
            max_ksm_processes: 4096,
            clock_samples_hz: 97,
            misses_per_sample: 10_007,
            miss_event: None,
        }
    }
}

impl ProbeConfig {
    /// Only these programs, with the usual limits.
    pub fn only(programs: &[Program]) -> Self {
        Self { programs: programs.to_vec(), ..Self::default() }
    }
}

/// Everything that could be attached. Each part can be moved out and used (and dropped, which detaches it) on
/// its own; a part that could not be attached has the reason.
pub struct Probes {
    /// Complete passes of ksmd.
    pub passes: Availability<ProbeTrigger>,
    /// Merges of KSM per process.
    pub ksm: Availability<KsmProbe>,
    /// Where watched threads run.
    pub threads: Availability<ThreadProbe>,
    /// Lost events.
    pub losses: Availability<LossReader>,
    /// The programs themselves: which run, and what they cost.
    pub programs: Programs,
}

/// The programs, loaded or not; dropping it detaches nothing that is in use.
pub struct Programs {
    status: Vec<ProgramStatus>,
    ebpf: Ebpf,
}

impl Probes {
    /// Loads the object and attaches the programs that this kernel allows.
    ///
    /// # Errors
    /// Nothing at all can work: no BTF, or no permission for BPF.
    pub fn load(root: &HostRoot, config: &ProbeConfig) -> Result<Self, ProbeError> {
        let path = root.sys("kernel/btf/vmlinux");
        let bytes =
            std::fs::read(&path).map_err(|source| ProbeError::Types { path: path.clone(), source })?;
        let types = btf::KernelTypes::parse(bytes)
            .map_err(|source| ProbeError::Btf { path: path.clone(), source })?;
        let btf = aya::Btf::parse_file(&path, aya::Endianness::default())
            .map_err(|error| ProbeError::Load { reason: one_line(&error) })?;
        let (offsets, kvm) = (attach::Offsets::find(&types), kvm::KvmFormat::read(root));
        let sizes = sizes(root, config)?;

        let mut loader = EbpfLoader::new();
        offsets.set(&mut loader);
        kvm.set(&mut loader);
        loader
            .override_global("CPUS", &sizes.cpus, true)
            .override_global("TICK_NS", &sizes.tick_ns, true)
            .map_max_entries("KSM_PROCESSES", config.max_ksm_processes.max(1))
            .map_max_entries("DOMAIN_OF", sizes.cpus)
            .map_max_entries("WATCH_BITS", sizes.pid_max.div_ceil(64))
            .map_max_entries("WATCHED", sizes.threads)
            .map_max_entries("SLOTS", sizes.threads)
            .map_max_entries("RESIDENCY", sizes.threads.saturating_mul(sizes.cpus));
        let mut ebpf =
            loader.load(object::bytes()).map_err(|error| ProbeError::Load { reason: one_line(&error) })?;

        let miss_event = match &config.miss_event {
            Some(event) => event.clone(),
            None => CacheEvents::for_host(root)?.llc_misses,
        };
        let kernel = attach::Kernel { btf: &btf, offsets: &offsets, kvm: &kvm, miss_event: &miss_event };
        let mut attacher = Attacher::new(&mut ebpf, kernel, config);
        let passes = ProbeTrigger::attach(root, &mut attacher);
        let ksm = KsmProbe::attach(&mut attacher, sizes.tick_ns);
        let threads = ThreadProbe::attach(&mut attacher, sizes);
        let losses = LossReader::take(&mut attacher);
        let status = attacher.into_status();
        Ok(Self { passes, ksm, threads, losses, programs: Programs { status, ebpf } })
    }
}

impl Programs {
    /// Each program and whether it runs.
    pub fn status(&self) -> &[ProgramStatus] {
        &self.status
    }

    /// Cost of each loaded program since it was loaded, while a [`cost::CostMeter`] was on.
    pub fn costs(&self) -> BTreeMap<Program, ProgramCost> {
        cost::read(&self.ebpf)
    }

    /// The kernel's ids of the programs that are loaded, in ascending order.
    pub fn ids(&self) -> Vec<u32> {
        let ids = self.ebpf.programs().filter_map(|(_, program)| Some(program.info().ok()?.id()));
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        ids
    }
}

/// How large the maps have to be on this host.
fn sizes(root: &HostRoot, config: &ProbeConfig) -> Result<Sizes, ProbeError> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(path, error)| ProbeError::Load { reason: format!("{path}: {error}") })?;
    // sysconf(3): the unit of field 22 of /proc/PID/stat; 100 on all but the oldest architectures.
    let ticks_per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten();
    let ticks_per_second = ticks_per_second.and_then(|ticks| u64::try_from(ticks).ok()).unwrap_or(100);
    Ok(Sizes {
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        threads: config.max_threads.max(1),
        pid_max: kernel::pid_max(root)?,
        tick_ns: 1_000_000_000 / ticks_per_second.max(1),
    })
}

/// The outcome of removing a key, where a missing key is fine.
fn if_there(outcome: Result<(), MapError>) -> Result<(), MapError> {
    match outcome {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Takes a map out of the object.
fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, ProbeError> {
    let missing = || ProbeError::Map { map: name, source: MapError::InvalidName { name: name.to_owned() } };
    ebpf.take_map(name).ok_or_else(missing)
}

/// An error with its causes on one line: the loader's errors often have the kernel's error only in their
/// cause, and the verifier's have many lines (which go to the log).
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        tracing::debug!("{message}");
        let first = message.lines().next().unwrap_or_default();
        if !text.contains(first) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(first);
        }
        next = error.source();
    }
    text
}
