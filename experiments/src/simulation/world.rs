//! A synthetic host that the state machine controls.

use std::collections::BTreeSet;
use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use huddle_model::observation::{MergeObservation, Observation, ReportObservation};
use huddle_model::plan::{PlanInput, PlanVm, Policy};
use huddle_model::rng::Rng;
use huddle_model::topology::{CacheDomain, DomainId, Topology};
use huddle_model::trial::{
    Assignment, Decision, HostReading, Machine, Moment, Objective, RoundReading, TrialSettings,
};
use huddle_model::vm::TaskId;

use super::chance::normal;

const FRAMES_USED: u64 = 10_000;
const SHARED_IN_GROUP: u64 = 6_000;
const OPERATIONS_PER_S: f64 = 1e6;

/// What a world is like.
#[derive(Clone, Debug)]
pub struct WorldSettings {
    /// VMs, with one vCPU each.
    pub vms: usize,
    /// Groups of VMs that share data; VM `i` is in group `i % groups` at first.
    pub groups: usize,
    /// Cache domains.
    pub domains: u32,
    /// CPUs in each.
    pub cpus_per_domain: u32,
    /// How much more is done when every VM is with its group than when none is (0.1: ten percent).
    pub effect: f64,
    /// Relative deviation of what is done in a window.
    pub noise: f64,
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
            noise: 0.05,
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
    /// VM `i` changes to group `(i / per group)`: another placement is the best one now.
    Regroup,
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

#[derive(Clone, Debug)]
struct SimVm {
    name: String,
    process: TaskId,
    group: usize,
    /// Where it was before huddle came.
    origin: u32,
    there: bool,
    paused: bool,
}

/// A host, its workloads and the loop over them.
pub struct World {
    settings: WorldSettings,
    machine: Machine,
    topology: Topology,
    vms: Vec<SimVm>,
    rng: Rng,
    second: u64,
    wall_step_s: i64,
    round: u64,
    silent: bool,
    host: HostReading,
    /// Every move that was commanded: the second, and how many vCPUs.
    moves: Vec<(u64, u32)>,
    /// The moments at which the matrix last changed, and passes since.
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
            origin: (i % per_group) as u32 % settings.domains,
            there: true,
            paused: false,
        });
        Self {
            machine: Machine::new(Objective::Reported, settings.trial.clone()),
            vms: vms.collect(),
            topology,
            rng: Rng::new(settings.seed),
            second: 0,
            wall_step_s: 0,
            round: 0,
            silent: false,
            host: HostReading { load_per_cpu: Some(1.0), ksm_run: Some(1) },
            moves: Vec::new(),
            passes_since_change: 0,
            settings,
        }
    }

    /// Something happens, between two windows.
    pub fn happen(&mut self, what: HostChange) {
        match what {
            HostChange::Regroup => {
                let groups = self.settings.groups;
                let per_group = self.vms.len().div_ceil(groups);
                // To and fro between two groupings that have no pair in common.
                let by_rest = self.vms.iter().enumerate().all(|(i, vm)| vm.group == i % groups);
                for (i, vm) in self.vms.iter_mut().enumerate() {
                    vm.group = if by_rest { i / per_group } else { i % groups };
                }
                self.passes_since_change = 0;
            }
            HostChange::Restart(at) => self.vms[at].process.start_ticks += 1,
            HostChange::Toggle(at) => self.vms[at].there ^= true,
            HostChange::Pause(at) => self.vms[at].paused ^= true,
            HostChange::Silence(silent) => self.silent = silent,
            HostChange::Ksm(run) => self.host.ksm_run = Some(run),
            HostChange::ClockStep(seconds) => self.wall_step_s += seconds,
            HostChange::Load(load) => self.host.load_per_cpu = Some(load),
        }
    }

    /// One second: a window, and a pass where one is due.
    pub fn step(&mut self) {
        self.second += 1;
        let seen = self.window();
        let at = self.moment();
        let host = self.host;
        self.command(|machine| machine.window(at, &seen, host, true));
        // KSM that does not run completes no pass.
        if self.second.is_multiple_of(self.settings.pass_s) && self.host.ksm_run == Some(1) {
            self.pass();
        }
    }

    /// Steps until a decision is made, or so many seconds are over.
    pub fn until_decision(&mut self, seconds: u64) -> Option<Decision> {
        let before = self.machine.decisions().len();
        for _ in 0..seconds {
            self.step();
            if let Some(decision) = self.machine.decisions().get(before) {
                return Some(decision.clone());
            }
        }
        None
    }

    /// The state machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Complete passes since the workload last changed.
    pub fn passes_since_change(&self) -> u64 {
        self.passes_since_change
    }

    /// Most vCPUs that were moved in any hour.
    pub fn most_moves_in_an_hour(&self) -> u32 {
        let from = |begin: u64| {
            let hour = self.moves.iter().filter(move |(at, _)| (begin..begin + 3600).contains(at));
            hour.map(|(_, moves)| moves).sum()
        };
        self.moves.iter().map(|(at, _)| from(*at)).max().unwrap_or(0)
    }

    /// Whether every VM is in one domain with its group.
    pub fn is_best(&self) -> bool {
        (self.togetherness() - 1.0).abs() < 1e-9
    }

    fn moment(&self) -> Moment {
        let wall = 1_700_000_000 + self.second as i64 + self.wall_step_s;
        Moment { now: Duration::from_secs(self.second), unix_us: wall.unsigned_abs() * 1_000_000 }
    }

    /// Does what may switch the placement, and counts the moves by where the VMs really are.
    fn command(&mut self, step: impl FnOnce(&mut Machine)) {
        let was: Vec<u32> = self.vms.iter().map(|vm| self.domain(vm)).collect();
        step(&mut self.machine);
        let moved = self.vms.iter().zip(was).filter(|(vm, was)| vm.there && self.domain(vm) != *was).count();
        if moved > 0 {
            self.moves.push((self.second, u32::try_from(moved).unwrap_or(u32::MAX)));
        }
    }

    fn domain(&self, vm: &SimVm) -> u32 {
        self.machine.wanted().domain(&vm.name, 0).map_or(vm.origin, |domain| domain.0)
    }

    /// Share (0 to 1) of the pairs within groups that are in one domain.
    fn togetherness(&self) -> f64 {
        let (mut pairs, mut together) = (0, 0);
        for (i, a) in self.vms.iter().enumerate() {
            for b in self.vms[i + 1..].iter().filter(|b| a.group == b.group && a.there && b.there) {
                pairs += 1;
                together += u32::from(self.domain(a) == self.domain(b));
            }
        }
        if pairs == 0 { 1.0 } else { f64::from(together) / f64::from(pairs) }
    }

    fn window(&mut self) -> Observation {
        let drift = 1.0 + self.settings.drift_per_hour * self.second as f64 / 3600.0;
        let true_rate = OPERATIONS_PER_S * (1.0 + self.settings.effect * self.togetherness()) * drift;
        // The noise is one for the host: what disturbs one VM disturbs its neighbours.
        let noise = (1.0 + self.settings.noise * normal(&mut self.rng)).max(0.01);
        let reported = self.vms.iter().filter(|vm| vm.there && !vm.paused && !self.silent);
        let reported = reported.map(|vm| ReportObservation {
            vm: vm.name.clone(),
            operations: (true_rate * noise) as u64,
            latency_us: None,
        });
        let merging = self.vms.iter().filter(|vm| vm.there).map(|vm| MergeObservation {
            vm: vm.name.clone(),
            id: vm.process.into(),
            merged_now: Availability::Available(SHARED_IN_GROUP),
            merges: Availability::Available(0),
            breaks: Availability::Available(0),
            failed: Availability::Available(0),
        });
        let end = self.moment().unix_us;
        Observation {
            window: self.second,
            round: self.round,
            trial: self.machine.block(&[]),
            vms: Vec::new(),
            begin_unix_us: end - 1_000_000,
            end_unix_us: end,
            vcpus: Vec::new(),
            merging: merging.collect(),
            occupancy: Availability::Unavailable("not simulated".into()),
            reported: reported.collect(),
            events: Vec::new(),
            programs: Vec::new(),
            losses: Availability::Unavailable("not simulated".into()),
            own_cpu_us: Availability::Unavailable("not simulated".into()),
            reading_cpu_us: Availability::Unavailable("not simulated".into()),
        }
    }

    fn pass(&mut self) {
        self.round += 1;
        self.passes_since_change += 1;
        let there: Vec<SimVm> = self.vms.iter().filter(|vm| vm.there).cloned().collect();
        let rows = there.iter().map(|vm| MatrixVm {
            name: vm.name.clone(),
            id: Some(vm.process.into()),
            uuid: None,
            owner: None,
            vcpus: 1,
            memory: Some(MemoryUse { frames_used: FRAMES_USED, ..MemoryUse::default() }),
        });
        let rows = rows.collect();
        let mut frames = vec![vec![0; there.len()]; there.len()];
        for (i, a) in there.iter().enumerate() {
            for (j, b) in there.iter().enumerate().skip(i + 1) {
                // A few percent of scatter from pass to pass.
                let scatter = 1.0 + 0.01 * normal(&mut self.rng);
                let shared = if a.group == b.group { SHARED_IN_GROUP as f64 } else { 20.0 };
                frames[i][j] = (shared * scatter) as u64;
            }
        }
        let matrix = SharingMatrix::measured(Method::Merged, rows, &frames, 0.0, 1.0);
        let here: Assignment =
            there.iter().map(|vm| ((vm.name.clone(), 0), DomainId(self.domain(vm)))).collect();
        let limits: Vec<PlanVm> = there
            .iter()
            .map(|vm| PlanVm { current: vec![Some(DomainId(self.domain(vm)))], ..PlanVm::default() })
            .collect();
        let plan = Policy::Paper.plan(&PlanInput::new(&matrix, &self.topology, &limits));
        let members: BTreeSet<_> = there.iter().map(|vm| (vm.name.clone(), vm.process.into(), 1)).collect();
        let (at, round, topology) = (self.moment(), self.round, self.topology.clone());
        let proposal = Assignment::of(&plan);
        self.command(|machine| {
            machine.round(&RoundReading {
                at,
                round,
                members: &members,
                matrix: &matrix,
                topology: &topology,
                here: &here,
                proposal: &proposal,
                policy: "paper",
                seeks_sharing: true,
                limits: None,
                is_dry: false,
            });
        });
    }
}
