//! What of the shared frames is read.
//!
//! Frames that nobody reads take no room in a cache, so sharing them saves none. Where accessed bits of page tables can be
//! cleared and read again after a window, a shared frame counts for a pair if both of its VMs read it meanwhile (writes
//! do not come into it: a frame that is written is not shared any more, unless it is of the page cache). Accessed bits say
//! that a page was read, not how often; those of a huge page are of the whole huge page.
//!
//! Source: accessed flags of x86-64's paging structures, set by the processor and never cleared by it (Intel 64 and IA-32
//! Architectures Software Developer's Manual, volume 3A, section 5.8; AMD64 Architecture Programmer's Manual, volume 2,
//! section 5.4).

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{SharedGroups, SharingMatrix, of_positions, ratio, symmetric};
use crate::kind::named;

/// Which shared frames count when VMs are placed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weigh {
    /// All of them.
    #[default]
    All,
    /// Those that both VMs of a pair read.
    Read,
}

named! {Weigh, "weight of shared frames":
    All = "all",
    Read = "read",
}

/// The shared frames that were read within a window.
#[derive(Clone, Debug, PartialEq)]
pub struct SharedReads {
    /// Frames that both VMs of a pair read, both ways; 0 where one of them is in `unavailable`.
    pub(super) frames: Vec<Vec<u64>>,
    /// The sets of VMs that read the same frames; `None` where only pairs were counted.
    pub(super) groups: Option<SharedGroups>,
    /// Least time between clearing an accessed bit and reading it again, in milliseconds.
    pub(super) window_ms: u32,
    /// By VM: why its reads are not seen, as one clause; `None` where they are.
    pub(super) unavailable: Vec<Option<String>>,
}

impl SharedReads {
    /// Reads that were seen in a window of so many milliseconds. `frames` is indexed by position of the VMs; only the part
    /// above the diagonal is read, and what it has for a VM whose reads are unavailable is not. `unavailable` has the
    /// reason for each such VM, as one clause.
    ///
    /// # Panics
    /// If `frames` and `unavailable` are not of as many VMs: the caller counted both.
    pub fn new(
        frames: &[Vec<u64>],
        groups: Option<SharedGroups>,
        window_ms: u32,
        unavailable: Vec<Option<String>>,
    ) -> Self {
        let mut frames = symmetric(unavailable.len(), frames);
        let is_unknown = |vm: usize| unavailable[vm].is_some();
        for (i, row) in frames.iter_mut().enumerate() {
            row.iter_mut().enumerate().for_each(|(j, frames)| {
                if is_unknown(i) || is_unknown(j) {
                    *frames = 0;
                }
            });
        }
        Self { frames, groups, window_ms, unavailable }
    }

    fn is_known(&self, i: usize, j: usize) -> bool {
        self.unavailable[i].is_none() && self.unavailable[j].is_none()
    }

    /// As cells of a file: null where it is not known.
    pub(super) fn cells(&self) -> Vec<Vec<Option<u64>>> {
        let cell = |i: usize, j: usize, frames: u64| self.is_known(i, j).then_some(frames);
        let row =
            |(i, row): (usize, &Vec<u64>)| (0..).zip(row).map(|(j, frames)| cell(i, j, *frames)).collect();
        self.frames.iter().enumerate().map(row).collect()
    }

    pub(super) fn part(&self, positions: &[usize]) -> Self {
        Self {
            frames: of_positions(&self.frames, positions),
            groups: self.groups.as_ref().map(|groups| groups.part(positions)),
            window_ms: self.window_ms,
            unavailable: positions.iter().map(|vm| self.unavailable[*vm].clone()).collect(),
        }
    }
}

impl SharingMatrix {
    /// This matrix with what of its shared frames was read.
    ///
    /// # Panics
    /// If it has no shared frames, or `reads` is of another number of VMs, or has more frames of a pair than are shared:
    /// the caller counted both.
    #[must_use]
    pub fn with_reads(mut self, reads: SharedReads) -> Self {
        assert_eq!(reads.frames.len(), self.len(), "reads of the VMs of the matrix");
        for (i, j) in self.pairs() {
            let shared = self.shared_frames(i, j).expect("a matrix with reads has shared frames");
            assert!(reads.frames[i][j] <= shared, "what both VMs read of what they share is shared");
        }
        self.reads = Some(Arc::new(reads));
        self
    }

    /// Those of the shared frames of VMs `i` and `j` that both read within the window; `None` if that was not measured, or
    /// reads of one of them are not seen.
    pub fn shared_frames_read(&self, i: usize, j: usize) -> Option<u64> {
        self.reads.as_ref().filter(|reads| reads.is_known(i, j)).map(|reads| reads.frames[i][j])
    }

    /// Share (0 to 1) of VM `i`'s used frames that VM `j` maps too and both read within the window; `None` like
    /// [`Self::shared_frames_read`].
    pub fn read_rate(&self, i: usize, j: usize) -> Option<f64> {
        // What is not shared has a rate of 0, and what is read is at most what is shared.
        Some(self.rate(i, j) * ratio(self.shared_frames_read(i, j)?, self.shared_frames(i, j)?))
    }

    /// Least time between clearing an accessed bit and reading it again, in milliseconds; `None` if reads were not measured.
    pub fn read_window_ms(&self) -> Option<u32> {
        self.reads.as_ref().map(|reads| reads.window_ms)
    }

    /// Why reads of a VM are not seen, as one clause; `None` where they are, or were not to be measured.
    pub fn reads_unavailable(&self, vm: usize) -> Option<&str> {
        self.reads.as_ref()?.unavailable[vm].as_deref()
    }

