//! The whole run on a fake host and fake guests: what it changes, in which order, and how it ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use huddle_model::cpuset::CpuSet;
use huddle_model::matrix::{MatrixVm, MemoryUse, Method};
use huddle_model::topology::{CacheDomain, DomainId};
use huddle_model::vm::{TaskId, Vcpu, VmmKind};

use super::*;
use crate::guest::Reading;
use crate::host::HostFailure;
use crate::summary::Summary;
use crate::{HostWindow, VcpuProbe};
use huddle_model::availability::Availability;
use huddle_model::counters::{Counts, GroupReading};
use huddle_model::rates::CounterDelta;
use huddle_model::stats::Estimate;
use huddle_model::vm::Vm;

/// What the fake host and its guests know of each other.
#[derive(Default)]
struct World {
    log: Vec<String>,
    domain_of: BTreeMap<String, DomainId>,
    measurements: usize,
    readings: usize,
    living_guests: usize,
    loaded: Vec<GuestData>,
}

type Shared = Rc<RefCell<World>>;

struct FakeHost {
    world: Shared,
    domains: u32,
    /// From which look at the data to which it is merged.
    merged: std::ops::Range<usize>,
    /// The look that fails; 0 for none.
    fails_at: usize,
    undo_fails: bool,
    has_pmu: bool,
    watched: usize,
}

impl Host for FakeHost {
    fn topology(&self, _: Option<u8>) -> Result<Topology, HostFailure> {
        let domain = |id| CacheDomain {
            id: DomainId(id),
            cpus: [id].into_iter().collect(),
            size_bytes: Some(2 << 20),
            nodes: Default::default(),
        };
        Ok(Topology::new(Some(2), (0..self.domains).map(domain).collect()).unwrap())
    }

    fn find(&self, guests: &[(String, Holder)]) -> Result<Vec<Vm>, HostFailure> {
        let vm = |(name, _): &(String, Holder)| Vm {
            name: name.clone(),
            id: TaskId { id: 100, start_ticks: 1 }.into(),
            uuid: None,
            vmm: VmmKind::Process,
            vcpus: vec![Vcpu {
                index: 0,
                id: TaskId { id: 100, start_ticks: 1 }.into(),
                process: Some(TaskId { id: 100, start_ticks: 1 }),
                thread_name: Some("CPU 0/FAKE".into()),
                affinity: CpuSet::new(),
                last_cpu: None,
            }],
            memory: Vec::new(),
            allowed_cpus: CpuSet::new(),
            cannot_merge: Vec::new(),
        };
        Ok(guests.iter().map(vm).collect())
    }

    fn measure(&mut self, vms: &[Vm]) -> Result<SharingMatrix, HostFailure> {
        let merged = self.is_merged();
        let memory = MemoryUse { frames_used: 448, ..MemoryUse::default() };
        let rows = vms
            .iter()
            .map(|vm| MatrixVm {
                name: vm.name.clone(),
                id: None,
                uuid: None,
                vcpus: 1,
                memory: Some(memory),
            })
            .collect();
        let shared = |i: usize, j: usize| if merged && i / 2 == j / 2 { 384 } else { 0 };
        let frames: Vec<Vec<u64>> = (0..4).map(|i| (0..4).map(|j| shared(i, j)).collect()).collect();
        Ok(SharingMatrix::measured(Method::Merged, rows, &frames, 1.0, 1.0))
    }

    fn data_shared(&mut self, _: &[Vm], data: &[GuestData]) -> Result<Vec<Vec<u64>>, HostFailure> {
        self.world.borrow_mut().measurements += 1;
        if self.world.borrow().measurements == self.fails_at {
            return Err(HostFailure::Failed("cannot read /proc/100/mem".into()));
        }
        let pages = if self.is_merged() { data[0].kib / 4 } else { 0 };
        let shared = |i: usize, j: usize| if data[i].seed == data[j].seed { pages } else { 0 };
        Ok((0..data.len()).map(|i| (0..data.len()).map(|j| shared(i, j)).collect()).collect())
    }

    fn place(&mut self, _: &[Vm], plan: &Plan) -> Result<(), HostFailure> {
        let mut world = self.world.borrow_mut();
        world.log.push(format!("place {}", plan.policy));
        world.domain_of = plan.placement.iter().map(|placed| (placed.vm.clone(), placed.domain)).collect();
        Ok(())
    }

    fn watch(&mut self, vms: &[Vm], _: &Topology) {
        self.watched = vms.len();
    }

    fn window(&mut self) -> HostWindow {
        let world = self.world.borrow();
        let opposed = world.log.last().is_some_and(|entry| entry == "place opposed");
        // The second VM misses twice as often as the first, and all of them more when opposed.
        let vcpu = |vm: usize| {
            let reading = |end_ns: u64, misses: u64| GroupReading {
                begin_ns: end_ns - 1,
                end_ns,
                time_enabled_ns: end_ns,
                time_running_ns: end_ns,
                counts: Counts { llc_misses: Some(misses), ..Counts::default() },
            };
            let misses = if opposed { 500 } else { 100 } * (vm as u64 + 1);
            VcpuProbe {
                counters: CounterDelta::between(&reading(10, 0), &reading(20, misses)),
                ..VcpuProbe::unavailable("a fake host")
            }
        };
        let vcpus = if self.has_pmu { (0..self.watched).map(vcpu).collect() } else { Vec::new() };
        HostWindow { vcpus, ..HostWindow::default() }
    }

