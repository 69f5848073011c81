//! Access to page tables: where they are, found without symbols, and the program that walks them.

use std::fs::File;
use std::sync::Arc;

use nix::errno::Errno;

use super::entry::{AddressMask, is_there};
use super::program::{self, BLOCKS, Context, Note, OUTPUT_BYTES, TABLE_BYTES};
use crate::bpf::kernel_read::KernelRead;
use crate::bpf::system_call::{MappedArray, Program};
use crate::kernel_access::{KernelAccess, Structures};
use crate::pagemap::{self, read_entry};
use huddle_host::HostRoot;

/// The direct map begins at a multiple of it (`kernel_randomize_memory` in arch/x86/mm/kaslr.c, Linux 6.18).
const DIRECT_MAP_STEP: u64 = 1 << 30;
/// Places that are tried: a task may lie in the last of so many GiB of memory.
const MOST_STEPS: u64 = 64 << 10;
/// Pages of a table of the last level.
pub(super) const TABLE_PAGES: usize = TABLE_BYTES / 8;
/// Bytes that a table of the last level maps.
pub(super) const TABLE_REACH: u64 = (TABLE_PAGES * TABLE_BYTES) as u64;
/// Runs without any block that could be read.
const MOST_FAILURES: u32 = 2_000;

/// The highest page table of a process, in the kernel's memory. It stays as long as the pagemap it was found by is
/// open, also when the process has ended (`proc_mem_open` in fs/proc/base.c, Linux 6.18: the file keeps the
/// `mm_struct`, and `__mmdrop` frees the table).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TopTable(u64);

/// Access to the page tables of processes.
#[derive(Debug)]
pub(crate) struct PageTables {
    structures: Arc<Structures>,
    direct_map: u64,
    levels: u64,
    pub(super) mask: AddressMask,
    program: Program,
    output: MappedArray,
}

/// A range that one entry maps, or one table of the last level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block<'a> {
    /// The entries of 2 MiB.
    Table(&'a [u64; TABLE_PAGES]),
    /// One entry for so many pages.
    Huge { entry: u64, pages: u64 },
}

impl PageTables {
    /// Finds out how to read page tables, for so many threads, and tries it on a page of this process.
    ///
    /// # Errors
    /// Why this host does not allow it, as one clause.
    pub(crate) fn open(root: &HostRoot, access: &KernelAccess, threads: usize) -> Result<Self, String> {
        if !cfg!(target_arch = "x86_64") {
            return Err(format!(
                "page tables are read on x86-64 only, and this is {}",
                std::env::consts::ARCH
            ));
        }
        let own = pagemap::open(&root.proc("self/pagemap")).map_err(|error| error.to_string())?;
        let structures = access.structures(root)?;
        let kernel = &structures.kernel;
        let magic = MagicPage::new();
        // The kernel may move the page meanwhile.
        let find = || find_direct_map(kernel, &magic, magic.frame(&own)?);
        let (direct_map, levels) = find().or_else(|_| find())?;
        let refused = |errno| format!("the kernel refused the BPF program that walks page tables ({errno})");
        let output = MappedArray::create(threads.max(1), OUTPUT_BYTES).map_err(refused)?;
        let load = |rcu_functions| {
            let program = program::program(output.descriptor(), rcu_functions, 1);
            Program::load("huddle_tables", &program.ok_or(Errno::EINVAL)?)
        };
        // Some kernels have the functions, and let no program call them that was compiled without tags of types.
        let program = load(structures.types.rcu_functions).or_else(|_| load(None)).map_err(refused)?;
        let mask = AddressMask::of_this_machine();
        let tables = Self { structures, direct_map, levels, mask, program, output };
        tables.find_own(&own, &magic).or_else(|_| tables.find_own(&own, &magic))?;
        Ok(tables)
    }

    /// The same, as on a kernel without functions of RCU, and with tables copied so many times.
    #[cfg(test)]
    pub(super) fn without_rcu(mut self, copies: u32) -> Self {
        let program = program::program(self.output.descriptor(), None, copies).unwrap();
        self.program = Program::load("huddle_tables", &program).unwrap();
        self
    }

    /// Checks that the page tables of this process have the frame that its pagemap shows.
    fn find_own(&self, own: &File, magic: &MagicPage) -> Result<(), String> {
        let frame = magic.frame(own)?;
        let top = self.top_of(own).ok_or("the page tables of this process were not found")?;
        let mut found = None;
        let address = magic.address();
        self.walker(0).blocks(top, address, address + 1, &mut |first, block| {
            found = match block {
                Block::Table(entries) => {
                    let entry = entries[((address - first) / TABLE_BYTES as u64) as usize];
                    is_there(entry).then(|| self.mask.frame(entry))
                }
                Block::Huge { entry, pages } => {
                    Some(self.mask.huge_frame(entry, pages) + (address - first) / TABLE_BYTES as u64)
                }
            };
        })?;
        if found != Some(frame) {
            return Err("a page of this process was not found by its page tables".into());
        }
        Ok(())
    }

    /// The highest page table of the process that a pagemap is of; `None` if it has no memory.
    pub(super) fn top_of(&self, pagemap: &File) -> Option<TopTable> {
        let memory = self.structures.memory_of(pagemap)?;
        let top = self.structures.word(memory.0, self.structures.types.offsets.mm_tables)?;
        self.is_in_direct_map(top).then_some(TopTable(top))
    }

