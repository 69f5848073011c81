//! `/proc/PID/status` and `/proc/PID/task/TID/status` (proc(5), Linux 6.18).

use std::path::{Path, PathBuf};

use huddle_model::cpuset::CpuSet;

use super::{HostError, HostRoot, read_text};

/// What one `status` file says, as far as huddle asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskStatus {
    /// `Cpus_allowed_list`: CPUs the task may run on now.
    pub cpus_allowed: CpuSet,
    /// The last number of `NSpid`: the task's id in its own pid namespace, which is how it calls
    /// itself; `None` on kernels before 4.1.
    pub own_id: Option<i32>,
    /// `CapEff`: effective capabilities, one bit each (capabilities(7)).
    pub capabilities: u64,
}

/// A capability by its number (include/uapi/linux/capability.h, Linux 6.18).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// To open files that their owner alone may read, as most of another user's /proc/PID.
    DacReadSearch = 2,
    /// To look into the memory and descriptors of other users' processes.
    SysPtrace = 19,
    /// To see page frame numbers.
    SysAdmin = 21,
    /// To set the affinity of other users' threads.
    SysNice = 23,
    /// To count events of other users' threads, and to read the kernel's memory by BPF programs.
    Perfmon = 38,
    /// To load BPF programs.
    Bpf = 39,
}

impl Capability {
    /// What the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::DacReadSearch => "CAP_DAC_READ_SEARCH",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysNice => "CAP_SYS_NICE",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// What it takes to look into processes of other users: /proc/PID/pagemap, mem and fd are files of mode 0400
/// or 0600, and the kernel checks for ptrace access too (fs/proc/base.c and task_mmu.c, Linux 6.18).
pub const TO_INSPECT: [Capability; 2] = [Capability::SysPtrace, Capability::DacReadSearch];

impl TaskStatus {
    /// Whether the task has this capability in effect.
    pub fn has(&self, capability: Capability) -> bool {
        self.capabilities >> (capability as u8) & 1 == 1
    }
}

/// Reads the status of the process that asks.
pub fn own(root: &HostRoot) -> Result<TaskStatus, HostError> {
    read(&root.proc("self/status"))
}

/// Reads the status of one thread.
pub fn thread(root: &HostRoot, pid: i32, tid: i32) -> Result<TaskStatus, HostError> {
    read(&thread_path(root, pid, tid))
}

/// Whose a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessIds {
    /// `Uid`: the real, the effective and the saved user id.
    pub uids: [u32; 3],
    /// `Tgid`: the process; another number than the one that was asked for where that is one of a thread.
    pub process: i32,
}

/// Reads whose a process is. Numbers of threads that are no process have such a file too.
pub fn ids(root: &HostRoot, pid: i32) -> Result<ProcessIds, HostError> {
    let path = root.proc(format!("{pid}/status"));
    let text = read_text(&path)?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let uids = || {
        let mut ids = field("Uid")?.split_ascii_whitespace().map(|id| id.parse::<u32>().ok());
        Some([ids.next()??, ids.next()??, ids.next()??])
    };
    let bad = |expected| HostError::parse(&path, text.lines().next().unwrap_or(""), expected);
    Ok(ProcessIds {
        uids: uids().ok_or_else(|| bad("a status with Uid"))?,
        process: field("Tgid")
            .and_then(|id| id.trim().parse().ok())
            .ok_or_else(|| bad("a status with Tgid"))?,
    })
}

/// Bytes of a process's memory that the kernel keeps in place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptInPlace {
    /// `VmPin`: pinned, as by buffers that are registered with io_uring, and by iommufd (`pinned_vm` of the mm,
    /// io_uring/rsrc.c and drivers/iommu/iommufd/pages.c, Linux 6.18).
    pub pinned: u64,
    /// `VmLck`: locked by mlock(2), or pinned by VFIO's own IOMMU code, which counts it here
    /// (drivers/vfio/vfio_iommu_type1.c, Linux 6.18).
    pub locked: u64,
}

/// Reads how much memory of a process is kept in place; nothing for threads of the kernel.
pub fn kept_in_place(root: &HostRoot, pid: i32) -> Result<KeptInPlace, HostError> {
    let path = root.proc(format!("{pid}/status"));
    let text = read_text(&path)?;
    let bytes = |name: &str| {
        let Some(value) = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')) else {
            return Ok(0);
        };
        let kib = value.trim().strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok());
        kib.and_then(|kib| kib.checked_mul(1024))
            .ok_or_else(|| HostError::parse(&path, value.trim(), "a size in kB"))
    };
    Ok(KeptInPlace { pinned: bytes("VmPin")?, locked: bytes("VmLck")? })
}

