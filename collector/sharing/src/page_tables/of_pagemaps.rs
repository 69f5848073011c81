//! Page tables as they would be for the pagemaps of a test, so that the scan by page tables can be held against the one
//! by pagemaps.

use super::entry::{AddressMask, HUGE_PAGES, WRITABLE};
use super::gather::{Trouble, Walk};
use super::gather_by;
use super::kernel::{Block, TABLE_PAGES};
use super::program::{HUGE, PRESENT};
use super::spans::{How, Span};
use crate::pagemap::{Entry, page_bytes, read_entry};
use crate::processes::Process;
use crate::sort::{Gathered, Sorter};

const MASK: AddressMask = AddressMask(0x000f_ffff_ffff_f000);

pub(super) fn gather(
    processes: &[Process],
    sorter: Sorter,
    threads: usize,
) -> Result<Vec<Gathered>, Trouble> {
    let spans: Vec<Vec<Span>> = processes
        .iter()
        .map(|process| {
            let how = |may_be_file| How::Private { of_file: may_be_file };
            process
                .regions
                .iter()
                .map(|region| Span { region: *region, how: how(region.may_be_file) })
                .collect()
        })
        .collect();
    gather_by(|_| OfPagemaps(processes), processes, &spans, sorter, MASK, threads)
}

struct OfPagemaps<'a>(&'a [Process]);

impl Walk for OfPagemaps<'_> {
    fn walk(
        &mut self,
        process: usize,
        from: u64,
        to: u64,
        each: &mut dyn FnMut(u64, Block<'_>),
    ) -> Result<(), String> {
        let pages = |address: u64| address / page_bytes();
        for first in (pages(from) / HUGE_PAGES * HUGE_PAGES..pages(to)).step_by(TABLE_PAGES) {
            let entries: Vec<Entry> = (first..first + HUGE_PAGES)
                .map(|page| read_entry(&self.0[process].pagemap, page).ok().flatten().unwrap_or(Entry(0)))
                .collect();
            let frame = entries[0].frame();
            let is_huge = frame.is_multiple_of(HUGE_PAGES)
                && entries.iter().zip(frame..).all(|(entry, frame)| {
                    entry.is_present() && !entry.is_file_or_shared() && entry.frame() == frame
                });
            if is_huge {
                // Pagemap says of all its pages what is true of the first. If others map any, none can be written.
                each(
                    first * page_bytes(),
                    Block::Huge { entry: PRESENT | HUGE | frame << 12, pages: HUGE_PAGES },
                );
                continue;
            }
            let entry = |entry: &Entry| {
                let is_own = entry.is_exclusive() && !entry.is_file_or_shared();
                let writable = if is_own { WRITABLE } else { 0 };
                if entry.is_present() { PRESENT | writable | entry.frame() << 12 } else { 0 }
            };
            let mut table = [0; TABLE_PAGES];
            table.iter_mut().zip(&entries).for_each(|(to, from)| *to = entry(from));
            each(first * page_bytes(), Block::Table(&table));
        }
        Ok(())
    }
}
