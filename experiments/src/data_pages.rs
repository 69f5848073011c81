//! Where in a VM's memory its data lies, and which of its pages two VMs really have in common.
//!
//! How much small data a pair of VMs shares beyond its operating system is not visible in totals: ten thousand
//! shared frames of the system vary by a hundred while VMs run, and a data set has a few hundred. But the data is
//! known to the byte. So its pages are found by their content, once, and then their frames show which of them are
//! merged: exactly, and for any kind of guest.

mod domain;
mod process;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;

use huddle_guest::chase::{self, NODE_WORDS, PAGE_WORDS};
use huddle_model::vm::Vm;
use huddle_xen::toolstack::XenError;

pub use self::domain::DomainMemory;
pub use self::process::{ProcessMemory, RegionFrames};
use crate::guest::GuestData;

/// The second and the last word of a page's first node: noise that no two pages have in common, and
/// that differs between the data and a guest's own copy of it (see [`chase::set_apart`]).
type Key = [u64; 2];

/// Bytes of a node.
const NODE_BYTES: usize = NODE_WORDS * size_of::<u64>();

/// A guest's memory cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CannotRead {
    /// That of a process.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which file of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// That of no process, where a process was expected.
    #[error("the memory is of no process of this host")]
    NoProcess,
    /// That of a domain.
    #[error("cannot read the memory of domains: {0}")]
    Xen(#[from] XenError),
    /// Nothing can be said of pages that were not found.
    #[error(
        "of the data of {vm} {found} of {pages} pages were found in its memory, so it is not known whether it is merged"
    )]
    NotFound {
        /// The VM.
        vm: String,
        /// Pages that were found.
        found: usize,
        /// Pages of the data.
        pages: usize,
    },
}

/// The memory of VMs as it is looked into here.
pub trait VmMemory {
    /// Gives the first node of each page that is there, with the page's address.
    ///
    /// # Errors
    /// The memory of the VM cannot be read.
    fn each_page(&mut self, vm: &Vm, each: &mut dyn FnMut(u64, &[u8; NODE_BYTES])) -> Result<(), CannotRead>;

    /// An identifier of the frame of each page, which is given by its VM and address; `None` where
    /// the page has none, or one of its own.
    ///
    /// # Errors
    /// They cannot be read.
    fn frames(&mut self, pages: &[(&Vm, u64)]) -> Result<Vec<Option<u64>>, CannotRead>;
}

/// The pages of the data of every VM, found by content.
#[derive(Clone, Debug, Default)]
pub struct DataPages {
    /// For each VM, for each page of its data, the addresses that held it.
    addresses: Vec<Vec<Vec<u64>>>,
    /// For each VM, the seed of its data.
    seeds: Vec<u64>,
}

impl DataPages {
    /// How many pages of their common data each pair of VMs has on one frame, as [`Self::shared`]. What `held` says
    /// is taken where it is of this data and all of it is merged; else the data is searched again, as a guest's
    /// kernel may move its pages.
    ///
    /// # Errors
    /// As the others.
    pub fn look(
        held: &mut Option<Self>,
        memory: &mut dyn VmMemory,
        vms: &[Vm],
        data: &[GuestData],
    ) -> Result<Vec<Vec<u64>>, CannotRead> {
        if let Some(known) = held.take().filter(|held| held.is_of(data)) {
            let shared = known.shared(memory, vms)?;
            if known.is_all_of(&shared) {
                *held = Some(known);
                return Ok(shared);
            }
        }
        let found = Self::find(memory, vms, data)?;
        let shared = found.shared(memory, vms)?;
        *held = Some(found);
        Ok(shared)
    }

    /// Looks for the pages of `data`, which holds one entry for each VM, in the memory of `vms`.
    ///
    /// # Errors
    /// The memory of a VM cannot be read.
    pub fn find(memory: &mut dyn VmMemory, vms: &[Vm], data: &[GuestData]) -> Result<Self, CannotRead> {
        Self::find_copy(memory, vms, data, false)
    }

    /// The number of the frame of each page of `data` in the memory of `vms`, or of each VM's own copy of it.
    ///
    /// # Errors
    /// The memory of a VM cannot be read, or a page of it was not found.
    pub fn frames(
        memory: &mut dyn VmMemory,
        vms: &[Vm],
        data: &[GuestData],
        own: bool,
    ) -> Result<Vec<Vec<u64>>, CannotRead> {
        let found = Self::find_copy(memory, vms, data, own)?;
        found.check_found(vms)?;
        let of_vm = |(vm, pages): (&Vm, &Vec<Vec<u64>>)| {
            // What is there more than once is on one frame, or was copied by a guest's kernel: the first is as good.
            let addresses = pages.iter().filter_map(|at| at.first()).map(|at| (vm, *at));
            let frames = memory.frames(&addresses.collect::<Vec<_>>())?;
            let known: Vec<u64> = frames.iter().copied().flatten().collect();
            if known.len() < pages.len() {
                let (vm, found, pages) = (vm.name.clone(), known.len(), pages.len());
                return Err(CannotRead::NotFound { vm, found, pages });
            }
            Ok(known)
        };
        vms.iter().zip(&found.addresses).map(of_vm).collect()
    }

