//! A program that reads 64 bytes of the kernel's memory. It needs CAP_BPF and CAP_PERFMON, and a kernel that is not
//! locked down for confidentiality.

use super::assembler::{Assembled, Assembler, CURRENT_TASK, If, Operation, PROBE_READ_KERNEL, Register};
use super::system_call::Program;

/// 8-byte words per read.
pub(crate) const WORDS: usize = 8;

/// Input and output of the program.
#[repr(C)]
#[derive(Clone, Copy)]
struct Context {
    /// 0 for the address of the task that runs the program.
    address: u64,
    /// 0, or a negative error if the address cannot be read.
    status: i64,
    words: [u64; WORDS],
}

/// Access to the kernel's memory; closed on drop.
#[derive(Debug)]
pub(crate) struct KernelRead(Program);

impl KernelRead {
    /// Loads the program.
    ///
    /// # Errors
    /// Why this host does not allow it, as one clause.
    pub(crate) fn open() -> Result<Self, String> {
        let program = program().ok_or("a program has a jump to nowhere")?;
        Program::load("huddle_read", &program)
            .map(Self)
            .map_err(|errno| format!("the kernel refused a BPF program that reads its memory ({errno})"))
    }

    /// The words at an address; `None` if nothing is mapped.
    pub(crate) fn read(&self, address: u64) -> Option<[u64; WORDS]> {
        let mut context = Context { address, status: -1, words: [0; WORDS] };
        self.0.run(&mut context).ok()?;
        (address != 0 && context.status == 0).then_some(context.words)
    }

    /// The word at an address that is a multiple of 8.
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        // From a multiple of their length on, 64 bytes cross no page: what is behind the word may not be mapped.
        let first = address & !(WORDS as u64 * 8 - 1);
        Some(self.read(first)?[((address - first) / 8) as usize])
    }

    /// Address of the `struct task_struct` of this thread.
    pub(crate) fn current_task(&self) -> Option<u64> {
        let mut context = Context { address: 0, status: -1, words: [0; WORDS] };
        self.0.run(&mut context).ok()?;
        (context.status == 0).then_some(context.words[0])
    }
}

/// `status = bpf_probe_read_kernel(stack, 64, address); words = stack`, or for address 0
/// `status = 0; words[0] = bpf_get_current_task()`.
fn program() -> Option<Assembled> {
    const WORDS_AT: i16 = std::mem::offset_of!(Context, words) as i16;
    const STATUS_AT: i16 = std::mem::offset_of!(Context, status) as i16;
    let stack = -((WORDS * 8) as i16);
    let mut program = Assembler::default();
    let at_address = program.label();
    program.register(Operation::Set, Register::R6, Register::R1);
    program.load(Register::R3, Register::R6, std::mem::offset_of!(Context, address) as i16);
    program.jump_if(Register::R3, If::Unequal, 0, at_address);
    program.call(CURRENT_TASK);
    program.store(Register::R6, WORDS_AT, Register::R0);
    program.number(Operation::Set, Register::R0, 0);
    program.store(Register::R6, STATUS_AT, Register::R0);
    program.exit(0);
    program.place(at_address);
    program.register(Operation::Set, Register::R1, Register::Frame);
    program.number(Operation::Add, Register::R1, stack.into());
    program.number(Operation::Set, Register::R2, (WORDS * 8) as i32);
    program.call(PROBE_READ_KERNEL);
    program.store(Register::R6, STATUS_AT, Register::R0);
    for word in 0..WORDS as i16 {
        program.load(Register::R0, Register::Frame, stack + 8 * word);
        program.store(Register::R6, WORDS_AT + 8 * word, Register::R0);
    }
    program.exit(0);
    program.finish()
}
