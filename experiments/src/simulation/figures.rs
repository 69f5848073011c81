//! The figures that the loop has to reach, over many simulated hosts.

use huddle_model::rng::Rng;
use huddle_model::trial::{Outcome, TrialSettings};

use super::chance::normal;
use super::world::{HostChange, World, WorldSettings};

/// Longer than any trial with its passes before it.
const PATIENCE_S: u64 = 1200;

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
}

/// How the loop follows workloads that change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follow {
    /// Worlds in which the new best placement was in force before the third pass after the change.
    pub in_time: Share,
    /// Most passes it took in those in which it was ever reached.
    pub most_passes: u64,
}

/// Everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Trials without a true difference that ended with a change kept.
    pub kept_without_difference: Share,
    /// Trials with a true effect that ended with it kept.
    pub kept_with_effect: Share,
}

fn first_trial(settings: WorldSettings) -> Option<(bool, u32)> {
    let mut world = World::new(settings);
    loop {
        let decision = world.until_decision(PATIENCE_S)?;
        match decision.outcome {
            Outcome::NotTried => {}
            outcome => {
                let blocks = decision.observed_change.map_or(0, |change| change.n);
                return Some((outcome == Outcome::Kept, u32::try_from(blocks).unwrap_or(u32::MAX)));
            }
        }
    }
}

/// Over `worlds` hosts on which placement makes no difference: how often a change is kept all the same.
pub fn kept_without_difference(worlds: u32, noise: f64, seed: u64) -> Share {
    let mut share = Share::default();
    for world in 0..worlds {
        let settings = of_world(0.0, noise, seed, world);
        share.add(first_trial(settings).is_some_and(|(kept, _)| kept));
    }
    share
}

/// Over `worlds` hosts on which the best placement is `effect` better: how often it is found and kept
/// within twenty blocks; and the mean number of blocks that took.
pub fn kept_with_effect(worlds: u32, effect: f64, noise: f64, seed: u64) -> (Share, f64) {
    let mut share = Share::default();
    let mut blocks = 0;
    for world in 0..worlds {
        let kept = first_trial(of_world(effect, noise, seed, world)).filter(|(kept, n)| *kept && *n <= 20);
        share.add(kept.is_some());
        blocks += kept.map_or(0, |(_, blocks)| blocks);
    }
    (share, f64::from(blocks) / f64::from(share.hits.max(1)))
}

/// Over `worlds` hosts whose best placement changes after the loop has found the first one.
pub fn follow(worlds: u32, effect: f64, noise: f64, seed: u64) -> Follow {
    let mut follow = Follow::default();
    for world in 0..worlds {
        let mut world = World::new(of_world(effect, noise, seed, world));
        let mut kept = false;
        for _ in 0..10 {
            kept = world.until_decision(PATIENCE_S).is_some_and(|decision| decision.outcome == Outcome::Kept);
            if kept {
                break;
            }
        }
        if !kept {
            continue;
        }
        // Anywhere between two passes.
        for _ in 0..50 + 7 * (seed % 10) {
            world.step();
        }
        world.happen(HostChange::Regroup);
        let mut passes = None;
        for _ in 0..20 * 60 {
            world.step();
            if world.is_best() && world.machine().block(&[]).is_none() && settled(&world) {
                passes = Some(world.passes_since_change());
                break;
            }
        }
        follow.in_time.add(passes.is_some_and(|passes| passes <= 2));
        follow.most_passes = follow.most_passes.max(passes.unwrap_or(0));
    }
    follow
}

fn settled(world: &World) -> bool {
    world.machine().decisions().last().is_some_and(|decision| decision.outcome == Outcome::Kept)
}

/// Most moves in any hour over `worlds` hosts whose best placement changes all the time, as a part of the
/// budget: never above 1.
pub fn budget(worlds: u32, moves_per_hour: u32, hours: u64, seed: u64) -> f64 {
    let mut most = 0.0f64;
    for world in 0..worlds {
        let mut settings = of_world(0.2, 0.05, seed, world);
        settings.vms = 8;
        settings.trial = TrialSettings { moves_per_hour, cool_down_s: 0, hold_s: 0, ..settings.trial };
        let mut rng = Rng::of_part(seed, 1000 + u64::from(world));
        let mut world = World::new(settings);
        for _ in 0..hours * 3600 {
            world.step();
            if rng.below(150) == 0 {
                world.happen(HostChange::Regroup);
            }
        }
        most = most.max(f64::from(world.most_moves_in_an_hour()) / f64::from(moves_per_hour));
    }
    most
}

/// The rule to compare with: one block, and what was better in it stays. How often it keeps a change that
/// makes no difference, and one that does.
pub fn one_block_rule(worlds: u32, effect: f64, noise: f64, seed: u64) -> Share {
    let mut share = Share::default();
    let mut rng = Rng::of_part(seed, 77);
    for _ in 0..worlds {
        let before = 1.0 + noise * normal(&mut rng);
        let after = (1.0 + effect) * (1.0 + noise * normal(&mut rng));
        share.add(after > before);
    }
    share
}

fn of_world(effect: f64, noise: f64, seed: u64, world: u32) -> WorldSettings {
    let mut chance = Rng::of_part(seed, u64::from(world));
    let trial = TrialSettings { seed: chance.next_u64(), ..TrialSettings::default() };
    WorldSettings {
        effect,
        noise,
        drift_per_hour: [-0.1, 0.0, 0.1][chance.below(3)],
        seed: chance.next_u64(),
        trial,
        ..WorldSettings::default()
    }
}
