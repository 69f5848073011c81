//! The figures that the loop has to reach, over many simulated hosts.

use huddle_model::rng::Rng;
use huddle_model::trial::{Decision, Outcome, TrialSettings};

use super::chance::normal;
use super::noise::Noise;
use super::world::{HostChange, World, WorldSettings};

/// Longer than any trial with its passes before it.
const PATIENCE_S: u64 = 1200;

const DAY_S: u64 = 24 * 3600;

/// While nothing is tried, time passes in windows of this length, since nothing is learnt from them.
const IDLE_S: u64 = 60;

/// How often the VMs of a host get other data, so that another placement is proposed.
const SHUFFLE_S: u64 = 2 * 3600;

/// A share: how many of how many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Those of which it is true.
    pub hits: u32,
    /// All.
    pub of: u32,
}

impl Share {
    /// 0 to 1; 0 of 0 is 0.
    pub fn value(self) -> f64 {
        if self.of == 0 { 0.0 } else { f64::from(self.hits) / f64::from(self.of) }
    }

    fn add(&mut self, hit: bool) {
        self.hits += u32::from(hit);
        self.of += 1;
    }

    fn sum(self, other: Self) -> Self {
        Self { hits: self.hits + other.hits, of: self.of + other.of }
    }
}

/// How the loop follows workloads that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follow {
    /// Worlds in which the new best placement was in force before the third pass after the change.
    pub in_time: Share,
    /// Most passes it took in those in which it was ever reached.
    pub most_passes: u64,
}

/// Hosts of one kind.
#[derive(Clone, Copy, Debug)]
pub struct Hosts {
    /// How many.
    pub count: u32,
    /// What disturbs them.
    pub noise: Noise,
    /// True effect of the best placement.
    pub effect: f64,
    /// Seed of all random numbers.
    pub seed: u64,
}

impl Hosts {
    fn settings(&self, host: u32) -> WorldSettings {
        let mut chance = Rng::of_part(self.seed, u64::from(host));
        let trial = TrialSettings { seed: chance.next_u64(), ..TrialSettings::default() };
        WorldSettings {
            effect: self.effect,
            noise: self.noise,
            drift_per_hour: [-0.1, 0.0, 0.1][chance.below(3)],
            seed: chance.next_u64(),
            trial,
            ..WorldSettings::default()
        }
    }

    /// The results of all hosts, on all cores.
    fn map<T: Send>(&self, one: impl Fn(WorldSettings) -> T + Sync) -> Vec<T> {
        let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let part = |worker: u32| -> Vec<T> {
            (worker..self.count).step_by(workers as usize).map(|host| one(self.settings(host))).collect()
        };
        std::thread::scope(|scope| {
            let part = &part;
            let handles: Vec<_> = (0..workers).map(|worker| scope.spawn(move || part(worker))).collect();
            handles.into_iter().flat_map(|handle| handle.join().expect("a simulated host panicked")).collect()
        })
    }
}

/// What a day of trials came to, over many hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Hosts on which a change was kept by a trial, at least once.
    pub kept: Share,
    /// Intervals of trials that contain the true change.
    pub covered: Share,
    /// Trials that ended by their blocks.
    pub trials: u32,
}

/// A day on each of `hosts`, which have no true effect, with other data in the VMs every two hours.
pub fn day_without_effect(hosts: &Hosts) -> Day {
    let one = |settings: WorldSettings| {
        let mut world = World::new(WorldSettings { vms: 8, ..settings });
        let (mut day, mut is_kept, mut shuffled) = (Day::default(), false, 0);
        while world.second() < DAY_S {
            let decisions = if world.is_trying() { world.step() } else { world.pass_time(IDLE_S) };
            for decision in &decisions {
                is_kept |= decision.outcome == Outcome::Kept;
                day.add(decision, 0.0);
            }
            if world.second() / SHUFFLE_S != shuffled {
                shuffled = world.second() / SHUFFLE_S;
                world.happen(HostChange::Shuffle);
            }
        }
        day.kept.add(is_kept);
        day
    };
    hosts.map(one).into_iter().fold(Day::default(), Day::sum)
}

impl Day {
    fn add(&mut self, decision: &Decision, truth: f64) {
        let Some(change) = decision.observed_change else { return };
        self.trials += 1;
        if let Some([low, high]) = change.ci95 {
            self.covered.add(low <= truth && truth <= high);
        }
    }

