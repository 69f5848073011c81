//! An assembler for BPF (Documentation/bpf/standardization/instruction-set.rst, Linux 6.18): the few instructions that
//! the programs here need, and jumps to labels.

/// `struct bpf_insn` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// A register. R0 has results, R1 to R5 arguments, which calls destroy; R6 to R9 are kept by calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    R0 = 0,
    R1 = 1,
    R2 = 2,
    R3 = 3,
    R4 = 4,
    R6 = 6,
    R7 = 7,
    R8 = 8,
    R9 = 9,
    /// The end of the stack.
    Frame = 10,
}

/// Arithmetic of 64 bits on a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Set = 0xb0,
    Add = 0x00,
    And = 0x50,
    ShiftLeft = 0x60,
    ShiftRight = 0x70,
}

/// When to jump; without a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum If {
    Equal = 0x10,
    AtLeast = 0x30,
    /// They have a bit in common.
    AnyBit = 0x40,
    Unequal = 0x50,
}

/// A place in a program that can be jumped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label(usize);

/// `bpf_map_lookup_elem`.
pub(crate) const MAP_LOOKUP: i32 = 1;
/// `bpf_get_current_task`.
pub(crate) const CURRENT_TASK: i32 = 35;
/// `bpf_loop` (Linux 5.17).
pub(crate) const LOOP: i32 = 181;
/// `bpf_probe_read_kernel`.
pub(crate) const PROBE_READ_KERNEL: i32 = 113;

const IMMEDIATE_64: u8 = 0x07;
const REGISTER_64: u8 = 0x0f;
const JUMP_IMMEDIATE: u8 = 0x05;
const JUMP_REGISTER: u8 = 0x0d;
const LOAD_64: u8 = 0x79;
const STORE_64: u8 = 0x7b;
const STORE_32: u8 = 0x63;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LOAD_WIDE: u8 = 0x18;
/// Source of a call: the immediate is the id of a function in the kernel's BTF (`BPF_PSEUDO_KFUNC_CALL`).
const KERNEL_FUNCTION: u8 = 2;
/// Source of a wide load: the immediate is the descriptor of a map (`BPF_PSEUDO_MAP_FD`).
const MAP_DESCRIPTOR: u8 = 1;
/// Source of a wide load: the immediate is the distance to a function of the program (`BPF_PSEUDO_FUNC`).
const OWN_FUNCTION: u8 = 4;

/// A program as it is written.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    instructions: Vec<Instruction>,
    /// Where each label is.
    labels: Vec<Option<usize>>,
    /// Jumps and their labels.
    jumps: Vec<(usize, Label)>,
    /// Loads of addresses of functions, and their labels.
    addresses: Vec<(usize, Label)>,
    /// Where functions begin, besides the first.
    functions: Vec<usize>,
}

/// A program, and where its functions begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Assembled {
    pub(crate) instructions: Vec<Instruction>,
    /// In the order of the instructions; the first is 0.
    pub(crate) functions: Vec<u32>,
}

impl Assembler {
    fn push(&mut self, code: u8, to: Register, from: u8, offset: i16, immediate: i32) {
        self.instructions.push(Instruction { code, registers: from << 4 | to as u8, offset, immediate });
    }

