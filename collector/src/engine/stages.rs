//! The stages of the loop as the engine knows them.

use std::collections::BTreeMap;
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::observation::{Observation, ProgramCost};
use huddle_model::plan::Plan;
use huddle_model::topology::Topology;
use huddle_model::vm::{TaskId, Vm};

use crate::discover::Discovery;
use crate::pin::{PinReport, UndoReport};
use crate::sharing::Measurement;

/// Why a stage could not do its work: one sentence for the user.
pub type StageError = Box<dyn std::error::Error + Send + Sync>;

/// Finds the VMs of a host.
pub trait VmSource {
    /// All VMs there are now.
    fn discover(&mut self) -> Result<Discovery, StageError>;
}

/// Measures what VMs share.
pub trait SharingSource {
    /// The matrix of `vms`; those that end meanwhile are left out and named.
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError>;

    /// Takes back what it changed of the host, and changes nothing more; `None` where it changes nothing.
    fn undo(&mut self) -> Option<UndoReport> {
        None
    }

    /// What BPF programs of its own cost so far, all together; `None` where it has none.
    fn programs_cost(&self) -> Option<ProgramCost> {
        None
    }
}

/// Tells about the host itself.
pub trait HostSource {
    /// Cache domains of the usable CPUs.
    fn topology(&mut self) -> Result<Topology, StageError>;
    /// KSM's counters and settings.
    fn ksm(&mut self) -> Result<KsmState, StageError>;
    /// Pages of a process's memory on each NUMA node; only asked for where a limit of plans is about it.
    fn node_pages(&mut self, process: TaskId) -> Result<BTreeMap<u32, u64>, StageError>;
    /// Runnable tasks a usable CPU at this moment.
    fn runnable_per_cpu(&mut self) -> Result<f64, StageError>;
    /// CPU time this process has used so far, in microseconds.
    fn own_cpu_us(&mut self) -> Result<u64, StageError>;
}

/// Watches VMs between the rounds: counters, residency, merges and breaks.
pub trait Observer {
    /// Fills in vCPUs that discovery could not tell, and says so, one sentence each.
    fn complete(&mut self, vms: &mut [Vm]) -> Vec<String> {
        let _ = vms;
        Vec::new()
    }

    /// Ends the window that began at the last call and gives it (its `round` and `trial` are filled in by
    /// the engine), and begins the next, in which `vms` are watched. The first call only begins.
    fn observe(&mut self, vms: &[Vm], topology: Option<&Topology>) -> Availability<Observation>;
}

/// Puts vCPU threads where a plan wants them, and back.
pub trait Pinner {
    /// Sets affinities as planned; vCPUs that the plan does not name get back what they had.
    fn apply(&mut self, vms: &[Vm], plan: &Plan) -> Result<PinReport, StageError>;
    /// Takes back every change.
    fn undo(&mut self) -> UndoReport;
}

/// Tells the time.
pub trait Clock {
    /// Microseconds since the Unix epoch.
    fn now_unix_us(&self) -> u64;
    /// Time since some fixed moment, on a clock that nobody sets.
    fn monotonic(&self) -> Duration;
}
