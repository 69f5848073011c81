//! What flags and config together mean: the stages a command works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use huddle_engine::backend::{Backend, CounterChoice, HostBackend, XenBackend, undoers};
use huddle_host::clock::HostClock;
use huddle_host::discover::{DiscoverOptions, Discovery, LeftOut, NamedCgroup, NamedComm, NamedProcess};
use huddle_host::files::cannot_be_written;
use huddle_host::pin::{AffinityKind, HostPinner, Journal, StateDir, StateError, Subject, recover};
use huddle_host::stages::{Clock as _, Measurement};
use huddle_host::users::Users;
use huddle_host::{HostRoot, numa, process_ksm};
use huddle_model::matrix::{MatrixVm, Method, SharingMatrix, Weigh};
use huddle_model::plan::{Applied, NamedVms, Plan, PlanInput, PlanVm, Policy};
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;
use huddle_sharing::KernelAccess;
use huddle_sharing::content::ContentSettings;
use huddle_xen::topology::KnownCaches;
use huddle_xen::vms::DomainChoice;

use super::args::{Common, ContentArgs};
use super::config::{Config, VmTarget, unknown_user};
use super::failure::Failure;
use crate::doctor::{Finding, core_scheduling};

/// Flags and config, resolved.
pub(crate) struct Context {
    pub(crate) root: HostRoot,
    pub(crate) config: Config,
    /// The config file as it is, for recordings.
    pub(crate) config_text: Option<String>,
    pub(crate) policy: Policy,
    /// Which shared frames count.
    pub(crate) weigh: Weigh,
    /// Whether a flag asks for those that are read.
    asks_for_reads: bool,
    /// What is counted, by flags and config.
    pub(crate) counters: CounterChoice,
    /// The affinity of Xen's vCPUs that is meant.
    pub(crate) xen_affinity: AffinityKind,
    /// Processes of this host, or the domains of its Xen, unless processes are named as VMs.
    pub(crate) backend: Arc<dyn Backend>,
    state_dir: Option<PathBuf>,
}

impl Context {
    pub(crate) fn new(common: &Common) -> Result<Self, Failure> {
        let (config, config_text) = match common.config.as_deref().map(Config::read).transpose()? {
            Some((config, text)) => (config, Some(text)),
            None => (Config::default(), None),
        };
        Self::of(common, config, config_text)
    }

    /// With these settings instead of those of the file.
    pub(crate) fn of(common: &Common, config: Config, config_text: Option<String>) -> Result<Self, Failure> {
        let root = HostRoot::real();
        let state_dir = common.state_dir.clone().or_else(|| config.state_dir.clone());
        let users = Users::read(&root).map_err(Failure::failed)?;
        let unusable = |why: String| Failure::usage(anyhow::anyhow!(why));
        let selection = config.discover.selection(&users, &config.xen.exclude).map_err(unusable)?;
        let mut discover = DiscoverOptions {
            scan_host: common.vms.is_empty(),
            selection: selection.clone(),
            limits: config.limits.clone(),
            override_bindings: common.override_bindings || config.pin.override_bindings,
            // Where there is no place for one, no huddle of this user has pinned anything.
            state_dir: StateDir::place(state_dir.as_deref()).ok(),
            ..DiscoverOptions::default()
        };
        for vm in &common.vms {
            discover.processes.push(NamedProcess { name: vm.name.clone(), pid: vm.pid });
        }
        for vm in &config.vm {
            let name = vm.name.clone();
            match vm.target().map_err(unusable)? {
                VmTarget::Pid(pid) => discover.processes.push(NamedProcess { name, pid }),
                VmTarget::Cgroup(path) => discover.cgroups.push(NamedCgroup { name, path: path.to_owned() }),
                VmTarget::Process(comm) => {
                    let whose = |user: &String| {
                        users
                            .uid(user)
                            .ok_or_else(|| unusable(unknown_user(&format!("[[vm]] {name:?}"), user)))
                    };
                    let uid = vm.owner.as_ref().map(whose).transpose()?;
                    discover.comms.push(NamedComm { name, comm: comm.to_owned(), uid });
                }
            }
        }
        let names_processes = !common.vms.is_empty() || !config.vm.is_empty();
        let cache_level = common.cache_level.or(config.cache_level);
        let mut sharing = config.sharing.choice();
        sharing.weigh = common.weigh.unwrap_or(sharing.weigh);
        let weigh = sharing.weigh;
        let mut events = config.counters.choices().map_err(Failure::usage)?;
        // Those of the flags last, so that they win.
        events.extend(common.events.iter().cloned());
        let guest_only = common.guest_only || config.counters.guest_only;
        let counters = CounterChoice { events, guest_only };
        let xen_affinity = common.xen_affinity.map(AffinityKind::from).or(config.xen.affinity);
        let xen_affinity = xen_affinity.unwrap_or_default();
        let backend: Arc<dyn Backend> = if huddle_xen::is_control_domain(&root) && !names_processes {
            let domains = DomainChoice { affinity: xen_affinity, selection };
            let last_level = config.xen.last_level_caches().map_err(Failure::usage)?;
            let caches = KnownCaches::of_host(&root, last_level);
            Arc::new(XenBackend { root: root.clone(), cache_level, domains, caches, sharing })
        } else {
            Arc::new(HostBackend {
                root: root.clone(),
                cache_level,
                discover,
                sharing,
                counters: counters.clone(),
                kernel: KernelAccess::default(),
            })
        };
        Ok(Self {
            root,
            backend,
            counters,
            xen_affinity,
            policy: common.policy.or(config.policy).unwrap_or(Policy::Paper),
            weigh,
            asks_for_reads: common.weigh == Some(Weigh::Read),
            state_dir,
            config,
            config_text,
        })
    }

