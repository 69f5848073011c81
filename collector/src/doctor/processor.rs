//! CPUs, their caches, and what decides where threads run.

use std::collections::BTreeSet;

use huddle_model::cpuset::CpuSet;
use huddle_model::text::bytes;

use super::{Finding, Item, schedulers};
use huddle_host::cgroup::Cpusets;
use huddle_host::online::{self, Online};
use huddle_host::{HostError, HostRoot, core_class, cpufreq, optional, status, topology};

pub(super) const AREA: &str = "processor";

pub(super) fn examine(root: &HostRoot) -> Vec<Finding> {
    let mut findings = vec![domains(root)];
    findings.extend(levels(root));
    findings.extend([isolated(root), allowed(root), classes(root), smt(root), governor(root)]);
    findings.extend(schedulers::examine(root));
    findings
}

/// The level that placements use unless the user chooses another.
fn domains(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "cache.domains" };
    match topology::read(root, None) {
        Ok(found) => {
            let level = found.level().map_or_else(String::new, |level| format!("level {level}: "));
            let sets: Vec<String> = found.domains().iter().map(|domain| domain.cpus.to_string()).collect();
            let value = format!("{level}{} of usable CPUs {}", count(sets.len()), sets.join(" | "));
            match found.single_domain_note() {
                Some(note) => {
                    let meaning = found.notes().iter().cloned().chain([note]).collect::<Vec<_>>().join("; ");
                    item.degraded(value, meaning, "use a host with more caches, or more of its CPUs")
                }
                None if found.notes().is_empty() => item.good(value, "placements can differ"),
                None => item.degraded(value, found.notes().join("; "), INFERRED),
            }
        }
        Err(error) => {
            let meaning = "vCPUs cannot be placed by cache";
            item.missing(error.to_string(), meaning, Some("plan with --topology FILE"))
        }
    }
}

const INFERRED: &str = "where this host is otherwise, plan with --topology FILE, where a command takes it";

fn count(domains: usize) -> String {
    if domains == 1 { "1 domain".into() } else { format!("{domains} domains") }
}

/// One finding for each level of cache there is.
fn levels(root: &HostRoot) -> Vec<Finding> {
    const ITEMS: [(u8, &str); 4] =
        [(1, "cache.level1"), (2, "cache.level2"), (3, "cache.level3"), (4, "cache.level4")];
    let caches = topology::usable_cpus(root).and_then(|usable| topology::caches(root, &usable));
    // `cache.domains` has the error.
    let present = caches.map_or_else(|_: HostError| Vec::new(), |caches| topology::data_levels(&caches));
    let mut findings = Vec::new();
    for (level, item) in ITEMS.into_iter().filter(|(level, _)| present.contains(level)) {
        let Ok(found) = topology::read(root, Some(level)) else { continue };
        let sizes = found.domains().iter().filter_map(|domain| domain.size_bytes);
        let (smallest, largest) = (sizes.clone().min(), sizes.max());
        let size = match (smallest, largest) {
            (Some(smallest), Some(largest)) if smallest == largest => format!(" of {}", bytes(smallest)),
            (Some(smallest), Some(largest)) => {
                format!(" of {} to {}", bytes(smallest), bytes(largest))
            }
            _ => ", size not known".into(),
        };
        let value = format!("{}{size}", count(found.domains().len()));
        let meaning = found.single_domain_note().unwrap_or_else(|| "can be chosen with --cache-level".into());
        let meaning = found.notes().iter().cloned().chain([meaning]).collect::<Vec<_>>().join("; ");
        findings.push(Item { area: AREA, item }.good(value, meaning));
    }
    findings
}

fn isolated(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "cpu.isolated" };
    match topology::known_isolated_cpus(root) {
        Ok(None) => item.missing("not known", "isolated CPUs, if there are any, would be used", None),
        Ok(Some(cpus)) if cpus.is_empty() => item.good("none", "all CPUs are under the scheduler"),
        Ok(Some(cpus)) => item.degraded(
            cpus.to_string(),
            "huddle places nothing there, since the scheduler balances nothing there",
            "boot without isolcpus= to use them",
        ),
        Err(error) => item.unknown(&error),
    }
}

