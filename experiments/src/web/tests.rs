//! The whole run with fake servers on a fake host: what it measures and changes.
#![allow(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::frame::report;
use crate::frame::summary::{About, summary};
use crate::guest::fake::FakeRun;
use crate::host::fake::FakeHost;

const PAGES: u64 = 320;

/// Two pairs of servers with data of so many pages, of which merged data is about half of what a pair shares.
pub(crate) fn fake_run() -> FakeRun<Web> {
    let arms = vec![Arm::NotMerged, Arm::NotMergedOpposed, Arm::Recommended, Arm::Opposed, Arm::Random];
    let settings = WebSettings {
        data_kib: Some(PAGES * 4),
        requests: 10,
        warm_up_requests: 2,
        most_seconds_per_arm: 0.05,
        ..WebSettings::default()
    };
    let spec = WebSpec { arms, repetitions: 6, merge_seconds: 0.3, settings, ..WebSpec::default() };
    let host = FakeHost::new(1000, |_, i, j| if i / 2 == j / 2 { 250 + PAGES } else { 250 });
    FakeRun::new(Web { spec, apache: PathBuf::new(), recorders: None }, host, |guest| Box::new(guest))
}

#[test]
fn a_run_merges_pauses_measures_every_arm_and_undoes() {
    let mut fake = fake_run();
    let outcome = fake.run().unwrap();
    let log = fake.log();
    assert_eq!(log[..2], ["merge", "pause"]);
    fake.assert_undone(4);
    assert_eq!(log.iter().filter(|line| line.starts_with("place")).count(), 7 * 5);
    assert_eq!((outcome.blocks.len(), outcome.data_shared[0][1], outcome.data_shared[0][2]), (6, PAGES, 0));

    let summary = summary(&fake.workload, outcome, About::default());
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
    let text = report::text(&fake.workload, &summary);
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
    let mut fake = fake_run();
    fake.change = |server| server.fails = true;
    let summary = fake.summary();
    let requests = summary.own.requests["opposed"];
    assert_eq!((requests.sent, requests.failed, requests.timed_out), (240, 24, 24));
    assert_eq!(summary.own.latency_us["opposed"].n, 216);
}

#[test]
fn on_the_page_paper_servers_are_placed_by_what_they_hold() {
    let mut fake = fake_run();
    fake.workload.spec.settings.page = Page::Paper;
    fake.host.merged = 0..0;
    fake.workload.spec.data = ["A", "B", "A", "B"].map(str::to_owned).to_vec();
    let outcome = fake.run().unwrap();
    let (_, plan) = outcome.plans.iter().find(|(arm, _)| *arm == Arm::Recommended).unwrap();
    let domain = |name| plan.domain_of(name, 0).unwrap().id;
    assert!(
        domain("vm1") == domain("vm3") && domain("vm2") == domain("vm4") && domain("vm1") != domain("vm2")
    );
    let summary = summary(&fake.workload, outcome, About::default());
    assert_eq!(summary.own.placed_by, "the data that servers are known to hold");
    assert!(report::text(&fake.workload, &summary).contains("Of the data nothing"));
}

#[test]
fn a_writer_is_not_asked_to_share() {
    let mut fake = fake_run();
    fake.workload.spec.data = ["A", "A", "B", "B", "C", "C"].map(str::to_owned).to_vec();
    fake.workload.spec.settings.writers = vec!["vm6".into()];
    let outcome = fake.run().unwrap();
    assert_eq!((outcome.data_shared[0][1], outcome.data_shared[4][5]), (PAGES, 0));
    let summary = summary(&fake.workload, outcome, About::default());
    assert!(summary.own.tenants[5].writes && !summary.own.tenants[4].writes);
}

#[test]
fn a_block_in_which_merging_did_not_hold_is_in_no_figure() {
    let mut fake = fake_run();
    // One look before, one after the merging, one before the plans, one a block.
    fake.host.merged = 2..6;
    let summary = fake.summary();
    assert!(!summary.valid && summary.own.latency_us["opposed"].n == 40);
    assert!(summary.verdict.unwrap().contains("too few") && summary.invalid_blocks.len() == 5);
}

#[test]
fn a_server_that_is_too_slow_makes_its_blocks_invalid() {
    let mut fake = fake_run();
    fake.change = |server| server.is_slow = server.name == "vm2";
    let outcome = fake.run().unwrap();
    for block in &outcome.blocks {
        let why = block.invalid.as_ref().unwrap();
        assert!(why.contains("vm2 answered 0 of 12 requests"), "{why}");
    }
    assert!(summary(&fake.workload, outcome, About::default()).verdict.unwrap().starts_with("no result"));
}

#[test]
fn settings_that_make_no_sense_change_nothing() {
    let mut fake = fake_run();
    fake.workload.spec.settings.requests = 0;
    assert!(matches!(fake.run().unwrap_err(), RunError::Settings(_)));
    assert_eq!(fake.log(), ["undo with 0 guests"]);
}
