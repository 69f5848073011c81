//! The used functions of Xen's libraries, loaded by the libraries' versioned names.

use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::layouts::{CpuPoolInfo, CpuTopology, DomainInfo, DomainMemory, Handle, Logger, VcpuInfo};
use crate::toolstack::XenError;

/// The one version whose structures are known.
pub(super) const KNOWN_VERSION: &str = "4.17";

macro_rules! symbols {
    ($(#[$doc:meta])* $table:ident from $file:literal { $($name:ident($($argument:ty),*) -> $result:ty;)* }) => {
        $(#[$doc])*
        pub(super) struct $table {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> $result,)*
            /// The functions are valid as long as it is loaded.
            _library: Library,
        }

        impl $table {
            /// # Errors
            /// [`XenError::NoLibrary`] where the library or one of its functions is missing.
            pub(super) fn load() -> Result<Self, XenError> {
                let library = load($file)?;
                Ok(Self {
                    $($name: {
                        let symbol = concat!(stringify!($name), "\0").as_bytes();
                        // SAFETY: a library of this name has a function of this name and type: its version
                        // is in its name, and the types are those of that version's headers.
                        let found = unsafe {
                            library.get::<unsafe extern "C" fn($($argument),*) -> $result>(symbol)
                        };
                        *found.map_err(|error| missing($file, &error))?
                    },)*
                    _library: library,
                })
            }
        }
    };
}

fn load(file: &str) -> Result<Library, XenError> {
    // SAFETY: on loading, Xen's libraries only set up tables of their own.
    unsafe { Library::open(Some(file), RTLD_NOW | RTLD_LOCAL) }.map_err(|error| missing(file, &error))
}

fn missing(file: &str, error: &libloading::Error) -> XenError {
    let mut why = error.to_string();
    if let Some(source) = std::error::Error::source(error) {
        let source = source.to_string();
        if !why.contains(&source) {
            why = source;
        }
    }
    XenError::NoLibrary { library: file.to_owned(), why: why.replace('\n', " ") }
}

symbols! {
    /// Hypercalls.
    Control from "libxenctrl.so.4.17" {
        xc_interface_open(*mut Logger, *mut Logger, c_uint) -> Handle;
        xc_interface_close(Handle) -> c_int;
        xc_version(Handle, c_int, *mut c_void) -> c_int;
        xc_domain_getinfolist(Handle, u32, c_uint, *mut DomainInfo) -> c_int;
        xc_vcpu_getinfo(Handle, u32, u32, *mut VcpuInfo) -> c_int;
        xc_get_max_cpus(Handle) -> c_int;
        xc_get_cpumap_size(Handle) -> c_int;
        xc_vcpu_getaffinity(Handle, u32, c_int, *mut u8, *mut u8, u32) -> c_int;
        xc_vcpu_setaffinity(Handle, u32, c_int, *mut u8, *mut u8, u32) -> c_int;
        xc_cputopoinfo(Handle, *mut c_uint, *mut CpuTopology) -> c_int;
        xc_cpupool_getinfo(Handle, u32) -> *mut CpuPoolInfo;
        xc_cpupool_infofree(Handle, *mut CpuPoolInfo) -> ();
        xc_domain_maximum_gpfn(Handle, u32, *mut c_ulong) -> c_int;
        xc_get_pfn_type_batch(Handle, u32, c_uint, *mut c_ulong) -> c_int;
        xc_psr_cmt_enabled(Handle) -> c_int;
        xc_psr_cmt_attach(Handle, u32) -> c_int;
        xc_psr_cmt_detach(Handle, u32) -> c_int;
        xc_psr_cmt_get_domain_rmid(Handle, u32, *mut u32) -> c_int;
        xc_psr_cmt_get_l3_event_mask(Handle, *mut u32) -> c_int;
        xc_psr_cmt_get_l3_upscaling_factor(Handle, *mut u32) -> c_int;
        xc_psr_cmt_get_data(Handle, u32, u32, c_uint, *mut u64, *mut u64) -> c_int;
        xc_memshr_control(Handle, u32, c_int) -> c_int;
        xc_memshr_nominate_gfn(Handle, u32, c_ulong, *mut u64) -> c_int;
        xc_memshr_share_gfns(Handle, u32, c_ulong, u64, u32, c_ulong, u64) -> c_int;
    }
}

symbols! {
    /// The memory of PV domains.
    Guest from "libxenguest.so.4.17" {
        xc_map_domain_meminfo(Handle, u32, *mut DomainMemory) -> c_int;
        xc_unmap_domain_meminfo(Handle, *mut DomainMemory) -> c_int;
    }
}

symbols! {
    /// Mapping pages of domains. Its interface is stable, as its number says.
    Foreign from "libxenforeignmemory.so.1" {
        xenforeignmemory_open(*mut Logger, c_uint) -> *mut c_void;
        xenforeignmemory_close(*mut c_void) -> c_int;
        xenforeignmemory_map(*mut c_void, u32, c_int, usize, *const c_ulong, *mut c_int) -> *mut c_void;
        xenforeignmemory_unmap(*mut c_void, *mut c_void, usize) -> c_int;
    }
}

/// `xc_vcpu_getaffinity` or `xc_vcpu_setaffinity`.
pub(super) type AffinityCall = unsafe extern "C" fn(Handle, u32, c_int, *mut u8, *mut u8, u32) -> c_int;

/// A logger that discards messages: failures are reported by the calls' own errors.
pub(super) static SILENT: Silent = Silent(Logger { vmessage, progress, destroy });

/// The libraries get a pointer to it and only read it.
pub(super) struct Silent(Logger);

impl Silent {
    pub(super) fn pointer(&'static self) -> *mut Logger {
        (&raw const self.0).cast_mut()
    }
}

extern "C" fn vmessage(
    _: *mut Logger,
    _: c_int,
    _: c_int,
    _: *const c_char,
    _: *const c_char,
    _: *mut c_void,
) {
}

extern "C" fn progress(_: *mut Logger, _: *const c_char, _: *const c_char, _: c_int, _: c_ulong, _: c_ulong) {
}

extern "C" fn destroy(_: *mut Logger) {}
