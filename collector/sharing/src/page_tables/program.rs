//! The program that walks page tables of x86-64 and copies those of the last level.
//!
//! A run takes at most [`TURNS`] turns of a loop (`bpf_loop`, Linux 5.17), each for the next 2 MiB: it reads one entry
//! of each upper level, passes over what is not mapped, and otherwise notes the entry, and copies the table behind it
//! if it has one. Then all entries on the way are read again. If one changed, what was copied may be anything, and the
//! turn is taken again. That check is what makes a copy one of this table at this address. Where the kernel has
//! `bpf_rcu_read_lock` (Linux 6.2), a turn is taken under it: since Linux 6.15 (CONFIG_PT_RECLAIM) x86 frees tables
//! only after a grace period, and without that it costs nothing. Before, a table that is freed meanwhile has first been
//! taken out of the entry above it.
//!
//! Source of the format of entries: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 3A, 4.5;
//! arch/x86/include/asm/pgtable_types.h, Linux 6.18.

use std::mem::offset_of;

use crate::bpf::assembler::{
    Assembled, Assembler, If, LOOP, Label, MAP_LOOKUP, Operation, PROBE_READ_KERNEL, Register,
};

/// Blocks of 2 MiB that one run gives at most.
pub(super) const BLOCKS: usize = 32;
/// Turns of one run, with those that pass over holes and those that are taken again.
const TURNS: i32 = 64;
/// Bytes of a table, and of a page.
pub(super) const TABLE_BYTES: usize = 4096;
/// Bytes of what a run gives: notes, then tables.
pub(super) const OUTPUT_BYTES: usize = TABLE_BYTES + BLOCKS * TABLE_BYTES;

/// The bit of an entry that is valid.
pub(super) const PRESENT: u64 = 1;
/// Of an upper level: it maps a huge page.
pub(super) const HUGE: u64 = 1 << 7;

/// Lowest address bits of what an entry of each level maps: the last level with tables, then up.
const LEVEL_2: i32 = 21;
const LEVEL_3: i32 = 30;
const LEVEL_4: i32 = 39;
const LEVEL_5: i32 = 48;

/// Input and output of a run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Context {
    /// Address of the highest table in the direct map.
    pub(super) tables: u64,
    /// Where to go on; changed by the run.
    pub(super) address: u64,
    /// One past the last address.
    pub(super) end: u64,
    /// Address of frame 0.
    pub(super) direct_map: u64,
    /// The bits of an entry that are a physical address.
    pub(super) address_mask: u64,
    /// 4 or 5.
    pub(super) levels: u64,
    /// Which value of the map to write.
    pub(super) output: u64,
    /// Blocks that were noted.
    pub(super) blocks: u64,
    /// Turns that have to be taken again.
    pub(super) again: u64,
}

/// What is noted of a block.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// The first address, and how much is mapped: 0 by a table that was copied, or 21 or 30 by one entry, as power of
    /// two in bytes.
    pub(super) address_and_size: u64,
    /// The entry.
    pub(super) entry: u64,
}

/// Bytes of the stack below its end: one entry, and for each level the entry and where it is.
const SCRATCH: i16 = -8;

/// On the stack of the first function, whose end the function of a turn gets: the context and the output.
const KEPT_CONTEXT: i16 = -8;
const KEPT_OUTPUT: i16 = -16;
const KEY: i16 = -24;

/// Places of a level's entry and its address on the stack.
fn on_stack(level: i32) -> (i16, i16) {
    let at = match level {
        LEVEL_2 => -24,
        LEVEL_3 => -40,
        LEVEL_4 => -56,
        _ => -72,
    };
    (at, at + 8)
}

/// R6 is the context, R7 the address, R8 the table of the level, R9 the output.
struct Walk {
    code: Assembler,
    /// The end of a turn after which there is another.
    next_turn: Label,
    /// The same, where nothing was gained.
    again: Label,
    /// The end of the last turn.
    done: Label,
}

