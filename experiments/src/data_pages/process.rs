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
        let count = region.len_bytes() / PAGE_BYTES as u64;
        let mut entries = vec![0; (count * ENTRY_BYTES) as usize];
        table.read(&mut entries, region.start / PAGE_BYTES as u64 * ENTRY_BYTES)?;
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
            let entry = u64::from_ne_bytes(entry);
            frames.push((entry & PRESENT != 0).then_some(entry & FRAME));
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

    fn read(&self, into: &mut [u8], at: u64) -> Result<(), CannotRead> {
        let read = self.file.read_exact_at(into, at);
        read.map_err(|source| CannotRead::File { path: self.path.clone(), source })
    }
}
