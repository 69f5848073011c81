//! Facts about the host that a reader of a recording must know, confounders among them.

use std::collections::BTreeMap;
use std::path::Path;

use huddle_model::availability::Availability;
use huddle_model::schema::Environment;

use huddle_host::{HostError, HostRoot, read_number, read_text};

/// Reads all of it; what cannot be read says why, so nothing here fails.
///
/// Files: proc(5); Documentation/ABI/testing/sysfs-devices-system-cpu,
/// Documentation/admin-guide/mm/{ksm,transhuge}.rst, Documentation/admin-guide/pm/cpufreq.rst,
/// Documentation/admin-guide/sysctl/kernel.rst (Linux 6.18).
pub fn read_environment(root: &HostRoot) -> Environment {
    let cpuinfo = read_text(&root.proc("cpuinfo"));
    Environment {
        kernel_release: line(&root.proc("sys/kernel/osrelease")).into(),
        kernel_version: line(&root.proc("version")).into(),
        kernel_parameters: kernel_parameters(root).into(),
        cpu_model: cpu_model(root, &cpuinfo),
        is_guest: cpu_flags(root, &cpuinfo)
            .map(|flags| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor")),
        cpus_online: line(&root.sys("devices/system/cpu/online")).into(),
        memory_bytes: memory_bytes(root).into(),
        ksm: ksm(root).into(),
        transparent_hugepage: line(&root.sys("kernel/mm/transparent_hugepage/enabled")).into(),
        khugepaged_defrag: line(&root.sys("kernel/mm/transparent_hugepage/khugepaged/defrag")).into(),
        governors: governors(root),
        frequency_boost: frequency_boost(root),
        numa_balancing: read_number::<u64>(&root.proc("sys/kernel/numa_balancing")).into(),
        smt_active: read_number::<u64>(&root.sys("devices/system/cpu/smt/active")).map(|n| n != 0).into(),
        nmi_watchdog: read_number::<u64>(&root.proc("sys/kernel/nmi_watchdog")).into(),
    }
}

/// Names of kernel parameters that confound measurements
/// (Documentation/admin-guide/kernel-parameters.txt, Linux 6.18). Not the whole command line: it may
/// hold what nobody wants in a file that is passed on.
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

fn kernel_parameters(root: &HostRoot) -> Result<Vec<String>, HostError> {
    let text = read_text(&root.proc("cmdline"))?;
    // What follows `--` is for init.
    let parameters = text.split_ascii_whitespace().take_while(|parameter| *parameter != "--");
    let confounds = |parameter: &&str| {
        let name = parameter.split('=').next().unwrap_or_default();
        CONFOUNDING_PARAMETERS.contains(&name)
    };
    Ok(parameters.filter(confounds).map(str::to_owned).collect())
}

fn line(path: &Path) -> Result<String, HostError> {
    Ok(read_text(path)?.trim().to_owned())
}

/// `model name` of x86; other architectures say less.
fn cpu_model(root: &HostRoot, cpuinfo: &Result<String, HostError>) -> Availability<String> {
    cpuinfo_field(root, cpuinfo, &["model name", "cpu model", "cpu"])
}

/// `flags` of x86; other architectures have no flag for being a guest.
fn cpu_flags(root: &HostRoot, cpuinfo: &Result<String, HostError>) -> Availability<String> {
    cpuinfo_field(root, cpuinfo, &["flags"])
}

fn cpuinfo_field(
    root: &HostRoot,
    cpuinfo: &Result<String, HostError>,
    names: &[&str],
) -> Availability<String> {
    let text = match cpuinfo {
        Ok(text) => text,
        Err(error) => return Availability::Unavailable(error.to_string()),
    };
    let value = names.iter().find_map(|wanted| {
        text.lines().filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
            (name.trim() == *wanted && !value.trim().is_empty()).then(|| value.trim().to_owned())
        })
    });
    value.map_or_else(
        || {
            let path = root.proc("cpuinfo");
            Availability::Unavailable(format!("{} has no {:?}", path.display(), names[0]))
        },
        Availability::Available,
    )
}

fn memory_bytes(root: &HostRoot) -> Result<u64, HostError> {
    let path = root.proc("meminfo");
    let text = read_text(&path)?;
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB")?.trim().parse().ok());
    let kib: u64 =
        kib.ok_or_else(|| HostError::parse(&path, text.lines().next().unwrap_or(""), "MemTotal in kB"))?;
    Ok(kib.saturating_mul(1024))
}

