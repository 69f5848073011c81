//! bpf(2): loading a program, running it, and a map that is read by mapping it.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::assembler::Assembled;

/// The part of `union bpf_attr` that BPF_MAP_CREATE reads; all other fields are zero for the kernel.
#[repr(C)]
#[derive(Default)]
struct MapAttributes {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD reads.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instructions_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_BYTES],
    interface: u32,
    attach_type: u32,
    types: u32,
    function_bytes: u32,
    functions: u64,
    functions_count: u32,
    /// As below: in place of padding.
    zero: u32,
}

/// The part of `union bpf_attr` that BPF_BTF_LOAD reads.
#[repr(C)]
#[derive(Default)]
struct TypeAttributes {
    types: u64,
    log: u64,
    types_bytes: u32,
    log_bytes: u32,
    log_level: u32,
    /// Not padding, which may hold anything, and has to be zero for kernels before 6.4.
    zero: u32,
}

/// `struct bpf_func_info`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FunctionInfo {
    instruction: u32,
    type_id: u32,
}

/// The part of `union bpf_attr` that BPF_PROG_RUN reads and writes.
#[repr(C)]
#[derive(Default)]
struct RunAttributes {
    program: u32,
    result: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_bytes: u32,
    context_out_bytes: u32,
    context_in: u64,
    context_out: u64,
}

/// Bytes of a program's name, the last of them zero.
const NAME_BYTES: usize = 16;
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_RUN: libc::c_int = 10;
const BPF_BTF_LOAD: libc::c_int = 18;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SYSCALL: u32 = 31;
/// Programs of that type must be marked as sleepable.
const BPF_F_SLEEPABLE: u32 = 1 << 4;
const BPF_F_MMAPABLE: u32 = 1 << 10;

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_long, Errno> {
    // SAFETY: the attributes live through the call, their size is passed, and every address in them refers to
    // an object that lives as long and has the given size.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attributes, size_of::<T>()) };
    Errno::result(result)
}

/// The types of functions of programs: `static int function(void)`.
mod types {
    /// The id of the function.
    pub(super) const FUNCTION: u32 = 3;

    const INT: u32 = 1 << 24;
    const FUNCTION_KIND: u32 = 12 << 24;
    const PROTOTYPE: u32 = 13 << 24;
    const SIGNED_32_BITS: u32 = 1 << 24 | 32;
    /// Names of the types: none, 1 and 5.
    const NAMES: &[u8; 16] = b"\0int\0function\0\0\0";

    /// In the format of Documentation/bpf/btf.rst, Linux 6.18.
    pub(super) fn bytes() -> Vec<u8> {
        let types = [1, INT, 4, SIGNED_32_BITS, 0, PROTOTYPE, 1, 5, FUNCTION_KIND, 2];
        let (types_bytes, names_bytes) = (size_of_val(&types) as u32, NAMES.len() as u32);
        let mut bytes = 0xeb9f_u16.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let words = [24, 0, types_bytes, types_bytes, names_bytes];
        bytes.extend(words.iter().chain(&types).flat_map(|word: &u32| word.to_ne_bytes()));
        bytes.extend(NAMES);
        bytes
    }
}

fn load_types() -> Result<OwnedFd, Errno> {
    let types = types::bytes();
    let mut attributes = TypeAttributes {
        types: types.as_ptr() as u64,
        types_bytes: types.len() as u32,
        ..TypeAttributes::default()
    };
    let descriptor = bpf(BPF_BTF_LOAD, &mut attributes)?;
    // SAFETY: the kernel has just returned this descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) })
}

/// A loaded program.
#[derive(Debug)]
pub(crate) struct Program(OwnedFd);

impl Program {
    /// Loads a program by a name, of which the first 15 bytes are kept.
    ///
    /// # Errors
    /// What the kernel says; EINVAL or EACCES where the verifier refuses it.
    pub(crate) fn load(name: &str, program: &Assembled) -> Result<Self, Errno> {
        Self::load_with_log(name, program, &mut [])
    }

