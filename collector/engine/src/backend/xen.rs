//! The domains of the Xen that this host is dom0 of.

use std::collections::BTreeMap;
use std::time::Duration;

use huddle_host::HostRoot;
use huddle_host::discover::Discovery;
use huddle_host::pin::{HostPinner, Journal, Scheduler, StateLock, Subject};
use huddle_host::stages::{HostSource as _, Measurement, PageMerger, StageError};
use huddle_model::availability::Availability;
use huddle_model::matrix::{Method, Weigh};
use huddle_model::topology::{CacheInfo, Topology};
use huddle_model::vm::{TaskId, Vm};
use huddle_observe::reported::{ReportSocket, Reports};
use huddle_sharing::content::{ContentScan, ContentSettings, SketchSettings, Sketches};
use huddle_xen::affinity::XenAffinities;
use huddle_xen::contents::sketch_domains;
use huddle_xen::merging::{MergeSettings, Xen};
use huddle_xen::observer::XenObserver;
use huddle_xen::stages::{Interval, Merging, XenContents, XenFacts};
use huddle_xen::toolstack::{PAGE_BYTES, Toolstack};
use huddle_xen::topology::KnownCaches;
use huddle_xen::vms::{DomainChoice, XenVms};

use super::{Backend, BackendError, LoopChoice, SharingChoice, Stages, Terms, undoers_by, why_not_measured};

/// Domains of Xen.
#[derive(Clone, Debug)]
pub struct XenBackend {
    /// Where the host's files are.
    pub root: HostRoot,
    /// Cache level the user asked for.
    pub cache_level: Option<u8>,
    /// Which domains, and which of their affinities.
    pub domains: DomainChoice,
    /// What is known of the caches of the host.
    pub caches: KnownCaches,
    /// How a loop measures what they share.
    pub sharing: SharingChoice,
}

impl XenBackend {
    fn toolstack(&self) -> Result<Box<dyn Toolstack>, BackendError> {
        huddle_xen::open(&self.root).map_err(BackendError::host)
    }

    fn source(&self) -> Result<XenVms, BackendError> {
        Ok(XenVms::new(self.toolstack()?, self.domains.clone()))
    }

    fn facts(&self) -> Result<XenFacts, BackendError> {
        let (caches, cache_level) = (self.caches.clone(), self.cache_level);
        Ok(XenFacts { toolstack: self.toolstack()?, caches, cache_level })
    }

    fn contents(&self, settings: ContentSettings) -> Result<XenContents, BackendError> {
        let memory = huddle_xen::open_memory(&self.root).map_err(BackendError::host)?;
        Ok(XenContents::new(ContentScan::new(self.root.clone(), settings), self.toolstack()?, memory))
    }

    /// Merges equal pages of domains; its changes are in a journal of their own.
    fn merging(&self, state: &StateLock) -> Result<Merging, BackendError> {
        let root = &self.root;
        let journal = Journal::open_of(Subject::MemorySharing, root, state).map_err(BackendError::failed)?;
        let toolstack = self.toolstack()?;
        let xen = Xen {
            sharing: huddle_xen::open_sharing(root).map_err(BackendError::host)?,
            memory: huddle_xen::open_memory(root).map_err(BackendError::host)?,
            list: Box::new(move || toolstack.domains()),
        };
        let selection = self.domains.selection.clone();
        let settings = MergeSettings { content: self.sharing.content, selection, only: None };
        Ok(Merging::new(xen, settings, journal))
    }
}

impl Backend for XenBackend {
    fn terms(&self) -> Terms {
        Terms {
            vm_id: "domain",
            vcpu_id: "number",
            no_vms: "no domain but dom0 runs on this Xen host (or all are excluded)",
        }
    }

    fn default_method(&self) -> Method {
        Method::Content
    }

    fn min_interval(&self) -> Duration {
        // Contents are read again in each round, which the paper does every few minutes.
        Duration::from_secs(60)
    }

    fn check(&self, choice: &LoopChoice) -> Result<(), BackendError> {
        if choice.ksm_run {
            let why = "--ksm-run has no effect here: KSM merges nothing of Xen's domains";
            return Err(BackendError::Usage(why.to_owned()));
        }
        if matches!(self.sharing.method, Some(Method::Merged | Method::Events)) {
            return Err(BackendError::host(
                "Xen does not report which frames domains share; set [sharing] method = \"content\"",
            ));
        }
        if self.sharing.weigh == Weigh::Read {
            let why = "[sharing] weigh = \"read\" has no effect here: what domains of Xen read is not seen";
            return Err(BackendError::Usage(why.to_owned()));
        }
        self.vms()?;
        huddle_xen::open_memory(&self.root).map(drop).map_err(BackendError::host)
    }

    fn advice(&self, _: &LoopChoice) -> Vec<String> {
        Vec::new()
    }

    fn vms(&self) -> Result<Discovery, BackendError> {
        self.source()?.discover().map_err(BackendError::failed)
    }

    fn topology(&self) -> Result<Topology, BackendError> {
        self.facts()?.topology().map_err(BackendError::Host)
    }

    fn caches(&self) -> Availability<Vec<CacheInfo>> {
        Availability::Unavailable("Xen does not report which CPUs share a cache".into())
    }

    fn node_pages(&self, process: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        self.facts()?.node_pages(process)
    }

    fn measure(
        &self,
        method: Method,
        content: ContentSettings,
        vms: &[Vm],
    ) -> Result<Measurement, BackendError> {
        if method != Method::Content {
            return Err(BackendError::host(
                "Xen does not report which frames domains share; measure with --method content what they could share",
            ));
        }
        self.contents(content)?.scan(vms).map_err(why_not_measured)
    }

    fn page_bytes(&self) -> u64 {
        PAGE_BYTES as u64
    }

    fn memory_bytes(&self) -> Availability<u64> {
        Availability::Unavailable("dom0 sees its own memory only".into())
    }

    fn sketch(&self, settings: &SketchSettings, vms: &[Vm]) -> Result<Sketches, BackendError> {
        let mut memory = huddle_xen::open_memory(&self.root).map_err(BackendError::host)?;
        let toolstack = self.toolstack()?;
        sketch_domains(settings, &mut *memory, &mut || toolstack.domains(), vms).map_err(why_not_measured)
    }

    fn pinner(&self, journal: Journal) -> Result<HostPinner, BackendError> {
        let affinities = XenAffinities::of(self.root.clone(), self.toolstack()?);
        let scheduler = Scheduler::Xen(self.domains.affinity);
        Ok(HostPinner::with(self.root.clone(), journal, undoers_by(&self.root, affinities), scheduler))
    }

    fn stages(
        &self,
        choice: &LoopChoice,
        reports: Option<ReportSocket>,
        state: Option<&StateLock>,
    ) -> Result<Stages, BackendError> {
        let merger = match state.filter(|_| choice.merge) {
            Some(state) => Some(Box::new(self.merging(state)?) as Box<dyn PageMerger + Send>),
            None => None,
        };
        let every = choice.min_interval.unwrap_or(self.min_interval());
        let monitor = huddle_xen::open_monitor(&self.root);
        let reports = Box::new(Reports::new(reports));
        Ok(Stages {
            vms: Box::new(self.source()?),
            sharing: Box::new(self.contents(self.sharing.content)?),
            merger,
            host: Box::new(self.facts()?),
            observer: Box::new(XenObserver::new(self.toolstack()?, monitor, reports)),
            passes: Box::new(Interval::new(every)),
        })
    }
}