    /// The VMs, and what looks like one but is left out; notes go to the log.
    pub(crate) fn discover(&self) -> Result<(Vec<Vm>, Vec<LeftOut>), Failure> {
        let Discovery { vms, left_out, notes } = self.backend.vms()?;
        for note in notes {
            tracing::warn!("{note}");
        }
        Ok((vms, left_out))
    }

    /// The VMs; notes go to the log.
    pub(crate) fn vms(&self) -> Result<Vec<Vm>, Failure> {
        Ok(self.discover()?.0)
    }

    /// What `doctor` and recordings say of core scheduling: of the VMs that there are now.
    pub(crate) fn core_scheduling(&self) -> Finding {
        let found = self.backend.vms();
        core_scheduling(found.as_ref().map(|found| &found.vms[..]).map_err(ToString::to_string))
    }

    /// Checks that each name in the limits for plans means exactly one VM.
    pub(crate) fn check_limits(&self) -> Result<(), Failure> {
        let limits = &self.config.plan;
        if limits.apart.is_empty() && limits.working_set_kib.is_empty() {
            return Ok(());
        }
        let vms: Vec<MatrixVm> = self.backend.vms()?.vms.iter().map(|vm| MatrixVm::of(vm, None)).collect();
        usable(NamedVms::default().apply(limits, &vms)).map(drop)
    }

    pub(crate) fn topology(&self) -> Result<Topology, Failure> {
        Ok(self.backend.topology()?)
    }

    /// Finds the VMs and measures what they share, by this method, or by the backend's default; VMs that end meanwhile,
    /// or may not be read, are left out with a warning. Settings for contents come from the flags, else from the config.
    pub(crate) fn measure(
        &self,
        method: Option<Method>,
        args: &ContentArgs,
    ) -> Result<(Vec<Vm>, SharingMatrix), Failure> {
        let settings = self.config.sharing.choice().content;
        let settings = ContentSettings {
            cpu_share: args.cpu_share.unwrap_or(settings.cpu_share),
            memory_mib: args.memory_mib.unwrap_or(settings.memory_mib),
            sample: args.sample.or(settings.sample),
            // A different sample each time.
            seed: HostClock.now_unix_us(),
        };
        let method = method.unwrap_or(self.backend.default_method());
        if self.asks_for_reads && method == Method::Content {
            return Err(Failure::usage(anyhow::anyhow!(
                "--weigh read needs method merged: what VMs read is known by frames, not by contents"
            )));
        }
        let mut vms = self.vms()?;
        if vms.is_empty() {
            return Err(Failure::host(anyhow::anyhow!(self.backend.terms().no_vms)));
        }
        let Measurement { matrix, unmeasured, notes, .. } = self.backend.measure(method, settings, &vms)?;
        for left_out in &unmeasured {
            tracing::warn!("{} is left out: {}", left_out.vm, left_out.reason);
        }
        for note in notes {
            tracing::warn!("{note}");
        }
        vms.retain(|vm| unmeasured.iter().all(|left_out| left_out.vm != vm.name));
        Ok((vms, matrix))
    }

