//! Simulations with the known reads of fake guests, at the scattered frames of a fake host.

use huddle_model::cache::CacheModel;
use huddle_model::summary::{Arm, SimulatedMisses, Summary};

use super::super::report;
use super::super::run::RunError;
use super::super::summary::{About, summary};
use crate::guest::fake::FakeRun;
use crate::host::HostFailure;
use crate::microbench::tests::fake_run;
use crate::microbench::{Microbench, ReadOrder};

/// Four guests with data of three quarters of the cache of `machine`.
fn run_on(
    machine: &str,
    change: impl FnOnce(&mut FakeRun<Microbench>),
) -> (Microbench, Summary<huddle_model::summary::MicrobenchFigures>) {
    let mut fake = fake_run();
    fake.workload.spec.simulate = Some(machine.to_owned());
    fake.workload.spec.simulated_fold = Some(64);
    change(&mut fake);
    let outcome = fake.run().unwrap();
    fake.assert_undone(4);
    let about = About::default();
    (fake.workload.clone(), summary(&fake.workload, outcome, about))
}

fn misses(simulated: &SimulatedMisses, arm: Arm) -> f64 {
    simulated.arms[arm.name()].estimate.median
}

#[test]
fn on_the_papers_machine_it_pays_to_be_where_the_partner_is() {
    let (bench, summary) = run_on("paper", |_| {});
    let simulated = summary.simulated.as_ref().unwrap();
    assert_eq!(summary.own.config.data_kib, 15 << 10, "three quarters of the simulated cache");
    assert!(summary.blocks.len() == 6 && simulated.blocks.len() == 6, "timed besides");
    // A ring of 15 MiB stays in 20 MiB, but for sets that hold more of it than ways; two of them evict each other.
    assert!(misses(simulated, Arm::Recommended) < 60.0, "{:?}", simulated.arms);
    assert!(misses(simulated, Arm::Opposed) > 800.0, "{:?}", simulated.arms);
    let ratio = |name| simulated.ratio(name).unwrap();
    assert!((ratio("not_merged_over_opposed").value - 1.0).abs() < 0.05);
    let placebo = ratio("not_merged_opposed_over_not_merged").value;
    assert!((placebo - 1.0).abs() < 0.02, "without sharing placements do not differ: {placebo}");
    let domains: Vec<u32> = simulated.domains.iter().map(|domain| domain.domain).collect();
    assert_eq!((domains, simulated.vms.len(), simulated.fold), (vec![0, 1], 4, 64));
    let text = report::text(&bench, &summary);
    assert!(
        text.contains("SIMULATED misses of 1000 reads in the last-level caches of paper (20 MiB in 20 ways"),
        "{text}"
    );
    assert!(text.contains("Besides: simulated, of 1000 reads"), "{text}");
}

#[test]
fn reads_at_random_miss_as_often_as_data_does_not_fit() {
    let (_, summary) =
        run_on("paper", |fake| fake.workload.spec.settings.simulated_order = ReadOrder::Random);
    let simulated = summary.simulated.unwrap();
    // Of two data sets of 15 MiB, 20 MiB fit.
    let opposed = misses(&simulated, Arm::Opposed);
    assert!((opposed - 1000.0 / 3.0).abs() < 15.0, "{opposed}");
    let time = simulated.time_ratio("opposed_over_recommended").unwrap().value;
    assert!((2.0..2.7).contains(&time), "the paper has 2.1: {time}");
}

#[test]
fn a_placebo_has_no_effect() {
    let (_, summary) = run_on("paper", |fake| {
        fake.workload.spec.settings.merge = false;
        fake.host.merged = 0..0;
        // By their contents.
        fake.host.shared = |_, i, j| if i / 2 == j / 2 { 384 } else { 0 };
    });
    let ratio = summary.simulated.unwrap().ratio("opposed_over_recommended").unwrap();
    assert!((ratio.value - 1.0).abs() < 0.02, "{ratio:?}");
}

#[test]
fn a_host_with_one_cache_is_not_timed_and_says_why() {
    let (bench, summary) = run_on("epyc-16", |fake| fake.host.domains = 1);
    assert!(
        summary.untimed.as_ref().unwrap().contains("share one cache at level 2"),
        "{:?}",
        summary.untimed
    );
    assert!(
        summary.blocks.is_empty()
            && summary.arms.is_empty()
            && summary.llc_misses.as_ref().unwrap().reason().is_some()
    );
    let simulated = summary.simulated.as_ref().unwrap();
    assert!(misses(simulated, Arm::Opposed) > misses(simulated, Arm::Recommended));
    assert!(summary.topology.as_ref().unwrap().notes()[0].contains("simulated"));
    let text = report::text(&bench, &summary);
    assert!(text.contains("Result: nothing was timed: all usable CPUs"), "{text}");
}

#[test]
fn this_host_is_simulated_as_its_caches_are_and_its_guests_take_turns() {
    let (_, summary) = run_on("host", |fake| {
        // 1.5 MiB of 2, with one CPU for two guests.
        fake.workload.spec.untimed = true;
    });
    let simulated = summary.simulated.unwrap();
    assert_eq!(
        (simulated.model.size_bytes(), simulated.model.ways(), simulated.model.domains()),
        (2 << 20, 16, 2)
    );
    assert!(misses(&simulated, Arm::Opposed) > 2.0 * misses(&simulated, Arm::Recommended));
    assert!(summary.blocks.is_empty() && summary.untimed.unwrap().contains("asked for"));
}

#[test]
fn equal_seeds_give_equal_counts_and_blocks_differ() {
    let blocks = || run_on("paper", |fake| fake.workload.spec.untimed = true).1.simulated.unwrap().blocks;
    let first = blocks();
    assert_eq!(first, blocks());
    assert_ne!(first[0].samples, first[1].samples);
}

#[test]
fn a_machine_that_cannot_be_simulated_ends_the_run_before_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let one = "name = \"one\"\nsize_bytes = 1048576\nways = 16\nreplacement = \"lru\"\ndomains = ";
    for (machine, expected) in [
        ("nowhere.toml".to_owned(), "give paper, epyc-16, epyc-32, host, or a file"),
        (dir.path().display().to_string(), "no file of at most"),
        (file("one.toml", &format!("{one}1")), "one last-level cache"),
        (file("no.toml", "name = 3"), "no.toml"),
    ] {
        let mut fake = fake_run();
        fake.workload.spec.simulate = Some(machine);
        let error = fake.run().unwrap_err();
        assert!(matches!(error, RunError::Settings(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(fake.log(), ["undo with 0 guests"]);
    }
    let mut fake = fake_run();
    fake.workload.spec.simulate = Some("host".to_owned());
    fake.host.domains = 1;
    let error = fake.run().unwrap_err();
    assert!(matches!(error, RunError::Host(HostFailure::Cannot(_))), "{error}");
    assert!(error.to_string().contains("--simulate paper"), "{error}");

    let mut fake = fake_run();
    fake.workload.spec.simulate = Some(file("two.toml", &format!("{one}2")));
    fake.workload.spec.untimed = true;
    let simulated = fake.run().unwrap().simulated.unwrap();
    assert_eq!(simulated.model.name(), "one");
    assert_eq!(
        simulated.model,
        CacheModel::try_from(huddle_model::cache::CacheDescription::from(simulated.model.clone())).unwrap()
    );
}
