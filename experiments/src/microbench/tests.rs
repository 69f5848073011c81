//! The whole run on a fake host and fake guests: what it changes, in which order, and how it ends.

use std::collections::BTreeMap;
use std::rc::Rc;

use huddle_model::stats::Estimate;
use huddle_model::summary::ArmFigure;

use super::*;
use crate::frame::course::run;
use crate::frame::report;
use crate::frame::summary::{About, summary};
use crate::guest::{GuestData, GuestError, Holder, Reading};
use crate::host::HostFailure;
use crate::host::fake::{FakeHost, Shared};
use crate::interrupt::Interrupt;

struct FakeGuest {
    world: Shared,
    name: String,
    own: bool,
    now: Reading,
    dies_at_reading: Option<usize>,
    starves_at_reading: Option<usize>,
}

impl Guest for FakeGuest {
    fn name(&self) -> &str {
        &self.name
    }

    fn holder(&self) -> Holder {
        Holder::Process(100)
    }

    fn load(&mut self, data: GuestData) -> Result<(), GuestError> {
        self.world.borrow_mut().loaded.push(data);
        Ok(())
    }

    fn start(&mut self, _: Pace, own: bool) -> Result<(), GuestError> {
        self.own = own;
        Ok(())
    }

    fn check(&mut self) -> Result<(), GuestError> {
        if self.dies_at_reading == Some(0) { Err(self.ended("anything")) } else { Ok(()) }
    }

    fn read(&mut self) -> Result<Vec<Reading>, GuestError> {
        let mut world = self.world.borrow_mut();
        world.readings += 1;
        if self.dies_at_reading.is_some_and(|at| world.readings >= at) {
            return Err(self.ended("read"));
        }
        if self.starves_at_reading == Some(world.readings) {
            return Ok(vec![self.now]);
        }
        let together = world.is_with_partner(&self.name);
        self.now.elapsed_ns += 1_000_000_000;
        self.now.busy_ns += 500_000_000;
        self.now.reads += if together && !self.own { 2_000 } else { 1_000 };
        Ok(vec![self.now])
    }

    fn stop(&mut self) -> Result<Vec<Reading>, GuestError> {
        Ok(vec![self.now])
    }
}

impl FakeGuest {
    fn ended(&self, asked: &'static str) -> GuestError {
        GuestError::Ended {
            name: self.name.clone(),
            holder: Holder::Process(100),
            asked,
            status: "killed".into(),
            console: String::new(),
        }
    }
}

impl Drop for FakeGuest {
    fn drop(&mut self) {
        self.world.borrow_mut().living -= 1;
    }
}

struct Setup {
    host: FakeHost,
    bench: Microbench,
    interrupt: Interrupt,
    dies_at_reading: Option<usize>,
    starves_at_reading: Option<usize>,
}

fn setup() -> Setup {
    Setup {
        host: FakeHost::new(448, |merged, i, j| if merged && i / 2 == j / 2 { 384 } else { 0 }),
        bench: Microbench {
            spec: Config {
                repetitions: 6,
                merge_seconds: 0.03,
                own: Own { seconds_per_arm: 1e-9, settle_seconds: 0.0, ..Own::default() },
                ..Config::default()
            },
            last_level_cache: Vec::new(),
        },
        interrupt: Interrupt::default(),
        dies_at_reading: None,
        starves_at_reading: None,
    }
}

impl Setup {
    fn run(&mut self) -> Result<Outcome, RunError> {
        let world = Rc::clone(&self.host.world);
        let (dies_at_reading, starves_at_reading) = (self.dies_at_reading, self.starves_at_reading);
        let config = &self.bench.spec;
        let mut start = || {
            world.borrow_mut().living = config.guests();
            Ok((0..config.guests())
                .map(|number| {
                    let (world, name) = (Rc::clone(&world), config.guest_name(number));
                    Box::new(FakeGuest {
                        world,
                        name,
                        own: false,
                        now: Reading::default(),
                        dies_at_reading,
                        starves_at_reading,
                    }) as Box<dyn Guest>
                })
                .collect())
        };
        let interrupt = self.interrupt.clone();
        run(&self.bench, &mut self.host, &mut start, &interrupt, &mut |_| {})
    }

    fn log(&self) -> Vec<String> {
        self.host.world.borrow().log.clone()
    }

    fn living_guests(&self) -> usize {
        self.host.world.borrow().living
    }
}