/// Every file of KSM as it is, so that settings of later kernels are kept too.
fn ksm(root: &HostRoot) -> Result<BTreeMap<String, Availability<String>>, HostError> {
    let dir = root.sys("kernel/mm/ksm");
    let read = |source| HostError::Read { path: dir.clone(), source };
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(&dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), line(&entry.path()).into());
    }
    Ok(files)
}

/// How many CPUs have each governor. A policy speaks for its `affected_cpus`.
fn governors(root: &HostRoot) -> Availability<BTreeMap<String, u32>> {
    let dir = root.sys("devices/system/cpu/cpufreq");
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(source) => {
            return Availability::Unavailable(HostError::Read { path: dir, source }.to_string());
        }
    };
    let mut governors = BTreeMap::new();
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with("policy") {
            continue;
        }
        let policy = entry.path();
        // Offline CPUs' policies have no readable governor, and nothing runs on them.
        let (Ok(governor), Ok(cpus)) =
            (line(&policy.join("scaling_governor")), line(&policy.join("affected_cpus")))
        else {
            continue;
        };
        let cpus = u32::try_from(cpus.split_ascii_whitespace().count()).unwrap_or(u32::MAX);
        *governors.entry(governor).or_insert(0) += cpus;
    }
    if governors.is_empty() {
        Availability::Unavailable(format!(
            "{} has no policy with a governor: the hypervisor or the firmware sets the frequency",
            dir.display()
        ))
    } else {
        Availability::Available(governors)
    }
}

fn frequency_boost(root: &HostRoot) -> Availability<bool> {
    let no_turbo = read_number::<u64>(&root.sys("devices/system/cpu/intel_pstate/no_turbo"));
    match no_turbo {
        Ok(off) => Availability::Available(off == 0),
        Err(_) => read_number::<u64>(&root.sys("devices/system/cpu/cpufreq/boost")).map(|on| on != 0).into(),
    }
}

#[cfg(test)]
mod tests {
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

    fn some<T>(value: T) -> Availability<T> {
        Availability::Available(value)
    }

    #[test]
    fn a_whole_host_is_read() {
        let (_dir, root) = tree(&[
            ("proc/sys/kernel/osrelease", "6.18.44\n"),
            ("proc/version", "Linux version 6.18.44 (gcc)\n"),
            ("proc/cmdline", "root=UUID=1 isolcpus=3 secret=x nosmt -- mem=4\n"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nmodel name\t: Xeon: big\nflags\t\t: fpu hypervisor lm\n\nprocessor\t: 1\nmodel name\t: other\n",
            ),
            ("proc/meminfo", "MemTotal:       24684092 kB\nMemFree: 1 kB\n"),
            ("proc/sys/kernel/numa_balancing", "1\n"),
            ("proc/sys/kernel/nmi_watchdog", "0\n"),
            ("sys/devices/system/cpu/online", "0-7\n"),
            ("sys/devices/system/cpu/smt/active", "1\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "performance\n"),
            ("sys/devices/system/cpu/cpufreq/policy0/affected_cpus", "0 1 2\n"),
            ("sys/devices/system/cpu/cpufreq/policy3/scaling_governor", "schedutil\n"),
            ("sys/devices/system/cpu/cpufreq/policy3/affected_cpus", "3\n"),
            ("sys/devices/system/cpu/cpufreq/boost", "1\n"),
            ("sys/kernel/mm/ksm/run", "1\n"),
            ("sys/kernel/mm/ksm/advisor_mode", "[none] scan-time\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/kernel/mm/transparent_hugepage/khugepaged/defrag", "1\n"),
        ]);
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
        for (name, value) in environment.as_object().unwrap() {
            let reason = value["unavailable"].as_str().unwrap_or_else(|| panic!("{name}: {value}"));
            assert!(reason.contains(root.proc("").to_str().unwrap().trim_end_matches("proc/")), "{reason}");
        }
        assert!(environment["nmi_watchdog"]["unavailable"].as_str().unwrap().contains("not a number"));
        assert!(environment["cpu_model"]["unavailable"].as_str().unwrap().contains("model name"));
    }

    #[test]
    fn no_turbo_is_the_opposite_of_boost() {
        let (_dir, root) = tree(&[("sys/devices/system/cpu/intel_pstate/no_turbo", "1\n")]);
        assert_eq!(frequency_boost(&root), some(false));
    }

    #[test]
    fn this_host_is_read() {
        let environment = read_environment(&HostRoot::real());
        assert!(environment.kernel_release.value().is_some_and(|release| release.contains('.')));
        assert!(environment.memory_bytes.value().is_some_and(|bytes| *bytes > 1 << 26));
    }
}
