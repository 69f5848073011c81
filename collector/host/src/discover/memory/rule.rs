//! Which mappings of a process are guest memory. Pure.
//!
//! # What is taken
//! a. Every private mapping marked mergeable (`mg` in `VmFlags`) that is anonymous: QEMU, cloud-hypervisor and
//!    prctl(PR_SET_MEMORY_MERGE) mark so what KSM looks at.
//! b. Every writable mapping of a file that is at least 1 MiB long, private or shared: a memfd, `/dev/shm`, System V or
//!    shared anonymous memory, hugetlbfs, a DAX device, and an ordinary file, as for a guest that is restored from a
//!    snapshot (Firecracker, QEMU's `memory-backend-file`).
//! c. Of a VMM with less than [`LARGE_BYTES`] of (a): its large private anonymous mappings (`mem-merge=off`).
//! d. Of a VMM that has none of these, and of a process or cgroup that the user declared a VM and that has none of (a):
//!    all its private anonymous memory that can be accessed: heap, stacks and unnamed mappings.
//!
//! # What is not
//! The program and its libraries (a file that the process also maps executable), which prctl(PR_SET_MEMORY_MERGE) marks
//! too and which say nothing of the guest; what can be executed (translated code); devices (PCI memory of VFIO,
//! graphics, KVM's own pages); what can only be read. Of a VMM also its heap and stacks. What of this may be large is
//! said, with its size.

use std::collections::BTreeSet;

use huddle_model::text::bytes;
use huddle_model::vm::{GuestRegion, MemoryKind, TaskId};

use crate::maps::{FileId, Mapping};

/// Smallest mapping of a file that is taken for guest memory, in bytes: smaller ones are rings and mailboxes.
pub(super) const MIN_FILE_BYTES: u64 = 1 << 20;

/// What a VMM maps for itself is smaller, in bytes: stacks have 8 MiB, QEMU's video memory has 16 MiB at most by default.
const LARGE_BYTES: u64 = (16 << 20) + 1;

/// Unmarked memory of a VMM is guest memory from this part of its largest mapping on.
const LARGE_PART: u64 = 16;

/// malloc of glibc reserves this much at a multiple of it for each arena (HEAP_MAX_SIZE of malloc/arena.c, glibc 2.41).
const ARENA_BYTES: u64 = 64 << 20;

/// Huge pages of x86-64, and of ARM64 with pages of 4 KiB.
const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// Longest mapping above a guard page that is taken for the stack of a thread.
const MAX_STACK_BYTES: u64 = 64 << 20;

/// What the process is to the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProcessRole {
    /// A program that runs a guest, whose own memory is not the guest's.
    Vmm,
    /// A process or cgroup that the user declared a VM: all its memory counts.
    Tenant,
}

/// The guest memory of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestMemory {
    /// Its regions, ascending.
    pub regions: Vec<GuestRegion>,
    /// What may be large and was not taken, one sentence each.
    pub left_out: Vec<String>,
}

/// What a mapping is, by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Guest memory by (a) or (b).
    Guest(MemoryKind),
    /// Private anonymous memory that is not marked; `large` if it may hold a guest, by its place and size.
    Anonymous { large: bool },
    /// Memory of a device.
    Device,
    /// Anonymous memory that can be executed.
    Code,
    /// A file that it shares and can only read.
    ReadOnly,
    /// Nothing to count or to tell: the program, reserved addresses, rings.
    Other,
}

