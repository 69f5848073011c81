//! What flags and config together mean: the stages a command works with.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use huddle_host::clock::HostClock;
use huddle_host::discover::{
    DiscoverError, DiscoverOptions, Discoverer, Discovery, NamedCgroup, NamedComm, NamedProcess,
};
use huddle_host::pin::{
    HostPinner, Journal, Scheduler, StateDir, StateError, StateLock, Subject, Undoers, recover,
};
use huddle_host::stages::{Clock, HostSource};
use huddle_host::{HostRoot, numa, topology};
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::{Plan, PlanInput, PlanVm, Policy};
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;
use huddle_observe::perf::{EventChoice, EventSet, Scope};
use huddle_sharing::content::{ContentScan, ContentSettings};
use huddle_sharing::{Measurement, MergedScan, SharingError};
use huddle_xen as xen;
use huddle_xen::affinity::XenAffinities;
use huddle_xen::merging::{MergeSettings, UndoSharing, Xen};
use huddle_xen::stages::{Merging, XenContents, XenFacts};
use huddle_xen::toolstack::{AffinityKind, Toolstack};
use huddle_xen::topology::KnownCaches;
use huddle_xen::vms::{DomainChoice, XenVms};

use super::args::{Common, ContentArgs};
use super::config::{Config, VmTarget};
use super::failure::Failure;

/// What runs the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// Processes of this host.
    Host,
    /// The Xen that this host is dom0 of.
    Xen,
}

/// Flags and config, resolved.
pub(crate) struct Context {
    pub(crate) root: HostRoot,
    pub(crate) config: Config,
    /// The config file as it is, for recordings.
    pub(crate) config_text: Option<String>,
    pub(crate) cache_level: Option<u8>,
    pub(crate) policy: Policy,
    /// The events of flags and config, those of the flags last.
    events: Vec<EventChoice>,
    guest_only: bool,
    /// Domains, unless processes are named as VMs.
    pub(crate) backend: Backend,
    /// What of domains is looked at.
    domains: DomainChoice,
    state_dir: Option<PathBuf>,
    discover: DiscoverOptions,
}

impl Context {
    pub(crate) fn new(common: &Common) -> Result<Self, Failure> {
        let (config, config_text) = match common.config.as_deref().map(Config::read).transpose()? {
            Some((config, text)) => (config, Some(text)),
            None => (Config::default(), None),
        };
        let mut discover = DiscoverOptions { scan_host: common.vms.is_empty(), ..DiscoverOptions::default() };
        for vm in &common.vms {
            discover.processes.push(NamedProcess { name: vm.name.clone(), pid: vm.pid });
        }
        for vm in &config.vm {
            let name = vm.name.clone();
            match vm.target().map_err(|error| Failure::usage(anyhow::anyhow!(error)))? {
                VmTarget::Pid(pid) => discover.processes.push(NamedProcess { name, pid }),
                VmTarget::Cgroup(path) => discover.cgroups.push(NamedCgroup { name, path: path.to_owned() }),
                VmTarget::Process(comm) => discover.comms.push(NamedComm { name, comm: comm.to_owned() }),
            }
        }
        let root = HostRoot::real();
        let names_processes = !common.vms.is_empty() || !config.vm.is_empty();
        let backend = match xen::is_control_domain(&root) && !names_processes {
            true => Backend::Xen,
            false => Backend::Host,
        };
        let affinity = common.xen_affinity.map(AffinityKind::from).or(config.xen.affinity);
        let domains =
            DomainChoice { affinity: affinity.unwrap_or_default(), exclude: config.xen.exclude.clone() };
        let mut events = config.counters.choices().map_err(Failure::usage)?;
        events.extend(common.events.iter().cloned());
        Ok(Self {
            root,
            backend,
            domains,
            events,
            guest_only: common.guest_only || config.counters.guest_only,
            cache_level: common.cache_level.or(config.cache_level),
            policy: common.policy.or(config.policy).unwrap_or(Policy::Paper),
            state_dir: common.state_dir.clone().or_else(|| config.state_dir.clone()),
            config,
            config_text,
            discover,
        })
    }

    pub(crate) fn discoverer(&self) -> Discoverer {
        Discoverer::new(self.root.clone(), self.discover.clone())
    }

    /// What to count on each vCPU: the processor's usual events, and what the user chose instead.
    pub(crate) fn event_set(&self) -> Result<EventSet, Failure> {
        let mut set = EventSet::for_host(&self.root).map_err(Failure::failed)?;
        for choice in &self.events {
            set.choose(choice.clone());
        }
        set.set_scope(if self.guest_only { Scope::GuestOnly } else { Scope::HostAndGuest });
        for note in set.notes() {
            tracing::warn!("{note}");
        }
        Ok(set)
    }

