//! Control groups: which processes are in one, and which CPUs one allows.
//!
//! Both hierarchies are understood: version 2 (Documentation/admin-guide/cgroup-v2.rst, Linux 6.18)
//! at `/sys/fs/cgroup` or, beside version 1, at `/sys/fs/cgroup/unified`; and the cpuset controller of
//! version 1 (Documentation/admin-guide/cgroup-v1/cpusets.rst) at `/sys/fs/cgroup/cpuset`.

use std::path::{Component, Path, PathBuf};

use huddle_model::cpuset::CpuSet;
use procfs_core::{ProcessCGroup, ProcessCGroups};

use super::limits::{TooMuch, count};
use super::{HostError, HostRoot, optional, parsed, read_cpus, read_text};

/// The CPUs that the control group of a process allows it; `None` where no cpuset controller tells
/// (then only the online CPUs limit it).
pub fn allowed_cpus(root: &HostRoot, pid: i32) -> Result<Option<CpuSet>, HostError> {
    let path = root.proc(format!("{pid}/cgroup"));
    let groups: ProcessCGroups = parsed(&path, "lines like 0::/machine.slice, as cgroups(7) has them")?;
    for (mount, group, names) in places(root, &groups.0) {
        if let Some(cpus) = walk_up(&mount, &group, names)? {
            return Ok(Some(cpus));
        }
    }
    Ok(None)
}

/// The control groups of a process, one for each hierarchy, as `/proc/PID/cgroup` has them.
pub fn paths(root: &HostRoot, pid: i32) -> Result<Vec<String>, HostError> {
    let text = read_text(&root.proc(format!("{pid}/cgroup")))?;
    // `ID:CONTROLLERS:PATH`, of which only the path may hold colons (cgroups(7)).
    Ok(text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect())
}

/// Where to look: the mount of a hierarchy, the group in it, and the files that tell, best first.
fn places(root: &HostRoot, groups: &[ProcessCGroup]) -> Vec<(PathBuf, PathBuf, &'static [&'static str])> {
    const V1: &[&str] = &["cpuset.effective_cpus", "cpuset.cpus"];
    const V2: &[&str] = &["cpuset.cpus.effective"];
    let mut v1 = Vec::new();
    let mut v2 = Vec::new();
    for ProcessCGroup { controllers, pathname, .. } in groups {
        let Some(group) = below(pathname) else { continue };
        if controllers.is_empty() {
            v2.push((root.sys("fs/cgroup"), group.clone(), V2));
            v2.push((root.sys("fs/cgroup/unified"), group, V2));
        } else if controllers.iter().any(|controller| controller == "cpuset") {
            v1.push((root.sys("fs/cgroup/cpuset"), group.clone(), V1));
            v1.push((root.sys("fs/cgroup").join(controllers.join(",")), group, V1));
        }
    }
    // A controller belongs to one hierarchy; where version 1 lists cpuset, version 2 does not have it.
    v1.into_iter().chain(v2).collect()
}

/// The group as a path below its mount; `None` where it lies outside of what this process sees
/// (`/../other`, another cgroup namespace).
fn below(group: &str) -> Option<PathBuf> {
    let group = Path::new(group.strip_prefix('/')?);
    group.components().all(|part| matches!(part, Component::Normal(_))).then(|| group.to_owned())
}

/// Only groups with the controller enabled have the file: the nearest one above rules.
fn walk_up(mount: &Path, group: &Path, names: &[&str]) -> Result<Option<CpuSet>, HostError> {
    for above in group.ancestors() {
        for name in names {
            if let Some(cpus) = optional(read_cpus(&mount.join(above).join(name)))?.filter(|c| !c.is_empty())
            {
                return Ok(Some(cpus));
            }
        }
    }
    Ok(None)
}

/// The directory of a control group that the user named: an absolute path as it is, else below the
/// mount of version 2, or below the first hierarchy of version 1 that has it.
///
/// # Errors
/// [`HostError::is_gone`] is true where no hierarchy has it.
pub fn directory(root: &HostRoot, path: &Path) -> Result<PathBuf, HostError> {
    if path.is_absolute() {
        return holds_processes(path.to_owned());
    }
    let mount = root.sys("fs/cgroup");
    let mut candidates = vec![mount.join(path), mount.join("unified").join(path)];
    if let Ok(hierarchies) = std::fs::read_dir(&mount) {
        let mut others: Vec<PathBuf> = hierarchies.flatten().map(|entry| entry.path().join(path)).collect();
        others.sort();
        candidates.extend(others);
    }
    let first = candidates[0].clone();
    let found = candidates.into_iter().find(|directory| directory.join("cgroup.procs").exists());
    found.map_or_else(|| holds_processes(first), Ok)
}