/// The guest memory of a process with these mappings, which are ascending, by the rule of this module.
pub(super) fn guest_memory(process: TaskId, role: ProcessRole, mappings: &[Mapping]) -> GuestMemory {
    let classes = Classes::new(role, mappings);
    let classes: Vec<(&Mapping, Class)> =
        mappings.iter().enumerate().map(|(at, mapping)| (mapping, classes.of(at))).collect();
    let marked = classes.iter().filter(|(_, class)| *class == Class::Guest(MemoryKind::Mergeable));
    let marked: u64 = marked.map(|(mapping, _)| mapping.len_bytes()).sum();
    let may_hold_guest = |class| matches!(class, Class::Guest(_) | Class::Anonymous { large: true });
    let large = classes.iter().filter(|(_, class)| may_hold_guest(*class));
    let largest = large.map(|(mapping, _)| mapping.len_bytes()).max().unwrap_or(0);

    let takes_large = role == ProcessRole::Vmm && marked < LARGE_BYTES;
    let taken = |mapping: &Mapping, class| match class {
        Class::Guest(kind) => Some(kind),
        Class::Anonymous { large: true } if takes_large && mapping.len_bytes() >= largest / LARGE_PART => {
            Some(MemoryKind::Anonymous)
        }
        _ => None,
    };
    let takes_all = match role {
        ProcessRole::Vmm => classes.iter().all(|(mapping, class)| taken(mapping, *class).is_none()),
        ProcessRole::Tenant => marked == 0,
    };
    let (mut regions, mut left_out) = (Vec::new(), LeftOut::default());
    for (mapping, class) in classes {
        let all = matches!(class, Class::Anonymous { .. }) && takes_all;
        let kind = taken(mapping, class).or(all.then_some(MemoryKind::Anonymous));
        match kind {
            Some(kind) => regions.push(GuestRegion {
                process: Some(process),
                start: mapping.start,
                end: mapping.end,
                kind: if role == ProcessRole::Vmm { beside_ram(kind, mapping, largest) } else { kind },
            }),
            None => left_out.add(class, mapping),
        }
    }
    GuestMemory { regions, left_out: left_out.sentences(role) }
}

/// The kind of a marked mapping: a small one beside large ones is firmware, video memory, or a table of these.
fn beside_ram(kind: MemoryKind, mapping: &Mapping, largest: u64) -> MemoryKind {
    let is_small = mapping.len_bytes() < LARGE_BYTES && largest >= LARGE_BYTES;
    if kind == MemoryKind::Mergeable && is_small { MemoryKind::Firmware } else { kind }
}

/// What is known of all mappings together.
struct Classes<'a> {
    role: ProcessRole,
    mappings: &'a [Mapping],
    /// The files that are mapped executable.
    programs: BTreeSet<FileId>,
    /// Whether prctl(PR_SET_MEMORY_MERGE) marked everything, so that the mark does not distinguish the guest.
    all_marked: bool,
}

impl<'a> Classes<'a> {
    fn new(role: ProcessRole, mappings: &'a [Mapping]) -> Self {
        let programs = mappings.iter().filter(|mapping| mapping.executable);
        let is_marked = |mapping: &Mapping| mapping.flags.is_some_and(|flags| flags.mergeable);
        Self {
            role,
            mappings,
            programs: programs.filter_map(|mapping| mapping.file).collect(),
            all_marked: mappings.iter().any(|mapping| is_heap_or_stack(mapping) && is_marked(mapping)),
        }
    }

    fn of(&self, position: usize) -> Class {
        let mapping = &self.mappings[position];
        if is_reserved(mapping) {
            return Class::Other;
        }
        if is_private_anonymous(mapping) {
            return self.of_anonymous(position);
        }
        // [vdso], [vvar] and the like have no file.
        let Some(file) = mapping.file else { return Class::Other };
        if mapping.executable || self.programs.contains(&file) {
            return Class::Other;
        }
        let is_long = mapping.writable && mapping.len_bytes() >= MIN_FILE_BYTES;
        if mapping.flags.unwrap_or_default().huge_tlb {
            return if is_long { Class::Guest(MemoryKind::HugeTlb) } else { Class::Other };
        }
        let (memory_file, dax) = (is_memory_file(&mapping.name), mapping.name.starts_with("/dev/dax"));
        if is_device(&mapping.name) && !dax && !memory_file {
            return Class::Device;
        }
        match (is_long, mapping.shared) {
            (true, _) if dax => Class::Guest(MemoryKind::Device),
            (true, true) if memory_file => Class::Guest(MemoryKind::SharedMemory),
            (true, true) => Class::Guest(MemoryKind::SharedFile),
            (true, false) => Class::Guest(MemoryKind::PrivateFile),
            (false, true) if !mapping.writable => Class::ReadOnly,
            (false, _) => Class::Other,
        }
    }

