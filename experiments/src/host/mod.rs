//! The host as experiments use it: [`local`] for VMs that are processes, [`xen`] for domains.

#[cfg(test)]
pub(crate) mod fake;
pub mod local;
pub mod xen;

use std::path::Path;

use huddle_engine::backend::BackendError;
use huddle_host::HostRoot;
use huddle_host::pin::{HostPinner, Journal, StateDir, StateLock, ThreadPin};
use huddle_model::cache::CacheModel;
use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::CountedEvent;
use huddle_model::plan::Plan;
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;
use huddle_sharing::content::{ContentSettings, Share};

pub use self::local::CollectorHost;
pub use self::xen::XenHost;
use crate::access_stream::{AccessStreams, StreamFile};
use crate::guest::{GuestData, GuestId};
use crate::probes::HostWindow;

/// Contents are compared at full speed, since nothing is measured meanwhile.
const CONTENT: ContentSettings =
    ContentSettings { cpu_share: Share::ALL, memory_mib: 256, sample: None, seed: 1 };

/// The host as experiments use it; tests have a fake one.
pub trait Host {
    /// The cache domains at `level`, or at the default level.
    fn topology(&self, level: Option<u8>) -> Result<Topology, HostFailure>;

    /// The caches of the host at the level of the domains of a topology, as far as they can be simulated.
    fn cache_model(&self, topology: &Topology) -> Result<CacheModel, HostFailure>;

    /// The VMs that these guests are, by name, in that order.
    fn find(&self, guests: &[(String, GuestId)]) -> Result<Vec<Vm>, HostFailure>;

    /// What the VMs share now; where nothing is merged, or what is merged is not known, what they could share.
    fn measure(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure>;

    /// As [`Self::measure`], with what of the shared frames VMs read meanwhile: they have to be reading.
    fn measure_reads(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure>;

    /// How many pages of the data that each pair of VMs was given, in the order of `vms`, are on one frame;
    /// 0 for pairs with different data.
    fn data_shared(&mut self, vms: &[Vm], data: &[GuestData]) -> Result<Vec<Vec<u64>>, HostFailure>;

    /// The number of the frame of each page of the data that each VM was given, in the order of `vms`, or of its own copy
    /// of it.
    fn data_frames(
        &mut self,
        vms: &[Vm],
        data: &[GuestData],
        own: bool,
    ) -> Result<Vec<Vec<u64>>, HostFailure>;

    /// What emulated VMs read, write and fetch, as plugins of their emulators record it: of each VM its RAM in MiB, and
    /// the stream.
    fn access_streams(
        &self,
        vms: &[Vm],
        memory_mib: u64,
        streams: &[StreamFile],
    ) -> Result<AccessStreams, HostFailure>;

    /// Sets the affinity of every vCPU to its domain, and makes sure that it holds. The other threads of
    /// its process go with it.
    fn place(&mut self, vms: &[Vm], plan: &Plan) -> Result<(), HostFailure>;

    /// Begins to watch what each vCPU does, as the first window, and ends the watching begun before.
    fn watch(&mut self, vms: &[Vm], topology: &Topology);

    /// Ends the window, begins the next, and returns what was observed.
    fn window(&mut self) -> HostWindow;

    /// The event that is counted for each role, or why none is, and remarks on the choice.
    fn counted(&self) -> (Vec<CountedEvent>, Vec<String>);

    /// Makes the host merge everything it may, fast.
    fn merge(&mut self) -> Result<(), HostFailure>;

    /// Called while waiting for merging: merges once more where that does not continue by itself.
    fn continue_merging(&mut self) -> Result<(), HostFailure> {
        Ok(())
    }

    /// Pauses merging; what is merged stays merged.
    fn pause_merging(&mut self) -> Result<(), HostFailure>;

    /// Undoes all changes. Also done when it is dropped, but only here is a failure reported.
    fn undo(&mut self) -> Result<(), HostFailure>;
}

/// A host that cannot run the experiment, or failed.
#[derive(Debug, thiserror::Error)]
pub enum HostFailure {
    /// This host cannot do it at all: the reason and the remedy, one sentence.
    #[error("{0}")]
    Cannot(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

impl From<BackendError> for HostFailure {
    fn from(error: BackendError) -> Self {
        match error {
            BackendError::Host(error) => Self::Cannot(error.to_string()),
            BackendError::Usage(_) | BackendError::Failed(_) => Self::Failed(error.to_string()),
        }
    }
}

impl HostFailure {
    pub(crate) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    pub(crate) fn cannot(error: impl std::fmt::Display) -> Self {
        Self::Cannot(error.to_string())
    }
}

/// An empty journal: another huddle holds none, and an earlier one left nothing in force.
fn empty_journal(journal: Journal) -> Result<Journal, HostFailure> {
    if journal.is_empty() {
        return Ok(journal);
    }
    // This run would undo it at its end, though it may be wanted.
    Err(HostFailure::Failed(format!(
        "an earlier huddle left changes in force (by `huddle pin`, or it was killed; see {}); \
         undo them first: huddle restore",
        journal.path().display()
    )))
}

/// The lock of this host, and of its state directory.
fn lock(root: &HostRoot, state_dir: Option<&Path>) -> Result<StateLock, HostFailure> {
    StateDir::open(state_dir).and_then(|dir| dir.lock(root)).map_err(HostFailure::failed)
}

/// Sets the affinity of every vCPU as planned, and makes sure that it holds.
fn place_vcpus(pinner: &mut HostPinner, vms: &[Vm], plan: &Plan) -> Result<(), HostFailure> {
    let report = if plan.placement.is_empty() {
        // Left to the scheduler, but only on the CPUs that the other arms use.
        let cpus: CpuSet = plan.domains.iter().flat_map(|domain| domain.cpus.iter()).collect();
        let pins = vms.iter().flat_map(|vm| vm.vcpus.iter().map(move |vcpu| (vm, vcpu)));
        let pins = pins.map(|(vm, vcpu)| ThreadPin {
            vm: vm.name.clone(),
            vcpu: vcpu.index,
            id: vcpu.id,
            process: vcpu.process,
            cpus: cpus.clone(),
            within: None,
        });
        pinner.set_affinities(&pins.collect::<Vec<_>>())
    } else {
        pinner.apply(vms, plan)
    };
    let report = report.map_err(HostFailure::failed)?;
    // Notes are about vCPUs that are not where they were placed.
    if report.outcome.skipped > 0 || !report.notes.is_empty() {
        return Err(HostFailure::Failed(format!(
            "the placement {} could not be applied: {}",
            plan.policy,
            report.notes.join("; ")
        )));
    }
    Ok(())
}

/// Makes sure that a guest's VM has the vCPUs it should have.
fn check_vcpus(vm: Vm, id: GuestId, vcpus: u32) -> Result<Vm, HostFailure> {
    if vm.vcpus.len() == vcpus as usize {
        return Ok(vm);
    }
    Err(HostFailure::Failed(format!(
        "the VM {} ({id}) should have {vcpus} vCPU(s) and has {}",
        vm.name,
        vm.vcpus.len()
    )))
}
