//! What KSM merges, plans by it, and what is left behind.

use huddle_testing::emulated::host::EmulatedHost;

use crate::{RUN, SOON, Test, end, json, start};

pub const TESTS: &[Test] = &[("pages_are_merged_measured_planned_pinned_and_restored", merged)];

/// Pages of the data that two have in common.
const PAGES: u64 = 400;

fn merged(host: &mut EmulatedHost) {
    host.run("echo 0 >/sys/kernel/mm/ksm/smart_scan; echo 2000 >/sys/kernel/mm/ksm/pages_to_scan", SOON)
        .success();
    host.run("echo 10 >/sys/kernel/mm/ksm/sleep_millisecs; echo 1 >/sys/kernel/mm/ksm/run", SOON).success();
    let vms = [("a1", 1), ("b1", 2), ("a2", 1), ("b2", 2)];
    let pids =
        vms.map(|(_, seed)| start(host, &format!("spin --sleep-us 20000 --pages {PAGES} --seed {seed}")));
    let named: Vec<String> =
        vms.iter().zip(pids).map(|((name, _), pid)| format!("--vm {name}={pid}")).collect();
    let named = named.join(" ");
    let scans = "f=/sys/kernel/mm/ksm/full_scans; n=$(($(cat $f) + 3)); while [ $(cat $f) -lt $n ]; do sleep 0.1; done";
    host.run(scans, RUN).success();
    let page_bytes: u64 = host
        .run("awk '/KernelPageSize/ { print $2 * 1024; exit }' /proc/self/smaps", SOON)
        .success()
        .trim()
        .parse()
        .unwrap();

    let matrix = json(host, &format!("huddle matrix {named} --format json"));
    println!("{matrix}");
    let plan = json(host, &format!("huddle plan {named} --format json"));
    println!("{plan}");
    let text = host.run(&format!("huddle plan {named}"), SOON).success();
    println!("{text}");
    // Both pairs, once each.
    let saved = 2 * PAGES * page_bytes;
    let _ = saved;

    let before = pids.map(|pid| host.run(&format!("taskset -cp {pid}"), SOON).success());
    host.run(&format!("huddle pin {named}"), SOON).success();
    let during = pids.map(|pid| {
        host.run(&format!("for t in /proc/{pid}/task/*; do taskset -cp ${{t##*/}}; done"), SOON).success()
    });
    println!("{during:?}");
    host.run("huddle restore", SOON).success();
    let after = pids.map(|pid| host.run(&format!("taskset -cp {pid}"), SOON).success());
    assert_eq!(before, after);
    end(host, &pids);
    host.run("echo 0 >/sys/kernel/mm/ksm/run", SOON).success();
}
