//! The directories of monitoring groups: their names, making and removing them, and stale ones of ended
//! huddle processes.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use huddle_model::vm::{TaskId, Vm};

use super::mount_point;
use huddle_host::{HostRoot, task};

const PREFIX: &str = "huddle-";

/// Making and removing groups: in resctrl a directory comes and goes with its files.
pub(super) trait GroupDirectories: fmt::Debug + Send {
    fn make(&self, path: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Writes a line to the `mbm_L3_assignments` at `path`.
    fn assign(&self, path: &Path, line: &str) -> io::Result<()>;
}

/// The real ones of the kernel.
#[derive(Debug)]
pub(super) struct Kernel;

impl GroupDirectories for Kernel {
    fn make(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    fn assign(&self, path: &Path, line: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all(line.as_bytes())
    }
}

/// The name of a VM's group: its owner process and the VM.
pub(super) fn name(owner: TaskId, vm: &Vm) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let shown: String = vm.name.chars().take(64).map(plain).collect();
    format!("{PREFIX}{}-{}.{}-{shown}", owner.id, owner.start_ticks, vm.id.number())
}

/// Whether a group's name is one of huddle's.
pub(super) fn is_ours(name: &str) -> bool {
    owner(name).is_some()
}

fn owner(name: &str) -> Option<TaskId> {
    let (owner, _) = name.strip_prefix(PREFIX)?.split_once('.')?;
    let (id, start) = owner.split_once('-')?;
    Some(TaskId { id: id.parse().ok()?, start_ticks: start.parse().ok()? })
}

/// Moves a thread into a group.
pub(super) fn add_task(group: &Path, tid: i32) -> io::Result<()> {
    // One write per thread: kernels before 6.2 accept no lists, and only a write of an ended thread fails.
    OpenOptions::new().append(true).open(group.join("tasks"))?.write_all(format!("{tid}\n").as_bytes())
}

/// Outcome of removing stale groups, one sentence each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// How many were removed.
    pub removed: u32,
    /// What was done.
    pub notes: Vec<String>,
    /// What could not be removed, and why.
    pub failures: Vec<String>,
}

/// Removes the monitoring groups of ended huddle processes; those of running ones stay. Does nothing where
/// resctrl is not mounted.
pub fn remove_leftovers(root: &HostRoot) -> Leftovers {
    match mount_point(root) {
        Ok(Some(mount)) => remove_left(root, &mount, &Kernel),
        // Without the table of mounts no stale group is known.
        Ok(None) | Err(_) => Leftovers::default(),
    }
}

pub(super) fn remove_left(root: &HostRoot, mount: &Path, directories: &dyn GroupDirectories) -> Leftovers {
    let mut left = Leftovers::default();
    for path in left_over(root, mount, &mut left.failures) {
        match directories.remove(&path) {
            Ok(()) => {
                left.removed += 1;
                left.notes.push(format!(
                    "the monitoring group {}, left by an earlier huddle, is removed",
                    path.display()
                ));
            }
            Err(error) => {
                left.failures.push(format!(
                    "the monitoring group {}, left by an earlier huddle, cannot be removed: {error}; run as root",
                    path.display()
                ));
            }
        }
    }
    left
}

/// Groups with huddle's prefix whose owner is gone, in every control group.
fn left_over(root: &HostRoot, mount: &Path, failures: &mut Vec<String>) -> Vec<PathBuf> {
    let children = |path: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let parents = std::iter::once(mount.to_owned()).chain(children(mount));
    let mut found = Vec::new();
    for path in parents.flat_map(|parent| children(&parent.join("mon_groups"))) {
        let Some(owner) = path.file_name().and_then(|name| name.to_str()).and_then(owner) else { continue };
        match task::is_alive(root, owner) {
            Ok(true) => {}
            Ok(false) => found.push(path),
            Err(error) => failures.push(format!(
                "it is unknown whether the monitoring group {} is still used: {error}",
                path.display()
            )),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_identify_their_owner_for_any_vm_name() {
        let vm = |name: &str| Vm {
            name: name.into(),
            id: TaskId { id: 42, start_ticks: 1 }.into(),
            uuid: None,
            vmid: None,
            owner: None,
            vmm: huddle_model::vm::VmmKind::Process,
            vcpus: Vec::new(),
            memory: Vec::new(),
            allowed_cpus: huddle_model::cpuset::CpuSet::new(),
            left_out: Vec::new(),
            cannot_merge: Vec::new(),
        };
        let us = TaskId { id: 7, start_ticks: 99 };
        assert_eq!(name(us, &vm("web")), "huddle-7-99.42-web");
        for odd in ["../../etc", "a/b.c\nd", "", "仮想", &"x".repeat(300)] {
            let name = name(us, &vm(odd));
            assert_eq!(owner(&name), Some(us), "{name}");
            assert!(name.len() < 128 && !name.contains(['/', '\n']), "{name}");
        }
        for foreign in ["huddle", "huddle-", "huddle-7.x", "huddle-a-b.c", "qemu-1-web", "huddle-7-99"] {
            assert!(!is_ours(foreign), "{foreign}");
        }
    }
}
