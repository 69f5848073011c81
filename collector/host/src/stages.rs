//! The stages of the loop as the engine knows them, and what they hand on. They lie below those who implement
//! them: this crate for processes of the host, `huddle-sharing`, `huddle-observe`, and `huddle-xen` for domains
//! of Xen.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::{Observation, ReportObservation};
use huddle_model::plan::{MergingState, Plan};
use huddle_model::topology::Topology;
use huddle_model::vm::{TaskId, Vm};
use nix::errno::Errno;

use crate::HostError;
use crate::discover::Discovery;
use crate::pin::{PinReport, UndoReport};
use crate::stop::Stop;

/// Why a stage could not do its work: one sentence for the user.
pub type StageError = Box<dyn std::error::Error + Send + Sync>;

/// Finds the VMs of a host.
pub trait VmSource {
    /// All VMs there are now.
    fn discover(&mut self) -> Result<Discovery, StageError>;

    /// Fills in the limits of vCPUs that became known after discovery.
    fn find_limits(&mut self, vms: &mut [Vm]) -> Result<(), StageError> {
        let _ = vms;
        Ok(())
    }
}

/// A VM that was not measured: it ended meanwhile, or its memory may not be read. No plan contains it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmeasured {
    /// Its name.
    pub vm: String,
    /// Whether it ended.
    pub is_gone: bool,
    /// The reason, as the end of a sentence about the VM.
    pub reason: String,
}

/// How zero-filled frames are distinguished from other merged ones. Both ways give the same answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroPages {
    /// By KSM's own tree of merged frames, where the kernel lets it be read, else by content.
    #[default]
    ByBooks,
    /// By looking into each merged frame.
    ByContent,
}

/// What a scan found.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The VMs that were measured, in the order they were given.
    pub matrix: SharingMatrix,
    /// The other VMs.
    pub unmeasured: Vec<Unmeasured>,
    /// What limits the measurement, one sentence each; empty when nothing does.
    pub notes: Vec<String>,
    /// How zero-filled frames were distinguished from other merged ones; `None` where nothing can have been merged,
    /// and where contents were read anyway.
    pub zero_pages: Option<ZeroPages>,
    /// Least time from the begin of this measurement to that of the next, so that processor time keeps its share of a CPU; 0
    /// where measuring keeps it by itself.
    pub least_interval: Duration,
}

impl Measurement {
    /// Of all VMs, without any limits.
    pub fn of(matrix: SharingMatrix) -> Self {
        Self {
            matrix,
            unmeasured: Vec::new(),
            notes: Vec::new(),
            zero_pages: None,
            least_interval: Duration::ZERO,
        }
    }
}

/// Measures what VMs share.
pub trait SharingSource {
    /// The matrix of `vms`; those that end meanwhile or may not be read are left out and named.
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError>;
}

/// Merges what VMs have in common, where the hypervisor leaves that to whoever asks (Xen's memory sharing; KSM
/// merges by itself). It changes the host, so each change is in a journal first.
pub trait PageMerger {
    /// Merges what VMs have in common now; what came of it, one sentence each. Ends soon after `stop` is set.
    ///
    /// # Errors
    /// Merging ended early. What was merged before stays, and is taken back by [`Self::undo`].
    fn merge(&mut self, stop: &Stop) -> Result<Vec<String>, StageError>;

    /// Gives every page a frame of its own again; what could not be undone stays in the journal.
    fn undo(&mut self) -> UndoReport;
}

/// A complete pass of ksmd over all mergeable memory, or what stands for one elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Complete passes since boot, this one included: what `full_scans` says now.
    pub full_scans: u64,
    /// When it began, on `CLOCK_MONOTONIC` in nanoseconds; `None` where that is not seen.
    pub began_ns: Option<u64>,
    /// When it was complete, on `CLOCK_MONOTONIC` in nanoseconds; `None` where that is not seen.
    pub ended_ns: Option<u64>,
    /// Pages that ksmd keeps book of; `None` where that is not seen.
    pub rmap_items: Option<u64>,
    /// Passes that were completed since the one told before, and are not distinguished.
    pub missed: u64,
}

/// Why waiting for a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum TriggerError {
    /// `full_scans` cannot be read.
    #[error("complete passes of KSM cannot be seen: {0}; use a kernel with CONFIG_KSM")]
    FullScans(#[from] HostError),
    /// The ring buffer cannot be waited for.
    #[error("the ring buffer of the BPF programs cannot be waited for: {0}")]
    Poll(Errno),
}

/// Tells when a pass is complete, and so when the next round is due.
pub trait PassTrigger: Send {
    /// Its name, for the log and the recording.
    fn name(&self) -> &'static str;

    /// Blocks until at least one pass was completed since the last call (or since the trigger was made),
    /// and gives the newest; `None` when `timeout` is over first.
    ///
    /// # Errors
    /// The kernel no longer tells.
    fn wait(&mut self, timeout: Duration) -> Result<Option<Pass>, TriggerError>;

    /// A descriptor that epoll(7) finds readable when there may be something for [`Self::wait`]; `None` if only calling
    /// it tells.
    fn ready(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Why no pass is under way, as one clause, as far as a look at this moment and the one at the last call tell;
    /// `None` where one may be.
    fn idle(&mut self) -> Option<String> {
        None
    }
}

/// What the workloads in VMs report of themselves.
pub trait WorkloadReports: Send {
    /// What was reported since the last call, of `vms`, in their order.
    fn take(&mut self, vms: &[Vm]) -> Vec<ReportObservation>;
}

/// Tells about the host itself.
pub trait HostSource {
    /// Cache domains of the usable CPUs.
    fn topology(&mut self) -> Result<Topology, StageError>;
    /// KSM's counters and settings.
    fn ksm(&mut self) -> Result<KsmState, StageError>;
    /// What is known about why nothing is merged; only asked for where no two of `vms` share a page.
    fn merging(&mut self, vms: &[Vm]) -> MergingState {
        MergingState::of(vms, self.ksm().into(), |_| None)
    }
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
    /// Sets affinities as planned; vCPUs that the plan does not name get back what they had, unless it is
    /// [waiting](Plan::waiting).
    fn apply(&mut self, vms: &[Vm], plan: &Plan) -> Result<PinReport, StageError>;
    /// Takes back every change.
    fn undo(&mut self) -> UndoReport;
    /// After an undo: sets again what the loop had set besides affinities, which is nothing by default; returns what
    /// failed, one sentence each.
    fn resume(&mut self) -> Vec<String> {
        Vec::new()
    }
}

/// Tells the time.
pub trait Clock {
    /// Microseconds since the Unix epoch.
    fn now_unix_us(&self) -> u64;
    /// Time since some fixed moment, on a monotonic clock.
    fn monotonic(&self) -> Duration;
}
