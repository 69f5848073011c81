//! The tracked state: processes, the places of their pages, and the graph of frames.

use std::time::Instant;

use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use huddle_model::rng::Rng;
use huddle_model::vm::Vm;

use super::content::{Contents, FrameLookup};
use super::graph::FrameGraph;
use super::pages::{Pages, Place};
use super::ranges::joined;
use super::read::{Reader, agrees};
use super::{EventsError, Sample, Stale};
use crate::huge::{self, HugeParts};
use crate::pagemap::{self, ENTRY_BYTES, Entry};
use crate::processes::{Process, Processes, Reads, Region, UnmeasuredVm};
use crate::{Measurement, SharingError};
use huddle_host::stages::FrameChanges;
use huddle_host::{HostRoot, page, read_text};

/// Pages by which resident memory may be off on any host: the kernel counts it per CPU and in batches.
const RESIDENT_SLACK_PAGES: u64 = 1024;

/// A region with the position of its first page among all pages of its process.
#[derive(Clone, Copy, Debug)]
struct Span {
    region: Region,
    first_index: u64,
}

/// The pages of one process.
#[derive(Debug)]
struct Tracked {
    pages: Pages,
    resident: u64,
    alone: u64,
    zero_page: u64,
    /// Regions in the order of positions.
    spans: Vec<Span>,
    /// Regions in the order of addresses: page number of the first page, pages, position of the first.
    by_address: Vec<(u64, u64, u64)>,
    /// Resident pages by the kernel's count minus those counted here, when everything was read.
    other_resident: Option<i64>,
    /// It ended, and its pages were removed from the graph.
    left: bool,
}

impl Tracked {
    fn new(process: &Process) -> Self {
        let (mut spans, mut len) = (Vec::new(), 0);
        for region in &process.regions {
            spans.push(Span { region: *region, first_index: len });
            len += region.pages;
        }
        let mut by_address: Vec<_> =
            spans.iter().map(|span| (span.region.first_page, span.region.pages, span.first_index)).collect();
        by_address.sort_unstable();
        Self {
            pages: Pages::new(len),
            resident: 0,
            alone: 0,
            zero_page: 0,
            spans,
            by_address,
            other_resident: None,
            left: false,
        }
    }

    /// Number of a page by its position.
    fn page_at(&self, index: u64) -> u64 {
        let at = self.spans.partition_point(|span| span.first_index <= index);
        self.spans
            .get(at.wrapping_sub(1))
            .map_or(0, |span| span.region.first_page + (index - span.first_index))
    }

    /// Position of a page by its number.
    fn index_of(&self, page: u64) -> Option<u64> {
        let at = self.by_address.partition_point(|(first, _, _)| *first <= page);
        let (first, pages, index) = self.by_address.get(at.wrapping_sub(1))?;
        (page - first < *pages).then(|| index + (page - first))
    }

    fn count(&mut self, place: Place, by: i64) {
        let add = |sum: &mut u64| *sum = sum.wrapping_add_signed(by);
        match place {
            Place::ABSENT => return,
            Place::ALONE => add(&mut self.alone),
            Place::ZERO_PAGE => add(&mut self.zero_page),
            _ => {}
        }
        add(&mut self.resident);
    }

    /// The kernel's count of resident pages minus that of the graph; the kernel leaves out the zero page.
    fn beyond_known(&self, root: &HostRoot, process: &Process) -> Option<i64> {
        let statm = read_text(&root.proc(format!("{}/statm", process.id.id))).ok()?;
        let resident: i64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(resident - (self.resident - self.zero_page).cast_signed())
    }
}

/// The state of one baseline.
#[derive(Debug)]
pub(super) struct TrackedGraph {
    root: HostRoot,
    vms: Vec<Vm>,
    page_bytes: u64,
    processes: Processes,
    tracked: Vec<Tracked>,
    unmeasured: Vec<UnmeasuredVm>,
    graph: FrameGraph,
    reader: Reader,
    contents: Contents,
    new_frames: Vec<FrameLookup>,
    /// Process, position of the first page, pages.
    to_read: Vec<(usize, u64, u64)>,
    /// Cumulative number of pages, up to and including each process.
    pages_up_to: Vec<u64>,
    pub(super) lost_before: u64,
    pub(super) read_at: Instant,
    pub(super) stale: Option<Stale>,
}

