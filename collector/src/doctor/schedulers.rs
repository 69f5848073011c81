//! Schedulers of the kernel that decide where threads run, besides affinities.

use std::collections::BTreeSet;

use super::processor::AREA;
use super::{Finding, Item};
use huddle_host::{HostRoot, optional, schedulers};
use huddle_model::vm::Vm;

pub(super) fn examine(root: &HostRoot) -> Vec<Finding> {
    vec![cache_aware(root), sched_ext(root)]
}

/// The kernel's own placement by cache (CONFIG_SCHED_CACHE).
fn cache_aware(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "sched.cache_aware" };
    const OFF: &str = "the kernel does not place by cache itself";
    const ON: &str = "where a NUMA node has several last-level caches, the kernel pulls the threads of one process to \
         one of them: part of any effect may come from that";
    match schedulers::cache_aware(root) {
        Ok(None) => item.good("not in this kernel", OFF),
        Ok(Some(settings)) if !settings.is_on() => item.good(format!("off ({settings})"), OFF),
        Ok(Some(settings)) => item.degraded(
            settings.to_string(),
            ON,
            "echo 0 > /sys/kernel/debug/sched/llc_balancing/enabled, for measurements",
        ),
        Err(error) => item.missing(
            format!("not known: {error}"),
            ON.replace("the kernel pulls", "a kernel with CONFIG_SCHED_CACHE (Linux 7.2) pulls"),
            Some("as root: mount -t debugfs debugfs /sys/kernel/debug"),
        ),
    }
}

/// A scheduler that a BPF program brings along.
fn sched_ext(root: &HostRoot) -> Finding {
    let item = Item { area: AREA, item: "sched.ext" };
    const OFF: &str = "the kernel's own scheduler runs all threads";
    match optional(schedulers::sched_ext(root)) {
        Ok(None) => item.good("not in this kernel", OFF),
        Ok(Some(found)) if !found.is_active() => item.good(found.to_string(), OFF),
        Ok(Some(found)) => item.degraded(
            found.to_string(),
            "another scheduler runs threads: it may leave vCPUs that are pinned waiting, and what is measured is its \
             effect too",
            "stop the program that loaded it, for measurements",
        ),
        Err(error) => item.unknown(&error),
    }
}

/// Core scheduling (PR_SCHED_CORE, prctl(2)) of the VMs that were found: threads with different cookies never run on the
/// threads of one core at the same time.
pub(crate) fn core_scheduling(vms: Result<&[Vm], String>) -> Finding {
    let item = Item { area: AREA, item: "sched.core" };
    const OFF: &str = "any two vCPUs may run on the threads of one core at the same time";
    let vms = match vms {
        Ok(vms) => vms,
        Err(why) => return item.missing(format!("not known: {why}"), OFF, None),
    };
    let cookies =
        |vm: &Vm| -> Vec<Option<u64>> { vm.vcpus.iter().map(|vcpu| vcpu.limits.core_cookie).collect() };
    let all: Vec<Option<u64>> = vms.iter().flat_map(cookies).collect();
    if all.iter().any(Option::is_none) {
        let unknown = all.iter().filter(|cookie| cookie.is_none()).count();
        return item.missing(
            format!("the cookies of {unknown} of {} vCPUs are not known", all.len()),
            "plans count a core as all its threads, though some vCPUs may never run beside each other",
            Some("run huddle as root, or with CAP_SYS_PTRACE"),
        );
    }
    let different: BTreeSet<u64> = all.into_iter().flatten().filter(|cookie| *cookie != 0).collect();
    if different.is_empty() {
        return item.good("no vCPU has a cookie", OFF);
    }
    let has_one = |vm: &&Vm| cookies(vm).iter().any(|cookie| cookie.is_some_and(|cookie| cookie != 0));
    item.good(
        format!(
            "{} different cookies, of vCPUs of {} of {} VMs",
            different.len(),
            vms.iter().filter(has_one).count(),
            vms.len()
        ),
        "vCPUs with different cookies never run on the threads of one core at the same time; plans count a core on \
         which they would meet as one CPU",
    )
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::super::fixture::{Tree, check, find};
    use super::*;

    #[test]
    fn cache_aware_scheduling_is_not_known_without_debugfs() {
        let features = "sys/kernel/debug/sched/features";
        check(
            examine,
            "sched.cache_aware",
            features,
            &[
                (None, State::Missing, "mount -t debugfs"),
                (Some("GENTLE_FAIR_SLEEPERS NO_HRTICK\n"), State::Good, "not in this kernel"),
                (Some("PLACE_LAG SCHED_CACHE\n"), State::Degraded, "SCHED_CACHE=1"),
                (Some("NO_SCHED_CACHE\n"), State::Good, "off"),
            ],
        );
        check(
            examine,
            "sched.cache_aware",
            "sys/kernel/debug/sched/llc_balancing/enabled",
            &[
                (Some("always advise [never]\n"), State::Good, "off (llc_balancing/enabled=never)"),
                (Some("always [advise] never\n"), State::Degraded, "llc_balancing/enabled=advise"),
                (Some("0\n"), State::Good, "off"),
                (Some("1\n"), State::Degraded, "llc_balancing/enabled=1"),
            ],
        );
        let tree = Tree::new(&[
            ("sys/kernel/debug/sched/llc_balancing/enabled", "[always] advise never\n"),
            ("sys/kernel/debug/sched/llc_balancing/overaggr_pct", "50\n"),
        ]);
        let found = find(examine(&tree.root), "sched.cache_aware");
        assert_eq!(found.value, "llc_balancing/enabled=always, llc_balancing/overaggr_pct=50");
    }

    #[test]
    fn cookies_of_core_scheduling_are_counted_and_unknown_ones_are_not_none() {
        let with = |cookies: &[Option<u64>]| {
            let mut vms =
                Vec::clone(&huddle_testing::fixtures::view(huddle_testing::fixtures::SMALL, 1).round.vms);
            vms.truncate(cookies.len());
            for (vm, cookie) in vms.iter_mut().zip(cookies) {
                vm.vcpus.iter_mut().for_each(|vcpu| vcpu.limits.core_cookie = *cookie);
            }
            core_scheduling(Ok(&vms))
        };
        let found = with(&[Some(0), Some(7), Some(8), Some(7)]);
        assert_eq!(
            (found.state, found.value.as_str()),
            (State::Good, "2 different cookies, of vCPUs of 3 of 4 VMs")
        );
        assert_eq!(with(&[Some(0), Some(0)]).value, "no vCPU has a cookie");
        assert_eq!(with(&[]).value, "no vCPU has a cookie");
        let unknown = with(&[Some(7), None]);
        assert_eq!(
            (unknown.state, unknown.value.contains("2 of 4 vCPUs")),
            (State::Missing, true),
            "{unknown:?}"
        );
        assert!(core_scheduling(Err("no Xen".into())).value.contains("no Xen"));
    }

    #[test]
    fn a_scheduler_of_sched_ext_is_named() {
        check(
            examine,
            "sched.ext",
            "sys/kernel/sched_ext/state",
            &[
                (None, State::Good, "not in this kernel"),
                (Some("disabled\n"), State::Good, "disabled"),
                (Some("enabled\n"), State::Degraded, "enabled"),
            ],
        );
        let tree = Tree::new(&[
            ("sys/kernel/sched_ext/state", "enabled\n"),
            ("sys/kernel/sched_ext/root/ops", "layered_1.0.9\n"),
        ]);
        assert_eq!(find(examine(&tree.root), "sched.ext").value, "enabled: layered_1.0.9");
    }
}
