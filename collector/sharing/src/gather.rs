//! The first half of a scan by pagemaps: reads them, in pieces, on all threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::SharingError;
use super::pagemap::ENTRY_BYTES;
use super::processes::{Process, Region};
use super::sort::{Gathered, PageCounts, Place, READ_BYTES, SortBuffers, Sorter};
use huddle_host::HostError;

/// Pages one thread takes at a time.
const UNIT_PAGES: u64 = 128 << 10;

/// The work of the first half, in pieces that threads take in turn.
#[derive(Debug)]
pub(super) struct Units<'a> {
    processes: &'a [Process],
    units: Vec<(usize, Region)>,
    next: AtomicUsize,
    sorter: Sorter,
}

impl<'a> Units<'a> {
    pub(super) fn new(processes: &'a [Process], sorter: Sorter) -> Self {
        let units = split(processes, |_| true);
        Self { processes, units, next: AtomicUsize::new(0), sorter }
    }

    /// Maximum number of useful threads.
    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Works until no piece is left.
    pub(super) fn work(&self) -> Result<Gathered, SharingError> {
        let (mut buffer, mut buffers) = (vec![0; READ_BYTES], SortBuffers::default());
        let mut gathered = Gathered::new(self.processes.len());
        while let Some((process, region)) = self.units.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            read_region(
                &self.sorter,
                self.processes,
                *process,
                region,
                &mut buffer,
                &mut buffers,
                &mut gathered,
            )?;
        }
        Ok(gathered)
    }
}

/// Reads a region of a process by its pagemap.
pub(super) fn read_region(
    sorter: &Sorter,
    processes: &[Process],
    position: usize,
    region: &Region,
    buffer: &mut [u8],
    buffers: &mut SortBuffers,
    gathered: &mut Gathered,
) -> Result<(), SharingError> {
    let process = &processes[position];
    // Counted locally and added once: this is the hot loop of a scan.
    let mut counts = PageCounts::default();
    let mut done = 0;
    while done < region.pages && !process.is_gone() {
        let Some(entries) = read_entries(process, region, done, buffer)? else { break };
        let at = Place { process: position as u32, page: region.first_page + done };
        sorter
            .sort(entries, at, region, buffers, &mut counts, gathered)
            .map_err(|frame| SharingError::BadFrame { pid: process.id.id, frame })?;
        done += (entries.len() / ENTRY_BYTES) as u64;
    }
    gathered.counts[position] += counts;
    Ok(())
}

/// The regions to read, in pieces, with the position of their process.
pub(super) fn split(processes: &[Process], wanted: impl Fn(&Region) -> bool) -> Vec<(usize, Region)> {
    let mut units = Vec::new();
    for (process, scanned) in processes.iter().enumerate() {
        for region in scanned.regions.iter().filter(|region| wanted(region)) {
            let mut done = 0;
            while done < region.pages {
                let pages = UNIT_PAGES.min(region.pages - done);
                units.push((process, Region { first_page: region.first_page + done, pages, ..*region }));
                done += pages;
            }
        }
    }
    units
}

/// Reads the entries of a region after the first `done`, as many as fit in the buffer; `None`, and the
/// process is gone, if there are no more.
pub(super) fn read_entries<'b>(
    process: &Process,
    region: &Region,
    done: u64,
    buffer: &'b mut [u8],
) -> Result<Option<&'b [u8]>, SharingError> {
    let entries = (buffer.len() / ENTRY_BYTES).min((region.pages - done) as usize);
    let wanted = &mut buffer[..entries * ENTRY_BYTES];
    let at = (region.first_page + done) * ENTRY_BYTES as u64;
    let read = read_some(&process.pagemap, wanted, at)
        .map_err(|source| HostError::Read { path: format!("/proc/{}/pagemap", process.id).into(), source })?;
    if read == 0 {
        process.set_gone();
        return Ok(None);
    }
    Ok(Some(&buffer[..read]))
}

/// Reads until at least one whole entry is read; 0 if there is nothing (any more).
fn read_some(file: &File, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Ok(read) => return Ok(read - read % ENTRY_BYTES),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
