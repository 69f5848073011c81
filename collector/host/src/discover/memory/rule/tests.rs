use super::*;
use crate::maps::MappingFlags;

const PROCESS: TaskId = TaskId { id: 9, start_ticks: 90 };

fn mapping(start_mib: u64, mib: u64, name: &str) -> Mapping {
    let is_file = name.starts_with('/');
    Mapping {
        start: start_mib << 20,
        end: (start_mib + mib) << 20,
        readable: true,
        writable: true,
        executable: false,
        shared: false,
        file: is_file.then(|| FileId { device: (8, 1), inode: name.bytes().map(u64::from).sum() }),
        name: name.into(),
        flags: Some(MappingFlags::default()),
    }
}

fn marked(mapping: Mapping) -> Mapping {
    Mapping { flags: Some(MappingFlags { mergeable: true, huge_tlb: false }), ..mapping }
}

fn shared(mapping: Mapping) -> Mapping {
    Mapping { shared: true, ..mapping }
}

fn executable(mapping: Mapping) -> Mapping {
    Mapping { executable: true, ..mapping }
}

fn read_only(mapping: Mapping) -> Mapping {
    Mapping { writable: false, ..mapping }
}

fn reserved(start_mib: u64, mib: u64) -> Mapping {
    Mapping { readable: false, writable: false, ..mapping(start_mib, mib, "") }
}

fn found(role: ProcessRole, mappings: &[Mapping]) -> Vec<(u64, MemoryKind)> {
    let memory = guest_memory(PROCESS, role, mappings);
    memory.regions.iter().map(|region| (region.start >> 20, region.kind)).collect()
}

fn left_out(mappings: &[Mapping]) -> Vec<String> {
    guest_memory(PROCESS, ProcessRole::Vmm, mappings).left_out
}

#[test]
fn each_kind_is_told_and_the_rest_kept_out() {
    let huge = MappingFlags { mergeable: false, huge_tlb: true };
    let mappings = [
        executable(mapping(1, 4, "/usr/bin/qemu")),
        mapping(5, 4, "/usr/bin/qemu"),
        mapping(9, 1, "[heap]"),
        marked(mapping(10, 256, "")),
        marked(mapping(300, 2, "")),
        shared(mapping(320, 64, "/memfd:ram (deleted)")),
        shared(mapping(390, 2, "/SYSV00000000 (deleted)")),
        shared(mapping(395, 2, "/dev/zero (deleted)")),
        Mapping { flags: Some(huge), ..shared(mapping(400, 2, "/dev/hugepages/ram")) },
        shared(mapping(420, 8, "/var/lib/ram")),
        mapping(430, 128, "/var/lib/template"),
        marked(mapping(560, 8, "/var/lib/marked")),
        shared(mapping(570, 8, "/dev/dax0.0")),
        shared(mapping(580, 32, "/dev/vfio/42")),
        read_only(shared(mapping(620, 16, "/usr/share/rootfs.img"))),
        Mapping { end: (640 << 20) + 4096, ..shared(mapping(640, 1, "/memfd:ring (deleted)")) },
        Mapping { end: (641 << 20) + 4096, ..shared(mapping(641, 1, "anon_inode:kvm-vcpu:0")) },
        executable(mapping(700, 1024, "")),
    ];
    assert_eq!(
        found(ProcessRole::Vmm, &mappings),
        [
            (10, MemoryKind::Mergeable),
            (300, MemoryKind::Firmware),
            (320, MemoryKind::SharedMemory),
            (390, MemoryKind::SharedMemory),
            (395, MemoryKind::SharedMemory),
            (400, MemoryKind::HugeTlb),
            (420, MemoryKind::SharedFile),
            (430, MemoryKind::PrivateFile),
            (560, MemoryKind::PrivateFile),
            (570, MemoryKind::Device),
        ]
    );
    assert_eq!(
        left_out(&mappings),
        [
            "1 MiB of heap, stacks and other memory of the VMM itself",
            "32 MiB of memory of devices",
            "1 GiB of memory that holds translated code",
            "16 MiB of files that are shared and only read",
        ]
    );
}

