//! What KSM merges, plans by it, and what is left behind.

use huddle_testing::emulated::host::EmulatedHost;

use crate::{RUN, SOON, Test, end, json, start};

pub const TESTS: &[Test] = &[
    ("pages_are_merged_measured_planned_pinned_and_restored", merged),
    ("flags_of_mappings_are_those_of_smaps", flags),
];

/// Pages of the data that two have in common.
const PAGES: u64 = 400;

fn merged(host: &mut EmulatedHost) {
    ksm_on(host);
    let vms = [("a1", 1), ("b1", 2), ("a2", 1), ("b2", 2)];
    let pids =
        vms.map(|(_, seed)| start(host, &format!("spin --sleep-us 20000 --pages {PAGES} --seed {seed}")));
    let named: Vec<String> =
        vms.iter().zip(pids).map(|((name, _), pid)| format!("--vm {name}={pid}")).collect();
    let named = named.join(" ");
    passes(host);
    let page_bytes: u64 = host
        .run("awk '/KernelPageSize/ { print $2 * 1024; exit }' /proc/self/smaps", SOON)
        .success()
        .trim()
        .parse()
        .unwrap();

    let matrix = json(host, &format!("huddle matrix {named} --format json"));
    assert_eq!(matrix["page_bytes"], page_bytes, "{matrix}");
    let frames = |one: usize, other: usize| matrix["shared_frames"][one][other].as_u64().unwrap();
    assert_eq!([frames(0, 2), frames(1, 3), frames(0, 1), frames(2, 3)], [PAGES, PAGES, 0, 0], "{matrix}");
    let plan = json(host, &format!("huddle plan {named} --format json"));
    let domain = |vm: usize| plan["placement"][vm]["domain"].as_u64().unwrap();
    assert_eq!((domain(0), domain(1)), (domain(2), domain(3)), "{plan}");
    // Both pairs have their data in a cache once instead of twice.
    assert_eq!(plan["expected"]["cache_bytes_saved"], 2 * PAGES * page_bytes, "{plan}");

    let before = pids.map(|pid| host.run(&format!("taskset -cp {pid}"), SOON).success());
    host.run(&format!("huddle pin {named}"), SOON).success();
    let during = pids.map(|pid| {
        host.run(&format!("for t in /proc/{pid}/task/*; do taskset -cp ${{t##*/}}; done"), SOON).success()
    });
    let is_pinned = |affinity: &String| affinity.contains(": 0-1") || affinity.contains(": 2-3");
    assert!(during.iter().all(is_pinned), "{during:?}");
    host.run("huddle restore", SOON).success();
    let after = pids.map(|pid| host.run(&format!("taskset -cp {pid}"), SOON).success());
    assert_eq!(before, after);
    end(host, &pids);
    ksm_off(host);
}

fn flags(host: &mut EmulatedHost) {
    let checked = host.run("huddle-check mappings::", RUN);
    println!("{}{}", checked.stdout, checked.stderr);
    assert!(checked.success().contains("1 passed"));
}

/// Has KSM merge what there is at once.
pub fn ksm_on(host: &mut EmulatedHost) {
    let settings = [("smart_scan", 0), ("pages_to_scan", 2000), ("sleep_millisecs", 10), ("run", 1)];
    for (name, value) in settings {
        host.run(&format!("echo {value} >/sys/kernel/mm/ksm/{name}"), SOON).success();
    }
}

/// Stops KSM; what is merged stays merged.
pub fn ksm_off(host: &mut EmulatedHost) {
    host.run("echo 0 >/sys/kernel/mm/ksm/run", SOON).success();
}

/// Waits until all that can merge has merged: a page is found to be stable, then merged, in complete passes.
pub fn passes(host: &mut EmulatedHost) {
    let three = "f=/sys/kernel/mm/ksm/full_scans; n=$(($(cat $f) + 3)); while [ $(cat $f) -lt $n ]; do sleep 0.1; done";
    host.run(three, RUN).success();
}