    fn of_anonymous(&self, position: usize) -> Class {
        let mapping = &self.mappings[position];
        let marked = mapping.flags.unwrap_or_default().mergeable;
        if self.role == ProcessRole::Tenant {
            return if marked {
                Class::Guest(MemoryKind::Mergeable)
            } else {
                Class::Anonymous { large: false }
            };
        }
        let of_vmm = is_heap_or_stack(mapping) || self.is_arena(position) || self.is_thread_stack(position);
        match (mapping.executable, marked) {
            (true, _) => Class::Code,
            (false, true) if !(self.all_marked && of_vmm) => Class::Guest(MemoryKind::Mergeable),
            (false, _) => {
                Class::Anonymous { large: !of_vmm && mapping.writable && mapping.len_bytes() >= LARGE_BYTES }
            }
        }
    }

    /// An arena of malloc starts at a multiple of its size, and memory without permission fills it up.
    fn is_arena(&self, position: usize) -> bool {
        let mapping = &self.mappings[position];
        let above = self.mappings.get(position + 1).filter(|above| is_reserved(above));
        mapping.start.is_multiple_of(ARENA_BYTES)
            && above.is_some_and(|above| above.start == mapping.end && above.end.is_multiple_of(ARENA_BYTES))
    }

    /// The stack of a thread has a guard page directly below it. RAM may have one there too, another mapping's, but
    /// begins at a multiple of a huge page, as QEMU asks for it and the kernel places large mappings.
    fn is_thread_stack(&self, position: usize) -> bool {
        let mapping = &self.mappings[position];
        let below = position.checked_sub(1).and_then(|below| self.mappings.get(below));
        mapping.len_bytes() <= MAX_STACK_BYTES
            && !mapping.start.is_multiple_of(HUGE_PAGE_BYTES)
            && below.is_some_and(|below| is_reserved(below) && below.end == mapping.start)
    }
}

fn is_reserved(mapping: &Mapping) -> bool {
    !(mapping.readable || mapping.writable || mapping.executable)
}

fn is_heap_or_stack(mapping: &Mapping) -> bool {
    mapping.name == "[heap]" || mapping.name.starts_with("[stack")
}

/// Files that live in memory only, by the names the kernel gives them in `maps`.
fn is_memory_file(name: &str) -> bool {
    ["/memfd:", "/dev/shm/", "/SYSV", "/dev/zero", "/anon_hugepage", "[anon_shmem:"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Device files, files of drivers (`anon_inode:[vfio-device]`, `anon_inode:kvm-vcpu:0`) and their buffers.
fn is_device(name: &str) -> bool {
    const NAMES: [&str; 4] = ["/dev/", "anon_inode:", "/dmabuf:", "/sys/"];
    NAMES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_private_anonymous(mapping: &Mapping) -> bool {
    let name = mapping.name.as_str();
    let anonymous = name.is_empty() || is_heap_or_stack(mapping) || name.starts_with("[anon:");
    anonymous && !mapping.shared && mapping.file.is_none()
}

/// Bytes of what was not taken.
#[derive(Default)]
struct LeftOut {
    private: u64,
    device: u64,
    code: u64,
    read_only: u64,
}

impl LeftOut {
    fn add(&mut self, class: Class, mapping: &Mapping) {
        let sum = match class {
            Class::Anonymous { .. } => &mut self.private,
            Class::Device => &mut self.device,
            Class::Code => &mut self.code,
            Class::ReadOnly => &mut self.read_only,
            Class::Guest(_) | Class::Other => return,
        };
        *sum += mapping.len_bytes();
    }

    fn sentences(&self, role: ProcessRole) -> Vec<String> {
        let private = match role {
            ProcessRole::Vmm => "heap, stacks and other memory of the VMM itself",
            ProcessRole::Tenant => "private memory that is not marked mergeable, beside what is",
        };
        [
            (self.private, private),
            (self.device, "memory of devices"),
            (self.code, "memory that holds translated code"),
            (self.read_only, "files that are shared and only read"),
        ]
        .into_iter()
        .filter(|(size, _)| *size >= MIN_FILE_BYTES)
        .map(|(size, what)| format!("{} of {what}", bytes(size)))
        .collect()
    }
}

#[cfg(test)]
mod tests;