impl TrackedGraph {
    /// Opens the processes; nothing is read yet.
    pub(super) fn open(root: &HostRoot, vms: &[Vm]) -> Result<Self, SharingError> {
        let reader = Reader::new(root)?;
        let page_bytes = pagemap::page_bytes();
        let processes = Processes::open(root, vms, page_bytes, Reads::PageTables)?;
        let tracked: Vec<Tracked> = processes.all.iter().map(Tracked::new).collect();
        let mut sum = 0;
        let pages_up_to = tracked.iter().map(|tracked| {
            sum += tracked.pages.len();
            sum
        });
        Ok(Self {
            pages_up_to: pages_up_to.collect(),
            root: root.clone(),
            vms: vms.to_vec(),
            page_bytes,
            processes,
            tracked,
            unmeasured: Vec::new(),
            graph: FrameGraph::new(vms.len()),
            reader,
            contents: Contents::new(root),
            new_frames: Vec::new(),
            to_read: Vec::new(),
            lost_before: 0,
            read_at: Instant::now(),
            stale: None,
        })
    }

    pub(super) fn processes(&self) -> &[Process] {
        &self.processes.all
    }

    /// Whether these are the opened VMs, with the same memory.
    pub(super) fn covers(&self, vms: &[Vm]) -> bool {
        self.vms.len() == vms.len()
            && self.vms.iter().zip(vms).all(|(own, other)| {
                own.name == other.name && own.id == other.id && own.memory == other.memory
            })
    }

