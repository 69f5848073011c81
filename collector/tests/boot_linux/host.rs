//! What the host says of itself, and what it has not.

use huddle_testing::emulated::host::EmulatedHost;

use crate::{SOON, Test, end, finding, json, run_for, start};

pub const TESTS: &[Test] = &[("rounds_end_where_nothing_can_merge", rounds_end_where_nothing_can_merge)];

pub const ARM64: &[Test] = &[
    ("doctor_knows_this_architecture", doctor_knows_this_architecture),
    ("caches_are_those_of_the_device_tree", caches_are_those_of_the_device_tree),
];

pub const X86: &[Test] = &[("the_newest_kernel_is_understood", the_newest_kernel_is_understood)];

/// Cache-aware scheduling and sched_ext, which change where threads run without being asked.
fn the_newest_kernel_is_understood(host: &mut EmulatedHost) {
    let text = host.run("huddle doctor", SOON).stdout;
    println!("{text}");
    let cache_aware = finding(host, "sched.cache_aware");
    assert!(cache_aware["value"].as_str().unwrap().contains("enabled=1"), "{cache_aware}");
    assert_eq!(finding(host, "sched.ext")["value"], "disabled");
    assert_eq!(finding(host, "cache.domains")["value"], "level 3: 2 domains of usable CPUs 0-1 | 2-3");
}

fn doctor_knows_this_architecture(host: &mut EmulatedHost) {
    let text = host.run("huddle doctor", SOON).stdout;
    println!("{text}");
    for x86 in ["kvm_intel", "kvm-intel", "kvm_amd", "X86", "BIOS"] {
        assert!(!text.contains(x86), "{x86}: {text}");
    }
}

fn caches_are_those_of_the_device_tree(host: &mut EmulatedHost) {
    let domains = finding(host, "cache.domains");
    assert_eq!(domains["value"], "level 3: 2 domains of usable CPUs 0-1 | 2-3", "{domains}");
    assert_eq!(finding(host, "cache.level3")["value"], "2 domains of 8 MiB");
}

fn rounds_end_where_nothing_can_merge(host: &mut EmulatedHost) {
    let pid = start(host, "spin --sleep-us 20000");
    let ran = host.run(&format!("timeout -s KILL 100 huddle run --rounds 2 --vm a={pid}"), SOON * 2);
    end(host, &[pid]);
    println!("{}", ran.stderr);
    assert_eq!(ran.code, 0, "{ran:?}");
    let _ = (json, run_for);
}
