//! QEMU's interface for plugins, version 1, as "QEMU TCG Plugins" (docs/devel/tcg-plugins.rst, QEMU 7.2) describes it.
//!
//! Functions are looked up when the plugin is installed instead of being linked: so one that a QEMU lacks is named in a
//! message, the crate can be linked into a runner, and tests stand in for QEMU.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// The version of the interface that is used.
pub const VERSION: c_int = 1;

/// Names the plugin in calls.
pub type PluginId = u64;

/// What QEMU says of itself when it installs a plugin.
#[repr(C)]
#[derive(Debug)]
pub struct Info {
    /// The architecture of the guest.
    pub target_name: *const c_char,
    /// The versions of the interface that it knows, from and to.
    pub versions: [c_int; 2],
    /// Whether it emulates a machine, and not the system calls of a program.
    pub is_system: bool,
    /// vCPUs at the start.
    pub vcpus: c_int,
    /// vCPUs that there can be.
    pub max_vcpus: c_int,
}

/// A block of instructions that is being translated.
#[repr(C)]
#[derive(Debug)]
pub struct Block {
    _private: [u8; 0],
}

/// An instruction of a block.
#[repr(C)]
#[derive(Debug)]
pub struct Instruction {
    _private: [u8; 0],
}

/// Where an access goes to.
#[repr(C)]
#[derive(Debug)]
pub struct PhysicalAddress {
    _private: [u8; 0],
}

/// What an access is, for queries.
pub type AccessInfo = u32;

/// Called by QEMU for a plugin.
pub type OnPlugin = extern "C" fn(PluginId);
/// Called when a block is translated.
pub type OnTranslation = extern "C" fn(PluginId, *mut Block);
/// Called when a vCPU executes something, with what was registered.
pub type OnExecution = extern "C" fn(c_uint, *mut c_void);
/// Called after a vCPU's access to a virtual address, with what was registered.
pub type OnAccess = extern "C" fn(c_uint, AccessInfo, u64, *mut c_void);

/// The callback reads and writes no register of the guest: QEMU need not have them in memory.
pub const NO_REGISTERS: c_int = 0;
/// Accesses that read, and those that write.
pub const READS_AND_WRITES: c_int = 3;
/// Adds a number to a word of eight bytes, without a call and without a lock.
pub const ADD: c_int = 0;

