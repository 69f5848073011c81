//! Finding VMs: those of any VMM on this host, and what the user names as such.
//!
//! Which of the processes that look like VMs are taken for some says [`huddle_model::selection`], what is
//! guest memory [`memory`], why it cannot be merged [`merge`]. A process is
//! identified by pid and start time; one that ends while it is looked at is a note, never an error.
//! Processes of others are hostile: what is read of them has limits ([`crate::limits`]), and what they
//! wrote is made plain before it is handed on ([`huddle_model::text::plain`]).

mod build;
mod cgroup_vms;
pub mod cmdline;
mod complete;
pub mod config_file;
#[cfg(test)]
mod fixture;
pub mod memory;
pub mod merge;
mod monitor_socket;
mod monitors;
mod named;
mod processes;
pub mod qmp;
mod round;
mod scan;
#[cfg(test)]
mod tests;
mod vcpu_limits;
mod vcpus;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use huddle_model::names::Names;
use huddle_model::selection::Selection;
use huddle_model::text::plain;
use huddle_model::vm::{Owner, TaskId, Uuid, Vm, VmId, VmmKind};
use serde::Serialize;

use self::build::Refused;
pub use self::complete::{GuestThread, complete_vcpus, complete_vcpus_on_host};
use self::memory::MemoryCache;
use self::monitors::Monitors;
use self::processes::Processes;
pub use self::scan::any_holds_kvm;
use self::vcpu_limits::HostCpus;
use crate::limits::Limits;
use crate::maps::FlagSource;
use crate::users::Users;
use crate::{HostError, HostRoot};

/// A process to treat as a VM: `--vm NAME=PID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedProcess {
    /// What the VM is called.
    pub name: String,
    /// Its process.
    pub pid: i32,
}

/// A control group (a container) to treat as a VM; all its threads are vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedCgroup {
    /// What the VM is called.
    pub name: String,
    /// Its directory: absolute, or below `/sys/fs/cgroup` or one of the hierarchies there. Groups
    /// below it belong to it.
    pub path: PathBuf,
}

/// Processes to treat as VMs by their name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedComm {
    /// What the VM is called; where several processes match, each is `NAME-PID`.
    pub name: String,
    /// The process's name as `/proc/PID/comm` has it: at most 15 bytes.
    pub comm: String,
    /// Only processes of this user; of any where `None`.
    pub uid: Option<u32>,
}

/// Where to look.
#[derive(Clone, Debug)]
pub struct DiscoverOptions {
    /// Processes that the user names.
    pub processes: Vec<NamedProcess>,
    /// Control groups that the user names.
    pub cgroups: Vec<NamedCgroup>,
    /// Process names that the user gives.
    pub comms: Vec<NamedComm>,
    /// Whether to look for VMs among all processes; off when `--vm` is given.
    pub scan_host: bool,
    /// Which of those that are found are taken.
    pub selection: Selection,
    /// How much is read of processes.
    pub limits: Limits,
    /// Whether vCPUs are pinned that their owner bound: then they have no [binding](huddle_model::binding).
    pub override_bindings: bool,
    /// The state directory, whose journal has the affinities that are huddle's doing and not the owners'.
    pub state_dir: Option<PathBuf>,
}

impl Default for DiscoverOptions {
    /// All that is found is looked at; taken are the processes of root and of the user who asks.
    fn default() -> Self {
        let mut selection = Selection::default();
        selection.owners.insert(nix::unistd::geteuid().as_raw());
        Self {
            processes: Vec::new(),
            cgroups: Vec::new(),
            comms: Vec::new(),
            scan_host: true,
            selection,
            limits: Limits::default(),
            override_bindings: false,
            state_dir: None,
        }
    }
}

/// Something that looks like a VM and is not taken for one: it is not measured, not planned with, and not pinned, and
/// that it comes or goes is nobody's concern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// What it is called; names of these may be equal.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub id: VmId,
    /// What would run it.
    pub vmm: VmmKind,
    /// The user that it belongs to, where that is known.
    pub owner: Option<Owner>,
    /// The UUID that it claims.
    pub uuid: Option<Uuid>,
    /// Why it is left out, as the end of a sentence about it.
    pub reason: String,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// VMs with unique names: those the user named, in that order, then the others in ascending pid.
    pub vms: Vec<Vm>,
    /// What looks like a VM and is left out, in ascending pid.
    pub left_out: Vec<LeftOut>,
    /// What the user should know: VMs that ended meanwhile, names changed to be unique, sockets that
    /// did not answer, processes that may not be seen. A [`Discoverer`] says each once until it
    /// stops being true.
    pub notes: Vec<String>,
}