    /// Reads all pages, and compares them with `old` for the same memory.
    pub(super) fn read_all(&mut self, old: Option<&Self>) -> Result<Sample, SharingError> {
        let mut before = Sample::default();
        let (mut huge, huge_pages) = (Vec::new(), huge::huge_pages(self.page_bytes));
        for at in 0..self.processes.all.len() {
            let process = &self.processes.all[at];
            let vm = process.vm as u32;
            let old = old.and_then(|old| {
                let same = old.processes.all.iter().position(|other| other.id == process.id)?;
                let old = &old.tracked[same];
                (!old.left && old.by_address == self.tracked[at].by_address).then_some(&old.pages)
            });
            let (tracked, graph, new_frames) = (&mut self.tracked[at], &mut self.graph, &mut self.new_frames);
            for Span { region, first_index } in tracked.spans.clone() {
                self.reader.read(
                    process,
                    region.first_page,
                    first_index,
                    region.pages,
                    |places, first, bytes| {
                        let page = region.first_page + (first - first_index);
                        huge.extend(huge::parts_of(bytes, page, huge_pages, at as u32));
                        let entries = || bytes.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes);
                        let count = entries().len();
                        // Most chunks are uniform and counted at once.
                        if tracked.pages.whole(first, count).is_some()
                            && let Some(place) = all_alike(entries())
                        {
                            tracked.pages.set_whole(first, place);
                            tracked.count(place, count as i64);
                            if old.is_some_and(|old| old.whole(first, count) == Some(place)) {
                                before.looked_at += count as u64;
                            } else {
                                compare(&mut before, old, first, entries().map(|entry| (place, entry)));
                            }
                            return;
                        }
                        for (entry, index) in entries().zip(first..) {
                            let place = places.of(index, entry);
                            tracked.count(place, 1);
                            tracked.pages.set(index, place);
                            if let Some(frame) = place.frame() {
                                let merged = region.may_be_merged && !entry.is_file_or_shared();
                                if graph.attach(frame, vm) && merged {
                                    let page = region.first_page + (index - first_index);
                                    new_frames.push(FrameLookup { frame, process: at, page });
                                }
                            }
                            compare(&mut before, old, index, std::iter::once((place, entry)));
                        }
                    },
                )?;
            }
        }
        self.place_huge(&HugeParts::new(huge));
        for (tracked, process) in self.tracked.iter_mut().zip(&self.processes.all) {
            tracked.other_resident = tracked.beyond_known(&self.root, process);
        }
        self.read_at = Instant::now();
        self.look_into_new_frames();
        self.forget_ended()?;
        Ok(before)
    }

    /// Puts pages of huge pages on their frames, where other pages are on these: their own entries say that they are
    /// alone ([`huge`]).
    fn place_huge(&mut self, parts: &HugeParts) {
        if parts.is_empty() {
            return;
        }
        let found = self.graph.frames().filter_map(|frame| Some((frame, parts.with(frame)?)));
        let found: Vec<_> = found.collect();
        for (frame, part) in found {
            let process = part.process as usize;
            if let Some(index) = self.tracked[process].index_of(part.page_of(frame)) {
                self.move_page(process, index, Place::on(frame), false);
            }
        }
    }

    /// Position of the page at an address; `None` outside guest memory.
    pub(super) fn index_of(&self, process: usize, address: u64) -> Option<u64> {
        self.tracked.get(process)?.index_of(address / self.page_bytes)
    }

    /// Whether a page is present in the graph.
    pub(super) fn is_at(&self, process: usize, index: u64, place: Place) -> bool {
        self.tracked[process].pages.get(index) == place
    }

    /// Sets the place of a page; a frame of unknown content that `may_be_merged` is read later.
    pub(super) fn move_page(&mut self, process: usize, index: u64, to: Place, may_be_merged: bool) {
        let tracked = &mut self.tracked[process];
        let from = tracked.pages.get(index);
        if from == to || tracked.left {
            return;
        }
        let vm = self.processes.all[process].vm as u32;
        tracked.count(from, -1);
        tracked.count(to, 1);
        tracked.pages.set(index, to);
        if let Some(frame) = from.frame() {
            self.graph.detach(frame, vm);
        }
        if let Some(frame) = to.frame()
            && self.graph.attach(frame, vm)
            && may_be_merged
        {
            let page = self.tracked[process].page_at(index);
            self.new_frames.push(FrameLookup { frame, process, page });
        }
    }

    /// Queues pages for reading.
    pub(super) fn read_again(&mut self, process: usize, first: u64, pages: u64) {
        self.to_read.push((process, first, pages));
    }

    /// Queues the guest memory between two addresses.
    pub(super) fn read_range_again(&mut self, process: usize, start: u64, end: u64) {
        let Some(tracked) = self.tracked.get(process) else { return };
        let (start, end) = (start / self.page_bytes, end.div_ceil(self.page_bytes));
        for (first, pages, index) in &tracked.by_address {
            let (from, to) = (start.max(*first), end.min(first + pages));
            if from < to {
                self.to_read.push((process, index + (from - first), to - from));
            }
        }
    }

    /// Reads the queued pages, and returns their number.
    pub(super) fn reread(&mut self) -> Result<u64, SharingError> {
        let ranges = joined(std::mem::take(&mut self.to_read));
        let mut read = 0;
        for (process, first, pages) in ranges {
            let mut found = Vec::new();
            let owner = &self.processes.all[process];
            for Span { region, first_index } in &self.tracked[process].spans {
                let (from, to) = (first.max(*first_index), (first + pages).min(first_index + region.pages));
                if from < to {
                    let page = region.first_page + (from - first_index);
                    self.reader.read(owner, page, from, to - from, |places, first, bytes| {
                        for (entry, index) in
                            bytes.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes).zip(first..)
                        {
                            let merged = region.may_be_merged && !entry.is_file_or_shared();
                            found.push((index, places.of(index, entry), entry, merged));
                        }
                    })?;
                }
            }
            read += found.len() as u64;
            for (index, place, entry, merged) in found {
                if !agrees(self.tracked[process].pages.get(index), place, entry) {
                    self.move_page(process, index, place, merged);
                }
            }
        }
        Ok(read)
    }

    /// Removes the pages of ended processes from the graph.
    pub(super) fn forget_ended(&mut self) -> Result<(), SharingError> {
        self.unmeasured = self.processes.check_again(&self.root, &self.vms)?;
        for (tracked, process) in self.tracked.iter_mut().zip(&self.processes.all) {
            if process.is_gone() && !tracked.left {
                for index in 0..tracked.pages.len() {
                    if let Some(frame) = tracked.pages.get(index).frame() {
                        self.graph.detach(frame, process.vm as u32);
                    }
                }
                *tracked = Tracked { left: true, ..Tracked::new(process) };
            }
        }
        Ok(())
    }

    /// Determines which of the new frames are zero-filled.
    pub(super) fn look_into_new_frames(&mut self) {
        let mut asked = std::mem::take(&mut self.new_frames);
        // A frame with a single page counts as used whatever its content, and most frames that were left
        // since do not exist any more.
        asked.retain(|asked| self.graph.pages_on(asked.frame) > 0);
        for frame in self.contents.zero(&self.root, &self.processes.all, &asked) {
            self.graph.set_zero(frame);
        }
    }

    /// A uniform random sample of pages, in the order of positions; empty if there are no pages.
    pub(super) fn draw(&self, rng: &mut Rng, count: usize) -> Vec<(usize, u64)> {
        let Some(all) = self.pages_up_to.last().filter(|pages| **pages > 0) else { return Vec::new() };
        let mut drawn: Vec<u64> = (0..count).map(|_| rng.below(*all as usize) as u64).collect();
        // Neighbours share page tables, which are cheaper to read together.
        drawn.sort_unstable();
        let place = |drawn: u64| {
            let process = self.pages_up_to.partition_point(|up_to| *up_to <= drawn);
            let before = if process == 0 { 0 } else { self.pages_up_to[process - 1] };
            (process, drawn - before)
        };
        drawn.into_iter().map(place).collect()
    }

    /// Prefetches the entries of these pages, each by process and address.
    pub(super) fn warm_up(&self, pages: impl Iterator<Item = (usize, u64)>) {
        let mut frames = [0; 64];
        let mut count = 0;
        for (process, address) in pages.take(frames.len()) {
            let Some(index) = self.index_of(process, address) else { continue };
            if let Some(frame) = self.tracked[process].pages.get(index).frame() {
                frames[count] = frame;
                count += 1;
            }
        }
        let known = frames[..count].iter().filter(|frame| self.graph.pages_on(**frame) > 0).count();
        std::hint::black_box(known);
    }

    /// Whether a page is where the graph has it; `None` for an ended process.
    pub(super) fn is_right(&mut self, process: usize, index: u64) -> Option<bool> {
        if self.tracked[process].left {
            return None;
        }
        let page = self.tracked[process].page_at(index);
        let (place, entry) = self.reader.read_one(&self.processes.all[process], page, index)?;
        Some(agrees(self.tracked[process].pages.get(index), place, entry))
    }

    /// The VM with the largest difference of resident memory, if above `share` of it, and the difference in
    /// pages.
    pub(super) fn resident_off(&self, share: f64) -> Option<(String, u64)> {
        let off = (0..self.vms.len()).map(|vm| (self.vm_off(vm), vm)).max()?;
        let resident: u64 = self.of_vm(off.1).map(|(tracked, _)| tracked.resident).sum();
        let allowed = (resident as f64 * share) as u64 + RESIDENT_SLACK_PAGES;
        (off.0 > allowed).then(|| (self.vms[off.1].name.clone(), off.0))
    }

    fn of_vm(&self, vm: usize) -> impl Iterator<Item = (&Tracked, &Process)> {
        self.tracked.iter().zip(&self.processes.all).filter(move |(_, process)| process.vm == vm)
    }

    /// Difference of a VM's resident memory, in pages.
    fn vm_off(&self, vm: usize) -> u64 {
        self.of_vm(vm)
            .filter(|(tracked, _)| !tracked.left)
            .filter_map(|(tracked, process)| {
                let now = tracked.beyond_known(&self.root, process)?;
                Some(now.abs_diff(tracked.other_resident?))
            })
            .sum()
    }

    /// The current matrix.
    pub(super) fn measurement(
        &self,
        began: Instant,
        probe: &dyn FrameChanges,
    ) -> Result<Measurement, EventsError> {
        let stayed: Vec<usize> = (0..self.vms.len()).filter(|vm| self.is_measured(*vm)).collect();
        let (mut known, mut off) = (0, 0);
        let rows = stayed.iter().map(|vm| {
            // The graph does not distinguish frames of the page cache.
            let mut memory =
                MemoryUse { pages_file: self.vms[*vm].has_no_files().then_some(0), ..MemoryUse::default() };
            for (tracked, _) in self.of_vm(*vm) {
                memory.pages_resident += tracked.resident;
                memory.pages_zero += tracked.zero_page;
                memory.frames_used += tracked.alone;
            }
            let counts = self.graph.counts()[*vm];
            memory.pages_zero += counts.zero_pages;
            memory.frames_used += counts.used;
            memory.self_shared_pages = counts.self_shared;
            memory.pages_used = memory.pages_resident - memory.pages_zero;
            known += memory.pages_resident;
            off += self.vm_off(*vm).saturating_sub(RESIDENT_SLACK_PAGES);
            MatrixVm::of(&self.vms[*vm], Some(memory))
        });
        let rows: Vec<MatrixVm> = rows.collect();
        let frames: Vec<Vec<u64>> =
            stayed.iter().map(|i| stayed.iter().map(|j| self.graph.shared(*i, *j)).collect()).collect();
        let coverage = if known + off == 0 { 1.0 } else { known as f64 / (known + off) as f64 };
        let duration_ms = began.elapsed().as_secs_f64() * 1e3;
        Ok(Measurement {
            matrix: SharingMatrix::measured(Method::Events, rows, &frames, duration_ms, coverage)
                .of_pages(page::size()),
            unmeasured: self.unmeasured.iter().map(|left_out| left_out.clone().named(&self.vms)).collect(),
            notes: self.notes(probe),
            zero_pages: None,
        })
    }

    fn is_measured(&self, vm: usize) -> bool {
        self.unmeasured.iter().all(|left_out| left_out.vm != vm)
    }

    fn notes(&self, probe: &dyn FrameChanges) -> Vec<String> {
        let mut notes = probe.missing().to_vec();
        for (vm, process) in self.processes.missing.iter().filter(|(vm, _)| self.is_measured(*vm)) {
            notes.push(format!(
                "process {process} of {:?} ended while it was measured; its memory is left out",
                self.vms[*vm].name
            ));
        }
        if !self.reader.flags_readable() {
            notes.push(format!(
                "{} cannot be read, so pages on the kernel's huge zero page count as used",
                self.root.proc("kpageflags").display()
            ));
        }
        notes
    }
}

