//! Groups of counters on real threads: software events compared with known numbers. Needs no PMU; without
//! one, the hardware events must have a reason.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod observe_support;

use std::sync::atomic::Ordering::SeqCst;

use huddle_host::{HostRoot, cpuinfo};
use huddle_model::availability::Availability;
use huddle_observe::perf::events::{CacheEvents, EventSpec};
use huddle_observe::perf::group::{GroupReading, PerfGroup, Scope};
use libtest_mimic::Failed;
use nix::unistd::gettid;
use observe_support::worker::{Worker, switches};
use observe_support::{MergeableMemory, Test, not_root, run};

fn main() {
    let tests: &[Test] = &[
        ("faults_and_switches_are_exact", faults_and_switches),
        ("hardware_events_count_or_have_a_reason", hardware),
        ("a_thread_that_is_gone_is_an_error", gone),
    ];
    run(not_root(), false, tests);
}

fn faults_and_switches() -> Result<(), Failed> {
    let pages = 777;
    let mut worker = Worker::new(move || {
        // Each page is touched for the first time by this thread; nothing else is new.
        let memory = MergeableMemory::untouched(pages);
        for page in 0..pages {
            memory.touch(page);
        }
    });
    // A warm-up, so that code and stack are in memory.
    worker.run();
    let events = [EventSpec::page_faults(), EventSpec::context_switches(), EventSpec::cpu_migrations()];
    let mut group = PerfGroup::open(worker.tid, &events, Scope::HostAndGuest);
    assert!(group.events().iter().all(|event| event.value().is_some()), "{:?}", group.events());
    worker.run();
    let (before, used) = (group.read().unwrap(), worker.usage[0].load(SeqCst));
    for _ in 0..3 {
        worker.run();
    }
    let (after, used_after) = (group.read().unwrap(), worker.usage[0].load(SeqCst));
    let delta = |index: usize| {
        let count = |counts: &[Availability<u64>]| *counts[index].value().unwrap();
        count(&after.counts) - count(&before.counts)
    };
    assert_eq!(delta(0), 3 * pages as u64, "page faults");
    assert_eq!(delta(0), used_after - used, "the thread's own count");
    assert!(after.begin_ns >= before.end_ns && after.end_ns >= after.begin_ns);
    assert!(!after.is_multiplexed() && after.time_enabled_ns > before.time_enabled_ns);

    // The worker may be switched at any time; a reading between two equal counts is of one moment.
    let (first, from) = at_one_moment(&mut group, worker.tid);
    for _ in 0..50 {
        worker.run();
    }
    let (last, to) = at_one_moment(&mut group, worker.tid);
    let switches = last.counts[1].value().unwrap() - first.counts[1].value().unwrap();
    assert_eq!(switches, to - from);
    assert!(switches > 0, "it sometimes waits for a command");
    Ok(())
}

/// A reading and the thread's switches as the kernel counts them in `status`, of one moment.
fn at_one_moment(group: &mut PerfGroup, tid: i32) -> (GroupReading, u64) {
    loop {
        let before = switches(tid);
        let reading = group.read().unwrap();
        if switches(tid) == before {
            return (reading, before);
        }
    }
}

fn hardware() -> Result<(), Failed> {
    let processor = cpuinfo::read(&HostRoot::real()).unwrap().processor();
    let events = CacheEvents::of(processor.as_ref());
    let specs: Vec<EventSpec> =
        [events.cycles, events.instructions, events.llc_references, events.llc_misses]
            .iter()
            .filter_map(|event| event.value().cloned())
            .collect();
    let mut group = PerfGroup::open(gettid().as_raw(), &specs, Scope::HostAndGuest);
    let reading = group.read().unwrap();
    for (spec, (event, count)) in specs.iter().zip(group.events().iter().zip(&reading.counts)) {
        println!("{}: {count:?}", spec.name);
        match event.reason() {
            Some(reason) => assert!(reason.contains(&spec.name) && count.value().is_none(), "{reason}"),
            None => assert!(count.value().is_some()),
        }
    }
    Ok(())
}

fn gone() -> Result<(), Failed> {
    // Beyond the largest possible thread id.
    let group = PerfGroup::open(i32::MAX, &[EventSpec::page_faults()], Scope::HostAndGuest);
    let events = group.events();
    assert!(events[0].reason().unwrap().contains("the thread is gone"), "{events:?}");
    Ok(())
}
