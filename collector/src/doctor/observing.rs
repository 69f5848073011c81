//! The facilities to observe VMs: KVM, perf, BPF, tracepoints, resctrl.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;

use super::watchdog::nmi_watchdog;
use super::{Finding, Item};
use huddle_host::architecture::Architecture;
use huddle_host::status::{self, Capability};
use huddle_host::{HostRoot, kernel, kvm, mounts, optional};
use huddle_observe::resctrl::{Assignment, features, mount_point};

const AREA: &str = "observing";
/// What is missing without resctrl.
const WITHOUT_RESCTRL: &str = "how much of a cache a VM occupies, and its memory traffic, cannot be measured";

pub(super) fn examine(root: &HostRoot) -> Vec<Finding> {
    vec![
        version(root),
        kvm_device(root),
        perf(root),
        mediated_vpmu(root),
        nmi_watchdog(Item { area: AREA, item: "nmi_watchdog" }, root),
        btf(root),
        tracefs(root),
        lockdown(root),
        resctrl(root),
    ]
}

fn version(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "kernel.version" };
    let text = match kernel::release(root) {
        Ok(text) => text,
        Err(error) => return item.unknown(&error),
    };
    let mut numbers = text.split(['.', '-', '+']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= (6, 4) => {
            item.good(text, "has all of KSM that huddle reads")
        }
        (Some(_), Some(_)) => item.degraded(
            text,
            "older than 6.4: processes cannot be marked mergeable as a whole (PR_SET_MEMORY_MERGE)",
            "use a kernel from 6.4 on, or VMMs that mark their memory themselves, as QEMU does",
        ),
        _ => item.missing(text, "not a version, so nothing is concluded from it", None),
    }
}

fn kvm_device(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "kvm.device" };
    const WITHOUT: &str = "guests run under translation (TCG) only, which hides effects of the cache";
    let path = root.dev("kvm");
    match OpenOptions::new().read(true).write(true).open(&path) {
        Ok(_) => item.good(
            format!("{} opens; that guests run at native speed is not proven", path.display()),
            "VMs can be made; in a nested host guest code may still be emulated, instruction by instruction",
        ),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            item.missing(format!("no {}", path.display()), WITHOUT, Some(Architecture::of(root).kvm_remedy()))
        }
        Err(error) => item.missing(
            format!("cannot open {}: {error}", path.display()),
            WITHOUT,
            Some("join the group kvm, or run as root"),
        ),
    }
}

/// Documentation/admin-guide/sysctl/kernel.rst, `perf_event_paranoid`, Linux 6.18.
fn perf(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "perf.paranoid" };
    let level = match optional(kernel::perf_event_paranoid(root)) {
        Ok(Some(level)) => level,
        Ok(None) => {
            return item.missing(
                "no perf events in this kernel",
                "nothing can be counted",
                Some("boot a kernel with CONFIG_PERF_EVENTS=y"),
            );
        }
        Err(error) => return item.unknown(&error),
    };
    let privileged =
        status::own(root).is_ok_and(|own| own.has(Capability::Perfmon) || own.has(Capability::SysAdmin));
    const REMEDY: &str = "run huddle as root, or with CAP_PERFMON";
    match level {
        _ if privileged => item.good(
            format!("{level}, and huddle is above it (CAP_PERFMON or CAP_SYS_ADMIN)"),
            "events of all threads may be counted, where the hardware has counters",
        ),
        ..=0 => item.good(level.to_string(), "events of all threads may be counted"),
        1..=2 => item.degraded(level.to_string(), "only this user's threads may be counted", REMEDY),
        _ => item.missing(level.to_string(), "nothing may be counted", Some(REMEDY)),
    }
}

/// Whether KVM hands the counters of the processor to its guests.
fn mediated_vpmu(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "kvm.mediated_vpmu" };
    const OFF: &str = "KVM takes no counters away from the host";
    match kvm::mediated_vpmu(root) {
        Ok(None) => item.good("not in this kernel, or KVM is not loaded", OFF),
        Ok(Some(found)) if !found.is_on => item.good(format!("off ({})", found.module), OFF),
        Ok(Some(found)) => item.degraded(
            format!("on ({})", found.module),
            "while a VM with a mediated vPMU runs, nothing that guests do can be counted from the host, and while \
             huddle counts, no such VM can start",
            "load the module with enable_mediated_pmu=0",
        ),
        Err(error) => item.unknown(&error),
    }
}

