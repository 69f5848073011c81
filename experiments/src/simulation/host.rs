//! A synthetic host below the seams of the engine: VMs with affinities, what they share, what they get done.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use huddle_host::discover::Discovery;
use huddle_host::pin::{PinReport, UndoReport};
use huddle_host::stages::{
    Clock, HostSource, Measurement, Observer, Pinner, SharingSource, StageError, VmSource,
};
use huddle_model::assignment::Assignment;
use huddle_model::availability::Availability;
use huddle_model::cpuset::CpuSet;
use huddle_model::ksm::KsmState;
use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use huddle_model::observation::{MergeObservation, Observation, ReportObservation};
use huddle_model::pinning::PinOutcome;
use huddle_model::plan::Plan;
use huddle_model::rng::Rng;
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use huddle_model::vm::{GuestRegion, MemoryKind, TaskId, Vcpu, Vm, VmmKind};

use super::chance::normal;
use super::noise::NoiseSource;

const FRAMES_USED: u64 = 10_000;
const SHARED_IN_GROUP: u64 = 6_000;
const SHARED_ACROSS: u64 = 20;
const OPERATIONS_PER_S: f64 = 1e6;
const START_UNIX_S: i64 = 1_700_000_000;

#[derive(Clone, Debug)]
pub(super) struct SimVm {
    pub(super) name: String,
    pub(super) process: TaskId,
    pub(super) group: usize,
    /// CPUs of its one vCPU.
    pub(super) affinity: CpuSet,
    pub(super) is_there: bool,
    pub(super) is_paused: bool,
}

/// The host's state, which the stages share.
pub(super) struct Host {
    pub(super) vms: Vec<SimVm>,
    pub(super) topology: Topology,
    pub(super) groups: usize,
    /// How much more is done when every VM is with its group than when none is.
    pub(super) effect: f64,
    pub(super) drift_per_hour: f64,
    pub(super) noise: NoiseSource,
    pub(super) rng: Rng,
    pub(super) second: u64,
    /// By which the wall clock was set.
    pub(super) wall_step_s: i64,
    pub(super) is_silent: bool,
    pub(super) ksm_run: u64,
    pub(super) passes: u64,
    pub(super) load_per_cpu: f64,
    /// vCPUs that were moved to another domain: when, and how many at once.
    pub(super) moves: Vec<(u64, u32)>,
    /// Affinities before the pinner changed them, by process: its journal.
    journal: BTreeMap<TaskId, CpuSet>,
    window_begin: Option<u64>,
    windows: u64,
}

impl Host {
    pub(super) fn new(vms: Vec<SimVm>, topology: Topology, noise: NoiseSource, rng: Rng) -> Self {
        Self {
            groups: vms.iter().map(|vm| vm.group + 1).max().unwrap_or(1),
            vms,
            topology,
            effect: 0.0,
            drift_per_hour: 0.0,
            noise,
            rng,
            second: 0,
            wall_step_s: 0,
            is_silent: false,
            ksm_run: 1,
            passes: 0,
            load_per_cpu: 1.0,
            moves: Vec::new(),
            journal: BTreeMap::new(),
            window_begin: None,
            windows: 0,
        }
    }

    fn wall_unix_us(&self) -> u64 {
        (START_UNIX_S + self.second as i64 + self.wall_step_s).unsigned_abs() * 1_000_000
    }

    /// The domain that has all CPUs of a vCPU.
    pub(super) fn domain(&self, affinity: &CpuSet) -> Option<DomainId> {
        let domains = self.topology.domains().iter();
        domains.filter(|domain| affinity.is_subset(&domain.cpus)).map(|domain| domain.id).next()
    }

    /// Share (0 to 1) of the pairs within groups that are in one domain.
    pub(super) fn togetherness(&self) -> f64 {
        let (mut pairs, mut together) = (0, 0);
        for (i, a) in self.vms.iter().enumerate() {
            for b in self.vms[i + 1..].iter().filter(|b| a.group == b.group && a.is_there && b.is_there) {
                pairs += 1;
                together += u32::from(self.domain(&a.affinity) == self.domain(&b.affinity));
            }
        }
        if pairs == 0 { 1.0 } else { f64::from(together) / f64::from(pairs) }
    }