    /// What lists and pins domains.
    pub(crate) fn toolstack(&self) -> Result<Box<dyn Toolstack>, Failure> {
        xen::open(&self.root).map_err(Failure::host)
    }

    /// The domains as VMs.
    pub(crate) fn xen_vms(&self) -> Result<XenVms, Failure> {
        Ok(XenVms { toolstack: self.toolstack()?, choice: self.domains.clone() })
    }

    /// CPUs and caches beneath the domains.
    pub(crate) fn xen_facts(&self) -> Result<XenFacts, Failure> {
        let last_level = self.config.xen.last_level_caches().map_err(Failure::usage)?;
        let caches = KnownCaches::of_host(&self.root, last_level);
        Ok(XenFacts { toolstack: self.toolstack()?, caches, cache_level: self.cache_level })
    }

    /// The scan of the contents of domains.
    pub(crate) fn xen_contents(&self, settings: ContentSettings) -> Result<XenContents, Failure> {
        let memory = xen::open_memory(&self.root).map_err(Failure::host)?;
        Ok(XenContents::new(ContentScan::new(self.root.clone(), settings), self.toolstack()?, memory))
    }

    /// Merging of what domains have in common, which is taken back with it.
    pub(crate) fn xen_merging(&self, state: &StateLock) -> Result<Merging, Failure> {
        let root = &self.root;
        let journal = Journal::open_of(Subject::MemorySharing, root, state).map_err(Failure::failed)?;
        let toolstack = self.toolstack()?;
        let xen = Xen {
            sharing: xen::open_sharing(root).map_err(Failure::host)?,
            memory: xen::open_memory(root).map_err(Failure::host)?,
            list: Box::new(move || toolstack.domains()),
        };
        let exclude = self.domains.exclude.iter().cloned().collect();
        let settings = MergeSettings { content: self.content_settings(), exclude, only: None };
        Ok(Merging::new(xen, settings, journal))
    }

    /// The VMs there are; notes go to the log.
    pub(crate) fn vms(&self) -> Result<Vec<Vm>, Failure> {
        let found = match self.backend {
            Backend::Host => self.discoverer().discover().map_err(discover_failure),
            Backend::Xen => self.xen_vms()?.discover().map_err(Failure::failed),
        };
        let Discovery { vms, notes } = found?;
        for note in notes {
            tracing::warn!("{note}");
        }
        Ok(vms)
    }

    pub(crate) fn topology(&self) -> Result<Topology, Failure> {
        match self.backend {
            Backend::Host => topology::read(&self.root, self.cache_level).map_err(Failure::host),
            Backend::Xen => {
                let topology = self.xen_facts()?.topology();
                topology.map_err(|error| Failure::Host(anyhow::anyhow!("{error}")))
            }
        }
    }

    /// Finds the VMs and measures what they share, or, on Xen, could share; VMs that ended meanwhile are left
    /// out with a word.
    pub(crate) fn measure(&self) -> Result<(Vec<Vm>, SharingMatrix), Failure> {
        match self.backend {
            Backend::Host => self.measure_merged(),
            Backend::Xen => self.measure_contents(&ContentArgs::default()),
        }
    }

    /// Finds the VMs and measures which frames they share.
    pub(crate) fn measure_merged(&self) -> Result<(Vec<Vm>, SharingMatrix), Failure> {
        if self.backend == Backend::Xen {
            return Err(Failure::host(anyhow::anyhow!(
                "Xen does not report which frames domains share; measure with --method content what they could share"
            )));
        }
        self.measure_by(|vms| MergedScan::new(self.root.clone()).measure(vms))
    }

    /// Finds the VMs and measures which of their pages are equal, whether shared or not. What the flags do
    /// not say the config says.
    pub(crate) fn measure_contents(&self, args: &ContentArgs) -> Result<(Vec<Vm>, SharingMatrix), Failure> {
        let settings = ContentSettings { seed: HostClock.now_unix_us(), ..self.content_settings() };
        let settings = ContentSettings {
            cpu_share: args.cpu_share.unwrap_or(settings.cpu_share),
            memory_mib: args.memory_mib.unwrap_or(settings.memory_mib),
            sample: args.sample.or(settings.sample),
            ..settings
        };
        match self.backend {
            Backend::Host => {
                self.measure_by(|vms| ContentScan::new(self.root.clone(), settings).measure(vms))
            }
            Backend::Xen => {
                let mut contents = self.xen_contents(settings)?;
                self.measure_by(|vms| contents.scan(vms))
            }
        }
    }

