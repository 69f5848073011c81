//! The frame of each page of a process, stored compactly: a table of 512 pages is kept only if they differ.

/// Pages of one table, as many as one page table of 4 KiB maps.
pub(super) const CHUNK: usize = 512;

/// Where a page is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    /// Not in physical memory.
    pub(super) const ABSENT: Self = Self(0);
    /// On a frame that no other page table entry maps.
    pub(super) const ALONE: Self = Self(1);
    /// On the kernel's zero page.
    pub(super) const ZERO_PAGE: Self = Self(2);

    /// On a frame that others map, too, or may map.
    pub(super) fn on(frame: u64) -> Self {
        Self(frame << 2 | 3)
    }

    /// The frame of [`Place::on`].
    pub(super) fn frame(self) -> Option<u64> {
        (self.0 & 3 == 3).then_some(self.0 >> 2)
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (*self, self.frame()) {
            (_, Some(frame)) => write!(f, "on {frame:#x}"),
            (Self::ABSENT, _) => f.write_str("absent"),
            (Self::ALONE, _) => f.write_str("alone"),
            _ => f.write_str("zero page"),
        }
    }
}

#[derive(Clone, Debug)]
enum Chunk {
    All(Place),
    Each(Box<[Place; CHUNK]>),
}

/// The places of the pages of one process, by position among its scanned pages.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    chunks: Vec<Chunk>,
    len: u64,
}

impl Pages {
    /// `len` pages that are not in memory.
    pub(super) fn new(len: u64) -> Self {
        Self { chunks: vec![Chunk::All(Place::ABSENT); len.div_ceil(CHUNK as u64) as usize], len }
    }

    /// Number of pages.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Where a page is. Positions beyond the last are absent.
    pub(super) fn get(&self, index: u64) -> Place {
        match self.chunks.get(index as usize / CHUNK) {
            Some(Chunk::All(place)) => *place,
            Some(Chunk::Each(places)) => places[index as usize % CHUNK],
            None => Place::ABSENT,
        }
    }

    /// Sets the place of a page.
    pub(super) fn set(&mut self, index: u64, place: Place) {
        let Some(chunk) = self.chunks.get_mut(index as usize / CHUNK) else { return };
        let at = index as usize % CHUNK;
        match chunk {
            Chunk::All(all) if *all == place => {}
            Chunk::All(all) => {
                let mut places = Box::new([*all; CHUNK]);
                places[at] = place;
                *chunk = Chunk::Each(places);
            }
            Chunk::Each(places) => places[at] = place,
        }
    }

    /// If the `count` pages from `first` on are one whole chunk with one place: that place.
    pub(super) fn whole(&self, first: u64, count: usize) -> Option<Place> {
        let end = (first + CHUNK as u64).min(self.len);
        if !first.is_multiple_of(CHUNK as u64) || first + count as u64 != end {
            return None;
        }
        match self.chunks.get(first as usize / CHUNK) {
            Some(Chunk::All(place)) => Some(*place),
            _ => None,
        }
    }

    /// Sets the place of all pages of the chunk that begins at `first`.
    pub(super) fn set_whole(&mut self, first: u64, place: Place) {
        if let Some(chunk) = self.chunks.get_mut(first as usize / CHUNK) {
            *chunk = Chunk::All(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_distinguished() {
        let all =
            [Place::ABSENT, Place::ALONE, Place::ZERO_PAGE, Place::on(0), Place::on(1), Place::on(1 << 52)];
        for (i, left) in all.iter().enumerate() {
            for (j, right) in all.iter().enumerate() {
                assert_eq!(left == right, i == j, "{left:?} {right:?}");
            }
        }
        assert_eq!(Place::on(1 << 52).frame(), Some(1 << 52));
        assert_eq!(Place::ZERO_PAGE.frame(), None);
    }

    #[test]
    fn pages_keep_what_was_set_and_nothing_beyond_the_end() {
        let mut pages = Pages::new(1000);
        assert_eq!(pages.whole(0, 512), Some(Place::ABSENT));
        pages.set_whole(0, Place::ALONE);
        pages.set(600, Place::on(7));
        pages.set(1024, Place::on(8));
        assert_eq!((pages.get(0), pages.get(511)), (Place::ALONE, Place::ALONE));
        assert_eq!((pages.get(599), pages.get(600)), (Place::ABSENT, Place::on(7)));
        assert_eq!(pages.get(1024), Place::ABSENT);
        // The last chunk is whole with fewer pages; it is not uniform any more.
        assert_eq!((pages.whole(0, 512), pages.whole(512, 488)), (Some(Place::ALONE), None));
        assert_eq!((pages.whole(0, 100), pages.whole(1, 511)), (None, None));
        pages.set(600, Place::ABSENT);
        assert_eq!(pages.get(600), Place::ABSENT);
    }
}
