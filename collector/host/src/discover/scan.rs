//! Which processes of the host are VMs.
//!
//! A process that holds a KVM VM has a descriptor `anon_inode:kvm-vm` (virt/kvm/kvm_main.c, Linux
//! 6.18). QEMU that translates code (TCG) has none and is known by its program. Threads of the kernel
//! have no descriptors and no program, so they cost one empty directory each.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use huddle_model::vm::VmmKind;

use super::{cmdline, vcpus};
use crate::task::{self, TaskStat};
use crate::{HostError, HostRoot, read_text};

/// What a process is, as far as its descriptors and its program tell.
#[derive(Clone, Debug)]
pub(crate) struct Inspected {
    pub(crate) stat: TaskStat,
    /// `None` where it holds no VM.
    pub(crate) kind: Option<VmmKind>,
    pub(crate) args: Vec<String>,
    pub(crate) kvm: KvmDescriptors,
}

/// The descriptors of KVM that a process holds: number and what it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct KvmDescriptors {
    all: BTreeSet<(i32, String)>,
}

impl KvmDescriptors {
    pub(crate) fn vms(&self) -> usize {
        self.all.iter().filter(|(_, what)| what == "kvm-vm").count()
    }

    /// How many different vCPUs; kernels before 4.18 do not number them.
    pub(crate) fn vcpus(&self) -> usize {
        self.all.iter().filter(|(_, what)| what.starts_with("kvm-vcpu")).count()
    }
}

/// What a look at all processes found.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// VMs in ascending pid.
    pub(crate) vms: Vec<Inspected>,
    /// Processes whose descriptors this program may not see.
    pub(crate) denied: BTreeSet<i32>,
    pub(crate) notes: Vec<String>,
}

