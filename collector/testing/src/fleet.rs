//! Generated fleets as what `huddle sketch` records of each host. Nothing of it was measured.

use huddle_model::fleet::{FleetShape, GeneratedFleet};
use huddle_model::id::VmKind;
use huddle_model::schema::{HostRow, Manifest, Rows, SketchFact, SketchRow};
use huddle_model::vm::Uuid;

use crate::sample;

/// Bytes of a page of the VMs.
pub const PAGE_BYTES: u64 = 4096;
/// Memory of each VM.
pub const VM_BYTES: u64 = 4 << 30;
/// vCPUs of each VM.
pub const VM_VCPUS: u32 = 2;
/// A host has room for so many VMs besides its own, where nine tenths of its memory may be given to VMs.
pub const SPARE_VMS: u64 = 2;

const BEGIN_US: i64 = 1_700_000_000_000_000;
const END_US: i64 = BEGIN_US + 1_000_000;

/// Name of a host. Names are in the order of the numbers.
pub fn host_name(host: u32) -> String {
    format!("host-{host:05}")
}

/// Name of a VM, likewise.
pub fn vm_name(vm: u32) -> String {
    format!("vm-{vm:07}")
}

/// The UUID of a VM.
pub fn uuid(fleet: &GeneratedFleet, vm: u32) -> Uuid {
    // Random, of the variant of RFC 9562.
    let number = fleet.number(vm) & !(0xf << 76) & !(0x3 << 62);
    Uuid::from_u128(number | 0x4 << 76 | 0x2 << 62)
}

/// The manifest of a host's recording.
pub fn manifest(fleet: &GeneratedFleet, host: u32) -> Manifest {
    let shape: &FleetShape = fleet.shape();
    let sketches = SketchFact {
        one_in: shape.scale.one_in(),
        hash: "siphash-2-4".into(),
        seed: "generated".into(),
        seed_check: format!("{:016x}", shape.seed),
        page_bytes: PAGE_BYTES,
    };
    Manifest {
        run: format!("20231114T221320Z-{}", host + 1),
        host: host_name(host),
        begin_us: BEGIN_US,
        command_line: vec!["generated".into()],
        sketches: Some(sketches),
        ..sample::manifest()
    }
}

/// The rows of a host, with its VMs as they are placed today.
pub fn rows(fleet: &GeneratedFleet, host: u32) -> Rows {
    let room = u64::from(fleet.shape().vms_per_host) + SPARE_VMS;
    let of_host = HostRow {
        begin_us: BEGIN_US,
        end_us: END_US,
        host_cpus: Some(fleet.shape().vms_per_host + SPARE_VMS as u32),
        host_cores: None,
        host_caches: Some(2),
        host_cache_bytes: Some(32 << 20),
        host_memory_bytes: Some((room * VM_BYTES).div_ceil(9) * 10),
        vm: None,
        vm_kind: Some(VmKind::Process),
        uuid: None,
        vm_vmid: None,
        vm_owner: Some("libvirt-qemu".into()),
        vm_vcpus: Some(VM_VCPUS),
        vm_memory_bytes: Some(VM_BYTES),
        vm_apart: None,
        vm_pages_read: Some(VM_BYTES / PAGE_BYTES),
        vm_pages_zero: Some((VM_BYTES / PAGE_BYTES).saturating_sub(fleet.shape().contents.into())),
        vm_not_sketched: None,
    };
    let mut rows = Rows::default();
    for vm in fleet.on_host(host) {
        let (name, uuid) = (vm_name(*vm), Some(uuid(fleet, *vm).into()));
        let apart = fleet.apart(*vm).map(|pair| pair.map(vm_name).join(","));
        rows.hosts.push(HostRow { vm: Some(name.clone()), uuid, vm_apart: apart, ..of_host.clone() });
        rows.sketches.extend(fleet.sketch(*vm).into_iter().map(|hash| SketchRow {
            begin_us: BEGIN_US,
            end_us: END_US,
            vm: name.clone(),
            vm_kind: Some(VmKind::Process),
            uuid,
            // At most every second content is kept, so it is below 2^63.
            hash: hash as i64,
        }));
    }
    rows
}
