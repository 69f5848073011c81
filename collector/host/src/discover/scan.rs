//! What one process is: whether it holds a VM, of which VMM, and what its command line says.
//!
//! A process that holds a KVM VM has a descriptor `anon_inode:kvm-vm` (virt/kvm/kvm_main.c, Linux
//! 6.18). QEMU that translates code (TCG) has none and is known by its program. Threads of the kernel
//! have no descriptors and no program.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use huddle_model::vm::{TaskId, VmmKind};

use super::cmdline::{self, CommandLine};
use super::vcpus;
use crate::limits::{Budget, Limits, TooMuch, VmTime, count};
use crate::status::{self, ProcessIds};
use crate::task::TaskStat;
use crate::{HostError, HostRoot, cgroup, read_at_most, read_text};

/// What a process is, as far as its descriptors and its program tell.
#[derive(Clone, Debug)]
pub(crate) struct Inspected {
    pub(crate) id: TaskId,
    /// `comm`.
    pub(crate) comm: String,
    pub(crate) parent: i32,
    /// `None` where it holds no VM.
    pub(crate) kind: Option<VmmKind>,
    pub(crate) line: CommandLine,
    pub(crate) kvm: KvmDescriptors,
    /// Whose it is; `None` where that is hidden.
    pub(crate) ids: Option<ProcessIds>,
    /// Its control groups, of all hierarchies.
    pub(crate) cgroups: Vec<String>,
    /// What of it is beyond a limit.
    pub(crate) too_much: Option<TooMuch>,
    /// Whether its descriptors may not be seen.
    pub(crate) is_hidden: bool,
}

/// The descriptors of KVM that a process holds: number and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KvmDescriptors {
    all: BTreeSet<(i32, String)>,
    /// Whether it also holds a group or a device of VFIO.
    has_vfio: bool,
}

impl KvmDescriptors {
    pub(crate) fn vms(&self) -> usize {
        self.all.iter().filter(|(_, what)| what == "kvm-vm").count()
    }

    /// Whether devices are passed through (`/dev/vfio/GROUP`, `/dev/vfio/devices/vfioN`), for which all guest memory is
    /// pinned.
    pub(crate) fn has_vfio(&self) -> bool {
        self.has_vfio
    }

    /// How many different vCPUs; kernels before 4.18 do not number them.
    pub(crate) fn vcpus(&self) -> usize {
        self.all.iter().filter(|(_, what)| what.starts_with("kvm-vcpu")).count()
    }
}

/// Looks at one process, whatever it is. What may not be seen counts as no VM.
pub(crate) fn process(
    root: &HostRoot,
    stat: &TaskStat,
    limits: &Limits,
    time: VmTime,
) -> Result<Inspected, HostError> {
    let pid = stat.id.id;
    let mut too_much = None;
    let (kvm, is_hidden) = match kvm_descriptors(root, pid, limits, time) {
        Ok(kvm) => (kvm, false),
        Err(error) if error.is_denied() => (KvmDescriptors::default(), true),
        // That it took long now says nothing about the process.
        Err(HostError::TooMuch(why @ TooMuch::Count { .. })) => {
            too_much = Some(why);
            (KvmDescriptors::default(), false)
        }
        Err(error) => return Err(error),
    };
    let kind = kind(program(root, pid).as_deref().unwrap_or(""), &kvm);
    let line = match command_line(root, pid, kind, limits) {
        Err(HostError::TooMuch(why)) => {
            too_much = Some(why);
            CommandLine::default()
        }
        other => other?,
    };
    Ok(Inspected {
        id: stat.id,
        comm: stat.name.clone(),
        parent: stat.parent,
        kind,
        line,
        kvm,
        // Both are read of others by whoever may see the process at all.
        ids: status::ids(root, pid).ok(),
        cgroups: cgroup::paths(root, pid).unwrap_or_default(),
        too_much,
        is_hidden,
    })
}

/// Children that were forked with their parent's descriptors open are no VMs of their own: what is left without
/// them, and a sentence about each.
pub(crate) fn without_heirs(
    root: &HostRoot,
    vmms: Vec<Arc<Inspected>>,
    limits: &Limits,
) -> (Vec<Arc<Inspected>>, Vec<String>) {
    let held: BTreeMap<i32, Arc<Inspected>> = vmms.iter().map(|vm| (vm.id.id, Arc::clone(vm))).collect();
    let mut notes = Vec::new();
    let mut left = Vec::new();
    for vm in vmms {
        let inherited = !vm.kvm.all.is_empty()
            && held.get(&vm.parent).is_some_and(|parent| vm.kvm.all.is_subset(&parent.kvm.all));
        let runs_vcpus = || {
            let threads = vcpus::threads(root, vm.id.id, limits, None).unwrap_or_default();
            !vcpus::by_name(&threads).is_empty()
        };
        if inherited && !runs_vcpus() {
            notes.push(format!(
                "process {} ({}) has inherited the KVM descriptors of process {}; it is not counted as a VM",
                vm.id, vm.comm, vm.parent
            ));
        } else {
            left.push(vm);
        }
    }
    (left, notes)
}