/// The program for a map with this descriptor; the functions are `bpf_rcu_read_lock` and `bpf_rcu_read_unlock`. Each
/// table is copied `copies` times: more than once gives a test more time in which the kernel may free it.
pub(super) fn program(map: i32, rcu_functions: Option<[u32; 2]>, copies: u32) -> Option<Assembled> {
    let mut code = Assembler::default();
    let [next_turn, again, done, turn, out] = std::array::from_fn(|_| code.label());
    let mut walk = Walk { code, next_turn, again, done };
    walk.code.register(Operation::Set, Register::R6, Register::R1);
    walk.code.store(Register::Frame, KEPT_CONTEXT, Register::R1);
    walk.load(Register::R1, offset_of!(Context, output));
    walk.code.store_half(Register::Frame, KEY, Register::R1);
    walk.code.map(Register::R1, map);
    walk.stack_address(Register::R2, KEY);
    walk.code.call(MAP_LOOKUP);
    walk.code.jump_if(Register::R0, If::Equal, 0, out);
    walk.code.store(Register::Frame, KEPT_OUTPUT, Register::R0);
    walk.code.number(Operation::Set, Register::R1, TURNS);
    walk.code.address(Register::R2, turn);
    walk.code.register(Operation::Set, Register::R3, Register::Frame);
    walk.code.number(Operation::Set, Register::R4, 0);
    walk.code.call(LOOP);
    walk.code.place(out);
    walk.code.exit(0);

    walk.code.function(turn);
    walk.code.load(Register::R6, Register::R2, KEPT_CONTEXT);
    walk.code.load(Register::R9, Register::R2, KEPT_OUTPUT);
    let [lock, unlock] = rcu_functions.map_or([None; 2], |functions| functions.map(Some));
    walk.call_kernel(lock);
    walk.turn(copies);
    walk.code.place(again);
    walk.load(Register::R1, offset_of!(Context, again));
    walk.code.number(Operation::Add, Register::R1, 1);
    walk.store(offset_of!(Context, again), Register::R1);
    walk.code.place(next_turn);
    walk.call_kernel(unlock);
    walk.code.exit(0);
    walk.code.place(done);
    walk.call_kernel(unlock);
    walk.code.exit(1);
    walk.code.finish()
}

impl Walk {
    fn load(&mut self, to: Register, field: usize) {
        self.code.load(to, Register::R6, field as i16);
    }

    fn store(&mut self, field: usize, from: Register) {
        self.code.store(Register::R6, field as i16, from);
    }

    fn call_kernel(&mut self, function: Option<u32>) {
        function.iter().for_each(|function| self.code.call_kernel(*function as i32));
    }

    fn stack_address(&mut self, to: Register, at: i16) {
        self.code.register(Operation::Set, to, Register::Frame);
        self.code.number(Operation::Add, to, at.into());
    }

    /// One block.
    fn turn(&mut self, copies: u32) {
        // Read by the code of five levels, which with four is never reached.
        let (entry, address) = on_stack(LEVEL_5);
        self.code.number(Operation::Set, Register::R1, 0);
        self.code.store(Register::Frame, entry, Register::R1);
        self.code.store(Register::Frame, address, Register::R1);
        let done = self.done;
        self.load(Register::R1, offset_of!(Context, blocks));
        self.code.jump_if(Register::R1, If::AtLeast, BLOCKS as i32, done);
        self.load(Register::R7, offset_of!(Context, address));
        self.load(Register::R1, offset_of!(Context, end));
        self.code.jump_if_register(Register::R7, If::AtLeast, Register::R1, done);
        let [four, absent_5, absent_4, absent_3, absent_2, page_3, page_2, mapped] =
            std::array::from_fn(|_| self.code.label());
        self.load(Register::R8, offset_of!(Context, tables));
        self.load(Register::R1, offset_of!(Context, levels));
        self.code.jump_if(Register::R1, If::Equal, 4, four);
        self.entry(LEVEL_5);
        self.absent_to(absent_5);
        self.descend();
        self.code.place(four);
        self.entry(LEVEL_4);
        self.absent_to(absent_4);
        self.descend();
        self.entry(LEVEL_3);
        self.code.jump_if(Register::R0, If::AnyBit, HUGE as i32, page_3);
        self.absent_to(absent_3);
        self.descend();
        self.entry(LEVEL_2);
        self.code.jump_if(Register::R0, If::AnyBit, HUGE as i32, page_2);
        self.absent_to(absent_2);
        self.descend();
        (0..copies).for_each(|_| self.copy_table());
        self.code.number(Operation::Set, Register::R8, 0);
        self.code.jump(mapped);
        self.code.place(page_3);
        self.code.number(Operation::Set, Register::R8, LEVEL_3);
        self.code.jump(mapped);
        self.code.place(page_2);
        self.code.number(Operation::Set, Register::R8, LEVEL_2);
        self.code.place(mapped);
        self.check();
        self.note();
        let by_3 = self.code.label();
        self.code.jump_if(Register::R8, If::Equal, LEVEL_3, by_3);
        self.code.place(absent_2);
        self.advance(LEVEL_2);
        self.code.place(by_3);
        self.code.place(absent_3);
        self.advance(LEVEL_3);
        self.code.place(absent_4);
        self.advance(LEVEL_4);
        self.code.place(absent_5);
        self.advance(LEVEL_5);
    }

    /// Reads the entry of a level into R0 and onto the stack, with its address.
    fn entry(&mut self, level: i32) {
        let (entry, address) = on_stack(level);
        self.code.register(Operation::Set, Register::R3, Register::R7);
        self.code.number(Operation::ShiftRight, Register::R3, level);
        self.code.number(Operation::And, Register::R3, 511);
        self.code.number(Operation::ShiftLeft, Register::R3, 3);
        self.code.register(Operation::Add, Register::R3, Register::R8);
        self.code.store(Register::Frame, address, Register::R3);
        self.stack_address(Register::R1, entry);
        self.code.number(Operation::Set, Register::R2, 8);
        self.code.call(PROBE_READ_KERNEL);
        self.code.jump_if(Register::R0, If::Unequal, 0, self.again);
        self.code.load(Register::R0, Register::Frame, entry);
    }

