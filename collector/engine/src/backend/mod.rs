//! What runs the VMs: processes of this host, or the domains of a Xen. Everything that differs between them is
//! behind [`Backend`]; no other code depends on which it is.

mod host;
mod idle;
mod xen;

use std::collections::BTreeMap;
use std::time::Duration;

use huddle_host::HostRoot;
use huddle_host::discover::Discovery;
use huddle_host::pin::{HostPinner, Journal, StateLock, Undoers};
use huddle_host::stages::{
    HostSource, Measurement, Observer, PageMerger, PassTrigger, SharingSource, StageError, VmSource,
};
use huddle_model::availability::Availability;
use huddle_model::matrix::{Method, ReadBy, Weigh};
use huddle_model::schema::EventFact;
use huddle_model::topology::{CacheInfo, Topology};
use huddle_model::vm::{TaskId, Vm};
use huddle_observe::perf::{EventChoice, EventSet, Scope};
use huddle_observe::reported::ReportSocket;
use huddle_sharing::content::{ContentSettings, SketchSettings, Sketches};
use huddle_sharing::{ReadSettings, SharingError};
use huddle_xen::affinity::XenAffinities;
use huddle_xen::merging::UndoSharing;

use crate::Sources;

pub use self::host::HostBackend;
pub use self::xen::XenBackend;

/// Why a backend failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The options do not apply to this backend.
    #[error("{0}")]
    Usage(String),
    /// This host cannot do it, with the reason.
    #[error(transparent)]
    Host(StageError),
    /// An unexpected failure.
    #[error(transparent)]
    Failed(StageError),
}

impl BackendError {
    fn host(error: impl Into<StageError>) -> Self {
        Self::Host(error.into())
    }

    fn failed(error: impl Into<StageError>) -> Self {
        Self::Failed(error.into())
    }
}

/// How sharing is measured in the loop.
#[derive(Clone, Copy, Debug, Default)]
pub struct SharingChoice {
    /// The method; `None` for the backend's own.
    pub method: Option<Method>,
    /// Method `merged`: how frames are read; `None` for page tables where that is possible.
    pub read_by: Option<ReadBy>,
    /// Which shared frames count.
    pub weigh: Weigh,
    /// How it is measured which are read, if that is what counts.
    pub reads: ReadSettings,
    /// Method `content`: its limits.
    pub content: ContentSettings,
}

/// What is counted on each vCPU where counters are available.
#[derive(Clone, Debug, Default)]
pub struct CounterChoice {
    /// Events instead of the processor's usual ones; if there are two for one role, the last is used.
    pub events: Vec<EventChoice>,
    /// Count hardware events only while vCPUs run their guest.
    pub guest_only: bool,
}

impl CounterChoice {
    /// The events to open on this host.
    ///
    /// # Errors
    /// The processor cannot be identified, or an event that was chosen is wrong for it.
    pub fn event_set(&self, root: &HostRoot) -> Result<EventSet, BackendError> {
        let mut set = EventSet::for_host(root).map_err(BackendError::failed)?;
        for choice in &self.events {
            set.choose(root, choice).map_err(|error| BackendError::Usage(error.to_string()))?;
        }
        set.set_scope(if self.guest_only { Scope::GuestOnly } else { Scope::HostAndGuest });
        Ok(set)
    }
}

/// What a loop changes on the host besides affinities, and how often it does rounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoopChoice {
    /// Merge equal pages of VMs in each round.
    pub merge: bool,
    /// Start KSM for the time of the loop.
    pub ksm_run: bool,
    /// Least time between two rounds; `None` for [`Backend::min_interval`].
    pub min_interval: Option<Duration>,
}

/// The stages of a loop, except the pinning.
pub struct Stages {
    /// Finds the VMs.
    pub vms: Box<dyn VmSource + Send>,
    /// Measures what they share.
    pub sharing: Box<dyn SharingSource + Send>,
    /// Merges equal pages, if requested.
    pub merger: Option<Box<dyn PageMerger + Send>>,
    /// Reads facts of the host.
    pub host: Box<dyn HostSource + Send>,
    /// Observes the VMs between rounds.
    pub observer: Box<dyn Observer + Send>,
    /// Reports when a round is due.
    pub passes: Box<dyn PassTrigger>,
}