fn thread_path(root: &HostRoot, pid: i32, tid: i32) -> PathBuf {
    root.proc(format!("{pid}/task/{tid}/status"))
}

fn read(path: &Path) -> Result<TaskStatus, HostError> {
    let text = read_text(path)?;
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let needed = |name: &'static str, expected| {
        field(name).ok_or_else(|| HostError::parse(path, text.lines().next().unwrap_or(""), expected))
    };
    let cpus = needed("Cpus_allowed_list", "a status with Cpus_allowed_list")?;
    let capabilities = needed("CapEff", "a status with CapEff")?;
    Ok(TaskStatus {
        cpus_allowed: cpus.parse().map_err(|_| HostError::parse(path, cpus, "a list of CPUs like 0-3,8"))?,
        own_id: field("NSpid").and_then(|ids| ids.split_ascii_whitespace().last()?.parse().ok()),
        capabilities: u64::from_str_radix(capabilities, 16)
            .map_err(|_| HostError::parse(path, capabilities, "capabilities in hexadecimal"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("7/task/8")).unwrap();
        let file = root.proc("7/task/8/status");
        let text = "Name:\tCPU 0/KVM\nNSpid:\t8\t3\nCapEff:\t000001fffeffffff\nCpus_allowed_list:\t0-1,4\n";
        std::fs::write(&file, text).unwrap();
        let status = thread(&root, 7, 8).unwrap();
        assert_eq!((status.cpus_allowed.to_string(), status.own_id), ("0-1,4".into(), Some(3)));
        assert!(status.has(Capability::SysAdmin) && status.has(Capability::SysPtrace));
        std::fs::write(&file, text.replace("fffeffffff", "0000000000")).unwrap();
        assert!(!thread(&root, 7, 8).unwrap().has(Capability::SysNice));

        std::fs::write(&file, text.replace("0-1,4", "0-,4")).unwrap();
        let error = thread(&root, 7, 8).unwrap_err().to_string();
        assert!(error.contains("0-,4") && error.contains("7/task/8/status"), "{error}");
        std::fs::write(&file, "Name:\tx\n").unwrap();
        assert!(thread(&root, 7, 8).unwrap_err().to_string().contains("Cpus_allowed_list"));
    }

    #[test]
    fn whose_a_process_is_stands_in_its_status() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("7")).unwrap();
        let text = "Name:\tx\nTgid:\t6\nUid:\t1000\t0\t0\t1000\n";
        std::fs::write(root.proc("7/status"), text).unwrap();
        assert_eq!(ids(&root, 7).unwrap(), ProcessIds { uids: [1000, 0, 0], process: 6 });
        for (damaged, word) in [("Uid:\t1000", "Uid"), ("Tgid:\t-", "Tgid")] {
            let text = text.replace(damaged.split('\t').next().unwrap(), "No");
            std::fs::write(root.proc("7/status"), text).unwrap();
            assert!(ids(&root, 7).unwrap_err().to_string().contains(word));
        }
        let own = ids(&HostRoot::real(), std::process::id().cast_signed()).unwrap();
        assert_eq!(own.process, std::process::id().cast_signed());
        assert_eq!(own.uids[1], nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn what_is_kept_in_place_is_read_in_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("7")).unwrap();
        let read = |text: &str| {
            std::fs::write(root.proc("7/status"), text).unwrap();
            kept_in_place(&root, 7)
        };
        let both = read("Name:\tx\nVmLck:\t      64 kB\nVmPin:\t   16384 kB\n").unwrap();
        assert_eq!(both, KeptInPlace { pinned: 16 << 20, locked: 64 << 10 });
        assert_eq!(read("Name:\tkthreadd\n").unwrap(), KeptInPlace::default());
        assert!(read("VmPin:\t-1 kB\n").unwrap_err().to_string().contains("-1 kB"));
    }

    #[test]
    fn this_process_may_run_somewhere() {
        let status = own(&HostRoot::real()).unwrap();
        assert!(!status.cpus_allowed.is_empty());
        assert!(status.own_id.is_some());
    }
}