/// Declares the functions and how they are looked up.
macro_rules! functions {
    ($($(#[$meta:meta])* $field:ident = $name:literal: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The functions that are used.
        #[derive(Clone, Copy, Debug)]
        pub struct Functions {
            $($(#[$meta])* pub $field: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        impl Functions {
            /// Those of the program that loaded the plugin.
            ///
            /// # Errors
            /// The name of one that it lacks.
            pub fn find() -> Result<Self, &'static CStr> {
                Ok(Self {
                    $($field: {
                        let found = find($name).ok_or($name)?;
                        // SAFETY: a function of this name has this type in version 1 of the interface, which QEMU
                        // checks before it installs the plugin.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($arg),*) $(-> $ret)?>(found)
                        }
                    },)*
                })
            }
        }
    };
}

functions! {
    /// Calls back for each block that is translated.
    on_translation = c"qemu_plugin_register_vcpu_tb_trans_cb": fn(PluginId, OnTranslation);
    /// Calls back before each execution of a block.
    on_block = c"qemu_plugin_register_vcpu_tb_exec_cb": fn(*mut Block, OnExecution, c_int, *mut c_void);
    /// Does an operation before each execution of a block.
    inline_on_block = c"qemu_plugin_register_vcpu_tb_exec_inline": fn(*mut Block, c_int, *mut c_void, u64);
    /// Calls back before each execution of an instruction.
    on_instruction = c"qemu_plugin_register_vcpu_insn_exec_cb":
        fn(*mut Instruction, OnExecution, c_int, *mut c_void);
    /// Calls back after each access of an instruction.
    on_access = c"qemu_plugin_register_vcpu_mem_cb": fn(*mut Instruction, OnAccess, c_int, c_int, *mut c_void);
    /// How many instructions a block has.
    instructions = c"qemu_plugin_tb_n_insns": fn(*const Block) -> usize;
    /// One of them.
    instruction = c"qemu_plugin_tb_get_insn": fn(*const Block, usize) -> *mut Instruction;
    /// Its virtual address.
    virtual_address = c"qemu_plugin_insn_vaddr": fn(*const Instruction) -> u64;
    /// Its address in QEMU's process; null where it is in no memory.
    host_address = c"qemu_plugin_insn_haddr": fn(*const Instruction) -> *mut c_void;
    /// Its bytes.
    data = c"qemu_plugin_insn_data": fn(*const Instruction) -> *const c_void;
    /// How many.
    size = c"qemu_plugin_insn_size": fn(*const Instruction) -> usize;
    /// The size of an access, as the exponent of a power of two of bytes.
    size_shift = c"qemu_plugin_mem_size_shift": fn(AccessInfo) -> c_uint;
    /// Whether an access writes.
    is_store = c"qemu_plugin_mem_is_store": fn(AccessInfo) -> bool;
    /// Where an access goes to, valid within its callback.
    physical = c"qemu_plugin_get_hwaddr": fn(AccessInfo, u64) -> *mut PhysicalAddress;
    /// Whether that is a device.
    is_device = c"qemu_plugin_hwaddr_is_io": fn(*const PhysicalAddress) -> bool;
    /// Its address: in QEMU 7.2 one of RAM (offset of its block, and in it), since 8.1 a guest-physical one.
    physical_address = c"qemu_plugin_hwaddr_phys_addr": fn(*const PhysicalAddress) -> u64;
    /// Calls back when translated code has been dropped, while no vCPU runs.
    on_flush = c"qemu_plugin_register_flush_cb": fn(PluginId, OnPlugin);
    /// Takes all callbacks back, drops all translated code, and calls back when that is done: from a vCPU's thread, and
    /// done while no vCPU runs.
    reset = c"qemu_plugin_reset": fn(PluginId, OnPlugin);
}

/// QEMU 7.2 has a vCPU remember the callbacks of an instruction with a helper, for the accesses that the helper makes,
/// and forgets them after the instruction. Where an instruction leaves its block by itself, as SYSCALL does, it does not
/// come to that; and when translated code is dropped, what was remembered is freed. The next interrupt, which writes to
/// the stack, then calls what is no function. QEMU 8.0 and later forget at the end of each block. These two functions
/// are not part of the interface, but exported by the versions that need them.
#[derive(Clone, Copy, Debug)]
pub struct Forgetting {
    cpu: unsafe extern "C" fn(c_int) -> *mut c_void,
    forget: unsafe extern "C" fn(*mut c_void),
}

impl Forgetting {
    /// Those of the program that loaded the plugin; `None` if it lacks one.
    pub fn find() -> Option<Self> {
        let (cpu, forget) = (find(c"qemu_get_cpu")?, find(c"qemu_plugin_disable_mem_helpers")?);
        // SAFETY: QEMU's functions of these names have had these types since they exist (hw/core/cpu.h,
        // include/qemu/plugin.h, QEMU 4.2 to 7.2); later versions inline the second.
        unsafe {
            Some(Self {
                cpu: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(c_int) -> *mut c_void>(cpu),
                forget: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void)>(forget),
            })
        }
    }

    /// Makes the first `vcpus` vCPUs forget.
    ///
    /// # Safety
    /// None of them runs.
    pub unsafe fn forget(&self, vcpus: usize) {
        for vcpu in 0..vcpus as c_int {
            // SAFETY: a lookup; null for a vCPU that there is not.
            let cpu = unsafe { (self.cpu)(vcpu) };
            if !cpu.is_null() {
                // SAFETY: a vCPU of QEMU, which does not run, by the contract of this function.
                unsafe { (self.forget)(cpu) };
            }
        }
    }
}

fn find(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name ends with a zero byte; the lookup changes nothing.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_is_missing_is_named() {
        // This program is no QEMU.
        let missing = Functions::find().map(drop).map_err(CStr::to_str);
        assert_eq!(missing, Err(Ok("qemu_plugin_register_vcpu_tb_trans_cb")));
    }

    #[test]
    fn what_qemu_says_lies_where_c_has_it() {
        use std::mem::offset_of;
        assert_eq!(offset_of!(Info, versions), 8);
        assert_eq!(offset_of!(Info, is_system), 16);
        assert_eq!((offset_of!(Info, vcpus), offset_of!(Info, max_vcpus)), (20, 24));
    }
}
