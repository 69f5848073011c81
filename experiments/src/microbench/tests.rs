//! The whole run with fake guests on a fake host: what it measures and changes.

use std::collections::BTreeMap;

use huddle_model::stats::Estimate;
use huddle_model::summary::ArmFigure;

use super::*;
use crate::frame::report;
use crate::frame::summary::{About, summary};
use crate::guest::ColdData;
use crate::guest::fake::FakeRun;
use crate::host::HostFailure;
use crate::host::fake::FakeHost;

/// Two pairs of guests with data of 384 pages.
pub(crate) fn fake_run() -> FakeRun<Microbench> {
    let settings =
        MicrobenchSettings { seconds_per_arm: 1e-9, settle_seconds: 0.0, ..MicrobenchSettings::default() };
    let bench = Microbench {
        spec: MicrobenchSpec { repetitions: 6, merge_seconds: 0.03, settings, ..MicrobenchSpec::default() },
        last_level_cache: Vec::new(),
        recorders: None,
    };
    let host = FakeHost::new(448, |merged, i, j| if merged && i / 2 == j / 2 { 384 } else { 0 });
    FakeRun::new(bench, host, |guest| Box::new(guest))
}

#[test]
fn the_effect_of_the_fake_caches_is_found_and_the_host_is_left_as_it_was() {
    let mut fake = fake_run();
    let outcome = fake.run().unwrap();
    let pace = Pace { burst_reads: 30_720, idle_us: 0 };
    assert_eq!((outcome.data_bytes, outcome.pace), (1536 * 1024, pace));
    let seeds: Vec<u64> = fake.host.world.borrow().loaded.iter().map(|data| data.seed).collect();
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

    let log = fake.log();
    assert_eq!(log[..2], ["merge", "pause"]);
    assert_eq!(log.iter().filter(|entry| entry.starts_with("place")).count(), 14, "7 blocks of 2 arms");
    fake.assert_undone(4);
}

#[test]
fn a_block_in_which_a_guest_never_ran_is_invalid_and_the_run_goes_on() {
    let mut fake = fake_run();
    // Each block starts guests twice, and the first one is the warm-up: the first window of block 1.
    fake.change = |guest| guest.starves_at_start = (guest.name == "vm1").then_some(3);
    let outcome = fake.run().unwrap();
    let valid: Vec<bool> = outcome.blocks.iter().map(|block| block.invalid.is_none()).collect();
    assert_eq!(valid, [false, true, true, true, true, true]);
    assert!(outcome.blocks[0].invalid.as_ref().unwrap().contains("vm1 finished no burst"));
    assert_eq!(outcome.blocks[0].samples.len(), 1);
}

#[test]
fn settings_that_make_no_sense_change_nothing() {
    for change in [
        (|spec: &mut MicrobenchSpec| spec.settings.data_kib = vec![1]) as fn(&mut MicrobenchSpec),
        |spec| spec.settings.private_kib = 0,
        |spec| spec.settings.burst_reads = Some(0),
        |spec| spec.repetitions = 0,
    ] {
        let mut fake = fake_run();
        change(&mut fake.workload.spec);
        let error = fake.run().unwrap_err();
        assert!(matches!(&error, RunError::Settings(_)) && error.to_string().contains("--"), "{error}");
        assert_eq!(fake.log(), ["undo with 0 guests"]);
    }
}

#[test]
fn every_arm_is_placed_as_it_says_and_reads_what_it_says() {
    let mut fake = fake_run();
    // Without data that is not read, reads place no other way than all that is shared does.
    fake.workload.spec.arms = Arm::ALL.into_iter().filter(|arm| *arm != Arm::ByReads).collect();
    let outcome = fake.run().unwrap();
    let mut random = std::collections::BTreeSet::new();
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
        random.insert(domains);
    }
    assert!(random.len() > 1, "each block has its own: {random:?}");
    let again = fake.run().unwrap();
    let third = |outcome: &Outcome| outcome.blocks[3].sample(Arm::Random).unwrap().plan.clone();
    assert_eq!(third(&again), third(&outcome), "equal seeds give equal placements");
}

/// Data of 384 pages that `vm1` and `vm3` read, and `vm2` and `vm4`; and data of 1536 pages that nobody reads, of `vm1`
/// and `vm2`, and of `vm3` and `vm4`.
fn cold_run() -> FakeRun<Microbench> {
    let mut fake = fake_run();
    let spec = &mut fake.workload.spec;
    spec.data = ["A", "B", "A", "B"].map(str::to_owned).to_vec();
    spec.settings.cold = ["X", "X", "Y", "Y"].map(str::to_owned).to_vec();
    spec.arms = vec![Arm::Recommended, Arm::ByReads, Arm::Opposed, Arm::Kernel];
    fake.host.frames_used = 1984;
    fake.host.shared = |merged, i, j| match (merged, i / 2 == j / 2, i % 2 == j % 2) {
        (true, true, _) => 1536,
        (true, _, true) => 384,
        _ => 0,
    };
    fake.host.read = Ok(|i, j| if i % 2 == j % 2 && i / 2 != j / 2 { 384 } else { 0 });
    fake
}

/// The VM that an arm places beside `vm1`.
fn beside_first(outcome: &Outcome, arm: Arm) -> &str {
    let (_, plan) = outcome.plans.iter().find(|(planned, _)| *planned == arm).unwrap();
    let domain = |vm: &str| plan.domain_of(vm, 0).map(|domain| domain.id);
    ["vm2", "vm3", "vm4"].into_iter().find(|vm| domain(vm) == domain("vm1")).unwrap()
}

