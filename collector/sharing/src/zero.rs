//! Which frames are zero-filled: merged frames by KSM's own data structures or by their content, and the huge zero
//! page by its flag.
//!
//! KSM's data structures ([`super::stable_tree`]) show it in a few dozen reads of the kernel's memory. If
//! they cannot be read, each frame that KSM may have merged is read once ([`super::contents`]), which costs
//! several times the rest of a scan. Either is done only where KSM may have merged: on a host with merged
//! pages according to the kernel (`/sys/kernel/mm/ksm/pages_shared`), on pages of anonymous memory.
//!
//! What the kernel says of one process (`/proc/PID/ksm_merging_pages`) leaves out pages that were merged before the
//! process was forked. So where it says 0 for all processes, samples of their frames decide: one that is merged shows
//! the way into the tree, and with it all that are zero-filled; where none is, nothing is taken for merged.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;

use super::buckets::{BUCKET_BITS, BUCKET_FRAMES};
use super::contents::Contents;
use super::frame_set::FrameSet;
use super::huge::huge_pages;
use super::pagemap::{self, flags};
use super::stable_tree;
use super::{SharingError, ZeroPages};

/// Bit 24 of `/proc/kpageflags`: the zero page or the huge zero page.
const FLAG_ZERO_PAGE: u64 = 1 << 24;
/// Bit 21: a frame that KSM merged.
pub(super) const FLAG_KSM: u64 = 1 << 21;

/// The zero-filled frames of one scan.
#[derive(Debug)]
pub(super) struct ZeroFrames {
    kpageflags: Option<File>,
    /// Zero-filled frames among those that KSM merged.
    merged: BTreeSet<u64>,
    /// How these were found; `None` if nothing can have been merged.
    method: Option<ZeroPages>,
    /// Frames of a huge page.
    huge_frames: usize,
}

impl ZeroFrames {
    /// To be called after the pagemaps were read; `samples` are some of the frames that KSM may have merged, none
    /// only if it merged none.
    ///
    /// # Errors
    /// A pagemap cannot be read although its process exists.
    pub(super) fn find(
        contents: &Contents<'_>,
        samples: &[u64],
        way: ZeroPages,
    ) -> Result<Self, SharingError> {
        let root = contents.root;
        let kpageflags = pagemap::open(&root.proc("kpageflags")).ok();
        let is_other =
            |frame: &u64| flags(kpageflags.as_ref(), *frame).is_some_and(|flags| flags & FLAG_KSM == 0);
        let counts_merged = contents.processes.iter().any(|process| process.counts_merged);
        let (merged, method) = if samples.is_empty() || (!counts_merged && samples.iter().all(is_other)) {
            (BTreeSet::new(), None)
        } else {
            let by_tree = match way {
                ZeroPages::ByBooks => stable_tree::zero_filled(root, samples),
                ZeroPages::ByContent => Err("it was configured not to read KSM's own data".to_owned()),
            };
            match by_tree {
                Ok(frames) => (frames, Some(ZeroPages::ByBooks)),
                Err(reason) => {
                    tracing::debug!("each merged frame is read: {reason}");
                    (contents.zero_filled()?, Some(ZeroPages::ByContent))
                }
            }
        };
        let huge_frames = huge_pages(pagemap::page_bytes()) as usize;
        Ok(Self { kpageflags, merged, method, huge_frames })
    }

    /// How zero-filled merged frames were distinguished from others; `None` if nothing can have been merged.
    pub(super) fn method(&self) -> Option<ZeroPages> {
        self.method
    }

    /// Whether `/proc/kpageflags` can be read.
    pub(super) fn flags_readable(&self) -> bool {
        self.kpageflags.is_some()
    }

    /// Whether a frame is of the kernel's zero page, or of its huge one.
    pub(super) fn is_zero_page(&self, frame: u64) -> bool {
        flags(self.kpageflags.as_ref(), frame).is_some_and(|flags| flags & FLAG_ZERO_PAGE != 0)
    }

    /// Adds the zero-filled frames of a bucket to `zero`; `all_mapped` says of some of its frames whether
    /// each is mapped by some VM.
    pub(super) fn of_bucket(
        &self,
        bucket: u64,
        all_mapped: impl Fn(Range<usize>) -> bool,
        zero: &mut FrameSet,
    ) -> bool {
        let mut found = self.find_huge(bucket, all_mapped, zero);
        let first = bucket << BUCKET_BITS;
        for frame in self.merged.range(first..first + BUCKET_FRAMES as u64) {
            zero.insert((frame - first) as usize);
            found = true;
        }
        found
    }

    /// The huge zero page: a whole aligned block of frames, all of them in use. It has the size of a huge page, of
    /// which a bucket holds several on every host.
    fn find_huge(&self, bucket: u64, all_mapped: impl Fn(Range<usize>) -> bool, zero: &mut FrameSet) -> bool {
        let mut found = false;
        for first in (0..BUCKET_FRAMES).step_by(self.huge_frames) {
            let frames = first..first + self.huge_frames;
            if all_mapped(frames.clone()) && self.is_zero_page(bucket << BUCKET_BITS | first as u64) {
                found = true;
                frames.for_each(|frame| _ = zero.insert(frame));
            }
        }
        found
    }
}
