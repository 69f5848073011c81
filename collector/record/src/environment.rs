//! Facts about the host that a reader of a recording must know, confounders among them.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::exits::ExitNumbering;
use huddle_model::schedulers::CacheAware;
use huddle_model::schema::Environment;

use huddle_host::architecture::Architecture;
use huddle_host::cpuinfo::CpuInfo;
use huddle_host::{
    HostError, HostRoot, cpufreq, cpuinfo, huge_pages, kernel, ksm, kvm, memory, page, schedulers, topology,
};

/// Reads all of it; what cannot be read is unavailable with the reason, so nothing here fails.
pub fn read_environment(root: &HostRoot) -> Environment {
    let cpuinfo = cpuinfo::read(root);
    Environment {
        kernel_release: kernel::release(root).into(),
        kernel_version: kernel::version(root).into(),
        kernel_parameters: confounding_parameters(root).into(),
        cpu_model: of_cpuinfo(root, &cpuinfo, "model name", CpuInfo::model_name),
        is_guest: of_cpuinfo(root, &cpuinfo, "flags", CpuInfo::is_guest),
        cpus_online: topology::online_cpus(root).map(|cpus| cpus.to_string()).into(),
        memory_bytes: memory::total_bytes(root).into(),
        ksm: ksm::files(root).map(ksm_values).into(),
        transparent_hugepage: huge_pages::enabled(root).into(),
        khugepaged_defrag: huge_pages::khugepaged_defrag(root).into(),
        governors: governors(root),
        frequency_boost: cpufreq::boost(root).into(),
        numa_balancing: kernel::numa_balancing(root).into(),
        smt_active: topology::smt_active(root).into(),
        nmi_watchdog: kernel::nmi_watchdog(root).into(),
        cache_aware_scheduling: Some(cache_aware_scheduling(root)),
        sched_ext: Some(schedulers::sched_ext(root).into()),
        mediated_vpmu: Some(mediated_vpmu(root)),
        page_bytes: Some(page::size()),
        exit_reasons: Some(exit_reasons(root)),
    }
}

fn cache_aware_scheduling(root: &HostRoot) -> Availability<CacheAware> {
    match schedulers::cache_aware(root) {
        Ok(Some(settings)) => Availability::Available(settings),
        Ok(None) => Availability::Unavailable(format!(
            "{} has no setting of cache-aware scheduling: this kernel does not have it",
            root.sys("kernel/debug/sched").display()
        )),
        Err(error) => Availability::Unavailable(error.to_string()),
    }
}

fn mediated_vpmu(root: &HostRoot) -> Availability<bool> {
    match kvm::mediated_vpmu(root) {
        Ok(Some(found)) => Availability::Available(found.is_on),
        Ok(None) => Availability::Unavailable(format!(
            "no module of KVM in {} has the parameter enable_mediated_pmu",
            root.sys("module").display()
        )),
        Err(error) => Availability::Unavailable(error.to_string()),
    }
}

fn exit_reasons(root: &HostRoot) -> Availability<ExitNumbering> {
    match Architecture::exit_numbering(root) {
        Some(numbering) => Availability::Available(numbering),
        None => Availability::Unavailable(format!(
            "{} names no processor that runs guests of KVM (vmx, svm or ARM64)",
            root.proc("cpuinfo").display()
        )),
    }
}

/// Names of kernel parameters that confound measurements
/// (Documentation/admin-guide/kernel-parameters.txt, Linux 6.18). Not the complete command line: it may hold
/// secrets, and recordings are passed on.
const CONFOUNDING_PARAMETERS: [&str; 22] = [
    "amd_pstate",
    "cpuidle.governor",
    "default_hugepagesz",
    "hugepages",
    "hugepagesz",
    "idle",
    "intel_idle.max_cstate",
    "intel_pstate",
    "isolcpus",
    "kvm.halt_poll_ns",
    "maxcpus",
    "mem",
    "mitigations",
    "nmi_watchdog",
    "nohz_full",
    "nosmt",
    "nr_cpus",
    "numa",
    "numa_balancing",
    "preempt",
    "processor.max_cstate",
    "transparent_hugepage",
];