fn btf(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "bpf.btf" };
    let path = root.sys("kernel/btf/vmlinux");
    match std::fs::metadata(&path) {
        Ok(_) => item.good(path.display().to_string(), "BPF programs can follow this kernel's types"),
        Err(error) => item.missing(
            format!("no {} ({error})", path.display()),
            "BPF programs cannot follow this kernel's types, so KSM events cannot be tied to processes",
            Some("boot a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        ),
    }
}

fn tracefs(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "tracefs" };
    // The programs on KSM's and the scheduler's tracepoints are attached by type, without tracefs.
    const MEANING: &str = "the fields of KVM's tracepoints are not known: entries into guests, exits and \
                           which thread is which vCPU are not seen";
    let path = root.sys("kernel/tracing/events");
    match std::fs::read_dir(&path) {
        Ok(_) => item.good("mounted at /sys/kernel/tracing", "KVM's tracepoints can be attached"),
        Err(error) if error.kind() == ErrorKind::NotFound => item.missing(
            "not mounted",
            MEANING,
            Some("as root: mount -t tracefs tracefs /sys/kernel/tracing"),
        ),
        Err(error) => item.missing(
            format!("cannot read {}: {error}", path.display()),
            MEANING,
            Some("run huddle as root"),
        ),
    }
}

/// kernel_lockdown(7).
fn lockdown(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "kernel.lockdown" };
    match optional(kernel::lockdown(root)) {
        Ok(None) => item.missing(
            "not known: securityfs is not mounted, or the kernel has no lockdown",
            "a kernel locked down to confidentiality lets BPF and perf read little",
            Some("as root: mount -t securityfs securityfs /sys/kernel/security"),
        ),
        Ok(Some(chosen)) => match chosen.as_str() {
            "confidentiality" => item.degraded(
                "confidentiality",
                "BPF may not read kernel memory and tracefs may be closed: events cannot be tied to processes",
                "boot with lockdown=integrity, or without",
            ),
            other => item.good(other, "BPF and perf may read what they need"),
        },
        Err(error) => item.unknown(&error),
    }
}

/// Documentation/filesystems/resctrl.rst, Linux 6.18.
fn resctrl(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "resctrl" };
    match mount_point(root) {
        Ok(Some(at)) => return monitoring(item, &at, root),
        Ok(None) => {}
        Err(error) => return item.unknown(&error),
    }
    match mounts::is_known(root, "resctrl") {
        Ok(true) => {
            item.degraded("not mounted", WITHOUT_RESCTRL, "as root: mount -t resctrl resctrl /sys/fs/resctrl")
        }
        Ok(false) => item.missing(
            "not in this kernel, or not in this processor",
            WITHOUT_RESCTRL,
            Some(Architecture::of(root).resctrl_remedy()),
        ),
        Err(error) => item.unknown(&error),
    }
}

