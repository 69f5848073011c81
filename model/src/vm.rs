//! VMs, their vCPUs and their guest memory, as found on a host.

mod json;

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::binding::{Binding, RealTime};
use crate::cpuset::CpuSet;
pub use crate::id::{Owner, TaskId, Uuid, VcpuId, VmId, VmKind, VmRef, XenDomainId};
use crate::kind::named;
use crate::names::Identity;

/// What runs the VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmmKind {
    /// QEMU with KVM.
    QemuKvm,
    /// QEMU translating code (TCG).
    QemuTcg,
    /// Firecracker.
    Firecracker,
    /// cloud-hypervisor.
    CloudHypervisor,
    /// crosvm.
    Crosvm,
    /// Some other program that holds a KVM VM.
    OtherKvm,
    /// A plain process that the user declared a VM.
    Process,
    /// A cgroup (a container) that the user declared a VM.
    Cgroup,
    /// A paravirtualised domain of Xen.
    XenPv,
    /// A domain of Xen with hardware assisted paging, without emulated devices (PVH).
    XenPvh,
    /// A domain of Xen with an emulated PC.
    XenHvm,
    /// A domain of Xen whose kind of virtualisation is unknown.
    Xen,
    /// Not known: a recording has the name of a kind that this version does not know.
    Unknown,
}

impl VmmKind {
    /// Whether it is a domain of Xen, so that no process of the host holds it.
    pub fn is_xen(self) -> bool {
        matches!(self, Self::XenPv | Self::XenPvh | Self::XenHvm | Self::Xen)
    }
}

named! {VmmKind, "kind of VMM":
    QemuKvm = "qemu-kvm",
    QemuTcg = "qemu-tcg",
    Firecracker = "firecracker",
    CloudHypervisor = "cloud-hypervisor",
    Crosvm = "crosvm",
    OtherKvm = "kvm",
    Process = "process",
    Cgroup = "cgroup",
    XenPv = "xen-pv",
    XenPvh = "xen-pvh",
    XenHvm = "xen-hvm",
    Xen = "xen",
    Unknown = "unknown",
}

/// One virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// Number within the VM, from 0.
    pub index: u32,
    /// The host thread, or the vCPU of a domain of Xen.
    pub id: VcpuId,
    /// The process the thread belongs to (differs between vCPUs only for a cgroup); `None` on Xen.
    pub process: Option<TaskId>,
    /// The thread's name (`/proc/PID/task/TID/comm`); `None` on Xen, and if not recorded.
    pub thread_name: Option<String>,
    /// CPUs it may run on now.
    pub affinity: CpuSet,
    /// CPU it last ran on.
    pub last_cpu: Option<u32>,
    /// What the host and its owner say about where it may run.
    pub limits: VcpuLimits,
}

/// What the host and its owner say about where a vCPU may run; nothing where that is not recorded, and on Xen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuLimits {
    /// Online CPUs of its thread's cpuset, within which its affinity can be set; `None` for those of the VM.
    pub allowed_cpus: Option<CpuSet>,
    /// How its owner bound it; such a vCPU is not pinned. `None` also where the user wants bindings overridden.
    pub binding: Option<Binding>,
    /// Its real-time policy, if it has one.
    pub real_time: Option<RealTime>,
    /// Its core-scheduling cookie, 0 for none; `None` where that is unknown. Two vCPUs with different cookies never
    /// run on one core at a time.
    pub core_cookie: Option<u64>,
    /// Its affinity before huddle changed it; `None` where huddle did not.
    pub before_huddle: Option<CpuSet>,
}

impl Vcpu {
    /// Its affinity as its owner left it: that of now, unless huddle set that.
    pub fn affinity_before_huddle(&self) -> &CpuSet {
        self.limits.before_huddle.as_ref().unwrap_or(&self.affinity)
    }

    /// The host thread that runs it, with the process that has it; `None` on Xen.
    pub fn thread(&self) -> Option<(TaskId, TaskId)> {
        Some((self.process?, self.id.thread()?))
    }
}

/// The backing of guest memory, which decides whether KSM can merge it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemoryKind {
    /// Private anonymous memory marked mergeable (madvise or prctl): the only kind that KSM scans.
    Mergeable,
    /// Private anonymous memory that is not marked mergeable.
    Anonymous,
    /// A private mapping of a file, as of a snapshot: what was not written is the file's, shared through the page cache;
    /// what was is anonymous.
    PrivateFile,
    /// A shared mapping of a file on an ordinary file system: KSM never merges it.
    SharedFile,
    /// Shared memory of a memfd, `/dev/shm` or System V: KSM never merges it.
    SharedMemory,
    /// hugetlbfs pages: KSM never merges them.
    HugeTlb,
    /// Memory of a DAX device (`/dev/daxN`): KSM never merges it.
    Device,
    /// Small blocks marked mergeable beside a guest's RAM: firmware, video memory, tables of the machine.
    Firmware,
    /// Memory of a Xen domain: merged by Xen's memory sharing, if available.
    Domain,
}

impl MemoryKind {
    /// Every kind, in the order in which they are listed.
    pub const ALL: [Self; 9] = [
        Self::Mergeable,
        Self::Anonymous,
        Self::PrivateFile,
        Self::SharedFile,
        Self::SharedMemory,
        Self::HugeTlb,
        Self::Device,
        Self::Firmware,
        Self::Domain,
    ];

