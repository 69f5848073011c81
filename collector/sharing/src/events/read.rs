//! Reading the places of pages: all pages of a process, or some.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::pages::{CHUNK, Place};
use crate::SharingError;
use crate::huge::huge_pages;
use crate::pagemap::{self, ENTRY_BYTES, Entry, read_entry};
use crate::processes::Process;
use huddle_host::{HostError, HostRoot};

/// Bytes of pagemap read at once; fits a second-level cache.
const READ_BYTES: usize = 128 << 10;
/// Bit 24 of `/proc/kpageflags`: the zero page or the huge zero page.
const FLAG_ZERO_PAGE: u64 = 1 << 24;

/// Reads pagemaps into its buffers.
#[derive(Debug)]
pub(super) struct Reader {
    buffer: Vec<u8>,
    zero_page_frame: u64,
    kpageflags: Option<File>,
    /// First frame of the kernel's huge zero page, once a page was found on it.
    huge_zero: Option<u64>,
    /// Pages of a huge page.
    huge_pages: u64,
}

impl Reader {
    pub(super) fn new(root: &HostRoot) -> Result<Self, SharingError> {
        pagemap::frames_visible(root)?;
        Ok(Self {
            buffer: vec![0; READ_BYTES],
            zero_page_frame: pagemap::zero_page_frame(root)?,
            kpageflags: pagemap::open(&root.proc("kpageflags")).ok(),
            huge_zero: None,
            huge_pages: huge_pages(pagemap::page_bytes()),
        })
    }

    /// Whether `/proc/kpageflags` can be read, without which the huge zero page is unknown.
    pub(super) fn flags_readable(&self) -> bool {
        self.kpageflags.is_some()
    }

    /// Passes the entries of `pages` pages from page number `page` on to `take`, at most up to the end of a
    /// chunk of positions at once, each time with the position of the first; `index` is that of `page`. Stops
    /// and marks the process as gone if its address space ended.
    pub(super) fn read(
        &mut self,
        process: &Process,
        page: u64,
        index: u64,
        pages: u64,
        mut take: impl FnMut(&mut Places<'_>, u64, &[u8]),
    ) -> Result<(), SharingError> {
        let mut done = 0;
        while done < pages && !process.is_gone() {
            let wanted = (self.buffer.len() / ENTRY_BYTES).min((pages - done) as usize) * ENTRY_BYTES;
            let at = (page + done) * ENTRY_BYTES as u64;
            let read = match process.pagemap.read_at(&mut self.buffer[..wanted], at) {
                Ok(read) => read / ENTRY_BYTES,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let path = format!("/proc/{}/pagemap", process.id).into();
                    return Err(HostError::Read { path, source }.into());
                }
            };
            if read == 0 {
                process.set_gone();
                return Ok(());
            }
            let mut places = Places {
                zero_page_frame: self.zero_page_frame,
                kpageflags: self.kpageflags.as_ref(),
                huge_zero: &mut self.huge_zero,
                huge_pages: self.huge_pages,
                first_page: page,
                first_index: index,
            };
            let mut from = 0;
            while from < read {
                let first = index + done + from as u64;
                let count = (CHUNK - first as usize % CHUNK).min(read - from);
                take(&mut places, first, &self.buffer[from * ENTRY_BYTES..(from + count) * ENTRY_BYTES]);
                from += count;
            }
            done += read as u64;
        }
        Ok(())
    }

    /// The entry of page number `page`, at position `index`, and the place in it; `None` if the address space
    /// is gone.
    pub(super) fn read_one(&mut self, process: &Process, page: u64, index: u64) -> Option<(Place, Entry)> {
        let entry = read_entry(&process.pagemap, page).ok().flatten()?;
        let mut places = Places {
            zero_page_frame: self.zero_page_frame,
            kpageflags: self.kpageflags.as_ref(),
            huge_zero: &mut self.huge_zero,
            huge_pages: self.huge_pages,
            first_page: page,
            first_index: index,
        };
        Some((places.of(index, entry), entry))
    }
}

/// Converts entries to places.
pub(super) struct Places<'a> {
    zero_page_frame: u64,
    kpageflags: Option<&'a File>,
    huge_zero: &'a mut Option<u64>,
    huge_pages: u64,
    first_page: u64,
    first_index: u64,
}

impl Places<'_> {
    /// The place of the page at `index`.
    #[inline]
    pub(super) fn of(&mut self, index: u64, entry: Entry) -> Place {
        if !entry.is_present() {
            Place::ABSENT
        } else if entry.is_exclusive() {
            Place::ALONE
        } else if entry.frame() == self.zero_page_frame || self.is_huge_zero(index, entry.frame()) {
            Place::ZERO_PAGE
        } else {
            Place::on(entry.frame())
        }
    }

    #[inline]
    fn is_huge_zero(&mut self, index: u64, frame: u64) -> bool {
        if self.huge_zero.is_some_and(|first| frame.wrapping_sub(first) < self.huge_pages) {
            return true;
        }
        // Mapped as a whole, so its first page comes first; few others are aligned like that.
        let page = self.first_page + (index - self.first_index);
        frame.is_multiple_of(self.huge_pages)
            && page.is_multiple_of(self.huge_pages)
            && self.asked_huge_zero(frame)
    }

    #[cold]
    fn asked_huge_zero(&mut self, frame: u64) -> bool {
        let flags = self.kpageflags.and_then(|flags| read_entry(flags, frame).ok().flatten());
        let found = flags.is_some_and(|flags| flags.0 & FLAG_ZERO_PAGE != 0);
        if found {
            *self.huge_zero = Some(frame);
        }
        found
    }
}

/// Whether a page that was at `known` is where `entry` (at `found`) says: a page that is the last one on a
/// merged frame is still there, alone.
#[inline]
pub(super) fn agrees(known: Place, found: Place, entry: Entry) -> bool {
    known == found || (found == Place::ALONE && known.frame() == Some(entry.frame()))
}
