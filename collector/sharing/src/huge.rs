//! Huge pages that are mapped as a whole, whose entries all say what is true of the first page.
//!
//! After a fork two processes map the same huge pages. If one of them writes a page, the kernel splits its mapping
//! of that huge page and gives it a copy; the mapping of the other stays whole. Each of its 512 entries (with pages
//! of 4 KiB) then has bit 56 of the first page: if it is the first page that was written, all of them say that
//! nobody else maps the frame, while 511 are mapped by the other process. The entries of that other process are
//! right, so its frames are those that may be shared: here is what has to be looked up among them.
//!
//! Entries do not show how a page is mapped. 512 entries on consecutive frames with the alignment of a huge page, all
//! with bit 56, are taken for one. If each is a page of its own, the bit is right, and no other entry has its frame.

use super::pagemap::{ENTRY_BYTES, Entry};

/// Pages of a huge page that one entry of the page tables' second level maps: as many as entries of 8 bytes fit on
/// a page. So huge pages have 2 MiB with pages of 4 KiB, 32 MiB with 16 KiB and 512 MiB with 64 KiB, as
/// `/sys/kernel/mm/transparent_hugepage/hpage_pmd_size` says.
pub(super) fn huge_pages(page_bytes: u64) -> u64 {
    page_bytes / ENTRY_BYTES as u64
}

/// Consecutive frames of one process that are said not to be mapped by others, and may be a huge page or part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HugePart {
    /// The first frame.
    pub(super) frame: u64,
    /// How many frames.
    pub(super) pages: u32,
    /// Position of the process.
    pub(super) process: u32,
}

impl HugePart {
    /// The part that these entries are, each with bit 56, the first of page number `page`; `None` if they are no
    /// part of a huge page. They have to lie between two borders of huge pages of `huge_pages` pages.
    #[inline]
    pub(super) fn of(
        entries: &[[u8; ENTRY_BYTES]],
        page: u64,
        huge_pages: u64,
        process: u32,
    ) -> Option<Self> {
        let frame = |entry: &[u8; ENTRY_BYTES]| Entry(u64::from_ne_bytes(*entry)).frame();
        let (first, last) = (frame(entries.first()?), frame(entries.last()?));
        let is_aligned = first % huge_pages == page % huge_pages;
        let is_consecutive = last.wrapping_sub(first) == entries.len() as u64 - 1;
        (is_aligned && is_consecutive).then_some(Self { frame: first, pages: entries.len() as u32, process })
    }

    /// One past its last frame.
    fn end(self) -> u64 {
        self.frame + u64::from(self.pages)
    }
}

/// The parts in the order of their frames.
#[derive(Debug, Default)]
pub(super) struct HugeParts(Vec<HugePart>);

impl HugeParts {
    pub(super) fn new(mut parts: Vec<HugePart>) -> Self {
        parts.sort_unstable();
        Self(parts)
    }

    /// The parts within a range of frames, which no part crosses the ends of.
    pub(super) fn within(&self, frames: std::ops::Range<u64>) -> &[HugePart] {
        let from = self.0.partition_point(|part| part.frame < frames.start);
        let to = self.0.partition_point(|part| part.frame < frames.end);
        &self.0[from..to]
    }
}

/// The part with a frame among parts in order. No two have one: the first pages of both would be mapped twice.
#[inline]
pub(super) fn find(parts: &[HugePart], frame: u64) -> Option<HugePart> {
    let after = parts.partition_point(|part| part.frame <= frame);
    let part = parts[..after].last()?;
    (frame < part.end()).then_some(*part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(frames: impl Iterator<Item = u64>) -> Vec<[u8; 8]> {
        frames.map(|frame| (1 << 63 | 1 << 56 | frame).to_ne_bytes()).collect()
    }

    #[test]
    fn consecutive_aligned_frames_are_a_part() {
        let part = |frames: &[[u8; 8]], page| HugePart::of(frames, page, 512, 3);
        let whole = entries(1024..1536);
        assert_eq!(part(&whole, 512), Some(HugePart { frame: 1024, pages: 512, process: 3 }));
        assert_eq!(part(&whole[100..], 612), Some(HugePart { frame: 1124, pages: 412, process: 3 }));
        assert_eq!(part(&whole, 513), None, "another alignment");
        assert_eq!(part(&entries((1024..1535).chain([9])), 512), None, "not consecutive");
        assert_eq!(part(&[], 512), None);
        assert_eq!((huge_pages(4096), huge_pages(16384), huge_pages(65536)), (512, 2048, 8192));
    }

    #[test]
    fn a_frame_is_found_in_its_part() {
        let part = |frame, pages| HugePart { frame, pages, process: 0 };
        let parts = HugeParts::new(vec![part(2048, 512), part(512, 100)]);
        let first = |frame| find(&parts.0, frame).map(|part| part.frame);
        assert_eq!(
            [511, 512, 611, 612, 2559, 2560].map(first),
            [None, Some(512), Some(512), None, Some(2048), None]
        );
        assert_eq!(parts.within(0..1024), [part(512, 100)]);
        assert_eq!(find(&[], 5), None);
    }
}
