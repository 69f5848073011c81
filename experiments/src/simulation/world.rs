//! The engine of `huddle run`, on a synthetic host.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use huddle_engine::{Engine, Memory, TrialRunner};
use huddle_model::matrix::Weigh;
use huddle_model::plan::{PlanLimits, Policy};
use huddle_model::rng::Rng;
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use huddle_model::trial::{Decision, Objective, Phase, TrialSettings};
use huddle_model::update::{Step, Update};
use huddle_model::view::View;
use huddle_model::vm::TaskId;

use super::host::{Host, SimVm, Stages};
use super::noise::{Noise, NoiseSource};

const WINDOW: Duration = Duration::from_secs(1);

/// What a world is like.
#[derive(Clone, Debug)]
pub struct WorldSettings {
    /// VMs, with one vCPU each.
    pub vms: usize,
    /// Groups of VMs that share data; VM `i` is in group `i / (VMs per group)` at first.
    pub groups: usize,
    /// Cache domains.
    pub domains: u32,
    /// CPUs in each.
    pub cpus_per_domain: u32,
    /// How much more is done when every VM is with its group than when none is (0.1: ten percent).
    pub effect: f64,
    /// What disturbs the workloads.
    pub noise: Noise,
    /// Relative rise of what is done over an hour, whatever the placement.
    pub drift_per_hour: f64,
    /// Seconds between two passes of KSM.
    pub pass_s: u64,
    /// Seed of its random numbers.
    pub seed: u64,
    /// The limits of the loop.
    pub trial: TrialSettings,
}

impl Default for WorldSettings {
    fn default() -> Self {
        Self {
            vms: 4,
            groups: 2,
            domains: 2,
            cpus_per_domain: 4,
            effect: 0.1,
            noise: Noise::Independent { deviation: 0.05 },
            drift_per_hour: 0.05,
            pass_s: 60,
            seed: 1,
            trial: TrialSettings::default(),
        }
    }
}

/// Something that happens to the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HostChange {
    /// The VMs change to another grouping, and back the next time: another placement is the best one now.
    Regroup,
    /// The VMs are grouped at random.
    Shuffle,
    /// The VM at this position is replaced by another of the same name.
    Restart(usize),
    /// The VM at this position goes, or comes back.
    Toggle(usize),
    /// The VM at this position pauses, or continues.
    Pause(usize),
    /// Workloads report nothing any more, or again (as counters that vanish).
    Silence(bool),
    /// KSM's `run`.
    Ksm(u64),
    /// The wall clock is set by so many seconds.
    ClockStep(i64),
    /// Runnable tasks a CPU.
    Load(f64),
}

/// A host, its workloads and the loop over them.
pub struct World {
    stages: Stages,
    engine: Engine,
    view: Option<View>,
    pass_s: u64,
    next_pass_s: u64,
    passes_since_change: u64,
}

impl World {
    /// A host on which each group is spread as far as it can be: the opposed placement.
    pub fn new(settings: WorldSettings) -> Self {
        let domain = |id: u32| CacheDomain {
            id: DomainId(id),
            cpus: (id * settings.cpus_per_domain..(id + 1) * settings.cpus_per_domain).collect(),
            size_bytes: Some(32 << 20),
            nodes: [id / 2].into(),
        };
        let topology = Topology::new(Some(3), (0..settings.domains).map(domain).collect())
            .expect("domains are disjoint by construction");
        let per_group = settings.vms.div_ceil(settings.groups);
        let vms = (0..settings.vms).map(|i| SimVm {
            name: format!("vm{i}"),
            process: TaskId { id: 1000 + i32::try_from(i).unwrap_or(0), start_ticks: 1 },
            group: i / per_group,
            affinity: domain((i % per_group) as u32 % settings.domains).cpus,
            is_there: true,
            is_paused: false,
        });
        let noise = NoiseSource::new(settings.noise, Rng::of_part(settings.seed, 1));
        let mut host = Host::new(vms.collect(), topology, noise, Rng::of_part(settings.seed, 2));
        (host.effect, host.drift_per_hour) = (settings.effect, settings.drift_per_hour);
        let stages = Stages(Arc::new(Mutex::new(host)));
        let trials = TrialRunner::new(Objective::Reported, settings.trial, Duration::ZERO, WINDOW);
        let engine = Engine {
            vms: Box::new(stages.clone()),
            sharing: Box::new(stages.clone()),
            merger: None,
            host: Box::new(stages.clone()),
            observer: Some(Box::new(stages.clone())),
            pinner: Some(Box::new(stages.clone())),
            apply: true,
            clock: Box::new(stages.clone()),
            policy: Policy::Paper,
            weigh: Weigh::All,
            limits: PlanLimits::default(),
            trials: Some(trials),
            memory: Memory::of_simulated_host(),
        };
        let mut world = Self {
            stages,
            engine,
            view: None,
            pass_s: settings.pass_s,
            next_pass_s: settings.pass_s,
            passes_since_change: 0,
        };
        world.round();
        world
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.stages.host()
    }