    /// Whether all its pages are anonymous, so that none is of the page cache.
    pub fn is_anonymous(self) -> bool {
        matches!(self, Self::Mergeable | Self::Anonymous | Self::Firmware)
    }
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mergeable => "mergeable",
            Self::Anonymous => "anonymous",
            Self::PrivateFile => "private file",
            Self::SharedFile => "shared file",
            Self::SharedMemory => "shared memory",
            Self::HugeTlb => "hugetlb",
            Self::Device => "device",
            Self::Firmware => "firmware",
            Self::Domain => "domain",
        })
    }
}

/// A range of an address space that holds guest memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestRegion {
    /// The process whose address space it is; `None` for a domain of Xen.
    pub process: Option<TaskId>,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// Its backing.
    pub kind: MemoryKind,
}

impl GuestRegion {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// A virtual machine, or a process or cgroup that the user declared one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Unique among the VMs of one scan.
    pub name: String,
    /// Its id.
    pub id: VmId,
    /// Its UUID, set by its management: QEMU's `-uuid`, or Xen's; `None` if it has none.
    pub uuid: Option<Uuid>,
    /// Its number in Proxmox VE (VMID), which is there in `-id`; `None` if it has none.
    pub vmid: Option<u32>,
    /// The user that its process belongs to; `None` for a domain of Xen, and where that is not known.
    pub owner: Option<Owner>,
    /// What runs it.
    pub vmm: VmmKind,
    /// Its vCPUs in ascending index.
    pub vcpus: Vec<Vcpu>,
    /// Its guest memory in ascending (process, start).
    pub memory: Vec<GuestRegion>,
    /// What of its processes' memory may be large and was not taken for guest memory, with its size; not recorded.
    pub left_out: Vec<String>,
    /// CPUs that the cgroups of its vCPUs allow, all together; affinities can only be set within them.
    pub allowed_cpus: CpuSet,
    /// Why (part of) its memory cannot be merged, one sentence each; empty if all of it can.
    pub cannot_merge: Vec<String>,
}

impl Vm {
    /// A process that counts as a VM, with this memory and no vCPUs.
    pub fn of_process(name: impl Into<String>, process: TaskId, memory: Vec<GuestRegion>) -> Self {
        Self {
            name: name.into(),
            id: process.into(),
            uuid: None,
            vmid: None,
            owner: None,
            vmm: VmmKind::Process,
            vcpus: Vec::new(),
            memory,
            left_out: Vec::new(),
            allowed_cpus: CpuSet::default(),
            cannot_merge: Vec::new(),
        }
    }

    /// The process that holds it, for a cgroup the first one; `None` for a domain of Xen.
    pub fn process(&self) -> Option<TaskId> {
        self.id.process()
    }

    /// Its processes: one, those of its cgroup, or none for a domain of Xen.
    pub fn processes(&self) -> BTreeSet<TaskId> {
        let of_vcpus = self.vcpus.iter().filter_map(|vcpu| vcpu.process);
        let of_memory = self.memory.iter().filter_map(|region| region.process);
        self.process().into_iter().chain(of_vcpus).chain(of_memory).collect()
    }

    /// CPUs that the affinity of one of its vCPUs can be set to.
    pub fn allowed_cpus_of<'a>(&'a self, vcpu: &'a Vcpu) -> &'a CpuSet {
        vcpu.limits.allowed_cpus.as_ref().unwrap_or(&self.allowed_cpus)
    }

    /// The vCPUs that are left as their owner bound them, one sentence for each way in which some are.
    pub fn binding_notes(&self) -> Vec<String> {
        let mut ways: Vec<(&Binding, CpuSet)> = Vec::new();
        for vcpu in &self.vcpus {
            let Some(binding) = &vcpu.limits.binding else { continue };
            match ways.iter_mut().find(|(known, _)| *known == binding) {
                Some((_, vcpus)) => vcpus.insert(vcpu.index),
                None => ways.push((binding, [vcpu.index].into_iter().collect())),
            }
        }
        let note = |(binding, vcpus): (&Binding, CpuSet)| match vcpus.len() {
            1 => format!("{}: vCPU {vcpus} is left as its owner bound it, {binding}", self.name),
            _ => format!("{}: vCPUs {vcpus} are left as their owner bound them, {binding}", self.name),
        };
        ways.into_iter().map(note).collect()
    }

    /// What it can be named by.
    pub fn identity(&self) -> Identity<'_> {
        Identity { name: &self.name, id: Some(self.id), uuid: self.uuid, owner: self.owner.as_ref() }
    }

    /// Its name with its identity.
    pub fn reference(&self) -> VmRef {
        VmRef { name: self.name.clone(), id: Some(self.id), uuid: self.uuid }
    }

    /// Whether all its guest memory is of kinds without pages of the page cache.
    pub fn has_no_files(&self) -> bool {
        self.memory.iter().all(|region| region.kind.is_anonymous())
    }

    /// Bytes of guest memory of one kind.
    pub fn memory_bytes(&self, kind: MemoryKind) -> u64 {
        self.memory.iter().filter(|region| region.kind == kind).map(GuestRegion::len_bytes).sum()
    }
}
