//! The whole run on a fake host and fake servers: what it changes, in which order, and how it ends.
#![allow(clippy::unwrap_used, reason = "tests")]

use huddle_model::summary::{Failure, Response};

use super::*;
use crate::frame::course::run;
use crate::frame::report;
use crate::frame::summary::{About, summary};
use crate::guest::{Guest, GuestError, Holder, Reading};
use crate::host::HostFailure;
use crate::host::fake::{FakeHost, Shared};
use crate::interrupt::Interrupt;

const PAGES: u64 = 320;

struct FakeTenant {
    world: Shared,
    name: String,
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
        let together = self.world.borrow().is_with_partner(&self.name);
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
    web: Web,
    host: FakeHost,
    interrupt: Interrupt,
    change: fn(&mut FakeTenant),
}

fn setup() -> Setup {
    let arms = vec![Arm::NotMerged, Arm::NotMergedOpposed, Arm::Recommended, Arm::Opposed, Arm::Random];
    let own = Own {
        data_kib: Some(PAGES * 4),
        requests: 10,
        warm_up_requests: 2,
        most_seconds_per_arm: 0.05,
        ..Own::default()
    };
    // What servers share that is no data is about as much as the data.
    let shared = |_, i: usize, j: usize| if i / 2 == j / 2 { 250 + PAGES } else { 250 };
    Setup {
        web: Web {
            spec: Config { arms, repetitions: 6, merge_seconds: 0.3, own, ..Config::default() },
            apache: PathBuf::new(),
        },
        host: FakeHost::new(1000, shared),
        interrupt: Interrupt::default(),
        change: |_| {},
    }
}

impl Setup {
    fn run(&mut self) -> Result<Outcome, RunError> {
        let (world, change) = (Shared::clone(&self.host.world), self.change);
        let spec = &self.web.spec;
        let mut start = || {
            let tenant = |number: usize| {
                world.borrow_mut().living += 1;
                let mut tenant = FakeTenant {
                    world: Shared::clone(&world),
                    name: spec.guest_name(number),
                    own: false,
                    starts: 0,
                    dies_at_start: None,
                    fails: false,
                    slow: false,
                };
                change(&mut tenant);
                Box::new(tenant) as Box<dyn Tenant>
            };
            Ok((0..spec.guests()).map(tenant).collect())
        };
        run(&self.web, &mut self.host, &mut start, &self.interrupt, &mut |_| {})
    }

    /// The summary of a run that has a result.
    fn summary(&mut self) -> Summary<WebFigures> {
        let outcome = self.run().unwrap();
        summary(&self.web, outcome, About::default())
    }

    fn log(&self) -> Vec<String> {
        self.host.world.borrow().log.clone()
    }
}

#[test]
fn a_run_merges_pauses_measures_every_arm_and_undoes() {
    let mut setup = setup();
    let outcome = setup.run().unwrap();
    let log = setup.log();
    assert_eq!(log[..2], ["merge", "pause"]);
    assert_eq!(log.last().unwrap(), "undo with 4 guests");
    assert_eq!(log.iter().filter(|line| line.starts_with("place")).count(), 7 * 5);
    assert_eq!(setup.host.world.borrow().living, 0);
    assert_eq!((outcome.blocks.len(), outcome.data_shared[0][1], outcome.data_shared[0][2]), (6, PAGES, 0));

    let summary = summary(&setup.web, outcome, About::default());
    assert!(summary.valid);
    let ratio = |name| summary.ratio(name).unwrap().value;
    assert_eq!(ratio("opposed_over_recommended"), 2.0);
    assert_eq!(ratio("opposed_over_recommended_p95"), 2.0);
    assert_eq!(ratio("not_merged_opposed_over_not_merged"), 1.0);
    assert_eq!(ratio("not_merged_over_opposed"), 1.0);
    assert_eq!(summary.arms["recommended"].estimate.median, 1000.0);
    // 6 blocks, 4 servers, 10 requests: the warm-up and what came late are in no figure.
    let latency = summary.own.latency_us["recommended"];
    assert_eq!((latency.n, latency.mean.value, latency.p99.unwrap().value), (240, 1000.0, 1000.0));
    assert!(latency.p99_9.is_none(), "240 values have no 99.9th percentile");
    assert!((summary.sharing_rate.unwrap() - 0.57).abs() < 1e-9);
    assert!((summary.sharing_rate_across.unwrap() - 0.25).abs() < 1e-9);
    let text = report::text(&setup.web, &summary);
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
    let summary = setup.summary();
    let requests = summary.own.requests["opposed"];
    assert_eq!((requests.sent, requests.failed, requests.timed_out), (240, 24, 24));
    assert_eq!(summary.own.latency_us["opposed"].n, 216);
}

