//! huddle's counters on a host where one instruction is one cycle is one nanosecond (`cargo xtask host arm64`), against
//! what is known. Elsewhere its numbers mean nothing.

use huddle_observe::perf::group::{GroupReading, PerfGroup};
use huddle_observe::perf::{EventSpec, Scope};
use huddle_workload::counters;
use huddle_workload::guest::{self, Guest, Vm};
use huddle_workload::known_loop::{self, INSTRUCTIONS_PER_TURN};

use crate::Test;

/// INST_RETIRED (Arm Architecture Reference Manual, D13.12).
const INSTRUCTIONS: u64 = 0x08;

/// CPU_CYCLES, likewise.
const CYCLES: u64 = 0x11;

/// Counters of the emulated processor, the cycle counter included.
const COUNTERS: usize = 7;

/// The calling thread.
const OWN: i32 = 0;

pub(crate) const TESTS: &[Test] = &[
    ("pmu::a_known_loop_is_counted_to_one_percent", a_known_loop),
    ("pmu::members_of_a_group_agree_exactly", members_agree),
    ("pmu::one_member_too_many_is_refused_and_the_others_count", one_too_many),
    ("pmu::groups_that_share_the_counters_are_flagged_and_scale_to_two_percent", sharing),
    ("pmu::beside_pinned_counters_of_others_a_group_is_never_on_the_pmu", beside_pinned),
    ("pmu::guest_and_host_are_told_apart_to_half_a_percent", guest_and_host),
];

fn events(codes: &[u64]) -> Vec<EventSpec> {
    codes.iter().map(|code| EventSpec::raw(format!("r{code:x}"), *code)).collect()
}

fn counts(reading: &GroupReading) -> Vec<u64> {
    reading.counts.iter().map(|count| *count.value().unwrap()).collect()
}

/// Off by this share of what is right.
#[track_caller]
fn assert_near(counted: u64, right: u64, share: f64, what: &str) {
    let off = counted as f64 / right as f64 - 1.0;
    println!("{what}: {counted} of {right}, {:+.3} %", off * 100.0);
    assert!(off.abs() <= share, "{what}: {counted} instead of {right}");
}

fn a_known_loop() {
    let mut group = PerfGroup::open(OWN, &events(&[INSTRUCTIONS, CYCLES]), Scope::HostAndGuest);
    let before = counts(&group.read().unwrap());
    let turns = 50_000_000;
    known_loop::run(turns);
    let after = counts(&group.read().unwrap());
    for (index, what) in ["instructions", "cycles"].into_iter().enumerate() {
        assert_near(after[index] - before[index], turns * INSTRUCTIONS_PER_TURN, 0.01, what);
    }
}

fn members_agree() {
    for members in 1..=COUNTERS {
        // The cycle counter is one of them and counts nothing else.
        let codes: Vec<u64> =
            (0..members).map(|member| if member == 6 { CYCLES } else { INSTRUCTIONS }).collect();
        let mut group = PerfGroup::open(OWN, &events(&codes), Scope::HostAndGuest);
        // Members are enabled one after the other, when they are opened.
        let before = group.read().unwrap();
        known_loop::run(1_000_000);
        let after = group.read().unwrap();
        let grown = counts(&after).into_iter().zip(counts(&before)).map(|(after, before)| after - before);
        let grown: Vec<u64> = grown.collect();
        assert!(grown.iter().all(|count| *count == grown[0] && *count > 2_000_000), "{grown:?}");
        assert_eq!(
            after.time_enabled_ns - before.time_enabled_ns,
            after.time_running_ns - before.time_running_ns
        );
    }
}

fn one_too_many() {
    let mut codes = vec![INSTRUCTIONS; COUNTERS + 1];
    codes[6] = CYCLES;
    let mut group = PerfGroup::open(OWN, &events(&codes), Scope::HostAndGuest);
    known_loop::run(1_000_000);
    let reading = group.read().unwrap();
    let counted = reading.counts.iter().filter(|count| count.value().is_some_and(|count| *count > 2_000_000));
    assert_eq!(counted.count(), COUNTERS, "{reading:?}");
    let reason = reading.counts.last().unwrap().reason().unwrap();
    assert!(reason.contains("EINVAL"), "{reason}");
}

fn sharing() {
    for groups in 1..=4u64 {
        let mut open: Vec<PerfGroup> = (0..groups)
            .map(|_| PerfGroup::open(OWN, &events(&[INSTRUCTIONS; 4]), Scope::HostAndGuest))
            .collect();
        let before: Vec<GroupReading> = open.iter_mut().map(|group| group.read().unwrap()).collect();
        // 0.4 s, some 100 turns of the kernel's rotation.
        known_loop::run(200_000_000);
        for (group, before) in open.iter_mut().zip(before) {
            let reading = group.read().unwrap();
            assert_eq!(reading.is_multiplexed(), groups > 1, "{reading:?}");
            let enabled = (reading.time_enabled_ns - before.time_enabled_ns) as f64;
            let share = (reading.time_running_ns - before.time_running_ns) as f64 / enabled;
            assert!((share * groups as f64 - 1.0).abs() < 0.05, "{share} of the time with {groups} groups");
            let scaled = (counts(&reading)[0] - counts(&before)[0]) as f64 / share;
            assert_near(
                scaled as u64,
                200_000_000 * INSTRUCTIONS_PER_TURN,
                0.02,
                &format!("{groups} groups"),
            );
        }
    }
}

fn beside_pinned() {
    let taken = counters::take_all(OWN).unwrap();
    assert_eq!(taken.len(), COUNTERS);
    let mut group = PerfGroup::open(OWN, &events(&[INSTRUCTIONS, CYCLES]), Scope::HostAndGuest);
    known_loop::run(1_000_000);
    let reading = group.read().unwrap();
    println!("{reading:?}");
    assert_eq!(reading.time_running_ns, 0);
}

fn guest_and_host() {
    let turns = 10_000_000;
    let (slices, warm) = (10, 2);
    let guest = Guest { vcpus: 1, turns, slices: None, sleep_us: 0, pages: 4, seed: 1, commands: None };
    let vm = Vm::new(&guest).unwrap();
    let mut vcpu = vm.vcpu(0).unwrap();
    (0..warm).for_each(|_| vcpu.slice().unwrap());
    let mut of_guest = PerfGroup::open(OWN, &events(&[INSTRUCTIONS]), Scope::GuestOnly);
    let mut of_both = PerfGroup::open(OWN, &events(&[INSTRUCTIONS]), Scope::HostAndGuest);
    let mut of_host = counters::instructions_of_host(OWN).unwrap();
    let mut read = || {
        let [in_guest, both] = [&mut of_guest, &mut of_both].map(|group| counts(&group.read().unwrap())[0]);
        (in_guest, both, of_host.read().unwrap())
    };
    let before = read();
    (0..slices).for_each(|_| vcpu.slice().unwrap());
    let after = read();
    let right = slices * guest::instructions(turns);
    let (in_guest, both, by_host) = (after.0 - before.0, after.1 - before.1, after.2 - before.2);
    assert_near(in_guest, right, 0.005, "instructions in the guest");
    // Entries, exits and the host's own ticks: known by somebody else's counter, which leaves the guest out.
    println!("instructions of the host: {by_host}");
    assert!(by_host > 0 && by_host < right / 50, "the host does something, and little: {by_host}");
    assert_near(both, right + by_host, 0.005, "instructions in the guest and of the host");
}