    /// A label whose place is not known yet.
    pub(crate) fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts a label here.
    pub(crate) fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.instructions.len());
    }

    /// `to = to OPERATION number`.
    pub(crate) fn number(&mut self, operation: Operation, to: Register, number: i32) {
        self.push(IMMEDIATE_64 | operation as u8, to, 0, 0, number);
    }

    /// `to = to OPERATION from`.
    pub(crate) fn register(&mut self, operation: Operation, to: Register, from: Register) {
        self.push(REGISTER_64 | operation as u8, to, from as u8, 0, 0);
    }

    /// `to = *(u64 *)(base + offset)`.
    pub(crate) fn load(&mut self, to: Register, base: Register, offset: i16) {
        self.push(LOAD_64, to, base as u8, offset, 0);
    }

    /// `*(u64 *)(base + offset) = from`.
    pub(crate) fn store(&mut self, base: Register, offset: i16, from: Register) {
        self.push(STORE_64, base, from as u8, offset, 0);
    }

    /// `*(u32 *)(base + offset) = from`.
    pub(crate) fn store_half(&mut self, base: Register, offset: i16, from: Register) {
        self.push(STORE_32, base, from as u8, offset, 0);
    }

    /// The map with this descriptor.
    pub(crate) fn map(&mut self, to: Register, descriptor: i32) {
        self.push(LOAD_WIDE, to, MAP_DESCRIPTOR, 0, descriptor);
        self.push(0, Register::R0, 0, 0, 0);
    }

    /// Begins a function, which is called by its address.
    pub(crate) fn function(&mut self, label: Label) {
        self.functions.push(self.instructions.len());
        self.place(label);
    }

    /// The address of a function.
    pub(crate) fn address(&mut self, to: Register, function: Label) {
        self.addresses.push((self.instructions.len(), function));
        self.push(LOAD_WIDE, to, OWN_FUNCTION, 0, 0);
        self.push(0, Register::R0, 0, 0, 0);
    }

    /// Calls a helper.
    pub(crate) fn call(&mut self, helper: i32) {
        self.push(CALL, Register::R0, 0, 0, helper);
    }

    /// Calls a function of the kernel by its id in the kernel's BTF.
    pub(crate) fn call_kernel(&mut self, function: i32) {
        self.push(CALL, Register::R0, KERNEL_FUNCTION, 0, function);
    }

    /// `goto label`.
    pub(crate) fn jump(&mut self, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP_IMMEDIATE, Register::R0, 0, 0, 0);
    }

    /// `if left CONDITION number goto label`.
    pub(crate) fn jump_if(&mut self, left: Register, condition: If, number: i32, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP_IMMEDIATE | condition as u8, left, 0, 0, number);
    }

    /// `if left CONDITION right goto label`.
    pub(crate) fn jump_if_register(&mut self, left: Register, condition: If, right: Register, label: Label) {
        self.jumps.push((self.instructions.len(), label));
        self.push(JUMP_REGISTER | condition as u8, left, right as u8, 0, 0);
    }

    /// `return result`.
    pub(crate) fn exit(&mut self, result: i32) {
        self.number(Operation::Set, Register::R0, result);
        self.push(EXIT, Register::R0, 0, 0, 0);
    }

    /// The program, with all jumps resolved; `None` where a label has no place, or is too far away for a jump.
    pub(crate) fn finish(mut self) -> Option<Assembled> {
        let distance = |at: usize, label: Label| Some(self.labels[label.0]? as i64 - at as i64 - 1);
        for (at, label) in self.jumps {
            self.instructions[at].offset = i16::try_from(distance(at, label)?).ok()?;
        }
        for (at, label) in self.addresses {
            self.instructions[at].immediate = i32::try_from(distance(at, label)?).ok()?;
        }
        let functions = std::iter::once(0).chain(self.functions.iter().map(|at| *at as u32)).collect();
        Some(Assembled { instructions: self.instructions, functions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_those_of_the_document() {
        let mut program = Assembler::default();
        program.register(Operation::Set, Register::R6, Register::R1);
        program.number(Operation::Add, Register::R1, -64);
        program.load(Register::R3, Register::R6, 8);
        program.store(Register::Frame, -8, Register::R0);
        program.call(PROBE_READ_KERNEL);
        program.call_kernel(77);
        program.exit(0);
        let bytes: Vec<_> = program
            .finish()
            .unwrap()
            .instructions
            .iter()
            .map(|i| (i.code, i.registers, i.offset, i.immediate))
            .collect();
        let expected = [
            (0xbf, 0x16, 0, 0),
            (0x07, 0x01, 0, -64),
            (0x79, 0x63, 8, 0),
            (0x7b, 0x0a, -8, 0),
            (0x85, 0x00, 0, 113),
            (0x85, 0x20, 0, 77),
            (0xb7, 0x00, 0, 0),
            (0x95, 0x00, 0, 0),
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn jumps_reach_labels_before_and_after() {
        let mut program = Assembler::default();
        let (begin, end) = (program.label(), program.label());
        program.place(begin);
        program.jump_if(Register::R1, If::Equal, 3, end);
        program.jump(begin);
        program.place(end);
        program.exit(0);
        let program = program.finish().unwrap().instructions;
        assert_eq!((program[0].code, program[0].offset, program[1].offset), (0x15, 1, -2));
        let mut with_function = Assembler::default();
        let function = with_function.label();
        with_function.address(Register::R2, function);
        with_function.exit(0);
        with_function.function(function);
        with_function.exit(1);
        let Assembled { instructions, functions } = with_function.finish().unwrap();
        assert_eq!((instructions[0].immediate, functions), (3, vec![0, 4]));
        let mut lost = Assembler::default();
        let label = lost.label();
        lost.jump(label);
        assert_eq!(lost.finish(), None);
    }
}
