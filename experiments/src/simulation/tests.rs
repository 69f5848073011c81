//! The loop's figures with modest numbers; `huddle-simulation` prints them with thousands.

use huddle_model::rng::Rng;
use huddle_model::trial::{Outcome, TrialSettings};

use super::*;

const INDEPENDENT: Noise = Noise::Independent { deviation: 0.05 };

fn hosts(count: u32, effect: f64, noise: Noise, seed: u64) -> Hosts {
    Hosts { count, noise, effect, seed }
}

/// A limit of 5 % for so many hosts, with three standard deviations of the count.
fn five_percent(hosts: u32) -> u32 {
    let n = f64::from(hosts);
    (0.05 * n + 3.0 * (0.05 * 0.95 * n).sqrt()) as u32
}

#[test]
fn without_an_effect_a_change_is_seldom_kept_in_a_day() {
    let mut kept = 0;
    for noise in [
        INDEPENDENT,
        Noise::Autoregressive { correlation: 0.7, deviation: 0.05 },
        Noise::HeavyTailed { deviation: 0.05 },
        // The length of a block, with its warm-ups.
        Noise::Periodic { period_s: 4.0, depth: 0.2 },
        Noise::Periodic { period_s: 8.0, depth: 0.2 },
    ] {
        let day = day_without_effect(&hosts(20, 0.0, noise, 1));
        kept += day.kept.hits;
        assert!(day.trials > 10 * day.kept.of, "trials there must be: {noise:?}: {day:?}");
        assert!(day.covered.value() >= 0.94, "{noise:?}: {day:?}");
    }
    assert!(kept <= five_percent(5 * 20), "{kept} of 100 hosts");
}

#[test]
fn ten_percent_are_found_in_noise_of_five() {
    for noise in [INDEPENDENT, Noise::Autoregressive { correlation: 0.3, deviation: 0.05 }] {
        let trials = first_trials(&hosts(100, 0.1, noise, 2), 30);
        assert!(trials.kept.hits >= 90, "{trials:?}");
        assert!((7.0..20.0).contains(&trials.mean_blocks), "{trials:?}");
        assert!(trials.covered.value() >= 0.94, "{trials:?}");
    }
}

#[test]
fn a_workload_that_changes_is_followed_within_two_passes() {
    let follow = follow(&hosts(20, 0.3, INDEPENDENT, 3));
    assert_eq!(follow.in_time.of, 20);
    assert!(follow.in_time.hits >= 19, "{follow:?}");
}

#[test]
fn the_budget_holds_whatever_happens() {
    let part = budget(&hosts(4, 0.2, INDEPENDENT, 4), 200, 3);
    assert!(part <= 1.0, "{part}");
    // And it is the budget that held, not a loop that did nothing.
    assert!(part > 0.5, "{part}");
}

#[test]
fn a_placement_that_is_best_already_is_left_alone() {
    let mut world = World::new(WorldSettings { domains: 1, ..WorldSettings::default() });
    for _ in 0..600 {
        world.step();
    }
    assert_eq!(world.most_moves_in_an_hour(), 0);
}

/// The next trial begins from where the VMs are after the one before: it moves as many vCPUs, and brings as much
/// together.
#[test]
fn after_a_trial_the_next_one_is_tried_like_the_first() {
    for effect in [0.0, -0.2] {
        let trial = TrialSettings { cool_down_s: 0, hold_s: 0, ..TrialSettings::default() };
        let mut world = World::new(WorldSettings { effect, trial, ..WorldSettings::default() });
        let mut tried = Vec::new();
        for _ in 0..3600 {
            tried.extend(world.step().into_iter().filter(|decision| decision.trial.is_some()));
            if tried.len() == 4 {
                break;
            }
        }
        assert_eq!(tried.len(), 4, "effect {effect}: {tried:?}");
        assert!(tried.iter().all(|decision| decision.proposal.contains("moves 2 vCPUs")), "{tried:?}");
        let required: Vec<f64> = tried.iter().map(|decision| decision.evidence.unwrap().required).collect();
        assert!(required.is_sorted_by(|a, b| a < b), "each further trial of a day needs more: {required:?}");
    }
}

