//! Method `content`: which pages of VMs are equal, wherever they are: what could be shared, before merging or
//! without it. As in the paper (Ito and Kono, section 4.1), a hash of each page finds candidates, which count
//! as equal only after a comparison of all their bytes.
//!
//! A page is read up to twice: for hashing ([`hash_slice`]), and, if another page has the same hash, for
//! comparison ([`verify`]). Pages that are not in physical memory are not touched. In the results a frame is
//! a distinct content: the frames there would be if everything equal were merged. Once KSM has merged
//! everything, they equal those of method `merged`, except for contents that KSM spreads over several frames
//! (`max_page_sharing`) and for equal pages that it may not merge.
//!
//! Guest memory is that of processes ([`ContentScan::measure`]) or of a hypervisor ([`ContentScan::scan`]
//! over a [`GuestMemory`]); only the reading differs.
//!
//! **Memory** is limited to [`ContentSettings::memory_mib`] and some 2 MiB (and the memory of a hypervisor's
//! implementation): 18 bytes per page. If that is not enough, guests are read several times, each time for
//! another part of the hashes ([`records`]). **CPU time** is limited by [`ContentSettings::cpu_share`]: one
//! thread, which sleeps after every 2 ms of reading and comparing (or after a batch that is read at once,
//! [`GuestMemory::batch_pages`]), and once after sorting, for as long as that takes ([`throttle`]). A
//! **sample** is of contents ([`draw`]): it costs its share of the memory, of sorting and of comparing, and the whole
//! of reading and hashing once, and its rates have stated errors.
//!
//! VMs run during the scan. A page that is written between its hashing and its comparison differs from its
//! group then, and counts as not shared; a note has the number of such pages. A page that is given back
//! before it is hashed is not counted; resident pages are counted again at the end, and a VM that shrank or
//! grew by more than 1 % gets a note. Reading leaves a page as it is, merged or not, but the kernel treats it
//! as recently used.

pub mod candidates;
mod draw;
mod groups;
mod hashing;
mod memory;
mod records;
mod settings;
mod sketch;
mod tally;
#[cfg(test)]
mod tests;
mod throttle;
mod verify;

use std::time::Instant;

use huddle_model::matrix::Method;
use huddle_model::text::counted;
use huddle_model::vm::Vm;

use self::draw::Draw;
use self::hashing::{Reading, hash_slice};
use self::memory::ProcessMemory;
pub use self::memory::{GuestMemory, Slot};
use self::records::{MAX_PAGES, Records, Slice};
pub use self::settings::{ContentSettings, NotAShare, Share};
pub use self::sketch::{
    SKETCH_HASH, SketchKey, SketchSettings, Sketches, VmSketch, sketch, sketch_processes,
};
pub(crate) use self::tally::Sampled;
use self::tally::Tally;
pub use self::throttle::Throttle;
pub(crate) use self::throttle::thread_cpu_time;
use self::verify::{Spaces, Verifier};
use super::processes::{Processes, Reads, UnmeasuredVm};
use super::{Found, Measurement, SharingError, assemble, pagemap};
use huddle_host::{HostRoot, page};

/// A change of memory by more than one part in this many is noted.
const WORTH_SAYING: u64 = 100;

/// Measures what VMs could share by the contents of their pages.
#[derive(Clone, Debug)]
pub struct ContentScan {
    root: HostRoot,
    settings: ContentSettings,
}

/// Counts of hashing all pages, for benchmarks.
#[derive(Clone, Copy, Debug)]
pub struct Hashed {
    /// Pages that were read and hashed.
    pub pages: u64,
    /// Zero-filled pages among them.
    pub zero: u64,
}

impl ContentScan {
    /// A scan within limits.
    pub fn new(root: HostRoot, settings: ContentSettings) -> Self {
        Self { root, settings }
    }

    /// Makes the next sample draw other contents.
    pub fn resample(&mut self) {
        self.settings.seed = self.settings.seed.wrapping_add(1);
    }

