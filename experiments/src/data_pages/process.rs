//! The memory of VMs that are processes, through `/proc/PID/pagemap` and `/proc/PID/mem` (proc(5)), which leave it
//! merged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use huddle_guest::chase::PAGE_BYTES;
use huddle_host::HostRoot;
use huddle_model::vm::{GuestRegion, Vm};

use super::{CannotRead, NODE_BYTES, VmMemory};

/// An entry of `/proc/PID/pagemap` is of a page in memory (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;

/// The bits of an entry that hold the frame number.
const FRAME: u64 = (1 << 55) - 1;

/// Bytes of an entry.
const ENTRY_BYTES: u64 = 8;

/// The processes of a host. Addresses are theirs.
#[derive(Clone, Debug)]
pub struct ProcessMemory {
    root: HostRoot,
}

impl ProcessMemory {
    /// Of this host.
    pub fn new(root: &HostRoot) -> Self {
        Self { root: root.clone() }
    }

    fn each_in(
        &self,
        region: &GuestRegion,
        each: &mut dyn FnMut(u64, &[u8; NODE_BYTES]),
    ) -> Result<(), CannotRead> {
        let table = Reader::open(&self.root, region, "pagemap")?;
        let memory = Reader::open(&self.root, region, "mem")?;
        let mut entries = Vec::new();
        table.read_table(region, &mut entries)?;
        let mut node = [0; NODE_BYTES];
        for (number, entry) in (0..).zip(entries.as_chunks().0) {
            let address = region.start + number * PAGE_BYTES as u64;
            // Reading a page that is not present would allocate it. One that is freed meanwhile holds no data.
            let is_there = u64::from_ne_bytes(*entry) & PRESENT != 0;
            if is_there && memory.file.read_exact_at(&mut node, address).is_ok() {
                each(address, &node);
            }
        }
        Ok(())
    }

    /// The frames of pages of one VM.
    fn frames_of(&self, pages: &[(&Vm, u64)], frames: &mut Vec<Option<u64>>) -> Result<(), CannotRead> {
        let Some((vm, _)) = pages.first() else { return Ok(()) };
        let open = |region| Ok((region, Reader::open(&self.root, region, "pagemap")?));
        let tables = vm.memory.iter().map(open).collect::<Result<Vec<_>, CannotRead>>()?;
        for (_, address) in pages {
            let within = |(region, _): &&(&GuestRegion, Reader)| (region.start..region.end).contains(address);
            let mut entry = [0; ENTRY_BYTES as usize];
            if let Some((_, table)) = tables.iter().find(within) {
                table.read(&mut entry, address / PAGE_BYTES as u64 * ENTRY_BYTES)?;
            }
            frames.push(frame_of(entry));
        }
        Ok(())
    }
}

impl VmMemory for ProcessMemory {
    fn each_page(&mut self, vm: &Vm, each: &mut dyn FnMut(u64, &[u8; NODE_BYTES])) -> Result<(), CannotRead> {
        vm.memory.iter().try_for_each(|region| self.each_in(region, each))
    }

    fn frames(&mut self, pages: &[(&Vm, u64)]) -> Result<Vec<Option<u64>>, CannotRead> {
        let mut frames = Vec::with_capacity(pages.len());
        for of_vm in pages.chunk_by(|(one, _), (next, _)| std::ptr::eq(*one, *next)) {
            self.frames_of(of_vm, &mut frames)?;
        }
        Ok(frames)
    }
}

/// The frames of a region of a process's memory, which can be read again and again.
#[derive(Debug)]
pub struct RegionFrames {
    region: GuestRegion,
    table: Reader,
    entries: Vec<u8>,
}

impl RegionFrames {
    /// Of a region.
    ///
    /// # Errors
    /// The process has ended, or is not ours to read.
    pub fn open(root: &HostRoot, region: &GuestRegion) -> Result<Self, CannotRead> {
        let table = Reader::open(root, region, "pagemap")?;
        Ok(Self { region: region.clone(), table, entries: Vec::new() })
    }

    /// The frame of each of its pages, in place of what was in `frames`; `None` for a page that is not in memory.
    /// Without CAP_SYS_ADMIN the kernel says frame 0 for all that are.
    ///
    /// # Errors
    /// The process has ended.
    pub fn read(&mut self, frames: &mut Vec<Option<u64>>) -> Result<(), CannotRead> {
        self.table.read_table(&self.region, &mut self.entries)?;
        frames.clear();
        frames.extend(self.entries.as_chunks().0.iter().map(|entry| frame_of(*entry)));
        Ok(())
    }
}

/// The frame in an entry of pagemap.
fn frame_of(entry: [u8; ENTRY_BYTES as usize]) -> Option<u64> {
    let entry = u64::from_ne_bytes(entry);
    (entry & PRESENT != 0).then_some(entry & FRAME)
}

#[derive(Debug)]
struct Reader {
    path: PathBuf,
    file: File,
}

impl Reader {
    fn open(root: &HostRoot, region: &GuestRegion, file: &str) -> Result<Self, CannotRead> {
        let process = region.process.ok_or(CannotRead::NoProcess)?;
        let path = root.proc(format!("{}/{file}", process.id));
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(CannotRead::File { path, source }),
        }
    }

    /// All entries of a pagemap for a region.
    fn read_table(&self, region: &GuestRegion, entries: &mut Vec<u8>) -> Result<(), CannotRead> {
        let count = region.len_bytes() / PAGE_BYTES as u64;
        entries.resize((count * ENTRY_BYTES) as usize, 0);
        self.read(entries, region.start / PAGE_BYTES as u64 * ENTRY_BYTES)
    }

    fn read(&self, into: &mut [u8], at: u64) -> Result<(), CannotRead> {
        let read = self.file.read_exact_at(into, at);
        read.map_err(|source| CannotRead::File { path: self.path.clone(), source })
    }
}