    /// The same; what the verifier says is written to `log`, if there is any room.
    pub(crate) fn load_with_log(name: &str, program: &Assembled, log: &mut [u8]) -> Result<Self, Errno> {
        let mut attributes = LoadAttributes {
            program_type: BPF_PROG_TYPE_SYSCALL,
            instructions_count: program.instructions.len() as u32,
            instructions: program.instructions.as_ptr() as u64,
            // The helpers are for programs under the GPL only; these programs are licensed under it, in addition
            // to our own licences.
            license: c"Dual MIT/GPL".as_ptr() as u64,
            flags: BPF_F_SLEEPABLE,
            ..LoadAttributes::default()
        };
        let length = name.len().min(NAME_BYTES - 1);
        attributes.name[..length].copy_from_slice(&name.as_bytes()[..length]);
        if !log.is_empty() {
            (attributes.log_level, attributes.log_bytes) = (1, log.len() as u32);
            attributes.log = log.as_mut_ptr() as u64;
        }
        // A function whose address is taken has to have a type.
        let functions = program.functions.iter();
        let functions: Vec<_> =
            functions.map(|at| FunctionInfo { instruction: *at, type_id: types::FUNCTION }).collect();
        let types = if functions.len() > 1 { Some(load_types()?) } else { None };
        if let Some(types) = &types {
            attributes.types = types.as_raw_fd() as u32;
            attributes.function_bytes = size_of::<FunctionInfo>() as u32;
            attributes.functions = functions.as_ptr() as u64;
            attributes.functions_count = functions.len() as u32;
        }
        let descriptor = bpf(BPF_PROG_LOAD, &mut attributes)?;
        // SAFETY: the kernel has just returned this descriptor, which has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) }))
    }

    /// Runs the program on a context, which it may change.
    ///
    /// `C` is plain data: every pattern of bits is a value of it.
    pub(crate) fn run<C: Copy>(&self, context: &mut C) -> Result<(), Errno> {
        let address = &raw mut *context;
        let mut run = RunAttributes {
            program: self.0.as_raw_fd() as u32,
            context_in_bytes: size_of::<C>() as u32,
            context_in: address as u64,
            ..RunAttributes::default()
        };
        // The kernel writes the context back to the address it was read from.
        bpf(BPF_PROG_RUN, &mut run)?;
        // SAFETY: a plain read of what is borrowed here, which the kernel may have written to behind the compiler's
        // back.
        *context = unsafe { address.read_volatile() };
        Ok(())
    }
}

/// An array of values that a program writes, mapped into this process.
#[derive(Debug)]
pub(crate) struct MappedArray {
    descriptor: OwnedFd,
    memory: NonNull<u8>,
    value_bytes: usize,
    values: usize,
}

// SAFETY: the memory belongs to this object and is only read, by address; the descriptor can be used anywhere.
unsafe impl Send for MappedArray {}
// SAFETY: as above; who may read which value while a program writes it is the caller's business (`Self::value`).
unsafe impl Sync for MappedArray {}

impl MappedArray {
    /// Makes one of `values` values of `value_bytes` bytes each, a multiple of the page (Linux 5.5).
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn create(values: usize, value_bytes: usize) -> Result<Self, Errno> {
        let mut attributes = MapAttributes {
            map_type: BPF_MAP_TYPE_ARRAY,
            key_bytes: 4,
            value_bytes: value_bytes as u32,
            entries: values as u32,
            flags: BPF_F_MMAPABLE,
        };
        let descriptor = bpf(BPF_MAP_CREATE, &mut attributes)?;
        // SAFETY: the kernel has just returned this descriptor, which has no other owner.
        let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor as libc::c_int) };
        let length = NonZeroUsize::new(values * value_bytes).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping at an address that the kernel chooses; it replaces nothing.
        let memory =
            unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, descriptor.as_fd(), 0)? };
        Ok(Self { descriptor, memory: memory.cast(), value_bytes, values })
    }

    /// Its descriptor.
    pub(crate) fn descriptor(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    /// The first byte of a value; `None` if there are not as many. It may be read while no program writes it.
    pub(crate) fn value(&self, number: usize) -> Option<*const u8> {
        // SAFETY: within the mapping, which is `values` times `value_bytes` long.
        (number < self.values)
            .then(|| unsafe { self.memory.as_ptr().add(number * self.value_bytes).cast_const() })
    }
}

impl Drop for MappedArray {
    fn drop(&mut self) {
        // SAFETY: the mapping that was made with this object, which nothing refers to any more.
        let _ = unsafe { munmap(self.memory.cast(), self.values * self.value_bytes) };
    }
}