    fn find_copy(
        memory: &mut dyn VmMemory,
        vms: &[Vm],
        data: &[GuestData],
        own: bool,
    ) -> Result<Self, CannotRead> {
        let mut keys: BTreeMap<(u64, Option<u64>), HashMap<Key, usize>> = BTreeMap::new();
        let mut found = Self::default();
        for (vm, data) in vms.iter().zip(data) {
            let own_seed = own.then_some(data.own_seed);
            let pages = keys.entry((data.seed, own_seed)).or_insert_with(|| page_keys(data, own_seed));
            let mut addresses = vec![Vec::new(); pages.len()];
            memory.each_page(vm, &mut |address, node| {
                if let Some(page) = pages.get(&key_of(node)) {
                    addresses[*page].push(address);
                }
            })?;
            found.addresses.push(addresses);
            found.seeds.push(data.seed);
        }
        Ok(found)
    }

    /// Makes sure that every page of the data was found, without which none that is merged would be no news.
    ///
    /// # Errors
    /// [`CannotRead::NotFound`] of the first VM of which one was not.
    pub fn check_found(&self, vms: &[Vm]) -> Result<(), CannotRead> {
        for (vm, addresses) in vms.iter().zip(&self.addresses) {
            let (pages, vm) = (addresses.len(), vm.name.clone());
            let found = addresses.iter().filter(|at| !at.is_empty()).count();
            if found < pages {
                return Err(CannotRead::NotFound { vm, found, pages });
            }
        }
        Ok(())
    }

    /// Whether these are the pages of `data`.
    pub fn is_of(&self, data: &[GuestData]) -> bool {
        self.seeds.iter().eq(data.iter().map(|data| &data.seed))
    }

    /// Whether what is [`Self::shared`] is all that pairs with the same data can share.
    pub fn is_all_of(&self, shared: &[Vec<u64>]) -> bool {
        let vms = self.seeds.len();
        let pairs = (0..vms).flat_map(|i| (i + 1..vms).map(move |j| (i, j)));
        pairs
            .filter(|(i, j)| self.seeds[*i] == self.seeds[*j])
            .all(|(i, j)| shared[i][j] == self.addresses[i].len() as u64)
    }

    /// How many pages of their common data each pair of VMs has on one frame; 0 for pairs whose data
    /// differs.
    ///
    /// # Errors
    /// The frames of a VM cannot be read.
    pub fn shared(&self, memory: &mut dyn VmMemory, vms: &[Vm]) -> Result<Vec<Vec<u64>>, CannotRead> {
        let pages = vms.iter().zip(&self.addresses);
        let pages = pages.flat_map(|(vm, addresses)| addresses.iter().flatten().map(move |at| (vm, *at)));
        let mut frames = memory.frames(&pages.collect::<Vec<_>>())?.into_iter();
        let mut of_page =
            |addresses: &Vec<u64>| frames.by_ref().take(addresses.len()).flatten().collect::<Vec<u64>>();
        let frames: Vec<Vec<Vec<u64>>> =
            self.addresses.iter().map(|pages| pages.iter().map(&mut of_page).collect()).collect();
        let both = |i: usize, j: usize| {
            let common = |(a, b): &(&Vec<u64>, &Vec<u64>)| a.iter().any(|frame| b.contains(frame));
            frames[i].iter().zip(&frames[j]).filter(common).count() as u64
        };
        let count =
            |i: usize, j: usize| if i != j && self.seeds[i] == self.seeds[j] { both(i, j) } else { 0 };
        Ok((0..frames.len()).map(|i| (0..frames.len()).map(|j| count(i, j)).collect()).collect())
    }
}

/// The key of each page of the data, or of the copy that is set apart by a seed, and which page it is.
fn page_keys(data: &GuestData, own_seed: Option<u64>) -> HashMap<Key, usize> {
    let mut words = vec![0; data.kib as usize * 1024 / size_of::<u64>()];
    chase::fill(&mut words, data.seed);
    if let Some(seed) = own_seed {
        chase::set_apart(&mut words, seed);
    }
    words
        .chunks(PAGE_WORDS)
        .enumerate()
        .map(|(page, words)| ([words[1], words[NODE_WORDS - 1]], page))
        .collect()
}

