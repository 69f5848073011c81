//! What the host says of itself, and what it has not.

use std::path::Path;

use huddle_testing::emulated::host::EmulatedHost;
use serde_json::{Value, json};

use crate::{SOON, Test, end, start};

pub const TESTS: &[Test] = &[("rounds_end_where_nothing_can_merge", rounds_end_where_nothing_can_merge)];

pub const ARM64: &[Test] =
    &[("doctor_knows_this_architecture_and_the_caches_of_the_device_tree", doctor_knows_this_architecture)];

pub const ACPI: &[Test] = &[("caches_are_those_of_acpi", caches_are_those_of_acpi)];

pub const X86: &[Test] = &[("the_newest_kernel_is_understood", the_newest_kernel_is_understood)];

/// Cache-aware scheduling and sched_ext, which change where threads run without being asked.
fn the_newest_kernel_is_understood(host: &mut EmulatedHost) {
    let doctor = Doctor::ask(host, "");
    let cache_aware = doctor.finding("sched.cache_aware");
    assert!(cache_aware["value"].as_str().unwrap().contains("enabled=1"), "{cache_aware}");
    assert_eq!(doctor.finding("sched.ext")["value"], "disabled");
    assert_eq!(doctor.finding("cache.domains")["value"], "level 3: 2 domains of usable CPUs 0-1 | 2-3");
}

/// Each item that differs with the architecture has the words of this one, and nothing has those of another.
fn doctor_knows_this_architecture(host: &mut EmulatedHost) {
    let doctor = Doctor::ask(host, "");
    doctor.names_nothing_of_x86();
    // The kernel's symbols name the detector that takes no counter.
    host.run("grep -q ' watchdog_buddy_check_hardlockup$' /proc/kallsyms", SOON).success();
    let watchdog = doctor.finding("nmi_watchdog");
    assert_eq!((&watchdog["state"], &watchdog["value"]), (&json!("good"), &json!(BUDDY)), "{watchdog}");
    let kvm = doctor.finding("kvm.device");
    assert!(kvm["state"] == "good" && kvm["value"].as_str().unwrap().contains("/dev/kvm opens"), "{kvm}");
    for (item, word) in [
        ("resctrl", "use bare metal with MPAM, and a kernel with CONFIG_ARM64_MPAM=y"),
        ("sample_misses", "name an event: --event llc_misses=EVENT"),
        ("pmu.llc_misses", "name an event: --event"),
    ] {
        doctor.advises(item, word);
    }
    let misses = doctor.finding("pmu.llc_misses")["value"].as_str().unwrap().to_owned();
    let word = "armv8_pmuv3 has neither the event ll_cache_miss_rd nor l3d_cache_refill";
    assert!(misses.contains(word), "{misses}");
    for item in ["kvm_entry", "kvm_exit"] {
        assert_eq!(doctor.finding(item)["value"], "attaches");
    }
    assert_eq!(doctor.finding("mapping_flags")["state"], "good");
    doctor.has_the_caches_that_are_described();
}

const BUDDY: &str = "1, by the timers of neighbouring CPUs (buddy)";

/// All that `huddle doctor` says, with these options.
pub struct Doctor(Vec<Value>);

impl Doctor {
    pub fn ask(host: &mut EmulatedHost, options: &str) -> Self {
        let doctor = crate::json(host, &format!("huddle doctor {options} --format json"));
        Self(doctor["findings"].as_array().unwrap().clone())
    }

    pub fn finding(&self, item: &str) -> &Value {
        let found = self.0.iter().find(|finding| finding["item"] == item);
        found.unwrap_or_else(|| panic!("no finding {item}: {:#?}", self.0))
    }

    /// The remedy of an item that is missing has these words.
    fn advises(&self, item: &str, words: &str) {
        let found = self.finding(item);
        assert_eq!(found["state"], "missing", "{found}");
        let remedy = found["remedy"].as_str().unwrap();
        assert!(remedy.contains(words), "{item}: {remedy}");
    }

    fn names_nothing_of_x86(&self) {
        let text = serde_json::to_string_pretty(&self.0).unwrap();
        println!("{text}");
        for x86 in ["kvm_intel", "kvm-intel", "kvm_amd", "X86", "BIOS", "RDT", "PQoS", "modprobe"] {
            assert!(!text.contains(x86), "{x86}: {text}");
        }
    }

    /// A device tree and a table of ACPI are made for the same caches.
    fn has_the_caches_that_are_described(&self) {
        for (item, value) in [
            ("cache.domains", "level 3: 2 domains of usable CPUs 0-1 | 2-3"),
            ("cache.level3", "2 domains of 8 MiB"),
            ("cache.level2", "4 domains of 1 MiB"),
            ("cache.level1", "4 domains of 64 KiB"),
        ] {
            assert_eq!(self.finding(item)["value"], value);
        }
    }
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
    let doctor = Doctor::ask(host, "");
    doctor.has_the_caches_that_are_described();
    // This host was started at EL1, so it has no KVM.
    doctor.names_nothing_of_x86();
    doctor.advises("kvm.device", "CONFIG_KVM=y at EL2");
}

/// ARM's have no name, but an implementer and a part: those that the kernel shows here.
pub fn names_the_processor(host: &mut EmulatedHost, recording: &Path) {
    for (field, number) in [("implementer", "0x41"), ("part", "0xd0c")] {
        host.run(&format!("grep -q '^CPU {field}.*: {number}$' /proc/cpuinfo"), SOON).success();
    }
    let manifest = std::fs::read_to_string(recording.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["environment"]["cpu_model"]["available"], "Arm Neoverse N1 (part 0xd0c)");
}

fn rounds_end_where_nothing_can_merge(host: &mut EmulatedHost) {
    let pid = start(host, "spin --sleep-us 20000");
    let ran = host.run(&format!("timeout -s KILL 100 huddle run --rounds 2 --vm a={pid}"), SOON * 2);
    end(host, &[pid]);
    println!("{}", ran.stderr);
    assert_eq!(ran.code, 0, "{ran:?}");
}