    fn sum(self, other: Self) -> Self {
        Self {
            kept: self.kept.sum(other.kept),
            covered: self.covered.sum(other.covered),
            trials: self.trials + other.trials,
        }
    }
}

/// The first trial of each host.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FirstTrials {
    /// Those that kept the change within so many blocks.
    pub kept: Share,
    /// Their mean number of blocks.
    pub mean_blocks: f64,
    /// Intervals that contain the true change.
    pub covered: Share,
}

/// How often the best placement is kept by the first trial, within `max_blocks`.
pub fn first_trials(hosts: &Hosts, max_blocks: usize) -> FirstTrials {
    let mut trials = FirstTrials::default();
    let mut blocks = 0;
    for decision in hosts.map(|settings| first_trial(World::new(settings))) {
        let change = decision.as_ref().and_then(|decision| decision.observed_change);
        let n = change.map_or(usize::MAX, |change| change.n);
        let is_kept = decision.is_some_and(|decision| decision.outcome == Outcome::Kept) && n <= max_blocks;
        trials.kept.add(is_kept);
        blocks += if is_kept { n } else { 0 };
        if let Some([low, high]) = change.and_then(|change| change.ci95) {
            trials.covered.add(low <= hosts.effect && hosts.effect <= high);
        }
    }
    trials.mean_blocks = blocks as f64 / f64::from(trials.kept.hits.max(1));
    trials
}

fn first_trial(mut world: World) -> Option<Decision> {
    let began = world.second();
    while world.second() - began < PATIENCE_S {
        let tried = |decision: &Decision| decision.outcome != Outcome::NotTried;
        if let Some(decision) = world.step().into_iter().find(tried) {
            return Some(decision);
        }
    }
    None
}

/// Over hosts whose best placement changes after the loop has found the first one.
pub fn follow(hosts: &Hosts) -> Follow {
    let one = |settings: WorldSettings| {
        let mut world = World::new(settings);
        let is_kept = |decision: Decision| decision.outcome == Outcome::Kept;
        if !(0..10).any(|_| world.until_decision(PATIENCE_S).is_some_and(is_kept)) {
            return None;
        }
        // Anywhere between two passes.
        for _ in 0..50 + 7 * (hosts.seed % 10) {
            world.step();
        }
        world.happen(HostChange::Regroup);
        for _ in 0..20 * 60 {
            let kept = world.step().last().is_some_and(|decision| decision.outcome == Outcome::Kept);
            if kept && world.is_best() {
                return Some(Some(world.passes_since_change()));
            }
        }
        Some(None)
    };
    let mut follow = Follow::default();
    for passes in hosts.map(one).into_iter().flatten() {
        follow.in_time.add(passes.is_some_and(|passes| passes <= 2));
        follow.most_passes = follow.most_passes.max(passes.unwrap_or(0));
    }
    follow
}

/// Most moves in any hour over hosts whose best placement changes all the time, as a part of the budget: never above
/// 1.
pub fn budget(hosts: &Hosts, moves_per_hour: u32, hours: u64) -> f64 {
    let one = |mut settings: WorldSettings| {
        settings.vms = 8;
        settings.trial = TrialSettings { moves_per_hour, cool_down_s: 0, hold_s: 0, ..settings.trial };
        let mut rng = Rng::of_part(settings.seed, 1000);
        let mut world = World::new(settings);
        for _ in 0..hours * 3600 {
            world.step();
            if rng.below(150) == 0 {
                world.happen(HostChange::Regroup);
            }
        }
        f64::from(world.most_moves_in_an_hour()) / f64::from(moves_per_hour)
    };
    hosts.map(one).into_iter().fold(0.0, f64::max)
}

/// The rule to compare with: one block, and what was better in it stays. How often it keeps a change that
/// makes no difference, and one that does.
pub fn one_block_rule(hosts: u32, effect: f64, deviation: f64, seed: u64) -> Share {
    let mut share = Share::default();
    let mut rng = Rng::of_part(seed, 77);
    for _ in 0..hosts {
        let before = 1.0 + deviation * normal(&mut rng);
        let after = (1.0 + effect) * (1.0 + deviation * normal(&mut rng));
        share.add(after > before);
    }
    share
}
