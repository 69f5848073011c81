//! Which frame of the host each page of a VM's RAM is on.

use huddle_guest::chase::PAGE_BYTES;
use huddle_host::HostRoot;
use huddle_model::vm::{GuestRegion, MemoryKind, Vm};

use super::AccessStreamError;
use crate::data_pages::{CannotRead, RegionFrames};

const PAGE: u64 = PAGE_BYTES as u64;

/// RAM of the machine `pc` is in one piece below this address (hw/i386/pc_piix.c, QEMU 7.2, `max-ram-below-4g`).
const MOST_MEMORY_MIB: u64 = 3 * 1024;

/// The frames of a VM's RAM, as of the last reading.
#[derive(Debug)]
pub(super) struct FrameMap {
    ram: GuestRegion,
    reader: RegionFrames,
    frames: Vec<Option<u64>>,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// An address of the host.
    Host(u64),
    /// A page of RAM that had no frame.
    NoFrame,
    /// Firmware, video memory or the like.
    Elsewhere,
}

impl FrameMap {
    /// Of a VM with so much RAM.
    ///
    /// # Errors
    /// Its RAM is not found, or cannot be read.
    pub(super) fn open(root: &HostRoot, vm: &Vm, memory_mib: u64) -> Result<Self, AccessStreamError> {
        let ram = ram_of(vm, memory_mib)
            .ok_or_else(|| AccessStreamError::NoRam { vm: vm.name.clone(), memory_mib })?;
        let reader = RegionFrames::open(root, ram).map_err(AccessStreamError::Frames)?;
        let mut map = Self { ram: ram.clone(), reader, frames: Vec::new() };
        map.refresh().map_err(AccessStreamError::Frames)?;
        Ok(map)
    }

    /// Reads the frames again: one read(2) of eight bytes a page.
    ///
    /// # Errors
    /// The VM has ended.
    pub(super) fn refresh(&mut self) -> Result<(), CannotRead> {
        self.reader.read(&mut self.frames)
    }

    /// Where an address of QEMU's RAM leads.
    pub(super) fn of_guest(&self, address: u64) -> Place {
        let frame = usize::try_from(address / PAGE).ok().and_then(|page| self.frames.get(page));
        match frame {
            Some(Some(frame)) => Place::Host(frame * PAGE + address % PAGE),
            Some(None) => Place::NoFrame,
            None => Place::Elsewhere,
        }
    }

    /// Where an address of QEMU's process leads.
    pub(super) fn of_process(&self, address: u64) -> Place {
        match (self.ram.start..self.ram.end).contains(&address) {
            true => self.of_guest(address - self.ram.start),
            false => Place::Elsewhere,
        }
    }
}

/// The one piece of a VM's memory that is its RAM: of this size, and not firmware.
fn ram_of(vm: &Vm, memory_mib: u64) -> Option<&GuestRegion> {
    let is_ram =
        |region: &&GuestRegion| region.len_bytes() == memory_mib << 20 && region.kind != MemoryKind::Firmware;
    let mut found = vm.memory.iter().filter(is_ram);
    found.next().filter(|_| memory_mib <= MOST_MEMORY_MIB && found.next().is_none())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use huddle_model::vm::TaskId;

    use super::*;

    const PRESENT: u64 = 1 << 63;

    /// A VM with 1 MiB of RAM from page 2 of its process, and its pagemap.
    fn vm(root: &HostRoot, entry: impl Fn(u64) -> u64) -> Vm {
        let process = TaskId { id: 7, start_ticks: 1 };
        let region = |start: u64, end: u64, kind| GuestRegion {
            process: Some(process),
            start: start * PAGE,
            end: end * PAGE,
            kind,
        };
        let (ram, firmware) = (MemoryKind::Mergeable, MemoryKind::Firmware);
        std::fs::create_dir_all(root.proc("7")).unwrap();
        let entries: Vec<u8> = (0..600).flat_map(|page| entry(page).to_ne_bytes()).collect();
        std::fs::write(root.proc("7/pagemap"), entries).unwrap();
        Vm::of_process("vm", process, vec![region(2, 258, ram), region(300, 556, firmware)])
    }

    #[test]
    fn addresses_lead_to_frames_until_these_are_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let with = |extra: u64| {
            move |page: u64| if page == 4 { 0 } else { PRESENT | 1 << 61 | (1000 + page + extra) }
        };
        let vm = vm(&root, with(0));
        let mut map = FrameMap::open(&root, &vm, 1).unwrap();
        assert_eq!(map.of_guest(0x1040), Place::Host(1003 * PAGE + 0x40));
        assert_eq!(map.of_process(2 * PAGE + 0x1040), Place::Host(1003 * PAGE + 0x40));
        assert_eq!(map.of_guest(2 * PAGE), Place::NoFrame);
        for address in [1 << 20, u64::MAX] {
            assert_eq!(map.of_guest(address), Place::Elsewhere);
        }
        for address in [0, 2 * PAGE - 1, 258 * PAGE, 301 * PAGE, u64::MAX] {
            assert_eq!(map.of_process(address), Place::Elsewhere, "{address}");
        }
        self::vm(&root, with(5));
        assert_eq!(map.of_guest(0), Place::Host(1002 * PAGE));
        map.refresh().unwrap();
        assert_eq!(map.of_guest(0), Place::Host(1007 * PAGE));
    }

    #[test]
    fn a_vm_whose_ram_is_not_one_piece_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let vm = vm(&root, |page| PRESENT | page);
        let error = FrameMap::open(&root, &vm, 2).unwrap_err().to_string();
        assert!(error.contains("2 MiB of RAM of vm"), "{error}");
    }
}
