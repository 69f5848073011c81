//! Which CPUs are online: `/sys/devices/system/cpu/online` (Documentation/ABI/testing/sysfs-devices-system-cpu,
//! Linux 6.18), unless what this process may run on contradicts it.
//!
//! In containers lxcfs puts its own file there, which counts the container's CPUs from 0, whatever their numbers are
//! (lxcfs(1); `src/sysfs_fuse.c` of lxcfs 6.0). An affinity is what the kernel says, so it wins.

use std::path::Path;

use huddle_model::cpuset::CpuSet;

use super::{HostError, HostRoot, mounts, read_cpus, status};

/// The CPUs that are online.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Online {
    /// The CPUs.
    pub cpus: CpuSet,
    /// How the file and the affinity of this process contradict each other, as one sentence; `None` if they do not.
    pub contradiction: Option<String>,
}

/// The type of lxcfs in the table of mounts.
const LXCFS: &str = "fuse.lxcfs";

/// Reads them.
pub fn read(root: &HostRoot) -> Result<Online, HostError> {
    let directory = root.sys("devices/system/cpu");
    let path = directory.join("online");
    let reported = read_cpus(&path)?;
    let plain = |cpus| Online { cpus, contradiction: None };
    // Without an affinity nothing contradicts the file.
    let Ok(allowed) = status::own(root).map(|own| own.cpus_allowed) else { return Ok(plain(reported)) };
    let is_lxcfs = mounts::is_on(root, LXCFS, &path).unwrap_or(false);
    // An affinity may have CPUs that are offline, but not only such.
    let is_contradicted = allowed.is_disjoint(&reported) || is_lxcfs && !allowed.is_subset(&reported);
    if !is_contradicted || allowed.is_empty() {
        return Ok(plain(reported));
    }
    // Only a CPU that is online has these directories (drivers/base/topology.c, drivers/base/cacheinfo.c, Linux 6.18).
    let is_described = |cpu: &u32| {
        let cpu = directory.join(format!("cpu{cpu}"));
        is_there(&cpu.join("topology")) || is_there(&cpu.join("cache"))
    };
    let described: CpuSet = allowed.iter().filter(is_described).collect();
    let cpus = if described.is_empty() { allowed.clone() } else { described };
    let why = match is_lxcfs {
        true => "lxcfs, which is mounted there, counts the CPUs of a container anew",
        false => "lxcfs or its like shows other CPUs than there are",
    };
    let contradiction = format!(
        "{} says {reported}, but this process may run on {allowed}: {why}, so the affinity counts: {cpus}",
        path.display()
    );
    Ok(Online { cpus, contradiction: Some(contradiction) })
}

fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(online: &str, allowed: &str) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.sys("devices/system/cpu")).unwrap();
        std::fs::create_dir_all(root.proc("self")).unwrap();
        std::fs::write(root.sys("devices/system/cpu/online"), online).unwrap();
        let status = format!("CapEff:\t0\nCpus_allowed_list:\t{allowed}\n");
        std::fs::write(root.proc("self/status"), status).unwrap();
        (dir, root)
    }

    #[test]
    fn the_affinity_wins_over_a_file_that_it_contradicts() {
        let (_dir, root) = tree("0\n", "1");
        let online = read(&root).unwrap();
        assert_eq!(online.cpus.to_string(), "1");
        let said = online.contradiction.unwrap();
        assert!(said.contains("online says 0") && said.contains("may run on 1: lxcfs"), "{said}");
        // Of a mask with CPUs that are offline those that the kernel describes count.
        let (_dir, root) = tree("0-1\n", "4-63");
        for cpu in [4, 6] {
            std::fs::create_dir_all(root.sys(format!("devices/system/cpu/cpu{cpu}/topology"))).unwrap();
        }
        assert_eq!(read(&root).unwrap().cpus.to_string(), "4,6");
    }

    #[test]
    fn offline_cpus_in_an_affinity_contradict_nothing_without_lxcfs() {
        let (_dir, root) = tree("0-3\n", "2-5");
        assert_eq!(read(&root).unwrap(), Online { cpus: "0-3".parse().unwrap(), contradiction: None });
        let mounts = format!("lxcfs {} fuse.lxcfs rw 0 0\n", root.sys("devices/system/cpu").display());
        std::fs::write(root.proc("self/mounts"), mounts).unwrap();
        let online = read(&root).unwrap();
        assert_eq!(online.cpus.to_string(), "2-5");
        assert!(online.contradiction.unwrap().contains("lxcfs, which is mounted there"));
        std::fs::remove_file(root.proc("self/status")).unwrap();
        assert_eq!(read(&root).unwrap().cpus.to_string(), "0-3");
    }
}