#[test]
fn the_effect_of_the_fake_caches_is_found_and_the_host_is_left_as_it_was() {
    let mut setup = setup();
    let outcome = setup.run().unwrap();
    let pace = Pace { burst_reads: 30_720, idle_us: 0 };
    assert_eq!((outcome.data_bytes, outcome.pace), (1536 * 1024, pace));
    let seeds: Vec<u64> = setup.host.world.borrow().loaded.iter().map(|data| data.seed).collect();
    assert!(seeds[0] == seeds[1] && seeds[2] == seeds[3] && seeds[0] != seeds[2], "{seeds:?}");
    assert_eq!(outcome.blocks.len(), 6);
    let pairs: Vec<(f64, f64)> = outcome
        .blocks
        .iter()
        .map(|block| {
            assert_eq!(block.invalid, None);
            let rate = |arm| block.sample(arm).unwrap().reads_per_s().unwrap();
            (rate(Arm::Recommended), rate(Arm::Opposed))
        })
        .collect();
    assert_eq!(pairs[0], (8000.0, 4000.0));
    assert_eq!(Estimate::of_paired_ratio(&pairs).unwrap().median, 2.0);
    let sample = outcome.blocks[0].sample(Arm::Opposed).unwrap();
    assert_eq!((sample.seen.as_ref().unwrap().cpu_share, sample.busy_ns_per_read()), (1.0, Some(500_000.0)));

    let log = setup.log();
    assert_eq!(log[..2], ["merge", "pause"]);
    assert_eq!(log.iter().filter(|entry| entry.starts_with("place")).count(), 14, "7 blocks of 2 arms");
    assert_eq!(log.last().unwrap(), "undo with 4 guests", "affinities go back while the guests live");
    assert_eq!(setup.living_guests(), 0);
}

#[test]
fn a_block_in_which_merging_did_not_hold_is_invalid() {
    let mut setup = setup();
    // Look 1: not yet; 2: merged; 3: before the plans; 4: after the warm-up; 5, 6: blocks 1 and 2.
    setup.host.merged = 2..7;
    let outcome = setup.run().unwrap();
    let valid: Vec<bool> = outcome.blocks.iter().map(|block| block.invalid.is_none()).collect();
    assert_eq!(valid, [true, true, false, false, false, false]);
    assert!(outcome.blocks[2].invalid.as_ref().unwrap().contains("vm1 and vm2 hold the same 384 pages"));
}

#[test]
fn a_block_in_which_a_guest_never_ran_is_invalid_and_the_run_goes_on() {
    let mut setup = setup();
    // A window is 8 readings, a block 16, and the first block is the warm-up: the end of block 1's
    // first window.
    setup.starves_at_reading = Some(16 + 5);
    let outcome = setup.run().unwrap();
    let valid: Vec<bool> = outcome.blocks.iter().map(|block| block.invalid.is_none()).collect();
    assert_eq!(valid, [false, true, true, true, true, true]);
    assert!(outcome.blocks[0].invalid.as_ref().unwrap().contains("vm1 finished no burst"));
    assert_eq!(outcome.blocks[0].samples.len(), 1);
}

#[test]
fn data_that_never_merges_is_an_error_that_names_the_pair() {
    let mut setup = setup();
    setup.host.merged = 0..0;
    let error = setup.run().unwrap_err();
    assert!(matches!(error, RunError::NotMerged { .. }), "{error}");
    assert!(
        error.to_string().contains("vm1 and vm2 hold the same 384 pages of data and 0 of them are merged")
    );
    assert_eq!(setup.log(), ["merge", "undo with 4 guests"]);
    assert_eq!(setup.living_guests(), 0);
}

#[test]
fn with_one_domain_nothing_is_started_or_changed() {
    let mut setup = setup();
    setup.host.domains = 1;
    let error = setup.run().unwrap_err();
    assert!(matches!(error, RunError::Host(HostFailure::Cannot(_))), "{error}");
    assert!(error.to_string().contains("share one cache at level 2"), "{error}");
    assert_eq!(setup.log(), ["undo with 0 guests"]);
}

#[test]
fn of_many_domains_two_are_used() {
    let mut setup = setup();
    setup.host.domains = 8;
    assert_eq!(setup.run().unwrap().topology.domains().len(), 2);
}

#[test]
fn a_guest_that_dies_midway_ends_the_run_and_all_is_undone() {
    let mut setup = setup();
    setup.dies_at_reading = Some(20);
    let error = setup.run().unwrap_err();
    assert!(matches!(error, RunError::Guest(GuestError::Ended { .. })), "{error}");
    assert_eq!(setup.log().last().unwrap(), "undo with 4 guests");
    assert_eq!(setup.living_guests(), 0);
}

#[test]
fn where_the_host_fails_because_a_guest_has_died_it_is_the_guest_that_is_named() {
    let mut setup = setup();
    setup.host.fails_at = 1;
    let error = setup.run().unwrap_err();
    assert!(matches!(error, RunError::Host(HostFailure::Failed(_))), "{error}");
    let mut setup = self::setup();
    (setup.host.fails_at, setup.dies_at_reading) = (1, Some(0));
    let error = setup.run().unwrap_err();
    assert!(matches!(error, RunError::Guest(GuestError::Ended { .. })), "{error}");
    assert_eq!(setup.log().last().unwrap(), "undo with 4 guests");
}

