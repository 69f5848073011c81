//! What other hosts need to know of this one: sketches of its VMs' contents, and its capacity.

use super::Table;
use crate::id::VmKind;
use crate::schema::{Cell, CellOf, Column, Row, UuidText, Value};

rows! {
    /// One kept content of one VM: a part of its sketch.
    SketchRow, Sketches, sketches {
        /// When reading the VMs began, since the Unix epoch; the same in all rows of a sketch.
        begin_us: i64, "us";
        /// When it ended, since the Unix epoch.
        end_us: i64, "us";
        /// Name of the VM.
        vm: String, "none";
        /// process or xen_domain.
        vm_kind: Option<VmKind>, "none";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Hash of the content of a page under the fleet's seed, below 2^63; the same content has the same hash on all hosts of a fleet. The manifest says which part of all contents is kept.
        hash: i64, "number";
    }

    /// One VM with the host it is on: what both have and may hold. A host without VMs has one row.
    HostRow, Hosts, hosts {
        /// When reading the VMs began, since the Unix epoch; the same as in the sketches that belong to it.
        begin_us: i64, "us";
        /// When it ended, since the Unix epoch.
        end_us: i64, "us";
        /// CPUs of the host that VMs may use; null where they are not known.
        host_cpus: Option<u32>, "count";
        /// Cores of these CPUs; null where the host does not say.
        host_cores: Option<u32>, "count";
        /// Cache domains: CPUs under one last-level cache; null where they are not known.
        host_caches: Option<u32>, "count";
        /// Size of one of those caches, of the smallest if they differ; null where it is not known.
        host_cache_bytes: Option<u64>, "bytes";
        /// Memory of the host; null where it is not known (Xen).
        host_memory_bytes: Option<u64>, "bytes";
        /// Name of the VM; null in the row of a host without VMs, as all columns after it.
        vm: Option<String>, "none";
        /// process or xen_domain.
        vm_kind: Option<VmKind>, "none";
        /// Its UUID (QEMU's `-uuid`, or Xen's); null where it has none or that is not known.
        uuid: Option<UuidText>, "none";
        /// Number by which Proxmox VE knows it; null for other VMs.
        vm_vmid: Option<u32>, "none";
        /// User that owns its process; null for a domain of Xen and where that is not known.
        vm_owner: Option<String>, "none";
        /// How many vCPUs it has.
        vm_vcpus: Option<u32>, "count";
        /// Its guest memory.
        vm_memory_bytes: Option<u64>, "bytes";
        /// Names of the groups of VMs it is kept apart from, a line each, sorted; null if there are none.
        vm_apart: Option<String>, "none";
        /// Pages of its memory that were read; null where it was not sketched.
        vm_pages_read: Option<u64>, "pages";
        /// Zero-filled pages among them, which are in no sketch; null like `vm_pages_read`.
        vm_pages_zero: Option<u64>, "pages";
        /// Why it has no sketch; null if it has one.
        vm_not_sketched: Option<String>, "none";
    }
}
