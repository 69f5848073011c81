//! Control groups: which processes are in one, and which CPUs one allows.
//!
//! Both hierarchies are understood, wherever they are mounted: version 2 (Documentation/admin-guide/cgroup-v2.rst,
//! Linux 6.18), with threaded groups; and the cpuset controller of version 1
//! (Documentation/admin-guide/cgroup-v1/cpusets.rst), also without the prefix of its files (`mount -t cpuset`).
//! Each thread has groups of its own: libvirt has one for each vCPU.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use huddle_model::cpuset::CpuSet;
use nix::errno::Errno;
use procfs_core::{ProcessCGroup, ProcessCGroups};

use super::limits::{TooMuch, count};
use super::mounts::{self, Mount};
use super::{HostError, HostRoot, optional, parsed, read_cpus, read_text, task};

/// The cpusets of this host, each read once: they hold for as long as this lives, which is one round.
#[derive(Debug)]
pub struct Cpusets {
    places: Vec<Place>,
    known: HashMap<(usize, PathBuf), Option<CpuSet>>,
}

/// Where groups with a cpuset may be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// Its mount.
    at: PathBuf,
    /// The group that is mounted there, from the top of the hierarchy.
    top: PathBuf,
    version: Version,
    /// The files that say which CPUs a group allows, best first.
    files: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

const FILES_V1: &[&str] = &["cpuset.effective_cpus", "cpuset.cpus"];
const FILES_V1_NO_PREFIX: &[&str] = &["effective_cpus", "cpus"];
const FILES_V2: &[&str] = &["cpuset.cpus.effective"];

impl Cpusets {
    /// Looks where they are mounted.
    pub fn of_host(root: &HostRoot) -> Self {
        // Where that is not said, the usual places are as good as any.
        let mounted = mounts::mounts(root, |kind| ["cgroup", "cgroup2", "cpuset"].contains(&kind));
        let mounted = mounted.unwrap_or_default();
        let mut places: Vec<Place> = mounted.into_iter().filter_map(Place::of_mount).collect();
        let usual = |path: &str, version, files| Place {
            at: root.sys("fs/cgroup").join(path),
            top: "/".into(),
            version,
            files,
        };
        for place in [
            usual("cpuset", Version::One, FILES_V1),
            usual("", Version::Two, FILES_V2),
            usual("unified", Version::Two, FILES_V2),
        ] {
            if places.iter().all(|known| known.at != place.at) {
                places.push(place);
            }
        }
        // A controller belongs to one hierarchy; where version 1 lists cpuset, version 2 does not have it.
        places.sort_by_key(|place| place.version == Version::Two);
        Self { places, known: HashMap::new() }
    }

    /// The CPUs that the control group of a process allows it; `None` where no cpuset controller says so (then only
    /// the online CPUs limit it).
    pub fn of_process(&mut self, root: &HostRoot, pid: i32) -> Result<Option<CpuSet>, HostError> {
        self.of_task(&root.proc(format!("{pid}/cgroup")))
    }

    /// The same of one thread.
    pub fn of_thread(&mut self, root: &HostRoot, pid: i32, tid: i32) -> Result<Option<CpuSet>, HostError> {
        self.of_task(&root.proc(format!("{pid}/task/{tid}/cgroup")))
    }

    fn of_task(&mut self, path: &Path) -> Result<Option<CpuSet>, HostError> {
        let groups: ProcessCGroups = parsed(path, "lines like 0::/machine.slice, as cgroups(7) has them")?;
        for place in 0..self.places.len() {
            let Place { top, version, .. } = &self.places[place];
            let Some(group) = groups.0.iter().find(|group| version.is_of(group)) else { continue };
            let Some(group) = below(&group.pathname, top) else { continue };
            if let Some(cpus) = self.of_group(place, group)? {
                return Ok(Some(cpus));
            }
        }
        Ok(None)
    }

    fn of_group(&mut self, place: usize, group: PathBuf) -> Result<Option<CpuSet>, HostError> {
        let key = (place, group);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        let Place { at, files, .. } = &self.places[place];
        let cpus = walk_up(at, &key.1, files)?;
        self.known.insert(key, cpus.clone());
        Ok(cpus)
    }
}

impl Place {
    fn of_mount(mount: Mount) -> Option<Self> {
        let has = |option: &str| mount.options.iter().any(|known| known == option);
        let (version, files) = match mount.kind.as_str() {
            "cgroup2" => (Version::Two, FILES_V2),
            "cpuset" => (Version::One, FILES_V1_NO_PREFIX),
            "cgroup" if has("cpuset") && has("noprefix") => (Version::One, FILES_V1_NO_PREFIX),
            "cgroup" if has("cpuset") => (Version::One, FILES_V1),
            _ => return None,
        };
        Some(Self { at: mount.at, top: mount.root, version, files })
    }
}

impl Version {
    /// Whether a line of `/proc/PID/cgroup` is of the hierarchy that may have the cpuset controller.
    fn is_of(self, group: &ProcessCGroup) -> bool {
        match self {
            Self::One => group.controllers.iter().any(|controller| controller == "cpuset"),
            Self::Two => group.controllers.is_empty(),
        }
    }
}

