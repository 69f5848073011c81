//! What the host says of itself, and what it has not.

use huddle_testing::emulated::host::EmulatedHost;

use crate::{SOON, Test, end, finding, recorded, run_for, start};

pub const TESTS: &[Test] = &[("rounds_end_where_nothing_can_merge", rounds_end_where_nothing_can_merge)];

pub const ARM64: &[Test] = &[
    ("doctor_knows_this_architecture", doctor_knows_this_architecture),
    ("caches_are_those_of_the_device_tree", caches_are_as_described),
    ("a_recording_names_the_processor", a_recording_names_the_processor),
];

pub const ACPI: &[Test] = &[("caches_are_those_of_acpi", caches_are_those_of_acpi)];

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

/// A device tree and a table of ACPI, made for the same caches.
fn caches_are_as_described(host: &mut EmulatedHost) {
    let domains = finding(host, "cache.domains");
    assert_eq!(domains["value"], "level 3: 2 domains of usable CPUs 0-1 | 2-3", "{domains}");
    assert_eq!(finding(host, "cache.level3")["value"], "2 domains of 8 MiB");
    assert_eq!(finding(host, "cache.level2")["value"], "4 domains of 1 MiB");
    assert_eq!(finding(host, "cache.level1")["value"], "4 domains of 64 KiB");
}

fn caches_are_those_of_acpi(host: &mut EmulatedHost) {
    // The kernel has read the table that is in place of QEMU's, and no device tree.
    host.run("test -e /sys/firmware/acpi/tables/PPTT && ! test -e /proc/device-tree/cpus", SOON).success();
    let read = "cd /sys/devices/system/cpu; for c in cpu[0-9]*; do for i in $c/cache/index*; do \
                echo $c $(cat $i/level $i/type $i/size $i/shared_cpu_list); done; done";
    let sysfs = host.run(read, SOON).success();
    println!("{sysfs}");
    for line in [
        "cpu0 1 Data 64K 0",
        "cpu1 2 Unified 1024K 1",
        "cpu2 3 Unified 8192K 2-3",
        "cpu0 3 Unified 8192K 0-1",
    ] {
        assert!(sysfs.lines().any(|found| found == line), "{line}: {sysfs}");
    }
    caches_are_as_described(host);
}

/// ARM's have no name, but an implementer and a part (0x41 and 0xd0c are Arm's Neoverse N1: Technical Reference Manual,
/// MIDR_EL1).
fn a_recording_names_the_processor(host: &mut EmulatedHost) {
    let pid = start(host, "spin --sleep-us 20000");
    run_for(host, 1, &format!("--vm a={pid} --record /tmp/named"));
    end(host, &[pid]);
    let directory = recorded(host, "/tmp/named");
    let manifest = std::fs::read_to_string(directory.path().join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let model = &manifest["environment"]["cpu_model"];
    println!("{model}");
    let model = model["available"].as_str().unwrap();
    assert!(model.contains("0x41") && model.contains("0xd0c"), "{model}");
}

fn rounds_end_where_nothing_can_merge(host: &mut EmulatedHost) {
    let pid = start(host, "spin --sleep-us 20000");
    let ran = host.run(&format!("timeout -s KILL 100 huddle run --rounds 2 --vm a={pid}"), SOON * 2);
    end(host, &[pid]);
    println!("{}", ran.stderr);
    assert_eq!(ran.code, 0, "{ran:?}");
}