    /// Measures exactly the regions in [`Vm::memory`].
    ///
    /// A VM that ends during the scan, or whose memory may not be read, is in [`Measurement::unmeasured`];
    /// memory that is given back during the scan is left out, with a note.
    ///
    /// # Errors
    /// [`SharingError::MemoryHidden`] without the privilege to read the memory of any VM; a kernel file that
    /// cannot be read although its process exists; VMs that claim the same memory; more equal pages than the limit allows.
    pub fn measure(&self, vms: &[Vm]) -> Result<Measurement, SharingError> {
        let began = Instant::now();
        let mut processes = Processes::open(&self.root, vms, pagemap::page_bytes(), Reads::Contents)?;
        let scanned = {
            let name_of = |vm: usize| vms[vm].name.clone();
            let mut memory = ProcessMemory::open(&self.root, &processes, name_of)?;
            self.scan(&mut memory, vms)?
        };
        let unmeasured = processes.check_again(&self.root, vms)?;
        let stayed = |vm: usize| unmeasured.iter().all(|left_out| left_out.vm != vm);
        let mut notes = Vec::new();
        for (vm, process) in processes.missing.iter().filter(|(vm, _)| stayed(*vm)) {
            let name = &vms[*vm].name;
            notes.push(format!(
                "process {process} of {name:?} ended while it was measured; pages read by then are counted"
            ));
        }
        let measured = self.report(vms, scanned, unmeasured, notes, began);
        Ok(Measurement { matrix: measured.matrix.of_pages(page::size()), ..measured })
    }

    /// Reads and compares all pages of some memory of `vms`, to be passed to [`Self::report`] with the VMs
    /// that were not measured.
    ///
    /// # Errors
    /// The memory cannot be read at all; more pages, or more equal ones, than the limit allows.
    pub fn scan<M: GuestMemory>(&self, memory: &mut M, vms: &[Vm]) -> Result<Scanned, SharingError> {
        scan(memory, vms.len(), &self.settings, || largest(vms))
    }

    /// The figures of all VMs but the `unmeasured`; remarks are added to `notes`. The scan began at `began`.
    pub fn report(
        &self,
        vms: &[Vm],
        scanned: Scanned,
        unmeasured: Vec<UnmeasuredVm>,
        mut notes: Vec<String>,
        began: Instant,
    ) -> Measurement {
        let stayed = |vm: usize| unmeasured.iter().all(|left_out| left_out.vm != vm);
        for (vm, counts) in scanned.tally.vms().iter().enumerate().filter(|(vm, _)| stayed(*vm)) {
            // A domain always has a few pages that only Xen sees.
            let is_domain = vms[vm].vmm.is_xen();
            let (usual, whose) =
                if is_domain { (counts.resident / WORTH_SAYING, "another domain") } else { (0, "a device") };
            if counts.lost > usual {
                let (pages, name) = (counts.lost, &vms[vm].name);
                notes.push(format!(
                    "{pages} pages of {name:?} could not be read: given back since, or of {whose}"
                ));
            }
        }
        for (vm, counts) in scanned.tally.vms().iter().enumerate().filter(|(vm, _)| stayed(*vm)) {
            let (before, after) = (counts.resident, scanned.resident_after[vm]);
            if before.abs_diff(after) > before / WORTH_SAYING {
                let name = &vms[vm].name;
                notes.push(format!(
                    "{name:?} had {before} pages in memory when it was read and {after} afterwards: its row mixes \
                     both moments"
                ));
            }
        }
        if scanned.differing > 0 {
            notes.push(format!(
                "{} changed while they were measured: counted as not shared",
                counted(scanned.differing, "page")
            ));
        }
        if scanned.readings > 1 {
            notes.push(format!(
                "memory was read {} times, to stay within {} MiB of records",
                scanned.readings, self.settings.memory_mib
            ));
        }
        let coverage = scanned.tally.coverage();
        let figures = scanned.tally.figures();
        let found = Found {
            method: Method::Content,
            coverage,
            counts: &figures.memory,
            shared: &figures.shared,
            of_files: None,
            groups: figures.groups,
            reads: None,
        };
        assemble(vms, &found, figures.sampled.as_ref(), unmeasured, notes, began)
    }

    /// Only the first half, for benchmarks: reads all pages in batches, hashes and stores them.
    ///
    /// # Errors
    /// As [`Self::measure`].
    pub fn hash_only(&self, vms: &[Vm]) -> Result<Hashed, SharingError> {
        let processes = Processes::open(&self.root, vms, pagemap::page_bytes(), Reads::Contents)?;
        let mut memory = ProcessMemory::open(&self.root, &processes, |vm| vms[vm].name.clone())?;
        self.hash_memory(&mut memory, vms.len())
    }