/// The online CPUs that the affinity and the cpuset of this process allow.
fn allowed(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "cpu.allowed" };
    let read = || -> Result<(Online, CpuSet, Option<CpuSet>), HostError> {
        let own = status::own(root)?.cpus_allowed;
        let pid = std::process::id();
        let group = match i32::try_from(pid) {
            Ok(pid) => optional(Cpusets::of_host(root).of_process(root, pid))?.flatten(),
            Err(_) => None,
        };
        Ok((online::read(root)?, own, group))
    };
    match read() {
        Ok((Online { cpus, contradiction: Some(contradiction) }, ..)) => {
            item.degraded(cpus.to_string(), contradiction, "run huddle on the host, outside of the container")
        }
        Ok((Online { cpus: online, .. }, own, group)) => {
            let left = group.as_ref().map_or_else(|| own.clone(), |group| own.intersection(group));
            let left = online.intersection(&left);
            if left == online {
                return item.good(format!("all online CPUs, {online}"), "huddle may use the whole host");
            }
            item.degraded(
                format!("{left} of {online}"),
                "the affinity (taskset) or cpuset huddle was started with leaves the other CPUs out of every plan",
                "start huddle outside of that cpuset, without taskset",
            )
        }
        Err(error) => item.unknown(&error),
    }
}

/// The classes of the cores of the usable CPUs.
fn classes(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "cpu.classes" };
    let read = || {
        let usable = topology::usable_cpus(root)?;
        core_class::read(root, &usable, &topology::caches(root, &usable)?)
    };
    match read() {
        Ok(classes) if classes.len() < 2 => item.good("one", "no difference between the cores is known"),
        Ok(classes) => item.degraded(
            classes.to_string(),
            "the same work takes longer on some cores than on others; a plan says where a VM is on cores of several \
             classes",
            "compare placements on cores of one class only: start huddle with taskset on them",
        ),
        Err(error) => item.unknown(&error),
    }
}

fn smt(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "cpu.smt" };
    match optional(topology::smt_active(root)) {
        Ok(None) => item.good("not in this kernel", "each CPU is a core"),
        Ok(Some(false)) => item.good("off", "each CPU is a core"),
        Ok(Some(true)) => item.degraded(
            "on",
            "the threads of a core share its units besides its caches: two vCPUs on one core slow each other down, \
             which is not an effect of the cache",
            "echo off > /sys/devices/system/cpu/smt/control, for measurements",
        ),
        Err(error) => item.unknown(&error),
    }
}

fn governor(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "cpu.governor" };
    let governors: BTreeSet<String> = match cpufreq::governors(root) {
        Ok(of_cpus) => of_cpus.into_values().collect(),
        Err(error) => return item.unknown(&error),
    };
    let names: Vec<&str> = governors.iter().map(String::as_str).collect();
    match names.as_slice() {
        [] => item.missing(
            "not known",
            "the frequency is set elsewhere (a hypervisor, the firmware) and may change during a measurement",
            Some("set it there, or compare placements in turns within one run, as experiments do"),
        ),
        ["performance"] => item.good("performance", "the frequency follows no load"),
        several => item.degraded(
            several.join(", "),
            "the frequency follows the load, so arms of an experiment may run at different ones",
            "cpupower frequency-set -g performance, for measurements",
        ),
    }
}

#[cfg(test)]
mod tests {
    use huddle_testing::machines::{self, Machine};

    use super::super::State;
    use super::super::fixture::{Tree, check, find};
    use super::*;

    const CPU: &str = "sys/devices/system/cpu";

    /// Two cores with private L2 and one L3.
    fn two_cores() -> Tree {
        let tree = Tree::new(&[
            ("proc/self/status", "CapEff:\t0\nCpus_allowed_list:\t0-1\n"),
            ("sys/devices/system/cpu/online", "0-1\n"),
            ("sys/devices/system/cpu/isolated", "\n"),
        ]);
        for cpu in 0..2 {
            for (index, level, size, shared) in [
                (0, 1, "48K", format!("{cpu}")),
                (1, 2, "2048K", format!("{cpu}")),
                (2, 3, "30M", "0-1".into()),
            ] {
                let at = format!("{CPU}/cpu{cpu}/cache/index{index}");
                tree.write(&format!("{at}/level"), format!("{level}\n"));
                tree.write(&format!("{at}/type"), "Unified\n");
                tree.write(&format!("{at}/size"), format!("{size}\n"));
                tree.write(&format!("{at}/shared_cpu_list"), format!("{shared}\n"));
            }
        }
        tree
    }

    #[test]
    fn cache_levels_are_reported_and_a_single_domain_has_a_note() {
        let tree = two_cores();
        let findings = examine(&tree.root);
        let domains = find(findings.clone(), "cache.domains");
        assert_eq!(
            (domains.state, domains.value.as_str()),
            (State::Degraded, "level 2: 2 domains of usable CPUs 0 | 1")
        );
        assert!(domains.meaning.contains("all usable CPUs share one cache at level 3"), "{domains:?}");
        assert_eq!(find(findings.clone(), "cache.level2").value, "2 domains of 2 MiB");
        assert_eq!(find(findings.clone(), "cache.level1").value, "2 domains of 48 KiB");
        assert!(find(findings, "cache.level3").meaning.contains("share one cache at level 3"));

        tree.write("proc/self/status", "CapEff:\t0\nCpus_allowed_list:\t1\n");
        let findings = examine(&tree.root);
        let domains = find(findings.clone(), "cache.domains");
        assert!(
            domains.state == State::Degraded && domains.meaning.contains("share one cache"),
            "{domains:?}"
        );
        let allowed = find(findings, "cpu.allowed");
        assert_eq!((allowed.state, allowed.value.as_str()), (State::Degraded, "1 of 0-1"));
    }