    /// The limits of method `content` that the config gives.
    pub(crate) fn content_settings(&self) -> ContentSettings {
        let (sharing, default) = (&self.config.sharing, ContentSettings::default());
        ContentSettings {
            cpu_share: sharing.cpu_share.unwrap_or(default.cpu_share),
            memory_mib: sharing.memory_mib.map_or(default.memory_mib, NonZeroU32::get),
            sample: sharing.sample,
            ..default
        }
    }

    fn measure_by(
        &self,
        measure: impl FnOnce(&[Vm]) -> Result<Measurement, SharingError>,
    ) -> Result<(Vec<Vm>, SharingMatrix), Failure> {
        let mut vms = self.vms()?;
        if vms.is_empty() {
            return Err(Failure::host(anyhow::anyhow!(self.no_vms())));
        }
        let Measurement { matrix, vanished, notes, .. } = measure(&vms).map_err(sharing_failure)?;
        for vanished in &vanished {
            tracing::warn!("{}: {}", vanished.vm, vanished.reason);
        }
        for note in notes {
            tracing::warn!("{note}");
        }
        vms.retain(|vm| vanished.iter().all(|vanished| vanished.vm != vm.name));
        Ok((vms, matrix))
    }

    /// What to say where there is no VM.
    pub(crate) fn no_vms(&self) -> &'static str {
        match self.backend {
            Backend::Host => {
                "no VM runs on this host; name processes to treat as VMs with --vm NAME=PID or --config FILE"
            }
            Backend::Xen => "no domain but dom0 runs on this Xen host (or all are in [xen] exclude)",
        }
    }

    pub(crate) fn plan(&self, vms: &[Vm], matrix: &SharingMatrix, topology: &Topology) -> Plan {
        let limits = &self.config.plan;
        let apart = limits.pairs_apart(matrix);
        let vms = vms.iter().map(|vm| {
            let mut place = PlanVm::of(vm, topology);
            if limits.local_memory.is_some() {
                // Where it is not known a reason of the plan says so.
                place.node_pages =
                    numa::vm_node_pages(vm, |process| numa::node_pages(&self.root, process.id));
            }
            place
        });
        let vms: Vec<PlanVm> = vms.collect();
        let input = PlanInput::new(matrix, topology, &vms);
        self.policy.plan(&input.apart(&apart).limits(limits))
    }

    /// The state directory, made if it is not there.
    pub(crate) fn state(&self) -> Result<StateDir, Failure> {
        StateDir::open(self.state_dir.as_deref()).map_err(state_failure)
    }

    /// What puts back all that a journal of this host may hold. Xen is opened when it is needed.
    pub(crate) fn undoers(&self) -> Undoers {
        self.undoers_on(XenAffinities::new(self.root.clone()))
    }

    fn undoers_on(&self, affinities: XenAffinities) -> Undoers {
        let merging = UndoSharing(self.root.clone());
        Undoers::of_host(self.root.clone()).with_xen(Box::new(affinities), Box::new(merging))
    }

    /// Undoes what an earlier run left in a journal.
    fn recover(&self, journal: &mut Journal) {
        if journal.entries().is_empty() {
            return;
        }
        let report = recover(&self.undoers(), journal);
        tracing::warn!("an earlier run was cut off: {} of its changes were undone", report.restored);
        for line in report.notes.iter().chain(&report.failures) {
            tracing::warn!("{line}");
        }
    }

    /// The one pinner of this host. What an earlier run that was killed left behind is undone first
    /// when `undo_leftovers` is set.
    pub(crate) fn pinner(&self, undo_leftovers: bool) -> Result<HostPinner, Failure> {
        let lock = self.state()?.lock().map_err(state_failure)?;
        let mut journal = Journal::open(&self.root, &lock).map_err(Failure::failed)?;
        for note in journal.notes() {
            tracing::warn!("{note}");
        }
        if undo_leftovers {
            self.recover(&mut journal);
            self.recover(
                &mut Journal::open_of(Subject::MemorySharing, &self.root, &lock).map_err(Failure::failed)?,
            );
        }
        let scheduler = match self.backend {
            Backend::Host => Scheduler::Host,
            Backend::Xen => Scheduler::Xen(self.domains.affinity),
        };
        let undoers = match self.backend {
            Backend::Host => self.undoers(),
            Backend::Xen => self.undoers_on(XenAffinities::of(self.root.clone(), self.toolstack()?)),
        };
        Ok(HostPinner::with(self.root.clone(), journal, undoers, scheduler))
    }
}

/// `--min-interval` and the like; the range was checked by the parser.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn discover_failure(error: DiscoverError) -> Failure {
    Failure::failed(error)
}

fn sharing_failure(error: SharingError) -> Failure {
    match error {
        SharingError::FramesHidden { .. } | SharingError::MemoryHidden { .. } => Failure::host(error),
        _ => Failure::failed(error),
    }
}

fn state_failure(error: StateError) -> Failure {
    Failure::failed(error)
}
