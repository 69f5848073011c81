//! The first half of a scan by page tables: walks them, in pieces, on all threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::entry::{
    AddressMask, Common, HUGE_PAGES, all_writable, is_accessed, is_clean, is_huge_there, is_special,
    is_there, is_writable,
};
use super::kernel::{Block, PageTables, TABLE_PAGES, TopTable};
use super::spans::{How, Span};
use crate::SharingError;
use crate::gather::read_region;
use crate::huge_units::HugeUnit;
use crate::pagemap::{ENTRY_BYTES, page_bytes};
use crate::processes::{Process, Region};
use crate::sort::{Gathered, MAX_SAMPLES, PageCounts, Place, SAMPLE_STEP, SortBuffers, Sorter};

/// Pages that one thread takes at a time: a multiple of what a table maps, so that few tables are read twice.
const UNIT_PAGES: u64 = 64 << 10;
/// One of so many tables is sampled for frames that KSM may have merged.
const SAMPLE_TABLES: u64 = 4;

/// Why a scan by page tables ended.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// A scan by pagemap would end as well.
    Scan(SharingError),
    /// Page tables cannot be read on this host: why, as one clause.
    Unavailable(String),
    /// Page tables cannot be read any more, or differ from pagemap, as one clause.
    Failed(String),
}

impl From<SharingError> for Trouble {
    fn from(error: SharingError) -> Self {
        Self::Scan(error)
    }
}

/// Walks the page tables of processes by their positions, for one thread.
pub(super) trait Walk {
    /// Passes on what is mapped of a range of addresses, in order: first address and block.
    fn walk(
        &mut self,
        process: usize,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, Block<'_>),
    ) -> Result<(), String>;
}

/// Walks those of the kernel.
pub(super) struct KernelWalk<'a> {
    walker: super::kernel::Walker<'a>,
    tops: &'a [Option<TopTable>],
}

impl<'a> KernelWalk<'a> {
    /// For the thread with this number.
    pub(super) fn new(tables: &'a PageTables, thread: usize, tops: &'a [Option<TopTable>]) -> Self {
        Self { walker: tables.walker(thread), tops }
    }
}

impl Walk for KernelWalk<'_> {
    fn walk(
        &mut self,
        process: usize,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, Block<'_>),
    ) -> Result<(), String> {
        match self.tops[process] {
            Some(top) => self.walker.blocks(top, from, to, each),
            None => Ok(()),
        }
    }
}

/// The work of the first half, in pieces that threads take in turn.
pub(super) struct Units<'a> {
    processes: &'a [Process],
    units: Vec<(usize, Span)>,
    next: AtomicUsize,
    sorter: Sorter,
    mask: AddressMask,
}

impl<'a> Units<'a> {
    pub(super) fn new(
        processes: &'a [Process],
        spans: &[Vec<Span>],
        sorter: Sorter,
        mask: AddressMask,
    ) -> Self {
        let mut units = Vec::new();
        for (process, spans) in spans.iter().enumerate() {
            spans.iter().for_each(|span| split(process, span, &mut units));
        }
        Self { processes, units, next: AtomicUsize::new(0), sorter, mask }
    }

    /// Maximum number of useful threads.
    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Works until no piece is left.
    pub(super) fn work(&self, walk: &mut impl Walk) -> Result<Gathered, Trouble> {
        let mut thread = Thread {
            units: self,
            position: 0,
            span: None,
            counts: PageCounts::default(),
            gathered: Gathered::new(self.processes.len()),
            buffers: SortBuffers::default(),
            entries: Box::new([[0; ENTRY_BYTES]; TABLE_PAGES]),
            pagemap: vec![0; TABLE_PAGES * ENTRY_BYTES],
            error: None,
        };
        while let Some((process, span)) = self.units.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            thread.unit(walk, *process, *span)?;
        }
        Ok(thread.gathered)
    }
}

fn split(process: usize, span: &Span, units: &mut Vec<(usize, Span)>) {
    let end = span.region.first_page + span.region.pages;
    let mut first = span.region.first_page;
    while first < end {
        let next = (first + 1).next_multiple_of(UNIT_PAGES).min(end);
        units.push((
            process,
            Span { region: Region { first_page: first, pages: next - first, ..span.region }, ..*span },
        ));
        first = next;
    }
}

/// State of one thread.
struct Thread<'a> {
    units: &'a Units<'a>,
    position: usize,
    span: Option<Span>,
    counts: PageCounts,
    gathered: Gathered,
    buffers: SortBuffers,
    /// Entries as a pagemap shows them.
    entries: Box<[[u8; ENTRY_BYTES]; TABLE_PAGES]>,
    pagemap: Vec<u8>,
    error: Option<SharingError>,
}