    fn absent_to(&mut self, label: Label) {
        let there = self.code.label();
        self.code.jump_if(Register::R0, If::AnyBit, PRESENT as i32, there);
        self.code.jump(label);
        self.code.place(there);
    }

    /// R8 becomes the table behind the entry in R0.
    fn descend(&mut self) {
        self.load(Register::R1, offset_of!(Context, address_mask));
        self.code.register(Operation::And, Register::R0, Register::R1);
        self.load(Register::R8, offset_of!(Context, direct_map));
        self.code.register(Operation::Add, Register::R8, Register::R0);
    }

    /// Copies the table at R8.
    fn copy_table(&mut self) {
        let done = self.done;
        self.load(Register::R2, offset_of!(Context, blocks));
        self.code.jump_if(Register::R2, If::AtLeast, BLOCKS as i32, done);
        self.code.number(Operation::ShiftLeft, Register::R2, TABLE_BYTES.trailing_zeros() as i32);
        self.code.number(Operation::Add, Register::R2, TABLE_BYTES as i32);
        self.code.register(Operation::Set, Register::R1, Register::R9);
        self.code.register(Operation::Add, Register::R1, Register::R2);
        self.code.number(Operation::Set, Register::R2, TABLE_BYTES as i32);
        self.code.register(Operation::Set, Register::R3, Register::R8);
        self.code.call(PROBE_READ_KERNEL);
        self.code.jump_if(Register::R0, If::Unequal, 0, self.again);
    }

    /// Reads the entries on the way again.
    fn check(&mut self) {
        let [is_four, at_2] = std::array::from_fn(|_| self.code.label());
        self.load(Register::R1, offset_of!(Context, levels));
        self.code.jump_if(Register::R1, If::Equal, 4, is_four);
        self.check_entry(LEVEL_5);
        self.code.place(is_four);
        self.check_entry(LEVEL_4);
        self.check_entry(LEVEL_3);
        self.code.jump_if(Register::R8, If::Equal, LEVEL_3, at_2);
        self.check_entry(LEVEL_2);
        self.code.place(at_2);
    }

    fn check_entry(&mut self, level: i32) {
        let (entry, address) = on_stack(level);
        self.stack_address(Register::R1, SCRATCH);
        self.code.number(Operation::Set, Register::R2, 8);
        self.code.load(Register::R3, Register::Frame, address);
        self.code.call(PROBE_READ_KERNEL);
        self.code.jump_if(Register::R0, If::Unequal, 0, self.again);
        self.code.load(Register::R1, Register::Frame, SCRATCH);
        self.code.load(Register::R2, Register::Frame, entry);
        let mask = !ACCESS_BITS;
        self.code.number(Operation::And, Register::R1, mask);
        self.code.number(Operation::And, Register::R2, mask);
        self.code.jump_if_register(Register::R1, If::Unequal, Register::R2, self.again);
    }

    /// Notes the block: R8 has its size, the stack the entry.
    fn note(&mut self) {
        let done = self.done;
        let by_3 = self.code.label();
        self.code.load(Register::R3, Register::Frame, on_stack(LEVEL_3).0);
        self.code.jump_if(Register::R8, If::Equal, LEVEL_3, by_3);
        self.code.load(Register::R3, Register::Frame, on_stack(LEVEL_2).0);
        self.code.place(by_3);
        self.code.number(Operation::ShiftRight, Register::R7, LEVEL_2);
        self.code.number(Operation::ShiftLeft, Register::R7, LEVEL_2);
        self.code.register(Operation::Add, Register::R7, Register::R8);
        self.load(Register::R2, offset_of!(Context, blocks));
        self.code.jump_if(Register::R2, If::AtLeast, BLOCKS as i32, done);
        self.code.register(Operation::Set, Register::R1, Register::R2);
        self.code.number(Operation::Add, Register::R1, 1);
        self.store(offset_of!(Context, blocks), Register::R1);
        self.code.number(Operation::ShiftLeft, Register::R2, size_of::<Note>().trailing_zeros() as i32);
        self.code.register(Operation::Set, Register::R1, Register::R9);
        self.code.register(Operation::Add, Register::R1, Register::R2);
        self.code.store(Register::R1, offset_of!(Note, address_and_size) as i16, Register::R7);
        self.code.store(Register::R1, offset_of!(Note, entry) as i16, Register::R3);
    }

    /// Goes on after what an entry of a level maps.
    fn advance(&mut self, level: i32) {
        self.code.number(Operation::ShiftRight, Register::R7, level);
        self.code.number(Operation::Add, Register::R7, 1);
        self.code.number(Operation::ShiftLeft, Register::R7, level);
        self.store(offset_of!(Context, address), Register::R7);
        self.code.jump(self.next_turn);
    }
}

/// Accessed and dirty, which the processor sets at any time.
const ACCESS_BITS: i32 = 1 << 5 | 1 << 6;