#[test]
fn an_interrupted_run_is_undone() {
    let mut setup = setup();
    setup.interrupt.raise();
    assert!(matches!(setup.run().unwrap_err(), RunError::Interrupted(_)));
    assert_eq!(setup.log(), ["undo with 4 guests"]);
    assert_eq!(setup.living_guests(), 0);
}

#[test]
fn a_failed_undo_is_loud_and_keeps_the_cause() {
    let mut setup = setup();
    setup.host.undo_fails = true;
    setup.dies_at_reading = Some(1);
    let text = setup.run().unwrap_err().to_string();
    assert!(text.contains("NOT AS IT WAS") && text.contains("the journal is gone"), "{text}");
    assert!(text.contains("huddle restore") && text.contains("the guest vm1"), "{text}");
}

#[test]
fn settings_that_make_no_sense_change_nothing() {
    for change in [
        (|config: &mut Config| config.own.data_kib = vec![1]) as fn(&mut Config),
        |config| config.own.private_kib = 0,
        |config| config.own.burst_reads = Some(0),
        |config| config.repetitions = 0,
    ] {
        let mut setup = setup();
        change(&mut setup.bench.spec);
        let error = setup.run().unwrap_err();
        assert!(matches!(&error, RunError::Settings(_)) && error.to_string().contains("--"), "{error}");
        assert_eq!(setup.log(), ["undo with 0 guests"]);
    }
}

#[test]
fn every_arm_is_placed_as_it_says_and_reads_what_it_says() {
    let mut setup = setup();
    setup.bench.spec.arms = Arm::ALL.to_vec();
    let outcome = setup.run().unwrap();
    let mut lots = std::collections::BTreeSet::new();
    for block in &outcome.blocks {
        let rate = |arm| block.sample(arm).unwrap().reads_per_s().unwrap();
        assert_eq!(
            (rate(Arm::Recommended), rate(Arm::Control), rate(Arm::Opposed)),
            (8000.0, 8000.0, 4000.0)
        );
        // Placed as recommended, but its guests have nothing in common to read.
        assert_eq!(rate(Arm::NotMerged), 4000.0);
        let sample = block.sample(Arm::Random).unwrap();
        let plan = sample.plan.as_ref().unwrap();
        assert_eq!(plan.policy.name(), "random");
        let together = plan.domain_of("vm1", 0) == plan.domain_of("vm2", 0);
        assert_eq!(plan.shared_within, Some(if together { 768 } else { 0 }));
        let domains: Vec<u32> = plan.placement.iter().map(|placed| placed.domain.0).collect();
        assert_eq!(domains.iter().filter(|domain| **domain == 0).count(), 2, "as many on each");
        lots.insert(domains);
    }
    assert!(lots.len() > 1, "each block has its own lot: {lots:?}");
    let again = setup.run().unwrap();
    let lot = |outcome: &Outcome| outcome.blocks[3].sample(Arm::Random).unwrap().plan.clone();
    assert_eq!(lot(&again), lot(&outcome), "equal seeds give equal lots");
}

#[test]
fn misses_stand_beside_the_times_of_each_arm_and_each_vcpu() {
    let text = |summary: &_| report::text(&setup().bench, summary);
    let summary = |has_pmu| {
        let mut setup = setup();
        setup.host.has_pmu = has_pmu;
        let outcome = setup.run().unwrap();
        summary(&setup.bench, outcome, About::default())
    };
    let with = summary(true);
    let misses = with.llc_misses.as_ref().unwrap().value().unwrap();
    let per_read = |figures: &BTreeMap<String, ArmFigure>, arm: &str| figures[arm].estimate.median;
    // 100 + 200 + 300 + 400 misses in 4 * 2000 reads; opposed five times as many in half the reads.
    assert_eq!((per_read(misses, "recommended"), per_read(misses, "opposed")), (0.125, 1.25));
    let second = &with.own.vcpus[1];
    assert_eq!((second.vm.as_str(), second.vcpu, with.own.vcpus.len()), ("vm2", 0, 4));
    let second = second.llc_misses.value().unwrap();
    assert_eq!((per_read(second, "recommended"), per_read(second, "opposed")), (0.1, 1.0));
    let told = text(&with);
    assert!(told.contains("0.1250") && told.contains("misses/read"), "{told}");

    let without = summary(false);
    assert!(without.why_no_misses().is_some(), "never 0");
    assert!(without.own.vcpus.iter().all(|vcpu| vcpu.llc_misses.value().is_none()));
    assert!(!text(&without).contains("misses/read  "), "no row without a counter");
}
