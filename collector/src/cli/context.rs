//! What flags and config together mean: the stages a command works with.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use huddle_collector::discover::{
    DiscoverError, DiscoverOptions, Discoverer, Discovery, NamedCgroup, NamedComm, NamedProcess,
};
use huddle_collector::engine::HostClock;
use huddle_collector::engine::stages::Clock;
use huddle_collector::host::{HostRoot, numa, topology};
use huddle_collector::observe::perf::{EventChoice, EventSet, Scope};
use huddle_collector::pin::{HostPinner, Journal, StateDir, StateError, recover};
use huddle_collector::sharing::content::{ContentScan, ContentSettings};
use huddle_collector::sharing::{Measurement, MergedScan, SharingError};
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::{Plan, PlanInput, PlanVm, Policy};
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;

use super::args::{Common, ContentArgs};
use super::config::{Config, VmTarget};
use super::failure::Failure;

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
        let mut events = config.counters.choices().map_err(Failure::usage)?;
        events.extend(common.events.iter().cloned());
        Ok(Self {
            root: HostRoot::real(),
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

    /// The VMs there are; notes go to the log.
    pub(crate) fn vms(&self) -> Result<Vec<Vm>, Failure> {
        let Discovery { vms, notes } = self.discoverer().discover().map_err(discover_failure)?;
        for note in notes {
            tracing::warn!("{note}");
        }
        Ok(vms)
    }

    pub(crate) fn topology(&self) -> Result<Topology, Failure> {
        topology::read(&self.root, self.cache_level).map_err(Failure::host)
    }

    /// Finds the VMs and measures what they share; VMs that ended meanwhile are left out with a word.
    pub(crate) fn measure(&self) -> Result<(Vec<Vm>, SharingMatrix), Failure> {
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
        self.measure_by(|vms| ContentScan::new(self.root.clone(), settings).measure(vms))
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
            return Err(Failure::host(anyhow::anyhow!(
                "no VM runs on this host; name processes to treat as VMs with --vm NAME=PID or --config FILE"
            )));
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

    /// The one pinner of this host. What an earlier run that was killed left behind is undone first
    /// when `undo_leftovers` is set.
    pub(crate) fn pinner(&self, undo_leftovers: bool) -> Result<HostPinner, Failure> {
        let lock = self.state()?.lock().map_err(state_failure)?;
        let mut journal = Journal::open(&self.root, &lock).map_err(Failure::failed)?;
        for note in journal.notes() {
            tracing::warn!("{note}");
        }
        if undo_leftovers && !journal.entries().is_empty() {
            let report = recover(&self.root, &mut journal);
            tracing::warn!("an earlier run was cut off: {} of its changes were undone", report.restored);
            for line in report.notes.iter().chain(&report.failures) {
                tracing::warn!("{line}");
            }
        }
        Ok(HostPinner::new(self.root.clone(), journal))
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