    /// Runs a change of affinities, and counts who moved.
    fn change(&mut self, step: impl FnOnce(&mut Self) -> PinOutcome) -> PinOutcome {
        let domains = |host: &Self| -> Vec<Option<DomainId>> {
            host.vms.iter().map(|vm| host.domain(&vm.affinity)).collect()
        };
        let was = domains(self);
        let outcome = step(self);
        let is = domains(self);
        let moved =
            self.vms.iter().zip(was.iter().zip(&is)).filter(|(vm, (was, is))| vm.is_there && was != is);
        let moved = u32::try_from(moved.count()).unwrap_or(u32::MAX);
        if moved > 0 {
            self.moves.push((self.second, moved));
        }
        outcome
    }

    /// Whether the pinner has changed the affinity of a VM.
    pub(super) fn is_pinned(&self, vm: &SimVm) -> bool {
        self.journal.contains_key(&vm.process)
    }

    fn observe(&mut self) -> Availability<Observation> {
        let Some(begin) = self.window_begin.replace(self.second) else {
            return Availability::Unavailable("the first window begins now".into());
        };
        let seconds = self.second - begin;
        self.windows += 1;
        let drift = 1.0 + self.drift_per_hour * self.second as f64 / 3600.0;
        let factor = self.noise.factor(begin, seconds);
        let rate = OPERATIONS_PER_S * (1.0 + self.effect * self.togetherness()) * drift * factor;
        let there = || self.vms.iter().filter(|vm| vm.is_there);
        let reported = there().filter(|vm| !vm.is_paused && !self.is_silent && seconds > 0);
        let reported = reported.map(|vm| ReportObservation {
            vm: vm.name.clone(),
            operations: (rate * seconds as f64) as u64,
            latency_us: None,
        });
        let merging = there().map(|vm| MergeObservation {
            vm: vm.name.clone(),
            id: vm.process.into(),
            merged_now: Availability::Available(SHARED_IN_GROUP),
            merges: Availability::Available(0),
            breaks: Availability::Available(0),
            failed: Availability::Available(0),
        });
        let end_unix_us = self.wall_unix_us();
        let not_simulated = || "not simulated".to_owned();
        Availability::Available(Observation {
            window: self.windows,
            round: 0,
            trial: None,
            vms: Vec::new(),
            begin_unix_us: end_unix_us - seconds * 1_000_000,
            end_unix_us,
            vcpus: Vec::new(),
            merging: merging.collect(),
            occupancy: Availability::Unavailable(not_simulated()),
            reported: reported.collect(),
            events: Vec::new(),
            programs: Vec::new(),
            losses: Availability::Unavailable(not_simulated()),
            own_cpu_us: Availability::Unavailable(not_simulated()),
            reading_cpu_us: Availability::Unavailable(not_simulated()),
        })
    }

    fn measure(&mut self, vms: &[Vm]) -> Measurement {
        let rows = vms
            .iter()
            .map(|vm| MatrixVm::of(vm, Some(MemoryUse { frames_used: FRAMES_USED, ..MemoryUse::default() })));
        let group = |vm: &Vm| self.vms.iter().find(|sim| sim.name == vm.name).map(|sim| sim.group);
        let groups: Vec<_> = vms.iter().map(group).collect();
        let mut frames = vec![vec![0; vms.len()]; vms.len()];
        for i in 0..vms.len() {
            for j in i + 1..vms.len() {
                // A percent of scatter from pass to pass.
                let scatter = 1.0 + 0.01 * normal(&mut self.rng);
                let shared = if groups[i] == groups[j] { SHARED_IN_GROUP } else { SHARED_ACROSS };
                frames[i][j] = (shared as f64 * scatter) as u64;
            }
        }
        Measurement::of(SharingMatrix::measured(Method::Merged, rows.collect(), &frames, 0.0, 1.0))
    }

