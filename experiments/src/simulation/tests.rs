//! The loop's figures with modest numbers; `huddle-simulation` prints them with thousands.

use huddle_model::rng::Rng;
use huddle_model::trial::Outcome;

use super::*;

#[test]
fn without_a_difference_a_change_is_seldom_kept() {
    let share = kept_without_difference(200, 0.05, 1);
    // 5 % of 200 are 10.
    assert!(share.hits <= 10, "{share:?}");
    assert_eq!(share.of, 200);
}

#[test]
fn ten_percent_are_found_in_noise_of_five() {
    let (share, blocks) = kept_with_effect(100, 0.1, 0.05, 2);
    assert!(share.hits >= 90, "{share:?}");
    assert!((8.0..20.0).contains(&blocks), "{blocks}");
}

#[test]
fn a_workload_that_changes_is_followed_within_two_passes() {
    let follow = follow(20, 0.3, 0.05, 3);
    assert_eq!(follow.in_time.of, 20);
    assert!(follow.in_time.hits >= 19, "{follow:?}");
}

#[test]
fn the_budget_holds_whatever_happens() {
    let part = budget(4, 120, 3, 4);
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

#[test]
fn whatever_happens_to_the_host_ends_a_trial_cleanly() {
    let happenings = [
        (HostChange::Restart(1), HostChange::Restart(2), "restarted"),
        (HostChange::Toggle(1), HostChange::Toggle(1), "is stalled"),
        (HostChange::Pause(1), HostChange::Pause(1), "is stalled"),
        (HostChange::Silence(true), HostChange::Silence(false), "cannot be measured"),
        (HostChange::Ksm(0), HostChange::Ksm(1), "KSM was switched off"),
        (HostChange::Load(99.0), HostChange::Load(1.0), "runnable tasks"),
        // What was proposed is the wrong placement from then on: the next pass finds out, or the guard before it.
        (HostChange::Regroup, HostChange::Regroup, "changed during|worse, beyond the limit"),
    ];
    for (begin, end, word) in happenings {
        let mut world = World::new(WorldSettings { pass_s: 15, noise: 0.3, ..WorldSettings::default() });
        while world.machine().block(&[]).is_none() {
            world.step();
        }
        world.happen(begin);
        let decision = world.until_decision(100).unwrap_or_else(|| panic!("{begin:?}: no decision"));
        assert_eq!(decision.outcome, Outcome::Aborted, "{begin:?}: {decision}");
        assert!(word.split('|').any(|word| decision.reason.contains(word)), "{begin:?}: {decision}");
        // Nothing was kept: all are where they were.
        assert!(world.machine().wanted().is_empty(), "{begin:?}");
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
        for _ in 0..130 {
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

#[test]
fn random_disturbances_break_nothing() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut world = World::new(WorldSettings { seed, vms: 6, pass_s: 20, ..WorldSettings::default() });
        for _ in 0..2000 {
            world.step();
            if rng.below(40) == 0 {
                let vm = rng.below(6);
                world.happen(match rng.below(8) {
                    0 => HostChange::Regroup,
                    1 => HostChange::Restart(vm),
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
