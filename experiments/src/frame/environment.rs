//! The machine, and what of it may have disturbed a run.

use huddle_host::kernel::host_name;
use huddle_host::process_ksm::merging_pages;
use huddle_host::{HostRoot, load};
use huddle_model::stats::median;
use huddle_model::summary::{Arm, Block, Environment, Extra};
use huddle_model::text::counted;
use huddle_record::read_environment;
use huddle_xen as xen;

use super::disturbance::{Disturbance, Kind};

/// The share of their CPUs below which guests were disturbed by other programs.
const QUIET_CPU_SHARE: f64 = 0.95;

/// The machine as it is now.
pub fn read(root: &HostRoot) -> Environment {
    let extra = Extra {
        hostname: host_name(root).ok(),
        xen: xen::running_version(root),
        load_1min: load::read(root).ok().map(|load| load.one_minute),
        ksm_users: Some(ksm_users(root)),
        huddle_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        git_revision: option_env!("HUDDLE_GIT_REVISION").map(str::to_owned),
    };
    Environment::of(&read_environment(root), extra)
}

fn ksm_users(root: &HostRoot) -> usize {
    let entries = std::fs::read_dir(root.proc("")).into_iter().flatten().filter_map(Result::ok);
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that ends meanwhile does not use it any more.
    processes.filter(|pid| merging_pages(root, *pid).is_ok_and(|pages| pages > 0)).count()
}

/// What may have disturbed a run.
pub fn disturbances(environment: &Environment, blocks: &[Block], stolen: Option<f64>) -> Vec<Disturbance> {
    let mut found = Vec::new();
    let mut add = |kind, what: String| found.push(Disturbance::new(kind, what));
    if let Some(what) = cpu_time(blocks) {
        add(Kind::CpuTime, what);
    }
    if let Some(load) = environment.load_1min.filter(|load| *load > 0.5) {
        add(Kind::BusyBefore, format!("the host was not idle before the run: load average {load:.2}"));
    }
    if let Some(stolen) = stolen.filter(|stolen| *stolen > 0.01) {
        let percent = stolen * 100.0;
        add(
            Kind::Stolen,
            format!("the host is itself a VM, and {percent:.1} % of its CPU time was stolen meanwhile"),
        );
    }
    // Not by `pages_shared`, which counts frames of processes that have ended until the next scan.
    let ksm_users = environment.ksm_users.unwrap_or(0);
    if ksm_users > 0 || environment.ksm.get("run").is_some_and(|run| run == "1") {
        add(
            Kind::OtherMerging,
            format!(
                "KSM had other users: {} had merged pages before the run, and its scan was sped up and paused \
                 meanwhile",
                counted(ksm_users, "process")
            ),
        );
    }
    if let Some(governor) = environment.governor.as_ref().filter(|governor| *governor != "performance") {
        let what = format!("the CPU frequency governor is {governor:?}: frequencies may have changed");
        add(Kind::Frequency, what);
    }
    if environment.numa_balancing.as_deref().is_some_and(|text| text != "0") {
        let what = "NUMA balancing is on: the kernel may have moved pages between nodes";
        add(Kind::NumaBalancing, what.to_owned());
    }
    if let Some(settings) = environment.cache_aware_scheduling.as_ref().filter(|settings| settings.is_on()) {
        add(
            Kind::CacheAware,
            format!(
                "the kernel's cache-aware scheduling is on ({settings}): it may have moved threads of one process to one \
                 last-level cache"
            ),
        );
    }
    if let Some(scheduler) = environment.sched_ext.as_ref().filter(|scheduler| scheduler.is_active()) {
        add(
            Kind::SchedExt,
            format!(
                "the scheduler {} (sched_ext, {}) ran: it may have left threads waiting, or moved those that no affinity \
                 bound",
                scheduler.name(),
                scheduler.state
            ),
        );
    }
    if environment.mediated_vpmu == Some(true) {
        let what =
            "KVM's mediated vPMU is on: while such a VM ran, the host could not count what its guest did";
        add(Kind::GuestCounters, what.to_owned());
    }
    found
}

/// What other programs took of the CPUs, with the arm that lost most.
fn cpu_time(blocks: &[Block]) -> Option<String> {
    let mut worst: Option<(Arm, f64)> = None;
    let (mut arms, mut disturbed, mut windows, mut lost) = (0, 0, 0, 0);
    for arm in Arm::ALL {
        let share = |block: &Block| Some(block.sample(arm)?.seen.as_ref()?.cpu_share);
        let shares: Vec<f64> = blocks.iter().filter_map(share).collect();
        let Some(share) = median(&shares) else { continue };
        let low = shares.iter().filter(|share| **share < QUIET_CPU_SHARE).count();
        arms += 1;
        windows += shares.len();
        lost += low;
        disturbed += usize::from(low > 0);
        if low > 0 && worst.is_none_or(|(_, least)| share < least) {
            worst = Some((arm, share));
        }
    }
    let (arm, share) = worst?;
    Some(format!(
        "other programs took CPU time: guests got less than {:.0} % of their CPUs in {lost} of {windows} windows, in \
         {disturbed} of {arms} arms, and least in arm {arm} ({:.0} %, the median of its blocks)",
        QUIET_CPU_SHARE * 100.0,
        share * 100.0
    ))
}