impl Thread<'_> {
    fn unit(&mut self, walk: &mut impl Walk, position: usize, span: Span) -> Result<(), Trouble> {
        let process = &self.units.processes[position];
        if process.is_gone() {
            return Ok(());
        }
        if span.how == How::Pagemap {
            self.position = position;
            return Ok(self.by_pagemap(&span.region)?);
        }
        (self.position, self.span) = (position, Some(span));
        let (first, pages) = (span.region.first_page, span.region.pages);
        let bytes = page_bytes();
        walk.walk(position, first * bytes, (first + pages) * bytes, &mut |address, block| {
            if self.error.is_none() {
                self.block(&span, address / bytes, block);
            }
        })
        .map_err(Trouble::Failed)?;
        self.gathered.counts[position] += std::mem::take(&mut self.counts);
        self.error.take().map_or(Ok(()), |error| Err(error.into()))
    }

    fn by_pagemap(&mut self, region: &Region) -> Result<(), SharingError> {
        let Self { units, position, gathered, buffers, pagemap, .. } = self;
        read_region(&units.sorter, units.processes, *position, region, pagemap, buffers, gathered)
    }

    /// The part of a block, which begins with page `page`, that is in the span.
    fn block(&mut self, span: &Span, page: u64, block: Block<'_>) {
        let (first, end) = (span.region.first_page, span.region.first_page + span.region.pages);
        let pages = match block {
            Block::Table(_) => TABLE_PAGES as u64,
            Block::Huge { pages, .. } => pages,
        };
        let (from, to) = (first.max(page) - page, end.min(page + pages).saturating_sub(page));
        if from >= to {
            return;
        }
        match block {
            Block::Table(entries) => self.table(span, page + from, &entries[from as usize..to as usize]),
            Block::Huge { entry, .. } if is_huge_there(entry) => {
                let frame = self.units.mask.huge_frame(entry, pages);
                let mut at = from;
                // An error ends it: what follows must not hide it.
                while at < to && self.error.is_none() {
                    let next = (at + 1).next_multiple_of(HUGE_PAGES).min(to);
                    self.huge(span, page + at, next - at, frame + at, entry);
                    at = next;
                }
            }
            Block::Huge { .. } => {}
        }
    }

    /// Entries of the last level, the first for page `page`.
    fn table(&mut self, span: &Span, page: u64, entries: &[u64]) {
        let (pages, may_be_file) = (entries.len() as u64, span.region.may_be_file);
        // Most memory is like that.
        if matches!(span.how, How::Private { .. }) && all_writable(entries) {
            return self.count_alone(pages, false);
        }
        let common = Common::of(entries);
        if common.none_there() {
            return;
        }
        if self.units.processes[self.position].is_cleared() {
            self.reads(span, entries);
        }
        match span.how {
            How::Private { of_file } if of_file && may_be_file && self.has_candidates(entries) => {
                self.pages_by_pagemap(span, page, pages);
            }
            How::Private { .. } if common.all_plain_candidates() => self.candidates(span, page, entries),
            How::Private { .. } => self.sort(span, page, entries, true),
            // Not pages of the file: holes of a file on a DAX device, memory of a device.
            How::Shared | How::SharedAlone if common.any_special() => {
                self.pages_by_pagemap(span, page, pages)
            }
            How::SharedAlone => {
                let there = entries.iter().map(|entry| u64::from(is_there(*entry))).sum::<u64>();
                self.count_alone(there, may_be_file);
            }
            How::Shared | How::Pagemap => self.sort(span, page, entries, false),
        }
    }

    /// Keeps the candidates among the pages that were read.
    fn reads(&mut self, span: &Span, entries: &[u64]) {
        let is_candidate = |entry: u64| match span.how {
            How::Private { .. } => !is_writable(entry),
            How::Shared => true,
            // Nobody else maps them; what pagemap is read for has no accessed bits there.
            How::SharedAlone | How::Pagemap => false,
        };
        let (mask, zero_page) = (self.units.mask, self.units.sorter.zero_page_frame);
        let mut frames = [0; TABLE_PAGES];
        let mut kept = 0;
        for entry in entries.iter().copied() {
            let frame = mask.frame(entry);
            let is_read = is_there(entry) && is_accessed(entry) && !is_special(entry);
            frames[kept % TABLE_PAGES] = frame;
            kept += usize::from(is_read && is_candidate(entry) && frame != zero_page);
        }
        if let Err(frame) = self.gathered.read_buckets.scatter(&frames[..kept], self.position as u32) {
            self.refuse(frame);
        }
    }

    /// The same of a part of a huge page, or the whole of it.
    fn huge_reads(&mut self, frame: u64, pages: u64, entry: u64) {
        if !is_accessed(entry) || !self.units.processes[self.position].is_cleared() {
            return;
        }
        if pages == HUGE_PAGES && frame.is_multiple_of(HUGE_PAGES) {
            let unit = HugeUnit::new(frame, self.position as u32, is_clean(entry));
            self.gathered.read_units.push(unit);
            return;
        }
        let mut frames = [0; HUGE_PAGES as usize];
        frames.iter_mut().zip(frame..).for_each(|(to, frame)| *to = frame);
        let frames = &frames[..pages.min(HUGE_PAGES) as usize];
        if let Err(frame) = self.gathered.read_buckets.scatter(frames, self.position as u32) {
            self.refuse(frame);
        }
    }

    fn has_candidates(&self, entries: &[u64]) -> bool {
        entries.iter().any(|entry| is_there(*entry) && !is_writable(*entry))
    }

    fn count_alone(&mut self, pages: u64, file: bool) {
        self.counts.resident += pages;
        self.counts.exclusive += pages;
        self.counts.file += if file { pages } else { 0 };
    }

    /// Reads pages by pagemap, which tells pages of the page cache from others.
    fn pages_by_pagemap(&mut self, span: &Span, page: u64, pages: u64) {
        let region = Region { first_page: page, pages, ..span.region };
        // What went wrong before must not be hidden.
        if self.error.is_none() {
            self.error = self.by_pagemap(&region).err();
        }
    }

    /// Entries of anonymous memory, all of which are in memory and may not be written: what sorting would do.
    fn candidates(&mut self, span: &Span, page: u64, entries: &[u64]) {
        let mask = self.units.mask;
        let mut frames = [0; TABLE_PAGES];
        let frames = &mut frames[..entries.len()];
        frames.iter_mut().zip(entries).for_each(|(frame, entry)| *frame = mask.frame_of_valid(*entry));
        self.counts.resident += entries.len() as u64;
        if span.region.may_be_merged && self.is_sampled(page) {
            let at = self.gathered.samples.len() * SAMPLE_STEP % frames.len();
            self.gathered.samples.push(frames[at]);
        }
        if let Err(frame) = self.gathered.buckets.scatter(frames, self.position as u32) {
            self.refuse(frame);
        }
    }

    /// Whether a sample is taken of the table with this page.
    fn is_sampled(&self, page: u64) -> bool {
        let (samples, table) = (self.gathered.samples.len(), page / TABLE_PAGES as u64);
        samples < MAX_SAMPLES && (samples == 0 || table.is_multiple_of(SAMPLE_TABLES))
    }

    fn refuse(&mut self, frame: u64) {
        self.error = Some(SharingError::BadFrame { pid: self.units.processes[self.position].id.id, frame });
    }

    fn sort(&mut self, span: &Span, page: u64, entries: &[u64], is_private: bool) {
        let (mask, file) = (self.units.mask, !is_private && span.region.may_be_file);
        for (to, entry) in self.entries.iter_mut().zip(entries) {
            *to = mask.as_pagemap(*entry, is_private, file).to_ne_bytes();
        }
        self.sort_own(span, page, entries.len());
    }

    /// Sorts the first of the entries that are in the format of pagemap.
    fn sort_own(&mut self, span: &Span, page: u64, entries: usize) {
        let may_be_merged = span.region.may_be_merged && self.is_sampled(page);
        let region = Region { may_be_merged, ..span.region };
        let at = Place { process: self.position as u32, page };
        let bytes = self.entries[..entries].as_flattened();
        let sorted = self.units.sorter.sort(
            bytes,
            at,
            &region,
            &mut self.buffers,
            &mut self.counts,
            &mut self.gathered,
        );
        if let Err(frame) = sorted {
            self.refuse(frame);
        }
    }

    /// Pages within one huge page, or the whole of it, from frame `frame` on.
    fn huge(&mut self, span: &Span, page: u64, pages: u64, frame: u64, entry: u64) {
        let may_be_file = span.region.may_be_file;
        match span.how {
            How::Private { .. } if is_writable(entry) => self.count_alone(pages, false),
            How::Private { of_file: true } if may_be_file => {
                self.huge_reads(frame, pages, entry);
                self.pages_by_pagemap(span, page, pages);
            }
            How::SharedAlone => self.count_alone(pages, may_be_file),
            How::Private { .. } | How::Shared | How::Pagemap => {
                self.huge_reads(frame, pages, entry);
                let is_file = may_be_file && !matches!(span.how, How::Private { .. });
                if pages == HUGE_PAGES && frame.is_multiple_of(HUGE_PAGES) {
                    self.counts.resident += pages;
                    self.counts.file += if is_file { pages } else { 0 };
                    let unit = HugeUnit::new(frame, self.position as u32, is_clean(entry));
                    let units = match is_file {
                        true => &mut self.gathered.huge_file_units,
                        false => &mut self.gathered.huge_units,
                    };
                    units.push(unit);
                    return;
                }
                // Valid, and not to be written.
                let template = self.units.mask.as_pagemap(1, false, is_file);
                for (to, at) in self.entries.iter_mut().zip(0..pages) {
                    *to = (template | (frame + at)).to_ne_bytes();
                }
                self.sort_own(span, page, pages as usize);
            }
        }
    }
}
