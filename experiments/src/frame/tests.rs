//! What every experiment does, whatever it measures, with fake guests on a fake host: what it changes, and how
//! it ends.

use super::Workload;
use super::run::RunError;
use crate::guest::GuestError;
use crate::guest::fake::FakeRun;
use crate::host::HostFailure;

macro_rules! of_each_workload {
    ($($test:ident)*) => {
        mod microbench {
            $(#[test] fn $test() { super::$test(crate::microbench::tests::fake_run) })*
        }
        mod web {
            $(#[test] fn $test() { super::$test(crate::web::tests::fake_run) })*
        }
    };
}

of_each_workload! {
    a_block_in_which_merging_did_not_hold_is_invalid
    data_that_never_merges_is_an_error_that_names_the_pair
    with_one_domain_nothing_is_started_or_changed
    of_many_domains_two_are_used
    a_guest_that_ends_midway_ends_the_run_with_its_name_and_all_is_undone
    where_the_host_fails_because_a_guest_has_ended_it_is_the_guest_that_is_named
    an_interrupted_run_is_undone
    a_failed_undo_is_loud_and_keeps_the_cause
}

fn a_block_in_which_merging_did_not_hold_is_invalid<W: Workload>(fake: fn() -> FakeRun<W>) {
    let mut fake = fake();
    // Look 1: not yet; 2: merged; 3: before the plans; 4: after the warm-up; 5, 6: blocks 1 and 2.
    fake.host.merged = 2..7;
    let outcome = fake.run().unwrap();
    let valid: Vec<bool> = outcome.blocks.iter().map(|block| block.invalid.is_none()).collect();
    assert_eq!(valid, [true, true, false, false, false, false]);
    assert!(outcome.blocks[2].invalid.as_ref().unwrap().contains("vm1 and vm2 hold the same"));
}

fn data_that_never_merges_is_an_error_that_names_the_pair<W: Workload>(fake: fn() -> FakeRun<W>) {
    let mut fake = fake();
    fake.host.merged = 0..0;
    let error = fake.run().unwrap_err();
    assert!(matches!(error, RunError::NotMerged { .. }), "{error}");
    let pages = fake.host.world.borrow().loaded[0].kib / 4;
    let text = format!("vm1 and vm2 hold the same {pages} pages of data and 0 of them are merged");
    assert!(error.to_string().contains(&text), "{error}");
    assert_eq!(fake.log(), ["merge", "undo with 4 guests"]);
    fake.assert_undone(4);
}

fn with_one_domain_nothing_is_started_or_changed<W: Workload>(fake: fn() -> FakeRun<W>) {
    let mut fake = fake();
    fake.host.domains = 1;
    let error = fake.run().unwrap_err();
    assert!(matches!(error, RunError::Host(HostFailure::Cannot(_))), "{error}");
    assert!(error.to_string().contains("share one cache at level 2"), "{error}");
    assert_eq!(fake.log(), ["undo with 0 guests"]);
}

fn of_many_domains_two_are_used<W: Workload>(fake: fn() -> FakeRun<W>) {
    let mut fake = fake();
    fake.host.domains = 8;
    assert_eq!(fake.run().unwrap().topology.domains().len(), 2);
}

fn a_guest_that_ends_midway_ends_the_run_with_its_name_and_all_is_undone<W: Workload>(
    fake: fn() -> FakeRun<W>,
) {
    let mut fake = fake();
    fake.change = |guest| guest.ends_at_start = (guest.name == "vm3").then_some(9);
    let error = fake.run().unwrap_err();
    assert!(matches!(&error, RunError::Guest(GuestError::Ended { name, .. }) if name == "vm3"), "{error}");
    fake.assert_undone(4);
}

fn where_the_host_fails_because_a_guest_has_ended_it_is_the_guest_that_is_named<W: Workload>(
    fake: fn() -> FakeRun<W>,
) {
    let mut living = fake();
    living.host.fails_at = 1;
    let error = living.run().unwrap_err();
    assert!(matches!(error, RunError::Host(HostFailure::Failed(_))), "{error}");
    let mut ended = fake();
    ended.host.fails_at = 1;
    ended.change = |guest| (guest.ends_at_start, guest.checks_until_seen) = (Some(0), 3);
    let error = ended.run().unwrap_err();
    assert!(matches!(error, RunError::Guest(GuestError::Ended { .. })), "{error}");
    ended.assert_undone(4);
}

fn an_interrupted_run_is_undone<W: Workload>(fake: fn() -> FakeRun<W>) {
    for (step, guests) in [("starting", 0), ("loading", 4), ("block 3", 4)] {
        let mut fake = fake();
        fake.interrupt_at = Some(step);
        let error = fake.run().unwrap_err();
        assert!(matches!(error, RunError::Interrupted(_)), "{step}: {error}");
        fake.assert_undone(guests);
    }
}

fn a_failed_undo_is_loud_and_keeps_the_cause<W: Workload>(fake: fn() -> FakeRun<W>) {
    let mut fake = fake();
    fake.host.undo_fails = true;
    fake.change = |guest| guest.ends_at_start = Some(1);
    let text = fake.run().unwrap_err().to_string();
    assert!(text.contains("NOT AS IT WAS") && text.contains("the journal is gone"), "{text}");
    assert!(text.contains("huddle restore") && text.contains("the guest vm1"), "{text}");
}
