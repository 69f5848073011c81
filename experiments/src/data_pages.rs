//! Where in a VM's memory its data lies, and which of its pages two VMs really have in common.
//!
//! What a pair of VMs shares beyond its operating system cannot be told from totals where the data is
//! small: a base of ten thousand shared frames comes and goes by a hundred while VMs run, and a data set
//! has a few hundred. But the data is known to the byte. So its pages are looked up by their content,
//! once, and then it is seen by their frames which of them are merged: exactly, and for any kind of guest.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use huddle_collector::host::HostRoot;
use huddle_guest::chase::{self, NODE_WORDS, PAGE_BYTES, PAGE_WORDS};
use huddle_model::vm::{GuestRegion, Vm};

use crate::guest::GuestData;

/// An entry of `/proc/PID/pagemap` is of a page in memory (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT: u64 = 1 << 63;

/// The bits of an entry that hold the frame number.
const FRAME: u64 = (1 << 55) - 1;

/// Bytes of an entry.
const ENTRY_BYTES: u64 = 8;

/// The second and the last word of a page's first node: noise that no two pages have in common, and
/// that differs between the data and a guest's own copy of it (see [`chase::set_apart`]).
type Key = [u64; 2];

/// A guest's memory cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct CannotRead {
    path: PathBuf,
    source: io::Error,
}

/// The pages of the data of every VM, found by content.
#[derive(Clone, Debug, Default)]
pub struct DataPages {
    /// For each VM, for each page of its data, the addresses in its process that held it.
    addresses: Vec<Vec<Vec<u64>>>,
    /// For each VM, the seed of its data.
    seeds: Vec<u64>,
}

impl DataPages {
    /// Looks for the pages of `data`, which holds one entry for each VM, in the memory of `vms`. Pages
    /// are read through `/proc/PID/mem`, which leaves them merged.
    ///
    /// # Errors
    /// The memory of a VM cannot be read.
    pub fn find(root: &HostRoot, vms: &[Vm], data: &[GuestData]) -> Result<Self, CannotRead> {
        let mut keys: BTreeMap<u64, HashMap<Key, usize>> = BTreeMap::new();
        let mut found = Self::default();
        for (vm, data) in vms.iter().zip(data) {
            let pages = keys.entry(data.seed).or_insert_with(|| page_keys(data));
            let mut addresses = vec![Vec::new(); pages.len()];
            for region in &vm.memory {
                find_in(root, region, pages, &mut addresses)?;
            }
            found.addresses.push(addresses);
            found.seeds.push(data.seed);
        }
        Ok(found)
    }

    /// Whether this is where `data` was looked for.
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
    /// The page table of a VM cannot be read.
    pub fn shared(&self, root: &HostRoot, vms: &[Vm]) -> Result<Vec<Vec<u64>>, CannotRead> {
        let frames = vms.iter().zip(&self.addresses).map(|(vm, addresses)| frames(root, vm, addresses));
        let frames: Vec<Vec<Vec<u64>>> = frames.collect::<Result<_, _>>()?;
        let both = |i: usize, j: usize| {
            let common = |(a, b): &(&Vec<u64>, &Vec<u64>)| a.iter().any(|frame| b.contains(frame));
            frames[i].iter().zip(&frames[j]).filter(common).count() as u64
        };
        let count =
            |i: usize, j: usize| if i != j && self.seeds[i] == self.seeds[j] { both(i, j) } else { 0 };
        Ok((0..frames.len()).map(|i| (0..frames.len()).map(|j| count(i, j)).collect()).collect())
    }
}

/// The key of each page of the data, and which page it is.
fn page_keys(data: &GuestData) -> HashMap<Key, usize> {
    let mut words = vec![0; data.kib as usize * 1024 / size_of::<u64>()];
    chase::fill(&mut words, data.seed);
    words.chunks(PAGE_WORDS).enumerate().map(|(page, words)| (key(words), page)).collect()
}

fn key(words: &[u64]) -> Key {
    [words[1], words[NODE_WORDS - 1]]
}

fn find_in(
    root: &HostRoot,
    region: &GuestRegion,
    pages: &HashMap<Key, usize>,
    addresses: &mut [Vec<u64>],
) -> Result<(), CannotRead> {
    let table = Reader::open(root, region, "pagemap")?;
    let memory = Reader::open(root, region, "mem")?;
    let count = region.len_bytes() / PAGE_BYTES as u64;
    let mut entries = vec![0; (count * ENTRY_BYTES) as usize];
    table.read(&mut entries, region.start / PAGE_BYTES as u64 * ENTRY_BYTES)?;
    let mut node = [0; NODE_WORDS * size_of::<u64>()];
    for (number, entry) in (0..).zip(numbers(&entries)) {
        let address = region.start + number * PAGE_BYTES as u64;
        // Reading what is not there would make it be there. A page that goes away meanwhile is no data.
        if entry & PRESENT == 0 || memory.file.read_exact_at(&mut node, address).is_err() {
            continue;
        }
        let words: Vec<u64> = numbers(&node).collect();
        if let Some(page) = pages.get(&key(&words)) {
            addresses[*page].push(address);
        }
    }
    Ok(())
}

