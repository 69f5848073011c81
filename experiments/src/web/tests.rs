//! The whole run on a fake host and fake servers: what it changes, in which order, and how it ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use huddle_model::cpuset::CpuSet;
use huddle_model::observation::CountedEvent;
use huddle_model::topology::{CacheDomain, DomainId};
use huddle_model::vm::{TaskId, Vcpu, VmmKind};

use super::load::{Failure, Response};
use super::summary::{About, WebSummary};
use super::*;
use crate::environment::Environment;
use crate::guest::{Guest, Reading};
use crate::host::HostFailure;
use crate::probes::HostWindow;
use huddle_model::vm::Vm;

/// What the fake host and its servers know of each other.
#[derive(Default)]
struct World {
    log: Vec<String>,
    domain_of: BTreeMap<String, DomainId>,
    looks: usize,
    living: usize,
}

type Shared = Rc<RefCell<World>>;

struct FakeHost {
    world: Shared,
    domains: u32,
    /// From which look at the data to which it is merged.
    merged: std::ops::Range<usize>,
    undo_fails: bool,
}

const PAGES: u64 = 320;

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
                thread_name: Some("apache2".into()),
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
        let memory = MemoryUse { frames_used: 1000, ..MemoryUse::default() };
        let rows = vms.iter().map(|vm| MatrixVm {
            name: vm.name.clone(),
            id: None,
            uuid: None,
            vcpus: 1,
            memory: Some(memory),
        });
        // What servers share that is no data is about as much as the data.
        let shared = |i: usize, j: usize| if i / 2 == j / 2 { 250 + PAGES } else { 250 };
        let n = vms.len();
        let frames: Vec<Vec<u64>> = (0..n).map(|i| (0..n).map(|j| shared(i, j)).collect()).collect();
        Ok(SharingMatrix::measured(Method::Merged, rows.collect(), &frames, 1.0, 1.0))
    }

    fn data_shared(&mut self, vms: &[Vm], data: &[GuestData]) -> Result<Vec<Vec<u64>>, HostFailure> {
        let mut world = self.world.borrow_mut();
        world.looks += 1;
        let merged = self.merged.contains(&world.looks);
        let shared = |i: usize, j: usize| {
            if merged && i != j && data[i].seed == data[j].seed { PAGES } else { 0 }
        };
        Ok((0..vms.len()).map(|i| (0..vms.len()).map(|j| shared(i, j)).collect()).collect())
    }

    fn place(&mut self, _: &[Vm], plan: &Plan) -> Result<(), HostFailure> {
        let mut world = self.world.borrow_mut();
        world.log.push(format!("place {}", plan.policy));
        world.domain_of = plan.placement.iter().map(|placed| (placed.vm.clone(), placed.domain)).collect();
        Ok(())
    }

    fn watch(&mut self, _: &[Vm], _: &Topology) {}

    fn window(&mut self) -> HostWindow {
        HostWindow::default()
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
        let living = world.living;
        world.log.push(format!("undo with {living} servers"));
        if self.undo_fails { Err(HostFailure::Failed("the journal is gone".into())) } else { Ok(()) }
    }
}

/// A server that answers in 2 ms where its partner is on the other cache or nothing is merged, in 1 ms
/// where they are together.
struct FakeTenant {
    world: Shared,
    name: String,
    partner: String,
    own: bool,
    starts: usize,
    dies_at_start: Option<usize>,
    fails: bool,
    slow: bool,
}

impl FakeTenant {
    fn dead(&self) -> bool {
        self.dies_at_start.is_some_and(|at| self.starts >= at)
    }
}

impl Guest for FakeTenant {
    fn name(&self) -> &str {
        &self.name
    }

    fn holder(&self) -> Holder {
        Holder::Process(100)
    }

    fn check(&mut self) -> Result<(), GuestError> {
        let (name, status) = (self.name.clone(), "signal: 9 (SIGKILL)".into());
        match self.dead() {
            true => Err(GuestError::Ended {
                name,
                holder: Holder::Process(100),
                asked: "request",
                status,
                console: String::new(),
            }),
            false => Ok(()),
        }
    }

    fn load(&mut self, _: GuestData) -> Result<(), GuestError> {
        Ok(())
    }

    fn start(&mut self, _: Pace, own: bool) -> Result<(), GuestError> {
        (self.own, self.starts) = (own, self.starts + 1);
        Ok(())
    }

    fn read(&mut self) -> Result<Vec<Reading>, GuestError> {
        Ok(Vec::new())
    }

    fn stop(&mut self) -> Result<Vec<Reading>, GuestError> {
        Ok(Vec::new())
    }
}

impl Tenant for FakeTenant {
    fn answered(&self) -> usize {
        if self.slow && self.starts > 2 || self.dead() { 0 } else { 1000 }
    }

