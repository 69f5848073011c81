//! What the machine was like, and what of it may have disturbed a run.

use std::collections::BTreeMap;
use std::path::Path;

use huddle_host::{HostRoot, read_text};
use huddle_observe::probes::ksm::merging_pages;
use huddle_xen as xen;
use serde::Serialize;

use crate::design::Arm;
use crate::microbench::Block;

/// Below this part of their CPUs, guests were disturbed by other programs.
const QUIET_CPU_SHARE: f64 = 0.95;

/// The machine as it was before the run. What a host does not tell is null.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Environment {
    /// Its name.
    pub hostname: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// The CPU's name.
    pub cpu_model: Option<String>,
    /// Whether it is itself a virtual machine (the CPU flag `hypervisor`; x86 only).
    pub is_virtual: Option<bool>,
    /// Version of the Xen beneath it, where there is one: then CPUs and load are those of dom0, or of a domain.
    pub xen: Option<String>,
    /// CPUs that are online, as a list of ranges.
    pub cpus_online: Option<String>,
    /// Frequency governor of CPU 0.
    pub governor: Option<String>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub transparent_hugepage: Option<String>,
    /// `/proc/sys/kernel/numa_balancing`.
    pub numa_balancing: Option<String>,
    /// Mean number of runnable tasks over the last minute.
    pub load_1min: Option<f64>,
    /// Every file of `/sys/kernel/mm/ksm`.
    pub ksm: BTreeMap<String, String>,
    /// Processes that had pages merged by KSM, as far as they may be looked at.
    pub ksm_users: usize,
    /// Version of this program.
    pub huddle_version: &'static str,
    /// Git revision of this program; null where it was built from an archive of its sources.
    pub git_revision: Option<&'static str>,
}