    /// The plan for a matrix. `vms` have limits and places in this topology; `measured` are the VMs that the matrix was
    /// measured of now, `None` for one from a file. While nothing is merged a plan for a measured one moves nothing.
    ///
    /// # Errors
    /// A limit names a VM that is not in the matrix, or is in it more than once.
    pub(crate) fn plan(
        &self,
        vms: &[Vm],
        matrix: &SharingMatrix,
        topology: &Topology,
        measured: Option<&[Vm]>,
    ) -> Result<Plan, Failure> {
        let limits = &self.config.plan;
        let apart = usable(NamedVms::default().apply(limits, matrix.vms()))?.apart;
        let places = vms.iter().map(|vm| {
            let mut place = PlanVm::of(vm, topology);
            if limits.local_memory.is_some() {
                // Where it is not known, a reason in the plan says so.
                place.node_pages = numa::vm_node_pages(vm, |process| self.backend.node_pages(process));
            }
            place
        });
        let places: Vec<PlanVm> = places.collect();
        let (matrix, why_not) = matrix.to_plan_by(self.weigh);
        let input = PlanInput::new(&matrix, topology, &places).apart(&apart).limits(limits);
        let mut plan = match measured {
            Some(vms) => self.policy.plan_measured(&input, || process_ksm::merging(&self.root, vms)),
            None => self.policy.plan(&input),
        };
        plan.reasons.extend(why_not.filter(|_| self.policy.goes_by_sharing()));
        if measured.is_some() {
            plan.reasons.extend(self.backend.plan_notes());
        }
        Ok(plan)
    }

    /// Path of the state directory; it need not exist.
    pub(crate) fn state_place(&self) -> Result<PathBuf, Failure> {
        StateDir::place(self.state_dir.as_deref()).map_err(state_failure)
    }

    /// The state directory, created if it does not exist.
    pub(crate) fn state(&self) -> Result<StateDir, Failure> {
        StateDir::open(self.state_dir.as_deref()).map_err(state_failure)
    }

    /// The state directory, to undo what is in it: used as it is, also on a full or read-only disk. `None` if it neither
    /// exists nor can be created, so that there is nothing to undo.
    pub(crate) fn state_to_undo(&self) -> Result<Option<StateDir>, Failure> {
        let path = self.state_dir.as_deref();
        if let Some(dir) = StateDir::open_to_undo(path).map_err(state_failure)? {
            return Ok(Some(dir));
        }
        match StateDir::open(path) {
            Ok(dir) => Ok(Some(dir)),
            Err(StateError::Io { source, .. }) if cannot_be_written(&source) => Ok(None),
            Err(error) => Err(state_failure(error)),
        }
    }

    /// Undoes what an earlier run left in a journal.
    fn recover(&self, journal: &mut Journal) {
        if journal.is_empty() {
            return;
        }
        let report = recover(&undoers(&self.root), journal);
        tracing::warn!("an earlier run was interrupted: {} of its changes were undone", report.restored);
        for line in report.notes.iter().chain(&report.failures) {
            tracing::warn!("{line}");
        }
    }

    /// The pinner, with the lock of this host. If `undo_leftovers` is set, changes of an earlier run that was killed are
    /// undone first.
    pub(crate) fn pinner(&self, undo_leftovers: bool) -> Result<HostPinner, Failure> {
        let lock = self.state()?.lock(&self.root).map_err(state_failure)?;
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
        Ok(self.backend.pinner(journal)?)
    }
}

/// Limits of which every name means one VM, else an error.
fn usable(applied: Applied) -> Result<Applied, Failure> {
    match applied.problems.first() {
        None => Ok(applied),
        Some(problem) => Err(Failure::usage(anyhow::anyhow!("[plan] {problem}"))),
    }
}

/// `--min-interval` and the like; the range was checked by the parser.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

pub(crate) fn state_failure(error: StateError) -> Failure {
    Failure::failed(error)
}
