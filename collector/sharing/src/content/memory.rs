//! Reading pages of guests: the seam between a content scan and a hypervisor, and the implementation for
//! processes.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::super::SharingError;
use super::super::gather::read_entries;
use super::super::pagemap::{self, ENTRY_BYTES, Entry};
use super::super::processes::{Process, Processes, Region};
use super::super::sort::READ_BYTES;
use huddle_host::{HostError, HostRoot};

/// Pages of a process read at once: few enough to be still in the second-level cache when they are hashed.
const BATCH_PAGES: usize = 64;

/// A page of a space that is in physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its position in the space, from 0.
    pub number: u64,
    /// The frame it may share with other pages; 0 if it is alone on its frame or the frame is unknown.
    pub frame: u64,
}

/// Guest memory that can be read page by page, without changing it. A *space* numbers pages: a process of a
/// VM, or a domain.
pub trait GuestMemory {
    /// For each space its VM, by position, and its number of slots.
    fn spaces(&self) -> Vec<(usize, u64)>;

    /// Bytes of a page.
    fn page_bytes(&self) -> usize;

    /// The best number of pages to read at once, and the maximum.
    fn batch_pages(&self) -> usize;

    /// Adds the slots from `first` on that hold a page, and returns the number of slots examined; 0 if the
    /// space is gone. With [`Self::reported_pages`], slots without a page may be among them.
    fn present(&mut self, space: usize, first: u64, slots: &mut Vec<Slot>) -> Result<u64, SharingError>;

    /// Number of pages that a space has in memory, as of the last refresh, if that is known without examining
    /// each slot.
    fn reported_pages(&self, _space: usize) -> Option<u64> {
        None
    }

    /// Refreshes [`Self::reported_pages`].
    fn look_again(&mut self) -> Result<(), SharingError> {
        Ok(())
    }

    /// Passes the content of those slots that can be read, with their position in `slots`. A page that cannot
    /// be read is gone, and is left out.
    fn read(&mut self, space: usize, slots: &[Slot], each: &mut dyn FnMut(usize, &[u8]));
}

/// The memory of processes, through `/proc/PID/pagemap` and `/proc/PID/mem` (proc(5)). `process_vm_readv` is
/// not used, because it undoes merging (see [`Process::read_memory`]), and swapped-out pages are not read,
/// because reading would bring them back.
pub(super) struct ProcessMemory<'a> {
    spaces: Vec<Space<'a>>,
    page_bytes: usize,
    entries: Vec<u8>,
    pages: Vec<u8>,
}

struct Space<'a> {
    process: &'a Process,
    mem: File,
    /// The first slot of each region, ascending.
    regions: Vec<(u64, Region)>,
    slots: u64,
}

impl<'a> ProcessMemory<'a> {
    /// # Errors
    /// [`SharingError::MemoryHidden`] without the privilege to read an existing process.
    pub(super) fn open(
        root: &HostRoot,
        processes: &'a Processes,
        name_of: impl Fn(usize) -> String,
    ) -> Result<Self, SharingError> {
        let page_bytes = pagemap::page_bytes() as usize;
        let mut spaces = Vec::new();
        for process in &processes.all {
            let path = root.proc(format!("{}/mem", process.id.id));
            let mem = match pagemap::open(&path) {
                Ok(mem) => mem,
                Err(source) if source.kind() == ErrorKind::PermissionDenied => {
                    return Err(SharingError::MemoryHidden { vm: name_of(process.vm), path });
                }
                Err(source) => {
                    let error = HostError::Read { path, source };
                    if !error.is_gone() {
                        return Err(error.into());
                    }
                    process.set_gone();
                    continue;
                }
            };
            let mut slots = 0;
            let mut regions = Vec::new();
            for region in &process.regions {
                regions.push((slots, *region));
                slots += region.pages;
            }
            spaces.push(Space { process, mem, regions, slots });
        }
        let pages = vec![0; BATCH_PAGES * page_bytes];
        Ok(Self { spaces, page_bytes, entries: vec![0; READ_BYTES], pages })
    }
}

impl Space<'_> {
    /// The region of a slot, its first slot, and the last slot but one.
    fn region(&self, slot: u64) -> (u64, &Region) {
        let after = self.regions.partition_point(|(first, _)| *first <= slot);
        let (first, region) = &self.regions[after - 1];
        (*first, region)
    }

    fn page(&self, slot: u64) -> u64 {
        let (first, region) = self.region(slot);
        region.first_page + (slot - first)
    }
}

impl GuestMemory for ProcessMemory<'_> {
    fn spaces(&self) -> Vec<(usize, u64)> {
        self.spaces.iter().map(|space| (space.process.vm, space.slots)).collect()
    }

    fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    fn batch_pages(&self) -> usize {
        BATCH_PAGES
    }

    fn present(&mut self, space: usize, first: u64, slots: &mut Vec<Slot>) -> Result<u64, SharingError> {
        let space = &self.spaces[space];
        if space.process.is_gone() {
            return Ok(0);
        }
        let (region_first, region) = space.region(first);
        let Some(entries) = read_entries(space.process, region, first - region_first, &mut self.entries)?
        else {
            return Ok(0);
        };
        for (number, entry) in (first..).zip(entries.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes)) {
            if entry.is_present() {
                slots.push(Slot { number, frame: if entry.is_exclusive() { 0 } else { entry.frame() } });
            }
        }
        Ok((entries.len() / ENTRY_BYTES) as u64)
    }

    fn read(&mut self, space: usize, slots: &[Slot], each: &mut dyn FnMut(usize, &[u8])) {
        let space = &self.spaces[space];
        let mut done = 0;
        while done < slots.len() && !space.process.is_gone() {
            let page = space.page(slots[done].number);
            let rest = slots[done..].iter().take(BATCH_PAGES);
            // Slots of two regions may follow one another though their addresses do not.
            let run = rest.zip(page..).take_while(|(slot, page)| space.page(slot.number) == *page).count();
            let wanted = &mut self.pages[..run * self.page_bytes];
            match space.mem.read_at(wanted, page * self.page_bytes as u64) {
                Ok(0) => space.process.set_gone(),
                Ok(read) => {
                    let whole = (read / self.page_bytes).max(1);
                    if read >= self.page_bytes {
                        for (position, page) in wanted[..read].chunks_exact(self.page_bytes).enumerate() {
                            each(done + position, page);
                        }
                    }
                    done += whole;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // Unmapped since (EIO), or device memory: the pages after it may be readable.
                    if error.raw_os_error() == Some(Errno::ESRCH as i32) {
                        space.process.set_gone();
                    }
                    done += 1;
                }
            }
        }
    }
}