#[test]
fn by_reads_those_are_together_that_read_the_same() {
    let mut fake = cold_run();
    let outcome = fake.run().unwrap();
    let beside = [Arm::Recommended, Arm::ByReads, Arm::Opposed].map(|arm| beside_first(&outcome, arm));
    assert_eq!(beside, ["vm2", "vm3", "vm4"]);
    let loaded = fake.host.world.borrow().loaded.clone();
    let cold: Vec<ColdData> = loaded.iter().map(|data| data.cold.unwrap()).collect();
    assert!(cold[0] == cold[1] && cold[2] == cold[3] && cold[0] != cold[2], "{cold:?}");
    assert_eq!(cold[0].kib, 4 * loaded[0].kib);
    assert_eq!(outcome.matrix.shared_frames_read(0, 2), Some(384));
    assert_eq!((outcome.data_shared[0][2], outcome.data_shared[0][1]), (384, 0), "of the data that is read");
    fake.assert_undone(4);

    let summary = summary(&fake.workload, outcome, About::default());
    let ratio = |name| summary.ratio(name).unwrap().value;
    assert_eq!((ratio("recommended_over_by_reads"), ratio("kernel_over_by_reads")), (2.0, 2.0));
    assert_eq!(ratio("opposed_over_recommended"), 1.0, "neither has together what is read");
    assert_eq!(summary.own.config.cold_kib, Some(6144));
    let verdict = summary.verdict.as_deref().unwrap();
    assert!(verdict.starts_with("placed by what they read the guests are 2.00 times as fast"), "{verdict}");
    let text = report::text(&fake.workload, &summary);
    for words in [
        "Besides, 6144 KiB of data that nobody reads (vm1: X, vm2: X, vm3: Y, vm4: Y)",
        "Of it, what both VMs of a pair read within 100 ms",
        "paper, by reads",
        "768 of 768 read",
        "recommended over by reads, time per read",
    ] {
        assert!(text.contains(words), "{words} in {text}");
    }
    assert!(!text.contains("the paper") && !text.contains("machines differ"), "{text}");
    assert!(fake_run().summary().ratio("recommended_over_by_reads").is_none(), "without the arm");
}

#[test]
fn where_reads_are_not_seen_the_reason_is_told_and_nothing_is_measured() {
    let mut fake = cold_run();
    fake.host.read = Err("it runs in KVM");
    let error = fake.run().unwrap_err();
    assert!(matches!(error, RunError::Host(HostFailure::Cannot(_))), "{error}");
    assert!(
        error.to_string().contains("by_reads") && error.to_string().contains("it runs in KVM"),
        "{error}"
    );
    fake.assert_undone(4);
}

#[test]
fn reads_that_place_as_all_that_is_shared_does_are_no_comparison() {
    let mut fake = cold_run();
    fake.host.read = Ok(|i, j| if i / 2 == j / 2 { 1536 } else { 0 });
    let error = fake.run().unwrap_err();
    let counts = matches!(
        error,
        RunError::SamePlacement { under: Arm::ByReads, better: 0, over: Arm::Recommended, worse: 0 }
    );
    assert!(counts && error.to_string().contains("--cold-kib"), "{error}");
    fake.assert_undone(4);
}

#[test]
fn cold_data_that_never_merges_is_an_error() {
    let mut fake = cold_run();
    // The second look finds the data that is read merged, and those after it are at the other data.
    fake.host.merged = 2..3;
    let error = fake.run().unwrap_err();
    assert!(matches!(error, RunError::NotMerged { .. }), "{error}");
    assert!(error.to_string().contains("vm1 and vm2 hold the same 1536 pages of cold data and 0"), "{error}");
    fake.assert_undone(4);
}

#[test]
fn in_a_placebo_what_is_read_is_what_guests_are_known_to_read() {
    let mut fake = cold_run();
    fake.workload.spec.settings.merge = false;
    fake.host.merged = 0..0;
    let shared = cold_run().host.shared;
    fake.host.shared = |_, i, j| if i / 2 == j / 2 { 1536 } else { 384 * u64::from(i % 2 == j % 2) };
    assert_eq!(shared(true, 0, 2), (fake.host.shared)(false, 0, 2));
    fake.host.read = Err("nothing is merged");
    let outcome = fake.run().unwrap();
    assert_eq!([Arm::Recommended, Arm::ByReads].map(|arm| beside_first(&outcome, arm)), ["vm2", "vm3"]);
}

#[test]
fn misses_stand_beside_the_times_of_each_arm_and_each_vcpu() {
    let text = |summary: &_| report::text(&fake_run().workload, summary);
    let summary = |has_pmu| {
        let mut fake = fake_run();
        fake.host.has_pmu = has_pmu;
        fake.summary()
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
    let report = text(&with);
    assert!(report.contains("0.1250") && report.contains("misses/read"), "{report}");

    // 8,000 reads a second of four guests: each takes 500,000 ns for one, told in that unit and kept in the file's.
    assert_eq!(
        (&*with.own.arms_time["recommended"].unit, per_read(&with.own.arms_time, "recommended")),
        ("s/Mreads", 500.0)
    );
    assert!(report.contains(" 500,000.00 ") && !report.contains("s/Mreads"), "{report}");
    let at = |arm: &str| report.find(&format!("\n {arm} ")).unwrap();
    assert!(at("recommended") < at("opposed"), "{report}");

    let without = summary(false);
    assert!(without.why_no_misses().is_some(), "never 0");
    assert!(without.own.vcpus.iter().all(|vcpu| vcpu.llc_misses.value().is_none()));
    assert!(!text(&without).contains("misses/read  "), "no row without a counter");
}