/// What a mounted resctrl can monitor.
fn monitoring(item: Item, at: &Path, root: &HostRoot) -> Finding {
    let features = match features(at) {
        Ok(features) => features,
        Err(error) => {
            return item.missing(
                error.to_string(),
                WITHOUT_RESCTRL,
                Some(Architecture::of(root).monitoring_remedy()),
            );
        }
    };
    let all = [
        ("LLC occupancy", features.llc_occupancy),
        ("total memory traffic", features.total_bytes),
        ("local memory traffic", features.local_bytes),
    ];
    let (there, lacking): (Vec<_>, Vec<_>) = all.into_iter().partition(|(_, there)| *there);
    let list =
        |items: Vec<(&str, bool)>| items.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
    let groups = features.groups.map_or_else(String::new, |groups| format!(", up to {groups} groups"));
    let value = format!("mounted at {}: {}{groups}", at.display(), list(there));
    if features.assignment == Assignment::ByHardware && features.total_bytes {
        return item.degraded(
            value,
            "memory traffic of a VM may be missing or begin anew: the processor moves its counters between groups",
            "as root, where no other program uses resctrl: echo mbm_event > \
             /sys/fs/resctrl/info/L3_MON/mbm_assign_mode",
        );
    }
    if lacking.is_empty() {
        item.good(value, "how much of a cache each VM occupies and moves is measured")
    } else {
        let meaning = format!("the processor does not measure: {}", list(lacking));
        item.degraded(value, meaning, "only another processor helps; the rest is measured")
    }
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::fixture::{Tree, check, find};
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        check(
            examine,
            "kernel.version",
            "proc/sys/kernel/osrelease",
            &[
                (Some("6.18.44-fc\n"), State::Good, "6.18.44-fc"),
                (Some("6.4-rc1\n"), State::Good, "6.4"),
                (Some("10.0\n"), State::Good, "10.0"),
                (Some("6.1.0-38-amd64\n"), State::Degraded, "older than 6.4"),
                (Some("new\n"), State::Missing, "not a version"),
                (None, State::Missing, "osrelease"),
            ],
        );
    }

    #[test]
    fn a_kvm_that_opens_is_not_reported_as_fast() {
        let cases = [(Some(""), State::Good, "not proven"), (None, State::Missing, "no ")];
        check(examine, "kvm.device", "dev/kvm", &cases);
        let tree = Tree::new(&[("dev/kvm/x", "")]);
        let finding = find(examine(&tree.root), "kvm.device");
        assert!(finding.state == State::Missing && finding.value.contains("cannot open"), "{finding:?}");
    }

    #[test]
    fn the_paranoid_level_counts_for_the_unprivileged() {
        let path = "proc/sys/kernel/perf_event_paranoid";
        check(
            examine,
            "perf.paranoid",
            path,
            &[
                (Some("-1\n"), State::Good, "-1"),
                (Some("2\n"), State::Degraded, "this user's"),
                (Some("4\n"), State::Missing, "CAP_PERFMON"),
                (None, State::Missing, "CONFIG_PERF_EVENTS"),
            ],
        );
        let status = "CapEff:\t0000004000000000\nCpus_allowed_list:\t0\n";
        let tree = Tree::new(&[(path, "4\n"), ("proc/self/status", status)]);
        assert_eq!(find(examine(&tree.root), "perf.paranoid").state, State::Good);
    }

    #[test]
    fn watchdog_btf_tracefs_and_lockdown() {
        let watchdog = [
            (Some("0\n"), State::Good, "0"),
            (Some("1\n"), State::Degraded, "multiplex"),
            (None, State::Good, "not in this kernel"),
        ];
        check(examine, "nmi_watchdog", "proc/sys/kernel/nmi_watchdog", &watchdog);
        let btf = [(Some("x"), State::Good, "vmlinux"), (None, State::Missing, "CONFIG_DEBUG_INFO_BTF")];
        check(examine, "bpf.btf", "sys/kernel/btf/vmlinux", &btf);
        let tracefs = [(Some("x"), State::Good, "mounted"), (None, State::Missing, "mount -t tracefs")];
        check(examine, "tracefs", "sys/kernel/tracing/events/ksm", &tracefs);
        let lockdown = [
            (Some("[none] integrity confidentiality\n"), State::Good, "none"),
            (Some("none [integrity] confidentiality\n"), State::Good, "integrity"),
            (Some("none integrity [confidentiality]\n"), State::Degraded, "confidentiality"),
            (None, State::Missing, "securityfs"),
        ];
        check(examine, "kernel.lockdown", "sys/kernel/security/lockdown", &lockdown);
    }

    #[test]
    fn resctrl_is_mounted_or_mountable_or_not_there() {
        let mounts = "sysfs /sys sysfs rw 0 0\n";
        let tree = Tree::new(&[("proc/self/mounts", mounts), ("proc/filesystems", "nodev\tsysfs\n\text4\n")]);
        let look = || find(examine(&tree.root), "resctrl");
        assert_eq!(look().state, State::Missing);
        tree.write("proc/filesystems", "nodev\tresctrl\n");
        assert_eq!(look().state, State::Degraded);
        let at = tree.path("sys/fs/resctrl");
        tree.write("proc/self/mounts", format!("{mounts}resctrl {} resctrl rw 0 0\n", at.display()));
        assert!(look().state == State::Missing && look().value.contains("monitors nothing"), "{:?}", look());
        let features = "sys/fs/resctrl/info/L3_MON/mon_features";
        tree.write(features, "llc_occupancy\n");
        assert!(look().state == State::Degraded && look().meaning.contains("total memory traffic"));
        tree.write(features, "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\n");
        tree.write("sys/fs/resctrl/info/L3_MON/mbm_assign_mode", "mbm_event\n[default]\n");
        assert!(look().state == State::Degraded && look().remedy.unwrap().contains("echo mbm_event"));
        tree.write("sys/fs/resctrl/info/L3_MON/mbm_assign_mode", "[mbm_event]\ndefault\n");
        assert!(
            look().state == State::Good && look().value.contains("/sys/fs/resctrl: LLC occ"),
            "{:?}",
            look()
        );
    }

    #[test]
    fn remedies_are_of_the_architecture() {
        let filesystems = ("proc/filesystems", "nodev\tsysfs\n");
        let mounts = ("proc/self/mounts", "sysfs /sys sysfs rw 0 0\n");
        let remedies = |cpuinfo: &str| {
            let tree = Tree::new(&[filesystems, mounts, ("proc/cpuinfo", cpuinfo)]);
            ["kvm.device", "resctrl"].map(|item| find(examine(&tree.root), item).remedy.unwrap())
        };
        let [kvm, resctrl] = remedies("CPU implementer\t: 0x41\nCPU architecture: 8\n");
        assert!(kvm.contains("CONFIG_KVM=y at EL2") && resctrl.contains("MPAM"), "{kvm}; {resctrl}");
        let [kvm, resctrl] = remedies("vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t: 143\n");
        assert!(kvm.contains("kvm_intel") && resctrl.contains("CONFIG_X86_CPU_RESCTRL"), "{kvm}; {resctrl}");
    }

    #[test]
    fn a_mediated_vpmu_is_detected_in_each_module() {
        for module in ["kvm_intel", "kvm_amd", "kvm"] {
            let path = format!("sys/module/{module}/parameters/enable_mediated_pmu");
            let cases = [
                (Some("Y\n"), State::Degraded, "no such VM can start"),
                (Some("N\n"), State::Good, "off"),
                (Some("?\n"), State::Missing, "\"?\""),
                (None, State::Good, "not in this kernel"),
            ];
            check(examine, "kvm.mediated_vpmu", &path, &cases);
        }
    }
}