    fn take_responses(&mut self) -> Vec<Response> {
        let world = self.world.borrow();
        let domain = |name: &String| world.domain_of.get(name);
        let together = domain(&self.name).is_some() && domain(&self.name) == domain(&self.partner);
        let latency_ns = if together && !self.own { 1_000_000 } else { 2_000_000 };
        let failure = self.fails.then_some(Failure::TimedOut);
        let warm = Response { at_us: 0, latency_ns: 99_000_000, status: Some(200), failure: None };
        let one = Response { at_us: 1, latency_ns, status: Some(200), failure: None };
        let last = Response { failure, ..one };
        // The warm-up, the measured ones, and one that came before the others were done.
        [vec![warm; 2], vec![one; 9], vec![last], vec![warm]].concat()
    }
}

impl Drop for FakeTenant {
    fn drop(&mut self) {
        self.world.borrow_mut().living -= 1;
    }
}

struct Setup {
    config: WebConfig,
    world: Shared,
    host: FakeHost,
    interrupt: Interrupt,
    change: fn(&mut FakeTenant),
}

fn setup() -> Setup {
    let world = Shared::default();
    let arms = vec![Arm::NotMerged, Arm::NotMergedOpposed, Arm::Recommended, Arm::Opposed, Arm::Random];
    Setup {
        config: WebConfig {
            arms,
            data_kib: Some(PAGES * 4),
            requests: 10,
            warm_up_requests: 2,
            repetitions: 6,
            merge_seconds: 0.3,
            most_seconds_per_arm: 0.05,
            ..WebConfig::default()
        },
        host: FakeHost { world: world.clone(), domains: 2, merged: 2..usize::MAX, undo_fails: false },
        world,
        interrupt: Interrupt::default(),
        change: |_| {},
    }
}

impl Setup {
    fn run(&mut self) -> Result<Outcome, RunError> {
        let (world, change) = (self.world.clone(), self.change);
        let mut start = |config: &WebConfig| {
            let tenant = |number: usize| {
                world.borrow_mut().living += 1;
                let name = |number: usize| format!("vm{}", number + 1);
                let mut tenant = FakeTenant {
                    world: world.clone(),
                    name: name(number),
                    partner: name(number ^ 1),
                    own: false,
                    starts: 0,
                    dies_at_start: None,
                    fails: false,
                    slow: false,
                };
                change(&mut tenant);
                Box::new(tenant) as Box<dyn Tenant>
            };
            Ok((0..config.data.len()).map(tenant).collect())
        };
        run(&self.config, &mut self.host, &mut start, &self.interrupt, &mut |_| {})
    }

    fn log(&self) -> Vec<String> {
        self.world.borrow().log.clone()
    }
}

fn summary(config: &WebConfig, outcome: Outcome) -> WebSummary {
    let empty = tempfile::tempdir().unwrap();
    let environment = Environment::read(&huddle_host::HostRoot::at(empty.path()));
    let about = About {
        environment,
        disturbances: Vec::new(),
        accelerator: None,
        started_utc: "2026".into(),
        duration_s: 1.0,
    };
    WebSummary::of(config, outcome, about)
}

#[test]
fn a_run_merges_pauses_measures_every_arm_and_undoes() {
    let mut setup = setup();
    let outcome = setup.run().unwrap();
    let log = setup.log();
    assert_eq!(log[..2], ["merge", "pause"]);
    assert_eq!(log.last().unwrap(), "undo with 4 servers");
    assert_eq!(log.iter().filter(|line| line.starts_with("place")).count(), 7 * 5);
    assert_eq!(setup.world.borrow().living, 0);
    assert_eq!((outcome.blocks.len(), outcome.data_shared[0][1], outcome.data_shared[0][2]), (6, PAGES, 0));

    let summary = summary(&setup.config, outcome);
    assert!(summary.valid);
    let ratio = |ratio: Option<crate::summary::Ratio>| ratio.unwrap().value;
    assert_eq!(ratio(summary.ratios.opposed_over_recommended), 2.0);
    assert_eq!(ratio(summary.ratios.opposed_over_recommended_p95), 2.0);
    assert_eq!(ratio(summary.ratios.not_merged_opposed_over_not_merged), 1.0);
    assert_eq!(ratio(summary.ratios.not_merged_over_opposed), 1.0);
    assert_eq!(summary.arms["recommended"].estimate.median, 1000.0);
    // 6 blocks, 4 servers, 10 requests: the warm-up and what came late are in no figure.
    let latency = summary.latency_us["recommended"];
    assert_eq!((latency.n, latency.mean.value, latency.p99.unwrap().value), (240, 1000.0, 1000.0));
    assert!(latency.p99_9.is_none(), "240 values have no 99.9th percentile");
    assert!((summary.sharing_rate.unwrap() - 0.57).abs() < 1e-9);
    assert!((summary.sharing_rate_across.unwrap() - 0.25).abs() < 1e-9);
    let text = report::text(&summary);
    for words in ["Table 4", "Figure 5", "2.00 (2.00 to 2.00)", "30.5 %", "not_merged_opposed"] {
        assert!(text.contains(words), "{words} in {text}");
    }
    let json = serde_json::to_value(&summary).unwrap();
    assert_eq!(
        (&json["schema"], &json["arms"]["opposed"]["unit"]),
        (&"huddle/summary/1".into(), &"us".into())
    );
    assert!(json["blocks"][0]["samples"][0]["tenants"][0]["responses"].is_null(), "they stand in the table");
}

