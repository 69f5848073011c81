//! Structures and constants of Xen 4.17's libraries, from its headers (xenctrl.h, xenguest.h, xen/domctl.h,
//! xen/sysctl.h). They belong to the version in the library's name: another version has another name and is
//! not loaded. A test compares each with the headers through a C compiler.

use std::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};
use std::mem::{offset_of, size_of};

/// `xc_interface`, opaque.
pub(super) type Handle = *mut c_void;

/// `xc_domaininfo_t`: `struct xen_domctl_getdomaininfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DomainInfo {
    pub(super) domain: u16,
    pub(super) pad1: u16,
    pub(super) flags: u32,
    pub(super) tot_pages: u64,
    pub(super) max_pages: u64,
    pub(super) outstanding_pages: u64,
    pub(super) shr_pages: u64,
    pub(super) paged_pages: u64,
    pub(super) shared_info_frame: u64,
    pub(super) cpu_time: u64,
    pub(super) nr_online_vcpus: u32,
    pub(super) max_vcpu_id: u32,
    pub(super) ssidref: u32,
    pub(super) handle: [u8; 16],
    pub(super) cpupool: u32,
    pub(super) gpaddr_bits: u8,
    pub(super) pad2: [u8; 7],
    pub(super) emulation_flags: u32,
    pub(super) misc_flags: u32,
}

/// Bits of [`DomainInfo::flags`].
pub(super) const DOMINF_DYING: u32 = 1 << 0;
pub(super) const DOMINF_HVM_GUEST: u32 = 1 << 1;
pub(super) const DOMINF_SHUTDOWN: u32 = 1 << 2;
pub(super) const DOMINF_PAUSED: u32 = 1 << 3;

/// Value of [`DomainInfo::max_vcpu_id`] for a domain without vCPUs.
pub(super) const INVALID_MAX_VCPU_ID: u32 = u32::MAX;

/// A bit of [`DomainInfo::emulation_flags`] that only a fully emulated PC has.
pub(super) const EMU_PIC: u32 = 1 << 5;

/// `xc_vcpuinfo_t`: `struct xen_domctl_getvcpuinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct VcpuInfo {
    pub(super) vcpu: u32,
    pub(super) online: u8,
    pub(super) blocked: u8,
    pub(super) running: u8,
    pub(super) cpu_time: u64,
    pub(super) cpu: u32,
}

/// Flags of `xc_vcpu_getaffinity` and `xc_vcpu_setaffinity`.
pub(super) const AFFINITY_HARD: u32 = 1 << 0;
pub(super) const AFFINITY_SOFT: u32 = 1 << 1;

/// `xc_cputopo_t`: `struct xen_sysctl_cputopo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CpuTopology {
    pub(super) core: u32,
    pub(super) socket: u32,
    pub(super) node: u32,
}

/// Value in [`CpuTopology`] for an offline CPU or an unknown number.
pub(super) const INVALID_ID: u32 = u32::MAX;

/// `xc_cpupoolinfo_t`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct CpuPoolInfo {
    pub(super) cpupool_id: u32,
    pub(super) sched_id: u32,
    pub(super) n_dom: u32,
    pub(super) cpumap: *mut u8,
}

/// `struct xc_domain_meminfo`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct DomainMemory {
    pub(super) pt_levels: c_uint,
    pub(super) guest_width: c_uint,
    pub(super) pfn_type: *mut c_ulong,
    pub(super) p2m_table: *mut c_ulong,
    pub(super) p2m_size: c_ulong,
    pub(super) p2m_frames: c_uint,
}

/// Types of pages that cannot be mapped (`XEN_DOMCTL_PFINFO_*`): holes, pages that are only allocated, broken ones.
pub(super) const PFINFO_LTAB_MASK: c_ulong = 0xf << 28;
pub(super) const PFINFO_XTAB: c_ulong = 0xf << 28;
pub(super) const PFINFO_XALLOC: c_ulong = 0xe << 28;
pub(super) const PFINFO_BROKEN: c_ulong = 0xd << 28;

/// `XENVER_version`.
pub(super) const VERSION: c_int = 0;

/// `enum xc_psr_cmt_type`.
pub(super) const CMT_L3_OCCUPANCY: c_uint = 0;
pub(super) const CMT_TOTAL_MEM_COUNT: c_uint = 1;
pub(super) const CMT_LOCAL_MEM_COUNT: c_uint = 2;

/// `struct xentoollog_logger` (xentoollog.h): where the libraries log their messages.
#[repr(C)]
pub(super) struct Logger {
    pub(super) vmessage: extern "C" fn(*mut Logger, c_int, c_int, *const c_char, *const c_char, *mut c_void),
    pub(super) progress: extern "C" fn(*mut Logger, *const c_char, *const c_char, c_int, c_ulong, c_ulong),
    pub(super) destroy: extern "C" fn(*mut Logger),
}

// Only x86-64 has these sizes; `c_long` is Xen's `long` there.
const _: () = {
    assert!(size_of::<c_long>() == 8);
    assert!(size_of::<DomainInfo>() == 112 && offset_of!(DomainInfo, handle) == 76);
    assert!(offset_of!(DomainInfo, emulation_flags) == 104);
    assert!(size_of::<VcpuInfo>() == 24 && offset_of!(VcpuInfo, cpu_time) == 8);
    assert!(size_of::<CpuTopology>() == 12);
    assert!(size_of::<CpuPoolInfo>() == 24 && offset_of!(CpuPoolInfo, cpumap) == 16);
    assert!(size_of::<DomainMemory>() == 40 && offset_of!(DomainMemory, p2m_table) == 16);
};

#[cfg(test)]
mod tests;