    /// Where what was read is in memory, as [`SharingMatrix::cells_address`]; `None` if reads were not measured.
    pub fn reads_address(&self) -> Option<usize> {
        self.reads.as_ref().map(|reads| Arc::as_ptr(reads).addr())
    }

    /// The sets of VMs that read the same shared frames; `None` where that was not measured, or only pairs were.
    pub fn read_groups(&self) -> Option<&SharedGroups> {
        self.reads.as_ref()?.groups.as_ref()
    }

    /// The matrix in which only shared frames that both VMs of a pair read count, to plan by. Rates are shares of the
    /// frames in use, as in this one.
    ///
    /// # Errors
    /// Reads were not measured, or those of some VM are not seen: why, as one clause. A pair of which it is not known would
    /// count for less than it is, or for more.
    pub fn of_reads(&self) -> Result<Self, String> {
        let Some(reads) = &self.reads else { return Err("what VMs read was not measured".to_owned()) };
        let unseen = (0..self.len()).find_map(|vm| Some((vm, reads.unavailable[vm].as_deref()?)));
        if let Some((vm, reason)) = unseen {
            return Err(format!("reads of {} are not seen: {reason}", self.vms[vm].name));
        }
        let mut part = self.clone();
        part.reads = None;
        part.weigh = Weigh::Read;
        let cells = Arc::make_mut(&mut part.cells);
        for (i, row) in cells.rate.iter_mut().enumerate() {
            // Reads of all of them are seen.
            row.iter_mut().enumerate().for_each(|(j, rate)| *rate = self.read_rate(i, j).unwrap_or(0.0));
        }
        // Those of the rates of all shared frames.
        (cells.rate_error, cells.rate_ci95) = (None, None);
        cells.shared_frames = Some(reads.frames.clone());
        cells.groups.clone_from(&reads.groups);
        // Which of the frames that are read are of the page cache is not counted.
        cells.shared_file_frames = None;
        Ok(part)
    }

    /// Which shared frames its cells count: [`Self::of_reads`] gives one of those that are read.
    pub fn weigh(&self) -> Weigh {
        self.weigh
    }

    /// The matrix to plan by, and why it is not the one that `weigh` asks for, as a sentence.
    pub fn to_plan_by(&self, weigh: Weigh) -> (Cow<'_, Self>, Option<String>) {
        // Where nothing is shared there is nothing to weigh, and a plan says why nothing is shared.
        let shares = self.pairs().any(|(i, j)| self.shared_frames(i, j) != Some(0));
        match weigh {
            Weigh::Read if shares => match self.of_reads() {
                Ok(of_reads) => (Cow::Owned(of_reads), None),
                Err(reason) => {
                    let why = format!("all shared frames count, not only those that are read: {reason}");
                    (Cow::Borrowed(self), Some(why))
                }
            },
            Weigh::Read | Weigh::All => (Cow::Borrowed(self), None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{MatrixVm, MemoryUse, Method, SharedGroup};

    fn matrix() -> SharingMatrix {
        let vm = |name: &str| MatrixVm {
            memory: Some(MemoryUse {
                pages_resident: 200,
                pages_used: 200,
                frames_used: 200,
                ..MemoryUse::default()
            }),
            ..MatrixVm::named(name)
        };
        let shared = [vec![0, 100, 40], vec![0, 0, 0], vec![0, 0, 0]];
        SharingMatrix::measured(Method::Merged, ["a", "b", "c"].map(vm).to_vec(), &shared, 1.0, 1.0)
    }

    fn reads(unavailable: [Option<&str>; 3]) -> SharedReads {
        let frames = [vec![0, 5, 40], vec![0, 0, 0], vec![0, 0, 0]];
        let sets = [(vec![0, 1], 5), (vec![0, 2], 40)].map(|(vms, frames)| SharedGroup { vms, frames });
        let groups = Some(SharedGroups::of(sets, 0));
        SharedReads::new(&frames, groups, 100, unavailable.map(|reason| reason.map(str::to_owned)).to_vec())
    }

    #[test]
    fn reads_turn_the_order_of_pairs() {
        let matrix = matrix().with_reads(reads([None; 3]));
        assert_eq!((matrix.shared_frames(0, 1), matrix.shared_frames_read(1, 0)), (Some(100), Some(5)));
        let by_reads = matrix.of_reads().unwrap();
        assert_eq!(by_reads.shared_frames(0, 2), Some(40));
        assert_eq!((by_reads.rate(0, 1), by_reads.rate(2, 0)), (0.025, 0.2));
        assert_eq!((by_reads.weigh(), matrix.weigh()), (Weigh::Read, Weigh::All));
        assert_eq!(by_reads.shared_groups().unwrap().groups().len(), 2);
        assert_eq!((by_reads.read_window_ms(), matrix.read_window_ms()), (None, Some(100)));
        let part = matrix.part(&[0, 2]);
        assert_eq!(
            (part.shared_frames_read(0, 1), part.of_reads().unwrap().shared_frames(1, 0)),
            (Some(40), Some(40))
        );
    }

    #[test]
    fn reads_that_are_not_seen_are_not_zero() {
        let matrix = matrix().with_reads(reads([None, Some("it runs in KVM"), None]));
        assert_eq!((matrix.shared_frames_read(0, 1), matrix.shared_frames_read(0, 2)), (None, Some(40)));
        assert_eq!(matrix.reads_unavailable(1), Some("it runs in KVM"));
        assert_eq!(matrix.of_reads().unwrap_err(), "reads of b are not seen: it runs in KVM");
        assert!(self::matrix().of_reads().unwrap_err().contains("not measured"));
        assert_eq!(matrix.part(&[0, 2]).of_reads().unwrap().shared_frames(0, 1), Some(40));
    }
}
