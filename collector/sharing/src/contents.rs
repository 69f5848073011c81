//! Zero-filled frames found by their content: each frame that KSM may have merged is read once, through one
//! page that maps it. That costs a system call (about 0.5 to 0.8 us, forty times a pagemap entry), and is
//! done only if KSM's own data structures cannot be read.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::buckets::{BUCKET_BITS, BUCKET_FRAMES};
use super::frame_set::FrameSet;
use super::gather::{read_entries, split};
use super::pagemap::{self, ENTRY_BYTES, Entry, flags, read_entry};
use super::processes::{Process, Region};
use super::sort::READ_BYTES;
use super::zero::FLAG_KSM;
use super::{SharingError, in_threads};
use huddle_host::HostRoot;

/// Bytes checked before a whole page is read.
const FIRST_BYTES: usize = 64;

/// The memory of the processes of a scan.
pub(super) struct Contents<'a> {
    pub(super) root: &'a HostRoot,
    pub(super) processes: &'a [Process],
    pub(super) zero_page_frame: u64,
    pub(super) threads: NonZeroUsize,
}

/// Results of all threads.
#[derive(Default)]
struct Examined {
    /// Frames that were read, by bucket.
    frames: HashMap<u64, FrameSet>,
    zero: BTreeSet<u64>,
}

impl Contents<'_> {
    /// to learn through which page each frame can be read.
    pub(super) fn zero_filled(&self) -> Result<BTreeSet<u64>, SharingError> {
        let units = split(self.processes, |region| region.may_be_merged);
        let (next, examined) = (AtomicUsize::new(0), Mutex::new(Examined::default()));
        let kpageflags = pagemap::open(&self.root.proc("kpageflags")).ok();
        let outcomes = in_threads(self.threads.get().min(units.len()), || {
            let (mut buffer, mut page) = (vec![0; READ_BYTES], vec![0; pagemap::page_bytes() as usize]);
            while let Some((process, region)) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                let process = &self.processes[*process];
                let mut look =
                    |at: u64, frame: u64| self.look(process, at, frame, kpageflags.as_ref(), &mut page);
                self.unit(process, region, &mut buffer, &examined, &mut look)?;
            }
            Ok(())
        });
        outcomes.into_iter().collect::<Result<(), SharingError>>()?;
        Ok(examined.into_inner().unwrap_or_else(PoisonError::into_inner).zero)
    }

    fn unit(
        &self,
        process: &Process,
        region: &Region,
        buffer: &mut [u8],
        examined: &Mutex<Examined>,
        look: &mut impl FnMut(u64, u64) -> Option<bool>,
    ) -> Result<(), SharingError> {
        let mut done = 0;
        while done < region.pages && !process.is_gone() {
            let Some(entries) = read_entries(process, region, done, buffer)? else { break };
            let first = region.first_page + done;
            for (page, entry) in (first..).zip(entries.chunks_exact(ENTRY_BYTES).map(Entry::from_bytes)) {
                if !entry.may_be_merged(self.zero_page_frame) || is_examined(examined, entry.frame()) {
                    continue;
                }
                // A page that cannot be read, or has moved, gives no answer: the next one may.
                if let Some(zero) = look(page, entry.frame()) {
                    note_examined(examined, entry.frame(), zero);
                }
            }
            done += (entries.len() / ENTRY_BYTES) as u64;
        }
        Ok(())
    }

    /// Whether the frame's content is zero, read through one page; `None` if that page cannot be read or has
    /// moved.
    fn look(
        &self,
        process: &Process,
        number: u64,
        frame: u64,
        kpageflags: Option<&File>,
        page: &mut [u8],
    ) -> Option<bool> {
        let address = number * page.len() as u64;
        let first = &mut page[..FIRST_BYTES];
        if !process.read_memory(self.root, address, first) {
            return None;
        }
        if !is_zero(first) {
            return Some(false);
        }
        if !process.read_memory(self.root, address, page) {
            return None;
        }
        if !is_zero(page) {
            return Some(false);
        }
        // Zero, but not merged: for example two forked processes. Those are not counted as zero.
        if flags(kpageflags, frame).is_some_and(|flags| flags & FLAG_KSM == 0) {
            return Some(false);
        }
        // It may have been written to, and thus moved to another frame, before it was read.
        let entry = read_entry(&process.pagemap, number).ok().flatten()?;
        (entry.is_present() && entry.frame() == frame).then_some(true)
    }
}

fn is_examined(examined: &Mutex<Examined>, frame: u64) -> bool {
    let known = lock(examined);
    known.frames.get(&(frame >> BUCKET_BITS)).is_some_and(|frames| frames.contains(slot(frame)))
}

fn note_examined(examined: &Mutex<Examined>, frame: u64, zero: bool) {
    let mut known = lock(examined);
    known.frames.entry(frame >> BUCKET_BITS).or_default().insert(slot(frame));
    if zero {
        known.zero.insert(frame);
    }
}

fn slot(frame: u64) -> usize {
    (frame % BUCKET_FRAMES as u64) as usize
}

/// No holder of the lock leaves a half-made change, so a poisoned lock is usable.
fn lock(examined: &Mutex<Examined>) -> MutexGuard<'_, Examined> {
    examined.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