fn confounding_parameters(root: &HostRoot) -> Result<Vec<String>, HostError> {
    let mut parameters = kernel::parameters(root)?;
    parameters.retain(|parameter| {
        let name = parameter.split('=').next().unwrap_or_default();
        CONFOUNDING_PARAMETERS.contains(&name)
    });
    Ok(parameters)
}

fn of_cpuinfo<T>(
    root: &HostRoot,
    cpuinfo: &Result<CpuInfo, HostError>,
    name: &str,
    value: impl FnOnce(&CpuInfo) -> Option<T>,
) -> Availability<T> {
    match cpuinfo {
        Ok(info) => value(info).map_or_else(
            || {
                let path = root.proc("cpuinfo");
                Availability::Unavailable(format!("{} has no {name:?}", path.display()))
            },
            Availability::Available,
        ),
        Err(error) => Availability::Unavailable(error.to_string()),
    }
}

fn ksm_values(files: BTreeMap<String, Result<String, HostError>>) -> BTreeMap<String, Availability<String>> {
    files.into_iter().map(|(name, line)| (name, line.into())).collect()
}

/// How many CPUs have each governor.
fn governors(root: &HostRoot) -> Availability<BTreeMap<String, u32>> {
    let of_cpus = match cpufreq::governors(root) {
        Ok(of_cpus) => of_cpus,
        Err(error) => return Availability::Unavailable(error.to_string()),
    };
    let mut governors = BTreeMap::new();
    for governor in of_cpus.into_values() {
        *governors.entry(governor).or_insert(0) += 1;
    }
    if governors.is_empty() {
        Availability::Unavailable(format!(
            "{} has no CPU with a governor: the hypervisor or the firmware sets the frequency",
            root.sys("devices/system/cpu").display()
        ))
    } else {
        Availability::Available(governors)
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::schedulers::SchedExt;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = HostRoot::at(dir.path());
        (dir, root)
    }

    /// The fields that every kernel has.
    const MEMINFO: &str = "\
MemTotal:       24684092 kB
MemFree:               1 kB
Buffers:               0 kB
Cached:                0 kB
SwapCached:            0 kB
Active:                0 kB
Inactive:              0 kB
SwapTotal:             0 kB
SwapFree:              0 kB
Dirty:                 0 kB
Writeback:             0 kB
Mapped:                0 kB
Slab:                  0 kB
Committed_AS:          0 kB
VmallocTotal:          0 kB
VmallocUsed:           0 kB
VmallocChunk:          0 kB
";

    fn some<T>(value: T) -> Availability<T> {
        Availability::Available(value)
    }

    #[test]
    fn all_facts_of_a_host_are_read() {
        let (_dir, root) = tree(&[
            ("proc/sys/kernel/osrelease", "6.18.44\n"),
            ("proc/version", "Linux version 6.18.44 (gcc)\n"),
            ("proc/cmdline", "root=UUID=1 isolcpus=3 secret=x nosmt -- mem=4\n"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nmodel name\t: Xeon: big\nflags\t\t: fpu vmx hypervisor lm\n\nprocessor\t: 1\nmodel name\t: other\n",
            ),
            ("proc/meminfo", MEMINFO),
            ("proc/sys/kernel/numa_balancing", "1\n"),
            ("proc/sys/kernel/nmi_watchdog", "0\n"),
            ("sys/devices/system/cpu/online", "0-7\n"),
            ("sys/devices/system/cpu/smt/active", "1\n"),
            ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "schedutil\n"),
            ("sys/devices/system/cpu/cpufreq/boost", "1\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
            ("sys/kernel/mm/ksm/advisor_mode", "[none] scan-time\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "1\n"),
            ("sys/kernel/debug/sched/llc_balancing/enabled", "always advise [never]\n"),
            ("sys/kernel/debug/sched/llc_balancing/overaggr_pct", "50\n"),
            ("sys/kernel/sched_ext/state", "enabled\n"),
            ("sys/kernel/sched_ext/root/ops", "layered_1.0.9\n"),
            ("sys/module/kvm_amd/parameters/enable_mediated_pmu", "Y\n"),
        ]);
        let settings = [
            ("llc_balancing/enabled".to_owned(), "always advise [never]".to_owned()),
            ("llc_balancing/overaggr_pct".to_owned(), "50".to_owned()),
        ];
        let sched_ext =
            SchedExt { state: "enabled".into(), scheduler: Some("layered_1.0.9".into()), switches_all: None };
        let ksm = BTreeMap::from([
            ("run".to_owned(), some("1".to_owned())),
            ("advisor_mode".to_owned(), some("[none] scan-time".to_owned())),
        ]);
        let governors = BTreeMap::from([("performance".to_owned(), 3), ("schedutil".to_owned(), 1)]);
        assert_eq!(
            read_environment(&root),
            Environment {
                kernel_release: some("6.18.44".into()),
                kernel_version: some("Linux version 6.18.44 (gcc)".into()),
                kernel_parameters: some(vec!["isolcpus=3".into(), "nosmt".into()]),
                cpu_model: some("Xeon: big".into()),
                is_guest: some(true),
                cpus_online: some("0-7".into()),
                memory_bytes: some(24_684_092 * 1024),
                ksm: some(ksm),
                transparent_hugepage: some("always [madvise] never".into()),
                khugepaged_defrag: some("1".into()),
                governors: some(governors),
                frequency_boost: some(true),
                numa_balancing: some(1),
                smt_active: some(true),
                nmi_watchdog: some(0),
                cache_aware_scheduling: Some(some(CacheAware(settings.into()))),
                sched_ext: Some(some(sched_ext)),
                mediated_vpmu: Some(some(true)),
                page_bytes: Some(page::size()),
                exit_reasons: Some(some(ExitNumbering::Vmx)),
            }
        );
    }

    #[test]
    fn an_empty_host_gives_reasons_and_never_values() {
        let (_dir, root) = tree(&[
            ("proc/cpuinfo", "processor : 0\n"),
            ("proc/meminfo", "MemTotal: lots\n"),
            ("proc/sys/kernel/nmi_watchdog", "\n"),
            ("sys/devices/system/cpu/cpufreq/keep", ""),
        ]);
        let environment = serde_json::to_value(read_environment(&root)).unwrap();
        // The size of a page is the running kernel's, of whatever tree.
        for (name, value) in environment.as_object().unwrap().iter().filter(|(name, _)| *name != "page_bytes")
        {
            let reason = value["unavailable"].as_str().unwrap_or_else(|| panic!("{name}: {value}"));
            assert!(reason.contains(root.proc("").to_str().unwrap().trim_end_matches("proc/")), "{reason}");
        }
        assert!(environment["nmi_watchdog"]["unavailable"].as_str().unwrap().contains("not a number"));
        assert!(environment["cpu_model"]["unavailable"].as_str().unwrap().contains("model name"));
    }

    #[test]
    fn without_governors_the_reason_names_what_sets_the_frequency() {
        let (_dir, root) = tree(&[("sys/devices/system/cpu/online", "0-1\n")]);
        let reason = governors(&root);
        assert!(reason.reason().is_some_and(|reason| reason.contains("the hypervisor")), "{reason:?}");
    }

    #[test]
    fn this_host_is_read() {
        let environment = read_environment(&HostRoot::real());
        assert!(environment.kernel_release.value().is_some_and(|release| release.contains('.')));
        assert!(environment.memory_bytes.value().is_some_and(|bytes| *bytes > 1 << 26));
    }
}