impl Environment {
    /// Reads it.
    pub fn read(root: &HostRoot) -> Self {
        let text = |path: &Path| read_text(path).ok().map(|text| text.trim().to_owned());
        let cpuinfo = text(&root.proc("cpuinfo"));
        let field = |name: &str| {
            let line = cpuinfo.as_ref()?.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let thp = root.sys("kernel/mm/transparent_hugepage/enabled");
        Self {
            hostname: text(&root.proc("sys/kernel/hostname")),
            kernel: text(&root.proc("sys/kernel/osrelease")),
            cpu_model: field("model name"),
            is_virtual: field("flags").map(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            xen: xen::running_version(root),
            cpus_online: text(&root.sys("devices/system/cpu/online")),
            governor: text(&root.sys("devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            transparent_hugepage: text(&thp).map(|text| chosen(&text)),
            numa_balancing: text(&root.proc("sys/kernel/numa_balancing")),
            load_1min: text(&root.proc("loadavg")).and_then(|text| text.split(' ').next()?.parse().ok()),
            ksm: ksm_files(root),
            ksm_users: ksm_users(root),
            huddle_version: env!("CARGO_PKG_VERSION"),
            git_revision: option_env!("HUDDLE_GIT_REVISION"),
        }
    }
}

/// The word in brackets, by which sysfs marks the one that is chosen.
fn chosen(text: &str) -> String {
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or_else(|| text.to_owned(), |(word, _)| word.to_owned())
}

fn ksm_files(root: &HostRoot) -> BTreeMap<String, String> {
    let Ok(entries) = std::fs::read_dir(root.sys("kernel/mm/ksm")) else { return BTreeMap::new() };
    let file = |entry: std::fs::DirEntry| {
        let text = read_text(&entry.path()).ok()?;
        Some((entry.file_name().to_str()?.to_owned(), chosen(text.trim())))
    };
    entries.filter_map(Result::ok).filter_map(file).collect()
}

fn ksm_users(root: &HostRoot) -> usize {
    let entries = std::fs::read_dir(root.proc("")).into_iter().flatten().filter_map(Result::ok);
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // One that ends meanwhile uses it no more.
    processes.filter(|pid| merging_pages(root, *pid).is_ok_and(|pages| pages > 0)).count()
}

/// CPU time since boot, all CPUs together, in clock ticks (`/proc/stat`, proc(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTicks {
    total: u64,
    stolen: u64,
}

impl CpuTicks {
    /// Reads it; `None` where the host does not tell.
    pub fn read(root: &HostRoot) -> Option<Self> {
        let text = read_text(&root.proc("stat")).ok()?;
        let fields: Vec<u64> = text
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))?
            .split_ascii_whitespace()
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
        Some(Self { total: fields.get(..8)?.iter().sum(), stolen: *fields.get(7)? })
    }

    /// The part (0 to 1) of the CPUs' time since `earlier` that the host's own hypervisor gave to others.
    pub fn stolen_since(&self, earlier: &Self) -> Option<f64> {
        let total = self.total.checked_sub(earlier.total).filter(|total| *total > 0)?;
        Some(self.stolen.checked_sub(earlier.stolen)? as f64 / total as f64)
    }
}

/// What may have disturbed a run, one sentence each.
pub fn disturbances(environment: &Environment, blocks: &[Block], stolen: Option<f64>) -> Vec<String> {
    let mut found = Vec::new();
    for arm in Arm::ALL {
        let shares: Vec<f64> =
            blocks.iter().filter_map(|block| block.sample(arm)).map(|sample| sample.cpu_share).collect();
        let lost = shares.iter().filter(|share| **share < QUIET_CPU_SHARE).count();
        if let (true, Some(share)) = (lost > 0, huddle_model::stats::median(&shares)) {
            found.push(format!(
                "other programs took CPU time: in arm {arm} the guests got {:.0} % of their CPUs (median), \
                 below {:.0} % in {lost} of {} blocks",
                share * 100.0,
                QUIET_CPU_SHARE * 100.0,
                shares.len()
            ));
        }
    }
    if let Some(load) = environment.load_1min.filter(|load| *load > 0.5) {
        found.push(format!("the host was not idle before the run: load average {load:.2}"));
    }
    if let Some(stolen) = stolen.filter(|stolen| *stolen > 0.01) {
        found.push(format!(
            "the host is itself a VM, and {:.1} % of its CPU time was given to others meanwhile",
            stolen * 100.0
        ));
    }
    // Not by `pages_shared`, which counts frames of processes that have ended until the next scan.
    if environment.ksm_users > 0 || environment.ksm.get("run").is_some_and(|run| run == "1") {
        found.push(format!(
            "KSM had other users: {} processes had merged pages before the run, and its scan was sped up and \
             paused meanwhile",
            environment.ksm_users
        ));
    }
    if let Some(governor) = environment.governor.as_ref().filter(|governor| *governor != "performance") {
        found.push(format!("the CPU frequency governor is {governor:?}: frequencies may have changed"));
    }
    if environment.numa_balancing.as_deref().is_some_and(|text| text != "0") {
        found.push("NUMA balancing is on: the kernel may have moved pages between nodes".into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::microbench::{ArmSample, GuestSample};

    fn tree() -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        for (path, text) in [
            (root.proc("cpuinfo"), "processor\t: 0\nmodel name\t: Xeon E5-2680\nflags\t\t: fpu hypervisor\n"),
            (root.sys("hypervisor/version/major"), "4\n"),
            (root.sys("hypervisor/version/minor"), "17\n"),
            (root.proc("loadavg"), "1.50 0.40 0.30 2/200 4711\n"),
            (root.proc("stat"), "cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 10 0 10 70 0 0 0 10 5 0\n"),
            (root.sys("kernel/mm/transparent_hugepage/enabled"), "always [madvise] never\n"),
            (root.sys("kernel/mm/ksm/run"), "1\n"),
            (root.sys("kernel/mm/ksm/pages_shared"), "12\n"),
            (root.proc("7/ksm_merging_pages"), "3\n"),
            (root.proc("8/ksm_merging_pages"), "0\n"),
            (root.sys("kernel/mm/ksm/advisor_mode"), "[none] scan-time\n"),
            (root.sys("devices/system/cpu/cpu0/cpufreq/scaling_governor"), "powersave\n"),
        ] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn a_host_is_read_and_what_it_does_not_tell_is_null() {
        let (_dir, root) = tree();
        let environment = Environment::read(&root);
        assert_eq!(environment.cpu_model.as_deref(), Some("Xeon E5-2680"));
        assert_eq!(environment.is_virtual, Some(true));
        assert_eq!(environment.transparent_hugepage.as_deref(), Some("madvise"));
        assert_eq!(environment.load_1min, Some(1.5));
        assert_eq!(environment.ksm["advisor_mode"], "none");
        assert_eq!((environment.kernel.as_deref(), environment.xen.as_deref()), (None, Some("4.17")));

        let empty = tempfile::tempdir().unwrap();
        let nothing = Environment::read(&HostRoot::at(empty.path()));
        assert_eq!((nothing.is_virtual, nothing.load_1min, nothing.ksm.len()), (None, None, 0));
        assert_eq!(CpuTicks::read(&HostRoot::at(empty.path())), None);
    }

    #[test]
    fn disturbances_are_told_and_a_quiet_host_has_none() {
        let (_dir, root) = tree();
        let guest =
            GuestSample { vm: "vm1".into(), vcpu: 0, reads: 1, elapsed_ns: 1, busy_ns: 1, host: None };
        let block = |cpu_share| {
            let samples = vec![ArmSample {
                arm: Arm::Opposed,
                guests: vec![guest.clone()],
                plan: None,
                merging: Vec::new(),
                occupancy: None,
                cpu_share,
            }];
            Block { number: 1, samples, invalid: None }
        };
        let mut environment = Environment::read(&root);
        let found = disturbances(&environment, &[block(0.5), block(0.99)], Some(0.02)).join("\n");
        for word in ["arm opposed", "1 of 2 blocks", "load average 1.50", "2.0 %", "1 processes", "powersave"]
        {
            assert!(found.contains(word), "{word} in {found}");
        }
        environment.load_1min = Some(0.1);
        environment.governor = Some("performance".into());
        // Frames that were merged for processes that are gone disturb nobody.
        environment.ksm_users = 0;
        environment.ksm.insert("run".into(), "0".into());
        assert_eq!(disturbances(&environment, &[block(0.99)], Some(0.0)), Vec::<String>::new());
    }

    #[test]
    fn stolen_time_is_a_part_of_all_time() {
        let (_dir, root) = tree();
        let early = CpuTicks::read(&root).unwrap();
        assert_eq!(early, CpuTicks { total: 100, stolen: 10 });
        let late = CpuTicks { total: 300, stolen: 20 };
        assert_eq!(late.stolen_since(&early), Some(0.05));
        assert_eq!(early.stolen_since(&late), None);
        assert_eq!(early.stolen_since(&early), None);
    }
}
