//! What sets the frequency of the CPUs (Documentation/admin-guide/pm/cpufreq.rst and
//! intel_pstate.rst, Linux 6.18).

use std::collections::BTreeMap;

use super::{HostError, HostRoot, optional, read_line, read_number, topology};

/// The governor of each online CPU that has one. Empty where none is told: then a hypervisor or the
/// firmware sets the frequency.
pub fn governors(root: &HostRoot) -> Result<BTreeMap<u32, String>, HostError> {
    let mut governors = BTreeMap::new();
    for cpu in topology::online_cpus(root)?.iter() {
        let path = root.sys(format!("devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"));
        governors.extend(optional(read_line(&path))?.map(|governor| (cpu, governor)));
    }
    Ok(governors)
}

/// Whether CPUs may run above their nominal frequency.
///
/// # Errors
/// [`HostError::is_gone`] is true where the host does not tell.
pub fn boost(root: &HostRoot) -> Result<bool, HostError> {
    match read_number::<u64>(&root.sys("devices/system/cpu/intel_pstate/no_turbo")) {
        Ok(off) => Ok(off == 0),
        Err(_) => read_number::<u64>(&root.sys("devices/system/cpu/cpufreq/boost")).map(|on| on != 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join("sys/devices/system/cpu").join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let root = HostRoot::at(dir.path());
        (dir, root)
    }

    #[test]
    fn each_online_cpu_has_its_governor_or_none() {
        let (_dir, root) = tree(&[
            ("online", "0,2-3\n"),
            ("cpu0/cpufreq/scaling_governor", "performance\n"),
            ("cpu1/cpufreq/scaling_governor", "powersave\n"),
            ("cpu2/cpufreq/scaling_governor", "schedutil\n"),
        ]);
        let expected = [(0, "performance".to_owned()), (2, "schedutil".to_owned())];
        assert_eq!(governors(&root).unwrap(), expected.into());
        let (_dir, nothing) = tree(&[]);
        assert!(governors(&nothing).unwrap_err().is_gone());
    }

    #[test]
    fn no_turbo_is_the_opposite_of_boost() {
        assert!(!boost(&tree(&[("intel_pstate/no_turbo", "1\n")]).1).unwrap_or(true));
        let (_dir, root) = tree(&[("intel_pstate/no_turbo", "1\n"), ("cpufreq/boost", "1\n")]);
        assert!(!boost(&root).unwrap());
        let (_dir, root) = tree(&[("cpufreq/boost", "1\n")]);
        assert!(boost(&root).unwrap());
        assert!(boost(&tree(&[]).1).unwrap_err().is_gone());
    }
}