/// The common place of entries that are all alone, or all absent.
fn all_alike(entries: impl Iterator<Item = Entry>) -> Option<Place> {
    let (all, any) = entries.fold((u64::MAX, 0), |(all, any), entry| (all & entry.0, any | entry.0));
    if !Entry(any).is_present() {
        Some(Place::ABSENT)
    } else if Entry(all).is_present() && Entry(all).is_exclusive() {
        Some(Place::ALONE)
    } else {
        None
    }
}

/// Counts the pages from position `first` on that are not where `old` had them.
fn compare(
    before: &mut Sample,
    old: Option<&Pages>,
    first: u64,
    found: impl Iterator<Item = (Place, Entry)>,
) {
    let Some(old) = old else { return };
    for (index, (place, entry)) in (first..).zip(found) {
        before.looked_at += 1;
        before.wrong += u64::from(!agrees(old.get(index), place, entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_chunks_are_detected() {
        let (alone, merged, absent) = (Entry(0x8100_0000_0000_0001), Entry(0x8000_0000_0000_0001), Entry(0));
        let alike = |entries: &[Entry]| all_alike(entries.iter().copied());
        assert_eq!(alike(&[alone, alone]), Some(Place::ALONE));
        assert_eq!(alike(&[absent, Entry(0x0180_0000_0000_0000)]), Some(Place::ABSENT));
        assert_eq!(alike(&[alone, absent]), None);
        assert_eq!(alike(&[alone, merged]), None);
    }
}