    #[test]
    fn a_host_without_cache_files_is_reported() {
        let tree = two_cores();
        for cpu in 0..2 {
            std::fs::remove_dir_all(tree.path(&format!("{CPU}/cpu{cpu}/cache"))).unwrap();
        }
        let domains = find(examine(&tree.root), "cache.domains");
        assert!(
            domains.state == State::Missing && domains.value.contains("does not report its caches"),
            "{domains:?}"
        );
    }

    #[test]
    fn what_is_inferred_of_the_domains_is_told() {
        let tell = |machine: &Machine| {
            let tree = Tree::new(&[]);
            machine.write(&tree.path(""));
            let findings = examine(&tree.root);
            (find(findings.clone(), "cache.domains"), find(findings.clone(), "cpu.classes"), findings)
        };
        let (domains, classes, findings) = tell(&machines::meteor_lake());
        assert_eq!(
            (domains.state, domains.value.as_str()),
            (State::Degraded, "level 3: 2 domains of usable CPUs 0-15 | 16-17")
        );
        assert!(domains.meaning.contains("CPUs 16-17 have no cache at level 3"), "{domains:?}");
        assert_eq!(classes.value, "performance 0-7, efficient 8-15, low power 16-17");
        assert!(find(findings, "cache.level3").meaning.contains("16-17"));

        let (domains, classes, _) = tell(&machines::altra());
        assert_eq!(domains.value, "2 domains of usable CPUs 0-79 | 80-159");
        assert!(domains.meaning.contains("no shared cache is known"), "{domains:?}");
        assert_eq!((classes.state, classes.value.as_str()), (State::Good, "one"));

        let (domains, _, findings) = tell(&machines::lxcfs());
        let allowed = find(findings, "cpu.allowed");
        assert!(allowed.state == State::Degraded && allowed.meaning.contains("lxcfs"), "{allowed:?}");
        assert!(domains.value.contains('1'), "{domains:?}");
    }

    #[test]
    fn allowed_cpus_are_those_of_affinity_and_cpuset() {
        let tree = two_cores();
        assert_eq!(find(examine(&tree.root), "cpu.allowed").state, State::Good);
        tree.write(&format!("proc/{}/cgroup", std::process::id()), "0::/a\n");
        tree.write("sys/fs/cgroup/a/cpuset.cpus.effective", "0\n");
        let allowed = find(examine(&tree.root), "cpu.allowed");
        assert_eq!((allowed.state, allowed.value.as_str()), (State::Degraded, "0 of 0-1"));
        let empty = Tree::new(&[]);
        assert_eq!(find(examine(&empty.root), "cpu.allowed").state, State::Missing);
    }

    #[test]
    fn isolation_and_smt_are_read() {
        let isolated = [
            (Some("\n"), State::Good, "none"),
            (Some("2-3\n"), State::Degraded, "2-3"),
            (Some("x\n"), State::Missing, "\"x\""),
            (None, State::Missing, "not known"),
        ];
        check(examine, "cpu.isolated", "sys/devices/system/cpu/isolated", &isolated);
        let smt = [
            (Some("0\n"), State::Good, "off"),
            (Some("1\n"), State::Degraded, "on"),
            (Some("x\n"), State::Missing, "\"x\""),
            (None, State::Good, "not in this kernel"),
        ];
        check(examine, "cpu.smt", "sys/devices/system/cpu/smt/active", &smt);
    }

    #[test]
    fn all_governors_must_be_performance() {
        let tree = two_cores();
        assert_eq!(find(examine(&tree.root), "cpu.governor").state, State::Missing);
        let governor = |cpu| format!("{CPU}/cpu{cpu}/cpufreq/scaling_governor");
        tree.write(&governor(0), "performance\n");
        tree.write(&governor(1), "performance\n");
        assert_eq!(find(examine(&tree.root), "cpu.governor").state, State::Good);
        tree.write(&governor(1), "schedutil\n");
        let finding = find(examine(&tree.root), "cpu.governor");
        assert_eq!((finding.state, finding.value.as_str()), (State::Degraded, "performance, schedutil"));
    }
}
