//! A sample of what page tables say, compared with pagemap.

use std::hash::{BuildHasher, RandomState};

use super::entry::AddressMask;
use super::gather::Walk;
use super::kernel::{Block, TABLE_PAGES};
use super::spans::{How, Span};
use crate::gather::read_entries;
use crate::pagemap::{ENTRY_BYTES, Entry, page_bytes};
use crate::processes::{Process, Region};

/// Tables that are compared in each scan.
const TABLES: usize = 2;
/// Tables that are drawn to find as many with anything in them.
const MOST_DRAWN: usize = 16;
/// How often pages that differ are read again: they may have changed between the two readings.
const READINGS: u32 = 8;

/// Compares some tables, drawn at random, with pagemap.
///
/// # Errors
/// What differs, or cannot be read, as one clause.
pub(super) fn check(
    walk: &mut impl Walk,
    processes: &[Process],
    spans: &[Vec<Span>],
    mask: AddressMask,
) -> Result<(), String> {
    let all: Vec<(usize, Region)> = (0..)
        .zip(spans)
        .flat_map(|(process, spans)| spans.iter().map(move |span| (process, span)))
        .filter(|(process, span)| span.how != How::Pagemap && !processes[*process].is_gone())
        .map(|(process, span)| (process, span.region))
        .collect();
    let pages: u64 = all.iter().map(|(_, region)| region.pages).sum();
    if pages == 0 {
        return Ok(());
    }
    let mut compared = 0;
    for draw in 0..MOST_DRAWN {
        let (process, region) = part_with(&all, RandomState::new().hash_one(draw) % pages);
        compared += usize::from(compare(walk, processes, process, &region, mask)?);
        if compared == TABLES {
            break;
        }
    }
    Ok(())
}

/// What one table maps of the region that has a page, counted over all regions.
fn part_with(all: &[(usize, Region)], mut page: u64) -> (usize, Region) {
    for (process, region) in all {
        if page < region.pages {
            let table = TABLE_PAGES as u64;
            let end = region.first_page + region.pages;
            let first = ((region.first_page + page) / table * table).max(region.first_page);
            let pages = (first + 1).next_multiple_of(table).min(end) - first;
            return (*process, Region { first_page: first, pages, ..*region });
        }
        page -= region.pages;
    }
    all.last().map_or_else(
        || (0, Region { first_page: 0, pages: 0, may_be_merged: false, may_be_file: false }),
        |(process, region)| (*process, Region { pages: region.pages.min(1), ..*region }),
    )
}

/// Compares the pages of a region, at most as many as a table has; whether any is in memory.
fn compare(
    walk: &mut impl Walk,
    processes: &[Process],
    position: usize,
    region: &Region,
    mask: AddressMask,
) -> Result<bool, String> {
    let process = &processes[position];
    let mut differ = vec![true; region.pages as usize];
    let mut any = false;
    let mut example = None;
    for _ in 0..READINGS {
        let before = by_tables(walk, position, region, mask)?;
        let mut buffer = [0; TABLE_PAGES * ENTRY_BYTES];
        let entries = read_entries(process, region, 0, &mut buffer).map_err(|error| error.to_string())?;
        let Some(entries) = entries.filter(|entries| entries.len() == before.len() * ENTRY_BYTES) else {
            return Ok(false);
        };
        let after = by_tables(walk, position, region, mask)?;
        let pages = entries.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes).map(frame);
        for (at, by_pagemap) in pages.enumerate() {
            let unequal = before[at] == after[at] && before[at] != by_pagemap;
            any |= by_pagemap.is_some() || before[at].is_some();
            if unequal && differ[at] {
                example = Some((region.first_page + at as u64, before[at], by_pagemap));
            }
            differ[at] &= unequal;
        }
        if differ.iter().all(|differ| !*differ) {
            return Ok(any);
        }
    }
    let text = |frame: Option<u64>| frame.map_or("no frame".to_owned(), |frame| format!("frame {frame:#x}"));
    let (page, by_tables, by_pagemap) = example.unwrap_or_default();
    Err(format!(
        "they differ from pagemap: page {page:#x} of process {} has {} by them and {} by pagemap",
        process.id,
        text(by_tables),
        text(by_pagemap)
    ))
}

fn frame(entry: Entry) -> Option<u64> {
    entry.is_present().then(|| entry.frame())
}

/// The frames of the pages of a region, at most as many as a table has, by page tables.
fn by_tables(
    walk: &mut impl Walk,
    position: usize,
    region: &Region,
    mask: AddressMask,
) -> Result<Vec<Option<u64>>, String> {
    let mut frames = vec![None; region.pages as usize];
    let (from, to) = (region.first_page, region.first_page + region.pages);
    let bytes = page_bytes();
    walk.walk(position, from * bytes, to * bytes, &mut |address, block| {
        let first = address / bytes;
        match block {
            Block::Table(entries) => {
                for (page, entry) in (first..).zip(entries).filter(|(page, _)| (from..to).contains(page)) {
                    frames[(page - from) as usize] = frame(Entry(mask.as_pagemap(*entry, false, false)));
                }
            }
            Block::Huge { entry, pages } if super::entry::is_huge_there(entry) => {
                let frame = mask.huge_frame(entry, pages);
                for page in from.max(first)..to.min(first + pages) {
                    frames[(page - from) as usize] = Some(frame + (page - first));
                }
            }
            Block::Huge { .. } => {}
        }
    })?;
    Ok(frames)
}