fn holds_processes(directory: PathBuf) -> Result<PathBuf, HostError> {
    let procs = directory.join("cgroup.procs");
    match std::fs::metadata(&procs) {
        Ok(_) => Ok(directory),
        Err(source) => Err(HostError::Read { path: procs, source }),
    }
}

/// The processes of the group at `directory` and of all groups below it, in ascending order.
///
/// # Errors
/// They cannot be read, or there are more than `most` of them, or as many groups: who is in a group may be allowed to
/// make any number below it.
pub fn processes(directory: &Path, most: u32) -> Result<Vec<i32>, HostError> {
    let mut pids = Vec::new();
    let mut left = vec![directory.to_owned()];
    let mut groups = 0;
    while let Some(directory) = left.pop() {
        groups += 1;
        if groups > count(most) || left.len() > count(most) || pids.len() > count(most) {
            let of = "processes and groups below it";
            return Err(TooMuch::Count { of, most: most.into(), limit: "cgroup_processes" }.into());
        }
        let path = directory.join("cgroup.procs");
        let Some(text) = optional(read_text(&path))? else { continue };
        for line in text.lines() {
            pids.push(line.trim().parse::<i32>().map_err(|_| HostError::parse(&path, line, "a pid"))?);
        }
        let read = |source| HostError::Read { path: directory.clone(), source };
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            // A group that is removed meanwhile has no processes any more.
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(read(source)),
        };
        for entry in entries {
            let entry = entry.map_err(read)?;
            if entry.file_type().map_err(read)?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    pids.sort_unstable();
    pids.dedup();
    // A process of another pid namespace is listed as 0: it has no number that huddle could use.
    pids.retain(|pid| *pid > 0);
    Ok(pids)
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

    fn cpus(root: &HostRoot) -> Option<String> {
        allowed_cpus(root, 9).unwrap().map(|cpus| cpus.to_string())
    }

    #[test]
    fn version_2_is_found_by_walking_up() {
        let (_dir, root) = tree(&[
            ("proc/9/cgroup", "0::/machine.slice/vm.scope/emulator\n"),
            ("sys/fs/cgroup/machine.slice/cpuset.cpus.effective", "2-5\n"),
            ("sys/fs/cgroup/cpuset.cpus.effective", "0-7\n"),
        ]);
        assert_eq!(cpus(&root).as_deref(), Some("2-5"));
    }

    #[test]
    fn paths_may_hold_colons() {
        let (_dir, root) = tree(&[("proc/9/cgroup", "4:memory:/a:b\n1:name=systemd:/c\n0::/\n")]);
        assert_eq!(paths(&root, 9).unwrap(), ["/a:b", "/c", "/"]);
    }

    #[test]
    fn version_1_rules_where_it_has_the_controller() {
        let (_dir, root) = tree(&[
            ("proc/9/cgroup", "4:memory:/a\n3:cpuset:/vms/one\n0::/\n"),
            ("sys/fs/cgroup/cpuset/vms/one/cpuset.effective_cpus", "4\n"),
            ("sys/fs/cgroup/unified/cpuset.cpus.effective", "0-7\n"),
        ]);
        assert_eq!(cpus(&root).as_deref(), Some("4"));
    }

    #[test]
    fn what_cannot_be_known_is_none_and_damage_is_an_error() {
        let (_dir, root) =
            tree(&[("proc/9/cgroup", "0::/../other\n"), ("sys/fs/cgroup/cpuset.cpus.effective", "0-7\n")]);
        assert_eq!(cpus(&root), None);
        std::fs::write(root.proc("9/cgroup"), "0::/\n").unwrap();
        assert_eq!(cpus(&root).as_deref(), Some("0-7"));
        std::fs::write(root.sys("fs/cgroup/cpuset.cpus.effective"), "0-x\n").unwrap();
        assert!(allowed_cpus(&root, 9).unwrap_err().to_string().contains("0-x"));
        std::fs::write(root.proc("9/cgroup"), "one:two\n").unwrap();
        let error = allowed_cpus(&root, 9).unwrap_err().to_string();
        assert!(error.contains("9/cgroup") && error.contains("one:two"), "{error}");
    }

    #[test]
    fn processes_are_found_below_too() {
        let (_dir, root) = tree(&[
            ("sys/fs/cgroup/memory/web/cgroup.procs", "30\n0\n"),
            ("sys/fs/cgroup/memory/web/a/cgroup.procs", "20\n30\n"),
            ("sys/fs/cgroup/memory/web/a/b/cgroup.procs", "10\n"),
        ]);
        let directory = super::directory(&root, Path::new("web")).unwrap();
        assert_eq!(processes(&directory, 10).unwrap(), [10, 20, 30]);
        assert!(processes(&directory, 2).unwrap_err().to_string().contains("cgroup_processes"));
        assert_eq!(super::directory(&root, &directory).unwrap(), directory);
        assert!(super::directory(&root, Path::new("nowhere")).unwrap_err().is_gone());
    }
}