/// For each page the frames on which its addresses are now.
fn frames(root: &HostRoot, vm: &Vm, addresses: &[Vec<u64>]) -> Result<Vec<Vec<u64>>, CannotRead> {
    let tables = vm.memory.iter().map(|region| Ok((region, Reader::open(root, region, "pagemap")?)));
    let tables: Vec<(&GuestRegion, Reader)> = tables.collect::<Result<_, _>>()?;
    let frame = |address: &u64| {
        let (_, table) = tables.iter().find(|(region, _)| (region.start..region.end).contains(address))?;
        let mut entry = [0; ENTRY_BYTES as usize];
        Some(table.read(&mut entry, address / PAGE_BYTES as u64 * ENTRY_BYTES).map(|()| {
            let entry = u64::from_ne_bytes(entry);
            (entry & PRESENT != 0).then_some(entry & FRAME)
        }))
    };
    let of_page = |addresses: &Vec<u64>| {
        let frames = addresses.iter().filter_map(frame).collect::<Result<Vec<Option<u64>>, _>>()?;
        Ok(frames.into_iter().flatten().collect())
    };
    addresses.iter().map(of_page).collect()
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.as_chunks().0.iter().map(|bytes| u64::from_ne_bytes(*bytes))
}

struct Reader {
    path: PathBuf,
    file: File,
}

impl Reader {
    fn open(root: &HostRoot, region: &GuestRegion, file: &str) -> Result<Self, CannotRead> {
        let path = root.proc(format!("{}/{file}", region.process.id));
        match File::open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(CannotRead { path, source }),
        }
    }

    fn read(&self, into: &mut [u8], at: u64) -> Result<(), CannotRead> {
        self.file.read_exact_at(into, at).map_err(|source| CannotRead { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use huddle_model::cpuset::CpuSet;
    use huddle_model::vm::{MemoryKind, TaskId, VmmKind};

    use super::*;

    const PID: i32 = 7;

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
        let table: Vec<u8> =
            (0..pages).flat_map(|page| (PRESENT | (3 << 56) | frame_of(page)).to_ne_bytes()).collect();
        std::fs::create_dir_all(root.proc(PID.to_string())).unwrap();
        std::fs::write(root.proc(format!("{PID}/mem")), bytes).unwrap();
        std::fs::write(root.proc(format!("{PID}/pagemap")), table).unwrap();
        let process = TaskId { id: PID, start_ticks: 1 };
        let end = pages * PAGE_BYTES as u64;
        Vm {
            name: "vm".into(),
            process,
            vmm: VmmKind::Process,
            vcpus: Vec::new(),
            memory: vec![GuestRegion { process, start: 0, end, kind: MemoryKind::Mergeable }],
            allowed_cpus: CpuSet::new(),
            cannot_merge: Vec::new(),
        }
    }

    #[test]
    fn data_is_found_by_content_and_its_own_copy_is_not_taken_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let data = GuestData { seed: 1, own_seed: 2, kib: 32 };
        let vm = vm(&root, data, |page| 100 + page);
        let found = DataPages::find(&root, std::slice::from_ref(&vm), &[data]).unwrap();
        let expected: Vec<Vec<u64>> = (3..11).map(|page| vec![page * PAGE_BYTES as u64]).collect();
        assert_eq!(found.addresses, [expected]);
        let other = DataPages::find(&root, &[vm], &[GuestData { seed: 9, ..data }]).unwrap();
        assert!(other.addresses[0].iter().all(Vec::is_empty), "{other:?}");
    }

    #[test]
    fn pages_on_one_frame_are_counted_for_pairs_with_the_same_data() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let data = GuestData { seed: 1, own_seed: 2, kib: 32 };
        // One process stands for all VMs, so all of its frames are common.
        let vm = vm(&root, data, |page| 100 + page);
        let vms = [vm.clone(), vm.clone(), vm];
        let mut found = DataPages::find(&root, &vms, &[data, data, GuestData { seed: 9, ..data }]).unwrap();
        assert_eq!(found.shared(&root, &vms).unwrap(), [[0, 8, 0], [8, 0, 0], [0, 0, 0]]);
        assert!(found.is_all_of(&found.shared(&root, &vms).unwrap()) && !found.is_of(&[data; 3]));
        // As if two pages of the second VM had been copied.
        found.addresses[1][0] = vec![0];
        found.addresses[1][5] = vec![PAGE_BYTES as u64];
        let shared = found.shared(&root, &vms).unwrap();
        assert_eq!((shared[0][1], found.is_all_of(&shared)), (6, false));
        assert!(DataPages::find(&HostRoot::at(&dir.path().join("none")), &vms, &[data; 3]).is_err());
    }
}