/// The same partition with the domains exchanged is no other proposal.
#[test]
fn a_mirror_image_is_not_tried() {
    let mut world = World::new(WorldSettings { effect: 0.3, ..WorldSettings::default() });
    let kept =
        (0..10).any(|_| world.until_decision(1200).is_some_and(|decision| decision.outcome == Outcome::Kept));
    assert!(kept && world.is_best());
    let moves = world.most_moves_in_an_hour();
    // The scatter of sharing changes from pass to pass which pair comes first, and so gets the first domain.
    for _ in 0..3000 {
        assert!(world.step().iter().all(|decision| decision.trial.is_none()));
    }
    assert!(world.most_moves_in_an_hour() <= moves);
}

#[test]
fn whatever_happens_to_the_host_ends_a_trial_cleanly() {
    let happenings = [
        (HostChange::Restart(1), HostChange::Restart(2), "restarted|ended during"),
        (HostChange::Toggle(1), HostChange::Toggle(1), "is stalled|ended during"),
        (HostChange::Pause(1), HostChange::Pause(1), "is stalled"),
        (HostChange::Silence(true), HostChange::Silence(false), "cannot be measured"),
        (HostChange::Ksm(0), HostChange::Ksm(1), "KSM was switched off"),
        (HostChange::Load(99.0), HostChange::Load(1.0), "runnable tasks"),
        // What was proposed is the wrong placement from then on: the next pass finds out, or the guard before it.
        (HostChange::Regroup, HostChange::Regroup, "changed during|worse, beyond the limit"),
    ];
    for (begin, end, word) in happenings {
        let noise = Noise::Independent { deviation: 0.15 };
        let mut world = World::new(WorldSettings { pass_s: 15, noise, ..WorldSettings::default() });
        while !world.is_trying() {
            world.step();
        }
        // A VM that has shown no activity in the trial cannot stall in it.
        for _ in 0..3 {
            assert!(world.step().is_empty());
        }
        world.happen(begin);
        let decision = world.until_decision(100).unwrap_or_else(|| panic!("{begin:?}: no decision"));
        assert_eq!(decision.outcome, Outcome::Aborted, "{begin:?}: {decision}");
        assert!(word.split('|').any(|word| decision.reason.contains(word)), "{begin:?}: {decision}");
        // Nothing was kept: all are where they were.
        assert!(world.view().in_force.is_empty() && world.not_as_told().is_empty(), "{begin:?}");
        // And the loop goes on when things are as before.
        world.happen(end);
        let next = (0..10).find_map(|_| {
            world.until_decision(1200).filter(|decision| decision.outcome != Outcome::NotTried)
        });
        assert!(next.is_some(), "{begin:?}: no trial afterwards");
    }
}

#[test]
fn a_step_of_the_wall_clock_changes_dates_only() {
    let run = |step_s: i64| {
        let mut world = World::new(WorldSettings::default());
        while !world.is_trying() {
            world.step();
        }
        world.happen(HostChange::ClockStep(step_s));
        world.until_decision(600).map(|decision| (decision.outcome, decision.observed_change))
    };
    let plain = run(0);
    assert!(plain.is_some());
    assert_eq!(run(-86_400), plain);
    assert_eq!(run(86_400), plain);
}

/// Whatever happens, what readers are told is in force is what the affinities are.
#[test]
fn random_disturbances_break_nothing_and_what_is_told_is_in_force() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut world = World::new(WorldSettings { seed, vms: 6, pass_s: 20, ..WorldSettings::default() });
        for _ in 0..2000 {
            world.step();
            assert_eq!(world.not_as_told(), [""; 0], "seed {seed}, second {}", world.second());
            if rng.below(40) == 0 {
                let vm = rng.below(6);
                world.happen(match rng.below(9) {
                    0 => HostChange::Regroup,
                    1 => HostChange::Shuffle,
                    2 => HostChange::Toggle(vm),
                    3 => HostChange::Pause(vm),
                    4 => HostChange::Silence(rng.below(2) == 0),
                    5 => HostChange::Ksm(rng.below(2) as u64),
                    6 => HostChange::ClockStep(3600),
                    _ => HostChange::Load(rng.below(12) as f64),
                });
            }
        }
        assert!(world.most_moves_in_an_hour() <= 1000);
    }
}