    fn counted(&self) -> (Vec<CountedEvent>, Vec<String>) {
        (Vec::new(), Vec::new())
    }

    fn merge(&mut self) -> Result<(), HostFailure> {
        self.world.borrow_mut().log.push("merge".into());
        Ok(())
    }

    fn pause_merging(&mut self) -> Result<(), HostFailure> {
        self.world.borrow_mut().log.push("pause".into());
        Ok(())
    }

    fn undo(&mut self) -> Result<(), HostFailure> {
        let mut world = self.world.borrow_mut();
        let living = world.living_guests;
        world.log.push(format!("undo with {living} guests"));
        if self.undo_fails { Err(HostFailure::Failed("the journal is gone".into())) } else { Ok(()) }
    }
}

impl FakeHost {
    fn is_merged(&self) -> bool {
        self.merged.contains(&self.world.borrow().measurements)
    }
}

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
        let partner = match self.name.as_str() {
            "vm1" => "vm2",
            "vm2" => "vm1",
            "vm3" => "vm4",
            _ => "vm3",
        };
        let together = world.domain_of.get(&self.name) == world.domain_of.get(partner);
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
        self.world.borrow_mut().living_guests -= 1;
    }
}

struct Setup {
    host: FakeHost,
    config: Config,
    interrupt: Interrupt,
    dies_at_reading: Option<usize>,
    starves_at_reading: Option<usize>,
}

fn setup() -> Setup {
    Setup {
        host: FakeHost {
            world: Shared::default(),
            domains: 2,
            merged: 2..usize::MAX,
            fails_at: 0,
            undo_fails: false,
            has_pmu: false,
            watched: 0,
        },
        config: Config {
            seconds_per_arm: 1e-9,
            settle_seconds: 0.0,
            repetitions: 6,
            merge_seconds: 0.03,
            ..Config::default()
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
        let mut start = |config: &Config| {
            world.borrow_mut().living_guests = config.guests();
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
        run(&self.config, &mut self.host, &mut start, &interrupt, &mut |_| {})
    }

    fn log(&self) -> Vec<String> {
        self.host.world.borrow().log.clone()
    }

    fn living_guests(&self) -> usize {
        self.host.world.borrow().living_guests
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
            let rate = |arm| block.sample(arm).unwrap().reads_per_s();
            (rate(Arm::Recommended), rate(Arm::Opposed))
        })
        .collect();
    assert_eq!(pairs[0], (8000.0, 4000.0));
    assert_eq!(Estimate::of_paired_ratio(&pairs).unwrap().median, 2.0);
    let sample = outcome.blocks[0].sample(Arm::Opposed).unwrap();
    assert_eq!((sample.cpu_share, sample.busy_ns_per_read()), (1.0, 500_000.0));

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
        (|config: &mut Config| config.data_kib = vec![1]) as fn(&mut Config),
        |config| config.private_kib = 0,
        |config| config.burst_reads = Some(0),
        |config| config.repetitions = 0,
    ] {
        let mut setup = setup();
        change(&mut setup.config);
        let error = setup.run().unwrap_err();
        assert!(matches!(&error, RunError::Settings(_)) && error.to_string().contains("--"), "{error}");
        assert_eq!(setup.log(), ["undo with 0 guests"]);
    }
}

#[test]
fn every_arm_is_placed_as_it_says_and_reads_what_it_says() {
    let mut setup = setup();
    setup.config.arms = Arm::ALL.to_vec();
    let outcome = setup.run().unwrap();
    let mut lots = std::collections::BTreeSet::new();
    for block in &outcome.blocks {
        let rate = |arm| block.sample(arm).unwrap().reads_per_s();
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
    let summary = |has_pmu| {
        let mut setup = setup();
        setup.host.has_pmu = has_pmu;
        let outcome = setup.run().unwrap();
        let environment =
            crate::environment::Environment::read(&huddle_host::HostRoot::at(Path::new("/nonexistent")));
        Summary::of_microbench(&setup.config, outcome, environment, Vec::new(), None, String::new(), 1.0)
    };
    let with = summary(true);
    let misses = with.llc_misses.value().unwrap();
    let per_read = |figures: &BTreeMap<&str, crate::summary::ArmFigure>, arm| figures[arm].estimate.median;
    // 100 + 200 + 300 + 400 misses in 4 * 2000 reads; opposed five times as many in half the reads.
    assert_eq!((per_read(misses, "recommended"), per_read(misses, "opposed")), (0.125, 1.25));
    let second = &with.vcpus[1];
    assert_eq!((second.vm.as_str(), second.vcpu, with.vcpus.len()), ("vm2", 0, 4));
    let second = second.llc_misses.value().unwrap();
    assert_eq!((per_read(second, "recommended"), per_read(second, "opposed")), (0.1, 1.0));
    let text = crate::report::text(&with);
    assert!(text.contains("0.1250") && text.contains("misses/read"), "{text}");

    let without = summary(false);
    assert!(matches!(without.llc_misses, Availability::Unavailable(_)), "never 0");
    assert!(without.vcpus.iter().all(|vcpu| vcpu.llc_misses.value().is_none()));
    assert!(!crate::report::text(&without).contains("misses/read  "), "no row without a counter");
}
