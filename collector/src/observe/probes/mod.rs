//! The BPF programs: loaded, attached, and read.
//!
//! Each program is optional: one that this kernel refuses leaves the others working, and its reason is
//! in [`Probes::status`]. Nothing is pinned in bpffs: programs, maps and links live as long as the file
//! descriptors of this process, so they are gone after any exit, also after `kill -9`.

pub mod btf;
pub mod losses;
pub mod pass;
pub mod program;

mod attach;
mod object;

use std::path::PathBuf;

use aya::maps::{Map, MapError};
use aya::{Ebpf, EbpfLoader};
use huddle_model::availability::Availability;

use crate::host::HostRoot;
use attach::Attacher;
use losses::LossReader;
use pass::ProbeTrigger;
use program::{Program, ProgramStatus};

/// Why the probes as a whole are not there.
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
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel's types cannot be understood.
    #[error("{}: {source}", path.display())]
    Btf {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: btf::BtfError,
    },
    /// The maps cannot be created.
    #[error("the BPF maps cannot be created: {reason}; run as root, or with CAP_BPF and CAP_PERFMON")]
    Load {
        /// What the kernel or the loader said.
        reason: String,
    },
    /// A map cannot be read or written.
    #[error("the BPF map {map} cannot be used: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
}

/// Which programs are wanted, and for how much.
#[derive(Clone, Debug)]
pub struct ProbeConfig {
    /// The programs to attach; the others are unavailable as not wanted.
    pub programs: Vec<Program>,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self { programs: Program::ALL.to_vec() }
    }
}

/// All that could be attached. Each part can be moved out and used (and dropped, which detaches it)
/// on its own; what could not be attached tells why.
pub struct Probes {
    /// Complete passes of ksmd.
    pub passes: Availability<ProbeTrigger>,
    /// What was lost.
    pub losses: Availability<LossReader>,
    status: Vec<ProgramStatus>,
    /// Holds the programs, for their ids and costs.
    ebpf: Ebpf,
}

impl Probes {
    /// Loads the object and attaches what this kernel lets us attach.
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
        let offsets = attach::Offsets::find(&types);

        let mut loader = EbpfLoader::new();
        offsets.set(&mut loader);
        let mut ebpf =
            loader.load(object::bytes()).map_err(|error| ProbeError::Load { reason: one_line(&error) })?;

        let mut attacher = Attacher::new(&mut ebpf, &btf, &offsets, config);
        let passes = ProbeTrigger::attach(root, &mut attacher);
        let losses = LossReader::take(&mut attacher);
        let status = attacher.into_status();
        Ok(Self { passes, losses, status, ebpf })
    }

    /// Each program and whether it runs.
    pub fn status(&self) -> &[ProgramStatus] {
        &self.status
    }

    /// The kernel's ids of the programs that are loaded, in ascending order.
    pub fn ids(&self) -> Vec<u32> {
        let ids = self.ebpf.programs().filter_map(|(_, program)| Some(program.info().ok()?.id()));
        let mut ids: Vec<u32> = ids.collect();
        ids.sort_unstable();
        ids
    }
}

/// Takes a map out of the object.
fn take_map(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, ProbeError> {
    let missing = || ProbeError::Map { map: name, source: MapError::InvalidName { name: name.to_owned() } };
    ebpf.take_map(name).ok_or_else(missing)
}

/// An error with its causes on one line: the loader's errors often say only in their cause what the
/// kernel said, and the verifier's are many lines long (they go to the log).
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let said = error.to_string();
        tracing::debug!("{said}");
        let first = said.lines().next().unwrap_or_default();
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