    /// Like [`Self::hash_only`], for some memory of so many VMs.
    ///
    /// # Errors
    /// As [`Self::scan`].
    pub fn hash_memory<M: GuestMemory>(&self, memory: &mut M, vms: usize) -> Result<Hashed, SharingError> {
        let (spaces, _) = Spaces::new(&memory.spaces());
        let draw = Draw::new(self.settings.sample, self.settings.seed);
        let mut tally = Tally::new(vms, draw);
        let mut records = Records::within(bytes(&self.settings));
        let mut throttle = Throttle::new(self.settings.cpu_share);
        let mut reading = Reading { memory, spaces: &spaces, draw, throttle: &mut throttle };
        hash_slice(&mut reading, &mut records, &mut tally, true)
            .map_err(|stopped| stopped.error(&records, &self.settings))?;
        let sum = |of: fn(&tally::OfVm) -> u64| tally.vms().iter().map(of).sum();
        Ok(Hashed { pages: sum(|vm| vm.read), zero: sum(|vm| vm.zero) })
    }
}

fn bytes(settings: &ContentSettings) -> u64 {
    u64::from(settings.memory_mib) << 20
}

/// The VM to name in an error about the size of all.
fn largest(vms: &[Vm]) -> String {
    let largest = vms.iter().max_by_key(|vm| vm.memory.iter().map(|region| region.len_bytes()).sum::<u64>());
    largest.map_or_else(String::new, |vm| vm.name.clone())
}

/// Checks that all pages can be numbered.
fn check_pages(pages: u64, largest: impl FnOnce() -> String) -> Result<(), SharingError> {
    if pages <= MAX_PAGES {
        return Ok(());
    }
    let what = format!("all VMs together have {pages} pages of address space, more than {MAX_PAGES}");
    Err(SharingError::TooLarge { vm: largest(), what })
}

/// Result of a scan of some memory.
pub struct Scanned {
    tally: Tally,
    /// Pages with equal hashes that then differed or were gone.
    differing: u64,
    /// Number of readings of the memory.
    readings: u64,
    /// Resident pages of each VM after the scan.
    resident_after: Vec<u64>,
}

/// Both halves, repeated as needed.
fn scan<M: GuestMemory>(
    memory: &mut M,
    vms: usize,
    settings: &ContentSettings,
    largest: impl FnOnce() -> String,
) -> Result<Scanned, SharingError> {
    let (spaces, pages) = Spaces::new(&memory.spaces());
    check_pages(pages, largest)?;
    let draw = Draw::new(settings.sample, settings.seed);
    let mut throttle = Throttle::new(settings.cpu_share);
    let tally = Tally::new(vms, draw);
    let mut scanned = Scanned { tally, differing: 0, readings: 0, resident_after: vec![0; vms] };
    let mut records = Records::within(bytes(settings));
    let mut next = Some(Slice::ALL);
    while let Some(slice) = next {
        records.begin(slice);
        let mut reading = Reading { memory, spaces: &spaces, draw, throttle: &mut throttle };
        hash_slice(&mut reading, &mut records, &mut scanned.tally, scanned.readings == 0)
            .map_err(|stopped| stopped.error(&records, settings))?;
        scanned.readings += 1;
        let sorted = records.sorted();
        throttle.rest();
        let mut verifier = Verifier::new(memory, &spaces, &mut throttle, &mut scanned.tally);
        verifier.count(sorted);
        scanned.differing += verifier.differing;
        next = records.next_slice();
    }
    memory.look_again()?;
    let mut slots = Vec::new();
    for (space, (vm, count)) in memory.spaces().into_iter().enumerate() {
        if let Some(reported) = memory.reported_pages(space) {
            scanned.resident_after[vm] += reported;
            continue;
        }
        let mut done = 0;
        while done < count {
            slots.clear();
            let looked_at = memory.present(space, done, &mut slots)?;
            if looked_at == 0 {
                break;
            }
            done += looked_at;
            scanned.resident_after[vm] += slots.len() as u64;
            throttle.rest();
        }
    }
    Ok(scanned)
}
