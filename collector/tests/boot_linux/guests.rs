//! Guests under a real KVM: found by their descriptors, with entries, exits and time in the guest.

use std::collections::BTreeMap;

use huddle_testing::emulated::host::EmulatedHost;
use huddle_testing::recording::{self, number};

use crate::{RUN, Test, end, json, recorded, run_for, start};

pub const TESTS: &[Test] = &[("entries_and_exits_are_those_of_the_kernels_trace", as_in_the_trace)];

pub const ARM64: &[Test] = &[("guests_are_found_and_their_exits_are_counted", on_arm64)];

pub const X86: &[Test] = &[("guests_are_found_and_their_exits_are_counted", on_x86)];

/// A data abort from a lower exception level (Arm Architecture Reference Manual, ESR_EL1.EC).
const DATA_ABORT: u32 = 0x24;

/// An access to a port (AMD64 Architecture Programmer's Manual, volume 2, appendix C).
const SVM_IOIO: u32 = 0x7b;

/// As the probes themselves see it, without a loop of huddle.
fn as_in_the_trace(host: &mut EmulatedHost) {
    let checked = host.run("huddle-check kvm::", RUN);
    println!("{}{}", checked.stdout, checked.stderr);
    assert!(checked.success().contains("1 passed"));
}

fn on_arm64(host: &mut EmulatedHost) {
    exits(host, DATA_ABORT);
}

fn on_x86(host: &mut EmulatedHost) {
    exits(host, SVM_IOIO);
}

/// Two VMs that leave the guest after each slice, for `reason`.
fn exits(host: &mut EmulatedHost, reason: u32) {
    let one = start(host, "guest --vcpus 2 --turns 100000 --sleep-us 4000 --pages 64");
    let other = start(host, "guest --vcpus 1 --turns 100000 --sleep-us 4000 --pages 64");
    let found = json(host, "huddle vms --format json");
    let vms = found["vms"].as_array().unwrap();
    let vcpus: Vec<usize> = vms.iter().map(|vm| vm["vcpus"].as_array().unwrap().len()).collect();
    assert_eq!(vcpus.iter().sum::<usize>(), 3, "{found}");
    assert_eq!(vms.len(), 2, "by the kernel's word, whatever they are called: {found}");
    let log = run_for(host, 5, "--window 0.5 --record /tmp/guests");
    println!("{log}");
    end(host, &[one, other]);
    let directory = recorded(host, "/tmp/guests");
    let rows = recording::rows(&directory.path().join("counters"));
    assert!(rows.len() >= 12, "{}", rows.len());
    let mut exits_of_all = 0.0;
    // The first window of each vCPU begins, and the last one ends, somewhere.
    let whole = |row: &&_| number(row, "interval_ns").is_some_and(|interval| interval > 4e8);
    for row in rows.iter().filter(whole) {
        let [entries, exits, guest_ns] =
            ["guest_entries", "guest_exits", "guest_ns"].map(|name| number(row, name).unwrap());
        assert!(entries > 10.0 && (entries - exits).abs() <= 1.0, "{row:?}");
        assert!(guest_ns > 1e6 && guest_ns < 6e8, "{row:?}");
        exits_of_all += exits;
    }
    let mut by_reason: BTreeMap<u32, f64> = BTreeMap::new();
    for row in recording::rows(&directory.path().join("exits")) {
        *by_reason.entry(number(&row, "reason").unwrap() as u32).or_default() +=
            number(&row, "exits").unwrap();
    }
    println!("{by_reason:?}");
    assert!(by_reason[&reason] > exits_of_all / 4.0, "{by_reason:?}");
}