#[test]
fn on_the_page_paper_servers_are_placed_by_what_they_hold() {
    let mut setup = setup();
    setup.web.spec.own.page = Page::Paper;
    setup.host.merged = 0..0;
    setup.web.spec.data = ["A", "B", "A", "B"].map(str::to_owned).to_vec();
    let outcome = setup.run().unwrap();
    let (_, plan) = outcome.plans.iter().find(|(arm, _)| *arm == Arm::Recommended).unwrap();
    let domain = |name| plan.domain_of(name, 0).unwrap().id;
    assert!(
        domain("vm1") == domain("vm3") && domain("vm2") == domain("vm4") && domain("vm1") != domain("vm2")
    );
    let summary = summary(&setup.web, outcome, About::default());
    assert_eq!(summary.own.placed_by, "the data that servers are known to hold");
    assert!(report::text(&setup.web, &summary).contains("Of the data nothing"));
}

#[test]
fn a_writer_is_not_asked_to_share() {
    let mut setup = setup();
    setup.web.spec.data = ["A", "A", "B", "B", "C", "C"].map(str::to_owned).to_vec();
    setup.web.spec.own.writers = vec!["vm6".into()];
    let outcome = setup.run().unwrap();
    assert_eq!((outcome.data_shared[0][1], outcome.data_shared[4][5]), (PAGES, 0));
    let summary = summary(&setup.web, outcome, About::default());
    assert!(summary.own.tenants[5].writes && !summary.own.tenants[4].writes);
}

#[test]
fn data_that_is_not_merged_ends_the_run_and_a_block_where_it_no_longer_is_counts_for_nothing() {
    let mut setup = setup();
    setup.host.merged = 0..0;
    let error = setup.run().unwrap_err();
    assert!(matches!(error, RunError::NotMerged { .. }), "{error}");
    assert_eq!(setup.log().last().unwrap(), "undo with 4 guests");

    let mut setup = self::setup();
    // Merged until the third measured block ends: one look before, one after the merging, one a block.
    setup.host.merged = 2..6;
    let outcome = setup.run().unwrap();
    let valid: Vec<bool> = outcome.blocks.iter().map(|block| block.invalid.is_none()).collect();
    assert_eq!(valid.iter().filter(|valid| **valid).count(), 1, "{valid:?}");
    let summary = summary(&setup.web, outcome, About::default());
    assert!(!summary.valid && summary.own.latency_us["opposed"].n == 40);
    assert!(summary.verdict.unwrap().contains("too few") && summary.invalid_blocks.len() == 5);
}

#[test]
fn a_server_that_dies_ends_the_run_with_its_name_and_the_host_is_undone() {
    let mut setup = setup();
    setup.change = |tenant| tenant.dies_at_start = (tenant.name == "vm3").then_some(9);
    let error = setup.run().unwrap_err();
    assert!(matches!(&error, RunError::Guest(GuestError::Ended { name, .. }) if name == "vm3"), "{error}");
    assert_eq!(setup.log().last().unwrap(), "undo with 4 guests");
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
    assert!(summary(&setup.web, outcome, About::default()).verdict.unwrap().starts_with("no result"));
}

#[test]
fn an_interrupt_ends_it_and_an_undo_that_fails_is_told_first() {
    let mut setup = setup();
    setup.interrupt.raise();
    assert!(matches!(setup.run().unwrap_err(), RunError::Interrupted(_)));
    assert_eq!(setup.log().last().unwrap(), "undo with 4 guests");
    setup.host.undo_fails = true;
    let error = setup.run().unwrap_err().to_string();
    assert!(error.contains("THE HOST IS NOT AS IT WAS") && error.contains("interrupted"), "{error}");
}

#[test]
fn one_cache_and_settings_without_sense_change_nothing() {
    let mut setup = setup();
    setup.host.domains = 1;
    assert!(matches!(setup.run().unwrap_err(), RunError::Host(HostFailure::Cannot(_))));
    setup.web.spec.own.requests = 0;
    assert!(matches!(setup.run().unwrap_err(), RunError::Settings(_)));
    assert_eq!(setup.log(), ["undo with 0 guests"; 2]);
}