/// `-machine mem-merge=off -m 256` with an ivshmem device, one backend with `merge=off`, and two backends.
#[test]
fn unmarked_ram_counts_beside_shared_memory() {
    let mut mappings = vec![
        mapping(1, 12, "[heap]"),
        mapping(20, 256, ""),
        reserved(276, 1),
        shared(mapping(300, 32, "/dev/shm/ivshmem")),
        reserved(400, 1),
        mapping(401, 8, ""),
        executable(mapping(500, 1024, "")),
    ];
    let expected = [(20, MemoryKind::Anonymous), (300, MemoryKind::SharedMemory)];
    assert_eq!(found(ProcessRole::Vmm, &mappings), expected);
    // Small blocks are marked, the RAM is not (merge=off of its backend).
    mappings.insert(3, marked(mapping(280, 2, "")));
    let expected =
        [(20, MemoryKind::Anonymous), (280, MemoryKind::Firmware), (300, MemoryKind::SharedMemory)];
    assert_eq!(found(ProcessRole::Vmm, &mappings), expected);
    // The guard page of the memory below it ends where it begins.
    let two = [
        reserved(1, 1),
        mapping(2, 64, ""),
        shared(mapping(100, 64, "/memfd:memory-backend-memfd (deleted)")),
    ];
    assert_eq!(found(ProcessRole::Vmm, &two), [(2, MemoryKind::Anonymous), (100, MemoryKind::SharedMemory)]);
}

#[test]
fn a_vmm_keeps_its_stacks_and_arenas_and_what_is_small_beside_the_guest() {
    let mappings = [
        reserved(63, 1),
        mapping(64, 40, ""),
        reserved(104, 24),
        reserved(200, 1),
        mapping(201, 60, ""),
        mapping(300, 20, ""),
        shared(mapping(1024, 1024, "/memfd:guest (deleted)")),
    ];
    assert_eq!(found(ProcessRole::Vmm, &mappings), [(1024, MemoryKind::SharedMemory)]);
    // Where the VMM marks its RAM, what it does not mark is its own.
    let marks = [marked(mapping(1, 128, "")), mapping(200, 64, "")];
    assert_eq!(found(ProcessRole::Vmm, &marks), [(1, MemoryKind::Mergeable)]);
    assert_eq!(left_out(&marks), ["64 MiB of heap, stacks and other memory of the VMM itself"]);
}

#[test]
fn where_prctl_marked_everything_heap_and_stacks_are_not_the_guests() {
    let mappings = [
        marked(mapping(1, 4, "[heap]")),
        marked(mapping(64, 10, "")),
        reserved(74, 54),
        marked(mapping(130, 256, "")),
        marked(executable(mapping(500, 64, ""))),
        reserved(600, 1),
        marked(mapping(601, 8, "")),
        marked(mapping(700, 1, "/usr/lib/libc.so.6")),
        executable(mapping(710, 2, "/usr/lib/libc.so.6")),
        marked(mapping(800, 1, "[stack]")),
    ];
    assert_eq!(found(ProcessRole::Vmm, &mappings), [(130, MemoryKind::Mergeable)]);
    let all: Vec<u64> = found(ProcessRole::Tenant, &mappings).iter().map(|(start, _)| *start).collect();
    assert_eq!(all, [1, 64, 130, 500, 601, 800]);
}

#[test]
fn a_declared_process_counts_with_all_its_private_memory_unless_it_marks_some() {
    let mappings = [
        executable(read_only(mapping(1, 1, "/usr/bin/sleep"))),
        mapping(2, 1, "[heap]"),
        mapping(3, 1, ""),
        mapping(4, 1, "[anon:arena]"),
        reserved(5, 64),
        mapping(69, 1, "[stack]"),
        mapping(70, 1, "[vdso]"),
        mapping(71, 1, "[vvar]"),
        mapping(80, 32, "/tmp/snapshot"),
    ];
    let starts = |mappings: &[Mapping]| -> Vec<u64> {
        found(ProcessRole::Tenant, mappings).iter().map(|(start, _)| *start).collect()
    };
    assert_eq!(starts(&mappings), [2, 3, 4, 69, 80]);
    let kinds: Vec<_> = found(ProcessRole::Tenant, &mappings).iter().map(|(_, kind)| *kind).collect();
    assert_eq!(kinds[..4], [MemoryKind::Anonymous; 4]);
    assert_eq!(kinds[4], MemoryKind::PrivateFile);
    let mut marks = mappings.to_vec();
    marks[2] = marked(marks[2].clone());
    assert_eq!(starts(&marks), [3, 80]);
    // A small VMM without anything else: all of it.
    assert_eq!(found(ProcessRole::Vmm, &mappings[..8]).len(), 4);
}