/// Why nothing could be discovered.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// There is no such process.
    #[error("no process {pid} for VM {name}; look it up with `ps`")]
    NoSuchProcess {
        /// The VM.
        name: String,
        /// The process asked for.
        pid: i32,
    },
    /// The process cannot be a VM.
    #[error("process {pid} cannot be VM {name}: {why}")]
    NoVm {
        /// The VM.
        name: String,
        /// The process asked for.
        pid: i32,
        /// Why not.
        why: &'static str,
    },
    /// The number is one of a thread, whose process may be another VM already.
    #[error("{pid}, named as VM {name}, is a thread of process {process}; name the process")]
    Thread {
        /// The VM.
        name: String,
        /// The number asked for.
        pid: i32,
        /// The process it belongs to.
        process: i32,
    },
    /// Two VMs with one name.
    #[error("two VMs are called {0:?}; give each a name of its own")]
    DuplicateName(String),
    /// One process as two VMs.
    #[error("process {pid} is named as VM {first} and as VM {second}; name it once")]
    DuplicateProcess {
        /// The process.
        pid: i32,
        /// The first VM.
        first: String,
        /// The second VM.
        second: String,
    },
    /// There is no such control group.
    #[error("no control group for VM {name}: {source}; give its path below /sys/fs/cgroup")]
    NoCgroup {
        /// The VM.
        name: String,
        /// What was tried.
        source: HostError,
    },
    /// A kernel file could not be read or understood.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl DiscoverError {
    /// Whether what the user named contradicts itself, whatever runs on the host.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Thread { .. } | Self::DuplicateName(_) | Self::DuplicateProcess { .. })
    }
}

/// Finds VMs again and again, before each scan, and keeps what is expensive to find out.
#[derive(Debug)]
pub struct Discoverer {
    root: HostRoot,
    options: DiscoverOptions,
    processes: Processes,
    memory: MemoryCache,
    monitors: Monitors,
    /// Names of VMs that nobody named, and of those that are named by their process's name.
    names: Names,
    comm_names: Names,
    users: Option<Users>,
    /// VMs that were beyond a limit.
    refused: BTreeMap<TaskId, Refused>,
    /// VMs that were whole at least once.
    built: BTreeSet<TaskId>,
    /// Named processes that were there once: their end is news, not a mistake of the user.
    known_processes: BTreeMap<i32, TaskId>,
    /// Named control groups that were there once.
    known_cgroups: BTreeSet<PathBuf>,
    said: BTreeSet<String>,
    /// What the last round knew of CPUs.
    cpus: Option<HostCpus>,
    /// Whether it was said that there are strangers' VMs.
    has_said_strangers: bool,
}

/// Finds the VMs once.
pub fn discover(root: &HostRoot, options: &DiscoverOptions) -> Result<Discovery, DiscoverError> {
    Discoverer::new(root.clone(), options.clone()).discover()
}

impl Discoverer {
    /// Nothing is read before [`Discoverer::discover`].
    pub fn new(root: HostRoot, options: DiscoverOptions) -> Self {
        Self {
            root,
            options,
            processes: Processes::default(),
            memory: MemoryCache::default(),
            monitors: Monitors::default(),
            names: Names::default(),
            comm_names: Names::default(),
            users: None,
            refused: BTreeMap::new(),
            built: BTreeSet::new(),
            known_processes: BTreeMap::new(),
            known_cgroups: BTreeSet::new(),
            said: BTreeSet::new(),
            cpus: None,
            has_said_strangers: false,
        }
    }

    /// The same, which asks this source for flags of mappings before it reads smaps.
    pub fn with_flag_source(mut self, flags: Arc<dyn FlagSource>) -> Self {
        self.memory.set_flag_source(flags);
        self
    }

    /// Finds the VMs there are now.
    ///
    /// # Errors
    /// A process or control group that the user named and that was never there; names or processes
    /// given twice; `/proc` or KSM's files that cannot be read or understood. A named VM that was
    /// found before and has ended is a note.
    pub fn discover(&mut self) -> Result<Discovery, DiscoverError> {
        self.check_names()?;
        let Discovery { vms, left_out, notes } = self.look()?;
        let alive: BTreeSet<TaskId> = vms.iter().flat_map(Vm::processes).collect();
        self.memory.retain(&alive);
        self.built.retain(|process| alive.contains(process));
        let notes: Vec<String> = notes.into_iter().map(|note| plain(&note).into_owned()).collect();
        let now: BTreeSet<String> = notes.iter().cloned().collect();
        let news = notes.into_iter().filter(|note| !self.said.contains(note)).collect();
        self.said = now;
        Ok(Discovery { vms, left_out, notes: news })
    }

    /// Fills in the limits of vCPUs that became known after [`Discoverer::discover`], as of the same moment.
    ///
    /// # Errors
    /// `/proc` or `/sys` cannot be read or understood.
    pub fn find_limits(&mut self, vms: &mut [Vm]) -> Result<(), DiscoverError> {
        let cpus = match &mut self.cpus {
            Some(cpus) => cpus,
            None => self.cpus.insert(HostCpus::of_host(&self.root, &self.options)?),
        };
        for vm in vms {
            cpus.fill(&self.root, vm)?;
        }
        Ok(())
    }

    /// How often a process of the host was looked into so far, which is what takes time.
    pub fn looks(&self) -> u64 {
        self.processes.looks()
    }

    fn check_names(&self) -> Result<(), DiscoverError> {
        let options = &self.options;
        let names = options.processes.iter().map(|vm| &vm.name);
        let names = names.chain(options.cgroups.iter().map(|vm| &vm.name));
        let mut seen = BTreeSet::new();
        for name in names.chain(options.comms.iter().map(|vm| &vm.name)) {
            if !seen.insert(name) {
                return Err(DiscoverError::DuplicateName(name.clone()));
            }
        }
        let mut owners: BTreeMap<i32, &String> = BTreeMap::new();
        for NamedProcess { name, pid } in &options.processes {
            if let Some(first) = owners.insert(*pid, name) {
                let (first, second) = (first.clone(), name.clone());
                return Err(DiscoverError::DuplicateProcess { pid: *pid, first, second });
            }
        }
        Ok(())
    }
}