/// Words for messages and tables.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What a VM is identified by.
    pub vm_id: &'static str,
    /// What a vCPU is identified by.
    pub vcpu_id: &'static str,
    /// Message if there is no VM.
    pub no_vms: &'static str,
}

/// What the loop and the commands need of a hypervisor.
pub trait Backend: Send + Sync {
    /// Words for messages and tables.
    fn terms(&self) -> Terms;

    /// How sharing is measured by default.
    fn default_method(&self) -> Method;

    /// Least time between two rounds by default.
    fn min_interval(&self) -> Duration;

    /// Whether a loop can run on this host as `choice` asks for; nothing is changed.
    ///
    /// # Errors
    /// What prevents it.
    fn check(&self, choice: &LoopChoice) -> Result<(), BackendError>;

    /// What a loop will lack, one sentence each.
    fn advice(&self, choice: &LoopChoice) -> Vec<String>;

    /// What every plan for this host has among its reasons, one sentence each.
    fn plan_notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Finds the VMs.
    ///
    /// # Errors
    /// Discovery failed.
    fn vms(&self) -> Result<Discovery, BackendError>;

    /// Cache domains of the CPUs that VMs may use.
    ///
    /// # Errors
    /// There are none at the wanted level, or they cannot be read.
    fn topology(&self) -> Result<Topology, BackendError>;

    /// The host's caches, for recordings.
    fn caches(&self) -> Availability<Vec<CacheInfo>>;

    /// Pages of a VM's process on each NUMA node.
    ///
    /// # Errors
    /// The host does not report it.
    fn node_pages(&self, process: TaskId) -> Result<BTreeMap<u32, u64>, StageError>;

    /// What VMs share, once.
    ///
    /// # Errors
    /// The method is not available here, or a privilege is missing.
    fn measure(
        &self,
        method: Method,
        content: ContentSettings,
        vms: &[Vm],
    ) -> Result<Measurement, BackendError>;

    /// Bytes of a page as contents are compared.
    fn page_bytes(&self) -> u64;

    /// Memory of the host, in bytes.
    fn memory_bytes(&self) -> Availability<u64>;

    /// Sketches of what VMs hold.
    ///
    /// # Errors
    /// A privilege is missing.
    fn sketch(&self, settings: &SketchSettings, vms: &[Vm]) -> Result<Sketches, BackendError>;

    /// The event that is to be counted for each role and what it counts, for recordings; none where vCPUs have no
    /// counters.
    fn events(&self) -> Vec<EventFact> {
        Vec::new()
    }

    /// The pinner for its VMs.
    ///
    /// # Errors
    /// The hypervisor cannot be reached.
    fn pinner(&self, journal: Journal) -> Result<HostPinner, BackendError>;

    /// The stages of a running loop that can be replaced by those of this backend, where they have other settings; `None`
    /// where a loop has to be started again for that.
    fn sources(&self) -> Option<Sources> {
        None
    }

    /// The stages of a loop. `state` is the locked state directory of a loop that may change the host.
    ///
    /// # Errors
    /// One of them cannot be created.
    fn stages(
        &self,
        choice: &LoopChoice,
        reports: Option<ReportSocket>,
        state: Option<&StateLock>,
    ) -> Result<Stages, BackendError>;
}

/// Undoes any change that a journal of this host may hold. Xen is opened when it is needed.
pub fn undoers(root: &HostRoot) -> Undoers {
    undoers_by(root, XenAffinities::new(root.clone()))
}

fn undoers_by(root: &HostRoot, affinities: XenAffinities) -> Undoers {
    let merging = UndoSharing(root.clone());
    Undoers::of_host(root.clone()).with_xen(Box::new(affinities), Box::new(merging))
}

/// What the kernel hides is a matter of the host and of privileges; anything else is unexpected.
fn why_not_measured(error: SharingError) -> BackendError {
    match error {
        SharingError::FramesHidden { .. } | SharingError::MemoryHidden { .. } => BackendError::host(error),
        _ => BackendError::failed(error),
    }
}