    /// Something happens, between two windows.
    pub fn happen(&mut self, what: HostChange) {
        let mut host = self.stages.host();
        match what {
            HostChange::Regroup => {
                let (groups, per_group) = (host.groups, host.vms.len().div_ceil(host.groups));
                // To and fro between two groupings that have no pair in common.
                let by_rest = host.vms.iter().enumerate().all(|(i, vm)| vm.group == i % groups);
                for (i, vm) in host.vms.iter_mut().enumerate() {
                    vm.group = if by_rest { i / per_group } else { i % groups };
                }
                self.passes_since_change = 0;
            }
            HostChange::Shuffle => {
                let mut groups: Vec<usize> = host.vms.iter().map(|vm| vm.group).collect();
                host.rng.shuffle(&mut groups);
                for (vm, group) in host.vms.iter_mut().zip(groups) {
                    vm.group = group;
                }
                self.passes_since_change = 0;
            }
            HostChange::Restart(at) => host.vms[at].process.start_ticks += 1,
            HostChange::Toggle(at) => host.vms[at].is_there ^= true,
            HostChange::Pause(at) => host.vms[at].is_paused ^= true,
            HostChange::Silence(silent) => host.is_silent = silent,
            HostChange::Ksm(run) => host.ksm_run = run,
            HostChange::ClockStep(seconds) => host.wall_step_s += seconds,
            HostChange::Load(load) => host.load_per_cpu = load,
        }
    }

    /// One second: a window, and a pass where one is due. Returns the decisions made in it.
    pub fn step(&mut self) -> Vec<Decision> {
        self.pass_time(1)
    }

    /// So many seconds as one window, and a pass where one is due: for times at which nothing is tried.
    pub fn pass_time(&mut self, seconds: u64) -> Vec<Decision> {
        self.host().second += seconds;
        let step = self.engine.observe();
        let mut decisions = step.map(|step| self.follow(&step)).unwrap_or_default();
        let (second, ksm_run) = {
            let host = self.host();
            (host.second, host.ksm_run)
        };
        if second >= self.next_pass_s {
            self.next_pass_s = second - second % self.pass_s + self.pass_s;
            // KSM that does not run completes no pass.
            if ksm_run == 1 {
                decisions.extend(self.round());
            }
        }
        decisions
    }

    fn round(&mut self) -> Vec<Decision> {
        self.host().passes += 1;
        self.passes_since_change += 1;
        let step = self.engine.round();
        self.follow(&step)
    }

    fn follow(&mut self, step: &Step) -> Vec<Decision> {
        View::follow(&mut self.view, &step[..]);
        let decision = |update: &Update| match update {
            Update::Decision(decision) => Some(decision.clone()),
            _ => None,
        };
        step.iter().filter_map(decision).collect()
    }

    /// Steps until a decision is made, or so many seconds are over.
    pub fn until_decision(&mut self, seconds: u64) -> Option<Decision> {
        (0..seconds).find_map(|_| self.step().into_iter().next())
    }

    /// Seconds since its begin.
    pub fn second(&self) -> u64 {
        self.host().second
    }

    /// What readers of the loop see.
    ///
    /// # Panics
    /// Never: the first round is part of a new world.
    pub fn view(&self) -> &View {
        self.view.as_ref().expect("a world begins with a round")
    }

    /// Whether a trial runs.
    pub fn is_trying(&self) -> bool {
        let comparison = self.view().comparison.value();
        comparison.is_some_and(|comparison| matches!(comparison.phase, Phase::Trial { .. }))
    }

    /// The vCPUs whose real affinity is not what the loop says is in force: for a VM with an entry that domain, for the
    /// others what they had before.
    pub fn not_as_told(&self) -> Vec<String> {
        let host = self.host();
        let is_wrong = |vm: &&SimVm| match self.view().in_force.domain(&vm.name, 0) {
            Some(domain) => host.domain(&vm.affinity) != Some(domain),
            None => host.is_pinned(vm),
        };
        host.vms.iter().filter(|vm| vm.is_there).filter(is_wrong).map(|vm| vm.name.clone()).collect()
    }

    /// Complete passes since the workload last changed.
    pub fn passes_since_change(&self) -> u64 {
        self.passes_since_change
    }

    /// Most vCPUs that were moved in any hour.
    pub fn most_moves_in_an_hour(&self) -> u32 {
        let host = self.host();
        let from = |begin: u64| {
            let hour = host.moves.iter().filter(move |(at, _)| (begin..begin + 3600).contains(at));
            hour.map(|(_, moves)| moves).sum()
        };
        host.moves.iter().map(|(at, _)| from(*at)).max().unwrap_or(0)
    }

    /// Whether every VM is in one domain with its group.
    pub fn is_best(&self) -> bool {
        (self.host().togetherness() - 1.0).abs() < 1e-9
    }
}