fn key_of(node: &[u8; NODE_BYTES]) -> Key {
    let words = node.as_chunks().0;
    [1, NODE_WORDS - 1].map(|word| u64::from_ne_bytes(words[word]))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use huddle_guest::chase::PAGE_BYTES;
    use huddle_host::HostRoot;
    use huddle_model::vm::{GuestRegion, MemoryKind, TaskId};

    use super::*;

    const PID: i32 = 7;

    /// Bits of an entry of pagemap: present, and two that are not part of the frame number.
    const PRESENT: u64 = (1 << 63) | (3 << 56);

    /// A VM whose process is a tree of files: three pages, then its data, then its own copy of it.
    fn vm(root: &HostRoot, data: GuestData, frame_of: impl Fn(u64) -> u64) -> Vm {
        let words = data.kib as usize * 128;
        let mut memory = vec![0; 3 * PAGE_WORDS + 2 * words];
        let (common, own) = memory[3 * PAGE_WORDS..].split_at_mut(words);
        chase::fill(common, data.seed);
        own.copy_from_slice(common);
        chase::set_apart(own, data.own_seed);
        let pages = (memory.len() / PAGE_WORDS) as u64;
        let bytes: Vec<u8> = memory.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let table: Vec<u8> = (0..pages).flat_map(|page| (PRESENT | frame_of(page)).to_ne_bytes()).collect();
        std::fs::create_dir_all(root.proc(PID.to_string())).unwrap();
        std::fs::write(root.proc(format!("{PID}/mem")), bytes).unwrap();
        std::fs::write(root.proc(format!("{PID}/pagemap")), table).unwrap();
        let process = TaskId { id: PID, start_ticks: 1 };
        let end = pages * PAGE_BYTES as u64;
        let memory = vec![GuestRegion { process: Some(process), start: 0, end, kind: MemoryKind::Mergeable }];
        Vm::of_process("vm", process, memory)
    }

    #[test]
    fn data_is_found_by_content_and_its_own_copy_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let data = GuestData { seed: 1, own_seed: 2, kib: 32, cold: None };
        let vm = vm(&root, data, |page| 100 + page);
        let found =
            DataPages::find(&mut ProcessMemory::new(&root), std::slice::from_ref(&vm), &[data]).unwrap();
        let expected: Vec<Vec<u64>> = (3..11).map(|page| vec![page * PAGE_BYTES as u64]).collect();
        assert_eq!(found.addresses, [expected]);
        let (vms, others) = (std::slice::from_ref(&vm), [GuestData { seed: 9, ..data }]);
        let other = DataPages::find(&mut ProcessMemory::new(&root), vms, &others).unwrap();
        assert!(other.addresses[0].iter().all(Vec::is_empty), "{other:?}");
        assert!(found.check_found(vms).is_ok());
        let error = other.check_found(vms).unwrap_err().to_string();
        assert!(error.contains("0 of 8 pages were found"), "{error}");
    }

    #[test]
    fn pages_on_one_frame_are_counted_for_pairs_with_the_same_data() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let data = GuestData { seed: 1, own_seed: 2, kib: 32, cold: None };
        // All VMs are one process here, so all of its frames are common.
        let vm = vm(&root, data, |page| 100 + page);
        let vms = [vm.clone(), vm.clone(), vm];
        let mut found = DataPages::find(
            &mut ProcessMemory::new(&root),
            &vms,
            &[data, data, GuestData { seed: 9, ..data }],
        )
        .unwrap();
        assert_eq!(
            found.shared(&mut ProcessMemory::new(&root), &vms).unwrap(),
            [[0, 8, 0], [8, 0, 0], [0, 0, 0]]
        );
        assert!(
            found.is_all_of(&found.shared(&mut ProcessMemory::new(&root), &vms).unwrap())
                && !found.is_of(&[data; 3])
        );
        // As if two pages of the second VM had been copied.
        found.addresses[1][0] = vec![0];
        found.addresses[1][5] = vec![PAGE_BYTES as u64];
        let shared = found.shared(&mut ProcessMemory::new(&root), &vms).unwrap();
        assert_eq!((shared[0][1], found.is_all_of(&shared)), (6, false));
        let frames = DataPages::frames(&mut ProcessMemory::new(&root), &vms, &[data; 3], false).unwrap();
        assert_eq!(frames[2], (103..111).collect::<Vec<u64>>());
        let own = DataPages::frames(&mut ProcessMemory::new(&root), &vms, &[data; 3], true).unwrap();
        assert_eq!(own[0], (111..119).collect::<Vec<u64>>());
        let other = [GuestData { own_seed: 9, ..data }; 3];
        assert!(DataPages::frames(&mut ProcessMemory::new(&root), &vms, &other, true).is_err());
        let nowhere = HostRoot::at(&dir.path().join("none"));
        assert!(DataPages::find(&mut ProcessMemory::new(&nowhere), &vms, &[data; 3]).is_err());
    }
}