/// The ids of all processes, ascending.
pub(crate) fn pids(root: &HostRoot) -> Result<Vec<i32>, HostError> {
    let path = root.proc("");
    let read = |source| HostError::Read { path: path.clone(), source };
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(&path).map_err(read)? {
        pids.extend(entry.map_err(read)?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    pids.sort_unstable();
    Ok(pids)
}

/// Looks at every process that is not in `skip`.
pub(crate) fn host(root: &HostRoot, skip: &BTreeSet<i32>) -> Result<Scanned, HostError> {
    let mut scanned = Scanned::default();
    for pid in pids(root)?.into_iter().filter(|pid| !skip.contains(pid)) {
        let kvm = match kvm_descriptors(root, pid) {
            Ok(kvm) => kvm,
            Err(error) if error.is_gone() => continue,
            Err(error) if error.is_denied() => {
                if is_user_process(root, pid) {
                    scanned.denied.insert(pid);
                }
                KvmDescriptors::default()
            }
            Err(error) => {
                scanned.notes.push(format!("process {pid} is ignored: {error}"));
                continue;
            }
        };
        let Some(kind) = kind(root, pid, &kvm) else { continue };
        let stat_and_args = task::process(root, pid).and_then(|stat| Ok((stat, args(root, pid)?)));
        match stat_and_args {
            Ok((stat, _)) if stat.is_dead() => {}
            Ok((stat, args)) => scanned.vms.push(Inspected { stat, kind: Some(kind), args, kvm }),
            Err(error) if error.is_gone() => {}
            Err(error) => scanned.notes.push(format!("process {pid} is ignored: {error}")),
        }
    }
    drop_heirs(root, &mut scanned);
    Ok(scanned)
}

/// Looks at one process, whatever it is. What may not be seen counts as no VM.
pub(crate) fn process(root: &HostRoot, stat: TaskStat) -> Result<Inspected, HostError> {
    let pid = stat.id.id;
    let kvm = match kvm_descriptors(root, pid) {
        Err(error) if error.is_denied() => KvmDescriptors::default(),
        other => other?,
    };
    let kind = kind(root, pid, &kvm);
    Ok(Inspected { stat, kind, args: args(root, pid)?, kvm })
}

/// A child that was forked with its parent's descriptors open is not a second VM.
fn drop_heirs(root: &HostRoot, scanned: &mut Scanned) {
    let held: BTreeMap<i32, BTreeSet<(i32, String)>> =
        scanned.vms.iter().map(|vm| (vm.stat.id.id, vm.kvm.all.clone())).collect();
    let notes = &mut scanned.notes;
    scanned.vms.retain(|vm| {
        let inherited = !vm.kvm.all.is_empty()
            && held.get(&vm.stat.parent).is_some_and(|parents| vm.kvm.all.is_subset(parents));
        let runs_vcpus = || {
            let threads = vcpus::threads(root, vm.stat.id.id).unwrap_or_default();
            !vcpus::by_name(&threads).is_empty()
        };
        let heir = inherited && !runs_vcpus();
        if heir {
            notes.push(format!(
                "process {} ({}) has inherited the KVM descriptors of process {}; it is not counted as a VM",
                vm.stat.id, vm.stat.name, vm.stat.parent
            ));
        }
        !heir
    });
}

fn kvm_descriptors(root: &HostRoot, pid: i32) -> Result<KvmDescriptors, HostError> {
    let directory = root.proc(format!("{pid}/fd"));
    let read = |source: io::Error| HostError::Read { path: directory.clone(), source };
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(&directory).map_err(read)? {
        let entry = entry.map_err(read)?;
        let target = match std::fs::read_link(entry.path()) {
            Ok(target) => target,
            Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(read(source)),
        };
        let Some(what) = target.to_str().and_then(|target| target.strip_prefix("anon_inode:")) else {
            continue;
        };
        let what = what.trim_start_matches('[').trim_end_matches(']');
        if what == "kvm-vm" || what.starts_with("kvm-vcpu") {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(-1);
            all.insert((number, what.to_owned()));
        }
    }
    Ok(KvmDescriptors { all })
}

fn kind(root: &HostRoot, pid: i32, kvm: &KvmDescriptors) -> Option<VmmKind> {
    let holds_vm = kvm.vms() > 0;
    let program = program(root, pid);
    let program = program.as_deref().unwrap_or("");
    let is_qemu = program.starts_with("qemu-system-") || ["qemu-kvm", "kvm"].contains(&program);
    match (holds_vm, is_qemu) {
        (true, true) => Some(VmmKind::QemuKvm),
        (false, true) => Some(VmmKind::QemuTcg),
        (false, false) => None,
        // 15 letters are all that a thread's name holds, where the program cannot be seen.
        (true, false) if program.starts_with("firecracker") => Some(VmmKind::Firecracker),
        (true, false) if program.starts_with("cloud-hyperviso") => Some(VmmKind::CloudHypervisor),
        (true, false) if program.starts_with("crosvm") => Some(VmmKind::Crosvm),
        (true, false) => Some(VmmKind::OtherKvm),
    }
}

/// The file name of the program that runs; the thread's name where the program may not be seen.
fn program(root: &HostRoot, pid: i32) -> Option<String> {
    match std::fs::read_link(root.proc(format!("{pid}/exe"))) {
        Ok(path) => {
            let name = path.file_name()?.to_string_lossy().into_owned();
            Some(name.strip_suffix(" (deleted)").map(str::to_owned).unwrap_or(name))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            read_text(&root.proc(format!("{pid}/comm"))).ok().map(|name| name.trim_end().to_owned())
        }
        // Threads of the kernel have no program.
        Err(_) => None,
    }
}

/// The command line; empty for threads of the kernel and for what has ended.
fn args(root: &HostRoot, pid: i32) -> Result<Vec<String>, HostError> {
    match read_text(&root.proc(format!("{pid}/cmdline"))) {
        Ok(text) => Ok(cmdline::args(&text)),
        Err(error) if error.is_gone() || error.is_denied() => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn is_user_process(root: &HostRoot, pid: i32) -> bool {
    task::process(root, pid).is_ok_and(|stat| !stat.is_kernel_thread && !stat.is_dead())
}