/// The control groups of a process, one for each hierarchy, as `/proc/PID/cgroup` has them.
pub fn paths(root: &HostRoot, pid: i32) -> Result<Vec<String>, HostError> {
    let text = read_text(&root.proc(format!("{pid}/cgroup")))?;
    // `ID:CONTROLLERS:PATH`, of which only the path may hold colons (cgroups(7)).
    Ok(text.lines().filter_map(|line| line.splitn(3, ':').nth(2)).map(str::to_owned).collect())
}

/// The group as a path below what is mounted; `None` where it lies outside of that, or of what this process sees
/// (`/../other`, another cgroup namespace).
fn below(group: &str, top: &Path) -> Option<PathBuf> {
    let group = Path::new(group).strip_prefix(top).ok()?;
    group.components().all(|part| matches!(part, Component::Normal(_))).then(|| group.to_owned())
}

/// Only groups with the controller enabled have the file: the nearest one above rules.
fn walk_up(mount: &Path, group: &Path, names: &[&str]) -> Result<Option<CpuSet>, HostError> {
    for above in group.ancestors() {
        for name in names {
            let file = mount.join(above).join(name);
            if let Some(cpus) = optional(read_cpus(&file))?.filter(|cpus| !cpus.is_empty()) {
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
pub fn processes(root: &HostRoot, directory: &Path, most: u32) -> Result<Vec<i32>, HostError> {
    let mut pids = Vec::new();
    let mut left = vec![directory.to_owned()];
    let mut groups = 0;
    while let Some(directory) = left.pop() {
        groups += 1;
        if groups > count(most) || left.len() > count(most) || pids.len() > count(most) {
            let of = "processes and groups below it";
            return Err(TooMuch::Count { of, most: most.into(), limit: "cgroup_processes" }.into());
        }
        pids.extend(of_group(root, &directory)?);
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

/// The processes in one group, of which there may be none.
fn of_group(root: &HostRoot, directory: &Path) -> Result<Vec<i32>, HostError> {
    let ids = |file: &str| -> Result<Vec<i32>, HostError> {
        let path = directory.join(file);
        let text = optional(read_text(&path))?.unwrap_or_default();
        let id = |line: &str| line.trim().parse().map_err(|_| HostError::parse(&path, line, "a pid"));
        text.lines().map(id).collect()
    };
    match ids("cgroup.procs") {
        Err(HostError::Read { source, .. }) if source.raw_os_error() == Some(Errno::EOPNOTSUPP as i32) => {
            // A threaded group has threads, of processes that the group above it lists.
            let mut pids = Vec::new();
            for tid in ids("cgroup.threads")?.into_iter().filter(|tid| *tid > 0) {
                pids.extend(optional(task::process_of(root, tid))?);
            }
            Ok(pids)
        }
        pids => pids,
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

    fn cpus(root: &HostRoot) -> Option<String> {
        Cpusets::of_host(root).of_process(root, 9).unwrap().map(|cpus| cpus.to_string())
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
    fn each_thread_has_a_group_of_its_own() {
        let (_dir, root) = tree(&[
            ("proc/9/cgroup", "0::/vm.scope/emulator\n"),
            ("proc/9/task/10/cgroup", "0::/vm.scope/vcpu0\n"),
            ("sys/fs/cgroup/vm.scope/emulator/cpuset.cpus.effective", "0\n"),
            ("sys/fs/cgroup/vm.scope/vcpu0/cpuset.cpus.effective", "1\n"),
        ]);
        let mut cpusets = Cpusets::of_host(&root);
        assert_eq!(cpusets.of_process(&root, 9).unwrap().unwrap().to_string(), "0");
        assert_eq!(cpusets.of_thread(&root, 9, 10).unwrap().unwrap().to_string(), "1");
        assert!(cpusets.of_thread(&root, 9, 11).unwrap_err().is_gone());
    }

    #[test]
    fn cpusets_are_found_wherever_they_are_mounted() {
        for (kind, file) in [
            ("cgroup cpuset rw,cpuset", "cpuset.cpus"),
            ("cgroup none rw,cpuset,noprefix", "cpus"),
            ("cpuset none rw", "effective_cpus"),
        ] {
            let (dir, root) = tree(&[
                ("proc/9/cgroup", "5:cpuset:/shield/guest\n0::/\n"),
                (&format!("cpusets/guest/{file}"), "1\n"),
                ("sys/fs/cgroup/cpuset.cpus.effective", "0-1\n"),
            ]);
            // A part of the hierarchy, as in a container.
            let at = dir.path().join("cpusets");
            let line = format!("30 24 0:26 /shield {} rw shared:9 - {kind}\n", at.display());
            std::fs::create_dir_all(root.proc("self")).unwrap();
            std::fs::write(root.proc("self/mountinfo"), line).unwrap();
            assert_eq!(cpus(&root).as_deref(), Some("1"), "{kind}");
        }
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
        let of = |root: &HostRoot| Cpusets::of_host(root).of_process(root, 9);
        assert!(of(&root).unwrap_err().to_string().contains("0-x"));
        std::fs::write(root.proc("9/cgroup"), "one:two\n").unwrap();
        let error = of(&root).unwrap_err().to_string();
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
        assert_eq!(processes(&root, &directory, 10).unwrap(), [10, 20, 30]);
        assert!(processes(&root, &directory, 2).unwrap_err().to_string().contains("cgroup_processes"));
        assert_eq!(super::directory(&root, &directory).unwrap(), directory);
        assert!(super::directory(&root, Path::new("nowhere")).unwrap_err().is_gone());
    }
}