#[cfg(test)]
mod tests {
    use huddle_model::schedulers::{CacheAware, SchedExt};
    use huddle_model::summary::{Sample, Seen};

    use super::super::disturbance::sentences;
    use super::*;

    fn tree() -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        for (path, text) in [
            (root.proc("cpuinfo"), "processor\t: 0\nmodel name\t: Xeon E5-2680\nflags\t\t: fpu hypervisor\n"),
            (root.sys("hypervisor/version/major"), "4\n"),
            (root.sys("hypervisor/version/minor"), "17\n"),
            (root.proc("loadavg"), "1.50 0.40 0.30 2/200 4711\n"),
            (root.sys("kernel/mm/transparent_hugepage/enabled"), "always [madvise] never\n"),
            (root.sys("kernel/mm/ksm/run"), "1\n"),
            (root.sys("kernel/mm/ksm/pages_shared"), "12\n"),
            (root.proc("7/ksm_merging_pages"), "3\n"),
            (root.proc("8/ksm_merging_pages"), "0\n"),
            (root.sys("kernel/mm/ksm/advisor_mode"), "[none] scan-time\n"),
            (root.sys("devices/system/cpu/online"), "0\n"),
            (root.sys("devices/system/cpu/cpu0/cpufreq/scaling_governor"), "powersave\n"),
            (root.sys("kernel/debug/sched/llc_balancing/enabled"), "[always] advise never\n"),
            (root.sys("kernel/sched_ext/state"), "enabled\n"),
            (root.sys("kernel/sched_ext/root/ops"), "layered\n"),
            (root.sys("module/kvm_intel/parameters/enable_mediated_pmu"), "Y\n"),
        ] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn a_host_is_read_and_what_is_missing_is_null() {
        let (_dir, root) = tree();
        let environment = read(&root);
        assert_eq!(environment.cpu_model.as_deref(), Some("Xeon E5-2680"));
        assert_eq!(environment.is_virtual, Some(true));
        assert_eq!(environment.transparent_hugepage.as_deref(), Some("madvise"));
        assert_eq!(environment.load_1min, Some(1.5));
        assert_eq!(environment.ksm["advisor_mode"], "none");
        assert_eq!((environment.kernel.as_deref(), environment.xen.as_deref()), (None, Some("4.17")));

        let empty = tempfile::tempdir().unwrap();
        let nothing = read(&HostRoot::at(empty.path()));
        assert_eq!((nothing.is_virtual, nothing.load_1min, nothing.ksm.len()), (None, None, 0));
    }

    #[test]
    fn cpu_time_that_others_took_is_told_once_with_the_arm_that_lost_most() {
        let sample = |arm, cpu_share| {
            let seen = Some(Seen { merging: Vec::new(), occupancy: None, cpu_share });
            Sample { seen, ..Sample::new(arm) }
        };
        let block = |number| Block {
            number,
            samples: vec![
                sample(Arm::Recommended, 0.99),
                sample(Arm::Kernel, 0.4),
                sample(Arm::Opposed, 0.8),
            ],
            invalid: None,
        };
        let told = cpu_time(&[block(1), block(2)]).unwrap();
        assert!(told.contains("in 4 of 6 windows, in 2 of 3 arms, and least in arm kernel (40 %"), "{told}");
    }

    #[test]
    fn disturbances_are_reported_and_a_quiet_host_has_none() {
        let (_dir, root) = tree();
        let block = |cpu_share| {
            let seen = Some(Seen { merging: Vec::new(), occupancy: None, cpu_share });
            Block { number: 1, samples: vec![Sample { seen, ..Sample::new(Arm::Opposed) }], invalid: None }
        };
        let mut environment = read(&root);
        let found = sentences(disturbances(&environment, &[block(0.5), block(0.99)], Some(0.02)));
        assert!(found[0].starts_with("other programs took") && found[1].contains("stolen"), "{found:?}");
        let found = found.join("\n");
        for word in [
            "arm opposed",
            "1 of 2 windows, in 1 of 1 arms",
            "load average 1.50",
            "2.0 %",
            "1 process had",
            "powersave",
            "cache-aware scheduling is on (llc_balancing/enabled=always)",
            "the scheduler layered (sched_ext, enabled) ran",
            "mediated vPMU is on",
        ] {
            assert!(found.contains(word), "{word} in {found}");
        }
        environment.load_1min = Some(0.1);
        environment.governor = Some("performance".into());
        // Frames that were merged for processes that have ended disturb nobody.
        environment.ksm_users = Some(0);
        environment.ksm.insert("run".into(), "0".into());
        let never = [("llc_balancing/enabled".to_owned(), "always advise [never]".to_owned())];
        environment.cache_aware_scheduling = Some(CacheAware(never.into()));
        environment.sched_ext =
            environment.sched_ext.map(|found| SchedExt { state: "disabled".into(), ..found });
        environment.mediated_vpmu = Some(false);
        assert_eq!(disturbances(&environment, &[block(0.99)], Some(0.0)), Vec::new());
    }
}