    fn apply(&mut self, plan: &Plan) -> PinReport {
        let placed: BTreeMap<&str, &CacheDomain> = plan
            .placement
            .iter()
            .filter_map(|placed| {
                Some((placed.vm.as_str(), plan.domains.iter().find(|d| d.id == placed.domain)?))
            })
            .collect();
        let outcome = self.change(|host| {
            let mut outcome = PinOutcome::default();
            for vm in &mut host.vms {
                let target = match placed.get(vm.name.as_str()).filter(|_| vm.is_there) {
                    Some(domain) => domain.cpus.clone(),
                    // Also of a VM that discovery does not find any more.
                    None if plan.waiting.is_some() => continue,
                    None => match host.journal.remove(&vm.process) {
                        Some(before) => before,
                        None => continue,
                    },
                };
                if vm.affinity == target {
                    outcome.unchanged += 1;
                    continue;
                }
                if vm.is_there && placed.contains_key(vm.name.as_str()) {
                    host.journal.entry(vm.process).or_insert_with(|| vm.affinity.clone());
                }
                vm.affinity = target;
                outcome.changed += 1;
            }
            outcome
        });
        let in_force: Assignment =
            Assignment::of(plan).of_vms(|name| self.vms.iter().any(|vm| vm.name == name && vm.is_there));
        PinReport { outcome, in_force, notes: Vec::new() }
    }

    fn undo(&mut self) -> UndoReport {
        let outcome = self.change(|host| {
            let mut outcome = PinOutcome::default();
            for vm in &mut host.vms {
                if let Some(before) = host.journal.remove(&vm.process) {
                    vm.affinity = before;
                    outcome.changed += 1;
                }
            }
            outcome
        });
        UndoReport { restored: outcome.changed, notes: Vec::new(), failures: Vec::new() }
    }
}

/// The host as the engine's stages see it: all of them at once.
#[derive(Clone)]
pub(super) struct Stages(pub(super) Arc<Mutex<Host>>);

impl Stages {
    pub(super) fn host(&self) -> MutexGuard<'_, Host> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VmSource for Stages {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        let host = self.host();
        let all: CpuSet = host.topology.domains().iter().flat_map(|domain| domain.cpus.iter()).collect();
        let vm = |sim: &SimVm| Vm {
            name: sim.name.clone(),
            id: sim.process.into(),
            uuid: None,
            vmid: None,
            owner: None,
            vmm: VmmKind::Process,
            vcpus: vec![Vcpu {
                index: 0,
                id: sim.process.into(),
                process: Some(sim.process),
                thread_name: None,
                affinity: sim.affinity.clone(),
                last_cpu: None,
                limits: Default::default(),
            }],
            memory: vec![GuestRegion {
                process: Some(sim.process),
                start: 0,
                end: FRAMES_USED * 4096,
                kind: MemoryKind::Mergeable,
            }],
            allowed_cpus: all.clone(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        };
        let vms = host.vms.iter().filter(|vm| vm.is_there).map(vm).collect();
        Ok(Discovery { vms, ..Discovery::default() })
    }
}

impl SharingSource for Stages {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        Ok(self.host().measure(vms))
    }
}

impl HostSource for Stages {
    fn topology(&mut self) -> Result<Topology, StageError> {
        Ok(self.host().topology.clone())
    }

    fn ksm(&mut self) -> Result<KsmState, StageError> {
        let host = self.host();
        Ok(KsmState { run: host.ksm_run, full_scans: host.passes, ..KsmState::default() })
    }

    fn node_pages(&mut self, process: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        Err(format!("the NUMA nodes of process {} are not simulated", process.id).into())
    }

    fn runnable_per_cpu(&mut self) -> Result<f64, StageError> {
        Ok(self.host().load_per_cpu)
    }

    fn own_cpu_us(&mut self) -> Result<u64, StageError> {
        Ok(0)
    }
}

impl Observer for Stages {
    fn observe(&mut self, _vms: &[Vm], _topology: Option<&Topology>) -> Availability<Observation> {
        self.host().observe()
    }
}

impl Pinner for Stages {
    fn apply(&mut self, _vms: &[Vm], plan: &Plan) -> Result<PinReport, StageError> {
        Ok(self.host().apply(plan))
    }

    fn undo(&mut self) -> UndoReport {
        self.host().undo()
    }
}

impl Clock for Stages {
    fn now_unix_us(&self) -> u64 {
        self.host().wall_unix_us()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.host().second)
    }
}