/// Whether one of these processes of a VM holds a VM of KVM now. Those that have ended hold none.
///
/// # Errors
/// Descriptors cannot be read, there are more than are looked at, or that takes longer than a VM may.
pub fn any_holds_kvm(root: &HostRoot, pids: &[i32]) -> Result<bool, HostError> {
    let limits = Limits::default();
    let time = Budget::of_round(&limits).vm();
    for pid in pids {
        match kvm_descriptors(root, *pid, &limits, time) {
            Ok(kvm) if kvm.vms() > 0 => return Ok(true),
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
        time.check()?;
    }
    Ok(false)
}

fn kvm_descriptors(
    root: &HostRoot,
    pid: i32,
    limits: &Limits,
    time: VmTime,
) -> Result<KvmDescriptors, HostError> {
    let directory = root.proc(format!("{pid}/fd"));
    let read = |source: io::Error| HostError::Read { path: directory.clone(), source };
    let (mut all, mut has_vfio) = (BTreeSet::new(), false);
    for (number, entry) in std::fs::read_dir(&directory).map_err(read)?.enumerate() {
        if number >= count(limits.open_files) {
            let most = limits.open_files.into();
            return Err(TooMuch::Count { of: "open files", most, limit: "open_files" }.into());
        }
        if number % 256 == 255 {
            time.check()?;
        }
        let entry = entry.map_err(read)?;
        let target = match std::fs::read_link(entry.path()) {
            Ok(target) => target,
            Err(source) if source.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(read(source)),
        };
        has_vfio |= target.starts_with("/dev/vfio");
        let Some(what) = target.to_str().and_then(|target| target.strip_prefix("anon_inode:")) else {
            continue;
        };
        let what = what.trim_start_matches('[').trim_end_matches(']');
        if what == "kvm-vm" || what.starts_with("kvm-vcpu") {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(-1);
            all.insert((number, what.to_owned()));
        }
    }
    Ok(KvmDescriptors { all, has_vfio })
}

fn kind(program: &str, kvm: &KvmDescriptors) -> Option<VmmKind> {
    match (kvm.vms() > 0, is_qemu(program)) {
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

/// Whether a program is QEMU by its name: also as Kata 1.x calls it (`qemu-lite-system-x86_64`), and as NixOS wraps
/// programs (`.qemu-system-x86_64-wrapped`, makeWrapper).
fn is_qemu(program: &str) -> bool {
    let name = program.strip_prefix('.').unwrap_or(program);
    let name = name.trim_end_matches('_').strip_suffix("-wrapped").unwrap_or(name);
    let is_system = ["qemu-system-", "qemu-lite-system-", "qemu-virtiofs-system-"]
        .iter()
        .any(|start| name.starts_with(start) || program.len() == COMM_LETTERS && start.starts_with(name));
    is_system || ["qemu-kvm", "kvm"].contains(&name)
}

/// Letters of a thread's name, which stands for the program where that cannot be seen, and which is cut off there
/// (TASK_COMM_LEN without the final zero, include/linux/sched.h).
const COMM_LETTERS: usize = 15;

/// The file name of the program that runs; the thread's name where the program may not be seen.
pub(crate) fn program(root: &HostRoot, pid: i32) -> Option<String> {
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

/// What the command line says; nothing for threads of the kernel, for what has ended, and for what is no VMM.
fn command_line(
    root: &HostRoot,
    pid: i32,
    kind: Option<VmmKind>,
    limits: &Limits,
) -> Result<CommandLine, HostError> {
    let Some(kind) = kind else { return Ok(CommandLine::default()) };
    match read_at_most(&root.proc(format!("{pid}/cmdline")), limits.command_line_bytes()) {
        Ok(bytes) => Ok(CommandLine::of(kind, &cmdline::args(&String::from_utf8_lossy(&bytes)))),
        Err(error) if error.is_gone() || error.is_denied() => Ok(CommandLine::default()),
        Err(HostError::TooLong { .. }) => {
            let most = limits.command_line_kib.into();
            Err(TooMuch::Count { of: "KiB of command line", most, limit: "command_line_kib" }.into())
        }
        Err(error) => Err(error),
    }
}