    /// Whether an address can be that of a table.
    fn is_in_direct_map(&self, address: u64) -> bool {
        address.is_multiple_of(TABLE_BYTES as u64) && address >= self.direct_map
    }

    /// What one thread walks with: no two may have the same number at a time.
    pub(super) fn walker(&self, thread: usize) -> Walker<'_> {
        Walker { tables: self, thread }
    }
}

/// Walks page tables for one thread.
#[derive(Debug)]
pub(super) struct Walker<'a> {
    tables: &'a PageTables,
    thread: usize,
}

impl Walker<'_> {
    /// Passes on what is mapped of a range of addresses, in order: first address and block.
    ///
    /// # Errors
    /// Why it cannot be read, as one clause.
    pub(super) fn blocks(
        &mut self,
        top: TopTable,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, Block<'_>),
    ) -> Result<(), String> {
        let tables = self.tables;
        let output = tables.output.value(self.thread).ok_or("more threads than were expected")?;
        let mut context = Context {
            tables: top.0,
            address: from,
            end: to,
            direct_map: tables.direct_map,
            address_mask: tables.mask.0,
            levels: tables.levels,
            output: self.thread as u64,
            ..Context::default()
        };
        let mut failures = 0;
        while context.address < to {
            let before = context.address;
            (context.blocks, context.again) = (0, 0);
            tables
                .program
                .run(&mut context)
                .map_err(|errno| format!("the program that walks page tables does not run ({errno})"))?;
            failures = if context.address == before { failures + 1 } else { 0 };
            if failures > MOST_FAILURES {
                return Err("page tables cannot be read, or change all the time".into());
            }
            for block in 0..(context.blocks as usize).min(BLOCKS) {
                // SAFETY: the notes fill less than the first page of the output, which only a run for this thread
                // writes, and none is under way. Any bits are a note.
                let note = unsafe { output.cast::<Note>().add(block).read_volatile() };
                let (first, size) = (note.address_and_size & !(TABLE_REACH - 1), note.address_and_size & 63);
                match size {
                    0 => {
                        // SAFETY: within the output: a page of notes and BLOCKS tables. As above, nothing writes it,
                        // and it is aligned to pages.
                        let table =
                            unsafe { &*output.add((1 + block) * TABLE_BYTES).cast::<[u64; TABLE_PAGES]>() };
                        each(first, Block::Table(table));
                    }
                    size => {
                        let pages = (1u64 << size) / TABLE_BYTES as u64;
                        let first = first & !((1 << size) - 1);
                        each(first, Block::Huge { entry: note.entry, pages });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Address of frame 0, and levels of page tables. A task lies in the direct map; from there down to the first place
/// from which a page of our own is found at its frame.
fn find_direct_map(kernel: &KernelRead, magic: &MagicPage, frame: u64) -> Result<(u64, u64), String> {
    let task = kernel.current_task().ok_or("the kernel does not tell where a task is")?;
    // With four levels all addresses of the kernel begin with 17 bits that are 1, with five with 8.
    let (levels, lowest) = match task >> 48 {
        0xffff => (4, 0xffff_8000_0000_0000),
        _ => (5, 0xff00_0000_0000_0000),
    };
    let offset = frame * TABLE_BYTES as u64;
    let mut base = task & !(DIRECT_MAP_STEP - 1);
    for _ in 0..MOST_STEPS {
        if base < lowest {
            break;
        }
        if let Some(address) = base.checked_add(offset)
            && kernel.read(address).is_some_and(|words| words == magic.words())
        {
            return Ok((base, levels));
        }
        base -= DIRECT_MAP_STEP;
    }
    Err("the kernel's direct map of physical memory was not found".into())
}

/// A page of this process with words that are nowhere else.
struct MagicPage(Box<[u64]>);

impl MagicPage {
    fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        // Twice as long as a page, so that one whole page is in it.
        let mut page = Self(vec![0; 2 * TABLE_PAGES].into_boxed_slice());
        let at = page.first();
        page.0[at..at + 8].iter_mut().for_each(|word| *word = RandomState::new().hash_one(at) | 1);
        page
    }

    fn first(&self) -> usize {
        self.0.as_ptr().align_offset(TABLE_BYTES)
    }

    fn address(&self) -> u64 {
        std::hint::black_box(&self.0[self.first()..]).as_ptr() as u64
    }

    fn words(&self) -> [u64; 8] {
        std::array::from_fn(|at| self.0[self.first() + at])
    }

    fn frame(&self, own: &File) -> Result<u64, String> {
        let entry =
            read_entry(own, self.address() / TABLE_BYTES as u64).map_err(|error| error.to_string())?;
        match entry.filter(|entry| entry.is_present()).map(pagemap::Entry::frame) {
            Some(frame) if frame != 0 => Ok(frame),
            _ => Err("a page of this process is not in memory, or its frame is hidden".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bpf::system_call::Program;

    #[test]
    fn the_program_is_accepted() {
        if !nix::unistd::geteuid().is_root() || !cfg!(target_arch = "x86_64") {
            return;
        }
        let access = KernelAccess::default();
        let structures = access.structures(&HostRoot::real()).unwrap();
        let output = MappedArray::create(1, OUTPUT_BYTES).unwrap();
        for functions in [structures.types.rcu_functions, None] {
            let program = program::program(output.descriptor(), functions, 1).unwrap();
            let mut log = vec![0; 1 << 20];
            let loaded = Program::load_with_log("huddle_tables", &program, &mut log);
            assert!(loaded.is_ok(), "{loaded:?} {}", String::from_utf8_lossy(&log));
        }
    }
}