#[test]
fn failed_requests_are_counted_and_in_no_time() {
    let mut setup = setup();
    setup.change = |tenant| tenant.fails = true;
    let outcome = setup.run().unwrap();
    let summary = summary(&setup.config, outcome);
    let requests = summary.requests["opposed"];
    assert_eq!((requests.sent, requests.failed, requests.timed_out), (240, 24, 24));
    assert_eq!(summary.latency_us["opposed"].n, 216);
}

#[test]
fn on_the_page_paper_servers_are_placed_by_what_they_hold() {
    let mut setup = setup();
    setup.config.page = super::spec::Page::Paper;
    setup.host.merged = 0..0;
    setup.config.data = ["A", "B", "A", "B"].map(str::to_owned).to_vec();
    let outcome = setup.run().unwrap();
    let (_, plan) = outcome.plans.iter().find(|(arm, _)| *arm == Arm::Recommended).unwrap();
    let domain = |name| plan.domain_of(name, 0).unwrap().id;
    assert!(
        domain("vm1") == domain("vm3") && domain("vm2") == domain("vm4") && domain("vm1") != domain("vm2")
    );
    let summary = summary(&setup.config, outcome);
    assert_eq!(summary.placed_by, "the data that servers are known to hold");
    assert!(report::text(&summary).contains("Of the data nothing"));
}

#[test]
fn a_writer_is_not_asked_to_share() {
    let mut setup = setup();
    setup.config.data = ["A", "A", "B", "B", "C", "C"].map(str::to_owned).to_vec();
    setup.config.writers = vec!["vm6".into()];
    let outcome = setup.run().unwrap();
    assert_eq!((outcome.data_shared[0][1], outcome.data_shared[4][5]), (PAGES, 0));
    let summary = summary(&setup.config, outcome);
    assert!(summary.tenants[5].writes && !summary.tenants[4].writes);
}

#[test]
fn data_that_is_not_merged_ends_the_run_and_a_block_where_it_no_longer_is_counts_for_nothing() {
    let mut setup = setup();
    setup.host.merged = 0..0;
    let error = setup.run().unwrap_err();
    assert!(matches!(error, RunError::NotMerged { .. }), "{error}");
    assert_eq!(setup.log().last().unwrap(), "undo with 4 servers");

    let mut setup = self::setup();
    // Merged until the third measured block ends: one look before, one after the merging, one a block.
    setup.host.merged = 2..6;
    let outcome = setup.run().unwrap();
    let valid: Vec<bool> = outcome.blocks.iter().map(|block| block.invalid.is_none()).collect();
    assert_eq!(valid.iter().filter(|valid| **valid).count(), 1, "{valid:?}");
    let summary = summary(&setup.config, outcome);
    assert!(!summary.valid && summary.latency_us["opposed"].n == 40);
    assert!(summary.verdict.contains("too few") && summary.invalid_blocks.len() == 5);
}

#[test]
fn a_server_that_dies_ends_the_run_with_its_name_and_the_host_is_undone() {
    let mut setup = setup();
    setup.change = |tenant| tenant.dies_at_start = (tenant.name == "vm3").then_some(9);
    let error = setup.run().unwrap_err();
    assert!(matches!(&error, RunError::Guest(GuestError::Ended { name, .. }) if name == "vm3"), "{error}");
    assert_eq!(setup.log().last().unwrap(), "undo with 4 servers");
}

#[test]
fn a_server_that_is_too_slow_makes_its_blocks_invalid() {
    let mut setup = setup();
    setup.change = |tenant| tenant.slow = tenant.name == "vm2";
    let outcome = setup.run().unwrap();
    for block in &outcome.blocks {
        let why = block.invalid.as_ref().unwrap();
        assert!(why.contains("vm2 answered 0 of 12 requests"), "{why}");
    }
    assert!(summary(&setup.config, outcome).verdict.starts_with("no result"));
}

#[test]
fn an_interrupt_ends_it_and_an_undo_that_fails_is_told_first() {
    let mut setup = setup();
    setup.interrupt.raise();
    assert!(matches!(setup.run().unwrap_err(), RunError::Interrupted(_)));
    assert_eq!(setup.log().last().unwrap(), "undo with 4 servers");
    setup.host.undo_fails = true;
    let error = setup.run().unwrap_err().to_string();
    assert!(error.contains("THE HOST IS NOT AS IT WAS") && error.contains("interrupted"), "{error}");
}

#[test]
fn one_cache_and_settings_without_sense_change_nothing() {
    let mut setup = setup();
    setup.host.domains = 1;
    assert!(matches!(setup.run().unwrap_err(), RunError::Host(HostFailure::Cannot(_))));
    setup.config.requests = 0;
    assert!(matches!(setup.run().unwrap_err(), RunError::Settings(_)));
    assert_eq!(setup.log(), ["undo with 0 servers"; 2]);
}
