//! The sharing matrix: what each pair of VMs shares, how it was measured, and its file formats.
//!
//! Definitions (also in docs/guide.md):
//! - `frames_used(i)`: distinct physical frames that VM i's guest memory maps and that are not
//!   zero-filled.
//! - `shared_frames(i, j)`: distinct non-zero-filled frames mapped by both; symmetric, diagonal 0.
//! - `shared_file_frames(i, j)`: those of them that are of the page cache, which VMs share because they map one file,
//!   a memfd or shared memory, without KSM.
//! - `shared_frames_read(i, j)`: those of the shared frames that both read within a window, where that is measured
//!   ([`SharedReads`]).
//! - `rate(i, j) = shared_frames(i, j) / frames_used(i)`: not symmetric, diagonal 0. A VM that uses
//!   no frame shares none: its row is 0.
//!
//! Method `content` counts the frames there would be if every content had one frame: its "frames"
//! are distinct contents, and `pages_zero` are all zero-filled pages. With sampling, frames are estimates, and each
//! rate has a standard error and a 95 % interval ([`SampledRate`]).
//!
//! Source: Ito and Kono, section 3.2 (rate = shared pages / pages in use), with frames for pages,
//! because KSM's `max_page_sharing` spreads one content over many frames.

mod csv;
mod file;
mod groups;
mod reading;
mod reads;
mod sample;
mod saved;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::{Owner, Uuid, VmId};
use crate::kind::named;
use crate::names::Identity;
use crate::page_size::PageSize;
use crate::vm::Vm;

pub use csv::MatrixFile;
pub use file::{MatrixFileError, MatrixParts, ReadParts};
pub use groups::{BadGroups, MAX_GROUP_MEMBERS, MAX_GROUPS, SharedGroup, SharedGroups};
pub use reading::{FrameReading, ReadBy};
pub use reads::{SharedReads, Weigh};
pub use sample::SampledRate;
pub use saved::{CountedBy, SavedFrames};

/// How a matrix was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Frames that both VMs map, from the page tables: what is shared now.
    Merged,
    /// The same, kept current by the kernel's reports of merges and writes since the page tables were read; only in
    /// recordings of earlier releases.
    Events,
    /// Equal contents of pages, wherever they are: what could be shared.
    Content,
    /// Rates from a file without the method of measurement.
    File,
}

named! {Method, "method of measurement":
    Merged = "merged",
    Events = "events",
    Content = "content",
    File = "file",
}

/// The composition of one VM's guest memory, in pages and frames of the host's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// Pages of guest memory that are in physical memory.
    pub pages_resident: u64,
    /// Resident pages on frames that are not zero-filled; more than `frames_used` if the VM repeats pages.
    pub pages_used: u64,
    /// Distinct frames that are not zero-filled.
    pub frames_used: u64,
    /// Resident pages on the kernel's zero page or on a merged frame whose content is zero.
    /// Only method `content` finds zero-filled pages that were not merged.
    pub pages_zero: u64,
    /// Pages on a non-zero-filled frame that another page of the same VM maps too.
    pub self_shared_pages: u64,
    /// Resident pages on frames of the page cache, as of a mapped file, a memfd or shared memory; `None` if not
    /// measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages_file: Option<u64>,
}

/// One VM of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixVm {
    /// Unique within the matrix.
    pub name: String,
    /// Its id; `None` if a file does not have it, or not completely.
    pub id: Option<VmId>,
    /// Its UUID; `None` if it has none or a file does not have it.
    pub uuid: Option<Uuid>,
    /// The user that it belongs to; `None` on Xen, and if a file does not have it.
    pub owner: Option<Owner>,
    /// Number of its vCPUs; 1 if a file does not have it.
    pub vcpus: u32,
    /// Its memory; `None` if a file has only rates.
    pub memory: Option<MemoryUse>,
}

impl MatrixVm {
    /// A VM with its measured memory.
    pub fn of(vm: &Vm, memory: Option<MemoryUse>) -> Self {
        let vcpus = u32::try_from(vm.vcpus.len()).unwrap_or(u32::MAX);
        let (name, owner) = (vm.name.clone(), vm.owner.clone());
        Self { name, id: Some(vm.id), uuid: vm.uuid, owner, vcpus, memory }
    }

    /// A VM of which only the name is known.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), id: None, uuid: None, owner: None, vcpus: 1, memory: None }
    }

    /// What it can be named by.
    pub fn identity(&self) -> Identity<'_> {
        Identity { name: &self.name, id: self.id, uuid: self.uuid, owner: self.owner.as_ref() }
    }

    /// Whether it is `vm`, as far as known.
    pub fn is(&self, vm: &Vm) -> bool {
        self.name == vm.name && self.id.is_none_or(|id| id == vm.id)
    }
}

/// What every pair of VMs shares. Always square, finite, rates within 0 to 1, diagonals 0, names unique.
///
/// Its cells, 16 bytes or more for each pair, are shared between copies: a copy costs memory for the VMs only.
#[derive(Clone, Debug, PartialEq)]
pub struct SharingMatrix {
    method: Method,
    vms: Vec<MatrixVm>,
    cells: Arc<Cells>,
    duration_ms: Option<f64>,
    coverage: Option<f64>,
    page_size: PageSize,
    frame_reading: Option<FrameReading>,
    /// `None` where reads were not measured.
    reads: Option<Arc<SharedReads>>,
    /// Which shared frames its cells count.
    weigh: Weigh,
}

/// The cells of the pairs, row by row.
#[derive(Clone, Debug, PartialEq)]
struct Cells {
    shared_frames: Option<Vec<Vec<u64>>>,
    /// `None` where no VM is known to have pages of the page cache, too.
    shared_file_frames: Option<Vec<Vec<u64>>>,
    rate: Vec<Vec<f64>>,
    rate_error: Option<Vec<Vec<f64>>>,
    /// `None` where only pairs were counted.
    groups: Option<SharedGroups>,
    /// Lower and upper ends of the 95 % intervals; a file of an earlier version lacks them.
    rate_ci95: Option<[Vec<Vec<f64>>; 2]>,
}

/// What a sample of contents saw.
#[derive(Clone, Copy, Debug)]
pub struct SampledContents<'a> {
    /// Share (above 0, at most 1) of the contents that was drawn.
    pub probability: f64,
    /// Distinct contents of each VM that were drawn.
    pub seen: &'a [u64],
    /// Those of VM i that VM j has too, `[i][j]` for `i < j`.
    pub seen_in_both: &'a [Vec<u64>],
}

impl SharingMatrix {
    /// A measured matrix, of frames of 4 KiB ([`Self::of_pages`]).
    ///
    /// `shared_frames` is indexed by position in `vms`; only the part above the diagonal is read.
    /// `coverage` as in [`Self::coverage`].
    ///
    /// # Panics
    /// If a VM has no [`MemoryUse`] or `shared_frames` is not as large as `vms`: the caller measured both.
    pub fn measured(
        method: Method,
        vms: Vec<MatrixVm>,
        shared_frames: &[Vec<u64>],
        duration_ms: f64,
        coverage: f64,
    ) -> Self {
        let n = vms.len();
        let symmetric = symmetric(n, shared_frames);
        let rate = (0..n)
            .map(|i| {
                let used = vms[i].memory.expect("a measured VM has its memory use").frames_used;
                symmetric[i].iter().map(|shared| ratio(*shared, used)).collect()
            })
            .collect();
        Self {
            method,
            vms,
            cells: Arc::new(Cells {
                shared_frames: Some(symmetric),
                shared_file_frames: None,
                rate,
                rate_error: None,
                groups: None,
                rate_ci95: None,
            }),
            duration_ms: Some(duration_ms),
            coverage: Some(coverage),
            page_size: PageSize::X86,
            frame_reading: None,
            reads: None,
            weigh: Weigh::All,
        }
    }

    /// This matrix with frames of this size.
    #[must_use]
    pub fn of_pages(self, page_size: PageSize) -> Self {
        Self { page_size, ..self }
    }

    /// This matrix, read in this way.
    #[must_use]
    pub fn read_by(self, reading: FrameReading) -> Self {
        Self { frame_reading: Some(reading), ..self }
    }

    /// How frames were read; `None` where none were, as for the contents of pages, and where it is not known.
    pub fn frame_reading(&self) -> Option<&FrameReading> {
        self.frame_reading.as_ref()
    }

    /// The size of its frames and pages.
    pub fn page_size(&self) -> PageSize {
        self.page_size
    }

    /// This matrix with the shared frames that are of the page cache, indexed as in [`Self::measured`]. The memory of its
    /// VMs says how many pages each has there; where none has any, nothing is kept.
    ///
    /// # Panics
    /// If `frames` is not as large as the matrix: the caller counted both.
    #[must_use]
    pub fn with_file_frames(mut self, frames: &[Vec<u64>]) -> Self {
        let has_some = |vm: &MatrixVm| vm.memory.and_then(|memory| memory.pages_file) != Some(0);
        if self.len() > 1 && self.vms.iter().any(has_some) {
            let frames = symmetric(self.len(), frames);
            Arc::make_mut(&mut self.cells).shared_file_frames = Some(frames);
        }
        self
    }

    /// This matrix with the exact sets of VMs that map its shared frames.
    ///
    /// # Panics
    /// If these are not the groups of its shared frames: the caller counted both.
    #[must_use]
    pub fn with_groups(self, groups: SharedGroups) -> Self {
        let with = self.try_with_groups(groups);
        with.unwrap_or_else(|error| panic!("groups are parts of the shared frames: {error}"))
    }

    /// The same, for groups of a file.
    ///
    /// # Errors
    /// These are not the groups of its shared frames.
    pub fn try_with_groups(mut self, groups: SharedGroups) -> Result<Self, BadGroups> {
        self.check_groups(&groups)?;
        Arc::make_mut(&mut self.cells).groups = Some(groups);
        Ok(self)
    }

    fn check_groups(&self, groups: &SharedGroups) -> Result<(), BadGroups> {
        let names: Vec<&str> = self.vms.iter().map(|vm| vm.name.as_str()).collect();
        groups.check(&names, self.cells.shared_frames.as_ref().ok_or(BadGroups::Alone)?)
    }

    /// The sets of VMs that map the same frames; `None` where only pairs were counted.
    pub fn shared_groups(&self) -> Option<&SharedGroups> {
        self.cells.groups.as_ref()
    }

    /// This matrix with its rates as estimates from a sample, each with its error and interval.
    ///
    /// A VM that uses no page shares nothing with any other, which is no estimate.
    ///
    /// # Panics
    /// If `sample` is not as large as the matrix or has more contents in both VMs of a pair than in one: the caller
    /// counted both.
    #[must_use]
    pub fn estimated(mut self, sample: &SampledContents<'_>) -> Self {
        let n = self.len();
        assert!(sample.seen.len() == n && sample.seen_in_both.len() == n, "one count for each VM and pair");
        let has_none = |vm: &MatrixVm| vm.memory.is_some_and(|memory| memory.pages_used == 0);
        let zeros = vec![vec![0.0; n]; n];
        let (mut error, mut low, mut high) = (zeros.clone(), zeros.clone(), zeros);
        let cells = Arc::make_mut(&mut self.cells);
        let with_pages: Vec<usize> = (0..n).filter(|vm| !has_none(&self.vms[*vm])).collect();
        for i in with_pages.iter().copied() {
            for j in with_pages.iter().copied().filter(|j| *j != i) {
                let both = sample.seen_in_both[i.min(j)][i.max(j)];
                let estimate = SampledRate::of(both, sample.seen[i], sample.probability);
                cells.rate[i][j] = estimate.rate;
                error[i][j] = estimate.error;
                [low[i][j], high[i][j]] = estimate.ci95;
            }
        }
        cells.rate_error = Some(error);
        cells.rate_ci95 = Some([low, high]);
        self
    }

    /// The part of this matrix about the VMs at these positions, in ascending order.
    #[must_use]
    pub fn part(&self, positions: &[usize]) -> Self {
        let cells = Cells {
            shared_frames: self.cells.shared_frames.as_ref().map(|frames| of_positions(frames, positions)),
            shared_file_frames: self
                .cells
                .shared_file_frames
                .as_ref()
                .map(|frames| of_positions(frames, positions)),
            rate: of_positions(&self.cells.rate, positions),
            rate_error: self.cells.rate_error.as_ref().map(|errors| of_positions(errors, positions)),
            groups: self.cells.groups.as_ref().map(|groups| groups.part(positions)),
            rate_ci95: self
                .cells
                .rate_ci95
                .as_ref()
                .map(|ends| ends.each_ref().map(|end| of_positions(end, positions))),
        };
        let vms = positions.iter().map(|position| self.vms[*position].clone()).collect();
        let reads = self.reads.as_ref().map(|reads| Arc::new(reads.part(positions)));
        Self { vms, cells: Arc::new(cells), reads, ..self.clone() }
    }

    /// This matrix with VMs that count for less (0 to 1): the shared frames of a pair, and of a group, count as far as
    /// both VMs do, by the lower weight. Weights are rounded to sixteenths, so that a group falls into few parts. What was
    /// read is left out.
    #[must_use]
    pub fn weighted(&self, weight: impl Fn(usize) -> f64) -> Self {
        let sixteenths = |vm: usize| (weight(vm).clamp(0.0, 1.0) * 16.0).round() / 16.0;
        let weights: Vec<f64> = (0..self.len()).map(sixteenths).collect();
        let factor = |i: usize, j: usize| weights[i].min(weights[j]);
        let mut weighted = Self { reads: None, ..self.clone() };
        let cells = Arc::make_mut(&mut weighted.cells);
        cells.groups = cells.groups.as_ref().map(|groups| groups.weighted(&weights));
        let ends = cells.rate_ci95.iter_mut().flatten();
        for rates in std::iter::once(&mut cells.rate).chain(&mut cells.rate_error).chain(ends) {
            for (i, row) in rates.iter_mut().enumerate() {
                for (j, rate) in row.iter_mut().enumerate() {
                    *rate *= factor(i, j);
                }
            }
        }
        for frames in [&mut cells.shared_frames, &mut cells.shared_file_frames] {
            for (i, row) in frames.iter_mut().flatten().enumerate() {
                for (j, frames) in row.iter_mut().enumerate() {
                    *frames = (*frames as f64 * factor(i, j)).round() as u64;
                }
            }
        }
        weighted
    }

    /// Whether it equals `other` except for the duration of the measurement and how frames were read.
    pub fn same_sharing_as(&self, other: &Self) -> bool {
        self.method == other.method
            && self.coverage == other.coverage
            && self.page_size == other.page_size
            && self.vms == other.vms
            && self.reads == other.reads
            && (Arc::ptr_eq(&self.cells, &other.cells) || self.cells == other.cells)
    }

    /// Where its cells are in memory: one address for all copies that share them, as long as one of them exists.
    pub fn cells_address(&self) -> usize {
        Arc::as_ptr(&self.cells).addr()
    }

    /// This matrix with the cells of `before` if they are equal, so that they are in memory once.
    #[must_use]
    pub fn share_cells_with(mut self, before: &Self) -> Self {
        if self.cells == before.cells {
            self.cells = Arc::clone(&before.cells);
        }
        if self.reads == before.reads {
            self.reads.clone_from(&before.reads);
        }
        self
    }

    /// This matrix with another duration of the measurement, in milliseconds.
    #[must_use]
    pub fn measured_in(mut self, duration_ms: Option<f64>) -> Self {
        self.duration_ms = duration_ms;
        self
    }

    /// How it was measured.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The VMs, in the order of rows and columns.
    pub fn vms(&self) -> &[MatrixVm] {
        &self.vms
    }

    /// Number of VMs.
    pub fn len(&self) -> usize {
        self.vms.len()
    }

    /// Whether there is no VM.
    pub fn is_empty(&self) -> bool {
        self.vms.is_empty()
    }

    /// Distinct frames that VMs `i` and `j` share; `None` if a file has only rates.
    pub fn shared_frames(&self, i: usize, j: usize) -> Option<u64> {
        self.cells.shared_frames.as_ref().map(|frames| frames[i][j])
    }

    /// Those of the shared frames of VMs `i` and `j` that are of the page cache; `None` if that was not measured.
    pub fn shared_file_frames(&self, i: usize, j: usize) -> Option<u64> {
        let has_none = |vm: usize| self.vms[vm].memory.and_then(|memory| memory.pages_file) == Some(0);
        match &self.cells.shared_file_frames {
            Some(frames) => Some(frames[i][j]),
            None => (has_none(i) || has_none(j)).then_some(0),
        }
    }

    /// Share (0 to 1) of VM `i`'s used frames that VM `j` maps too.
    pub fn rate(&self, i: usize, j: usize) -> f64 {
        self.cells.rate[i][j]
    }

    /// Standard error of [`Self::rate`]; `None` if the matrix is not an estimate from a sample.
    pub fn rate_error(&self, i: usize, j: usize) -> Option<f64> {
        self.cells.rate_error.as_ref().map(|errors| errors[i][j])
    }

    /// Lower and upper end of the 95 % interval of [`Self::rate`]; `None` if the matrix is not an estimate from a
    /// sample, or a file does not have them.
    pub fn rate_ci95(&self, i: usize, j: usize) -> Option<[f64; 2]> {
        self.cells.rate_ci95.as_ref().map(|ends| ends.each_ref().map(|end| end[i][j]))
    }

    /// How long the measurement took, in milliseconds.
    pub fn duration_ms(&self) -> Option<f64> {
        self.duration_ms
    }

    /// Share (0 to 1) of the resident pages that was read; of a sample, the share of the contents that was drawn.
    pub fn coverage(&self) -> Option<f64> {
        self.coverage
    }

    /// The pairs `(i, j)` with `i < j`, in the order of the matrix.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let n = self.len();
        (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
    }
}

fn is_error(error: f64) -> bool {
    error.is_finite() && error >= 0.0
}

/// The counts `[i][j]` for `i < j`, both ways, with a diagonal of 0.
fn symmetric(n: usize, counts: &[Vec<u64>]) -> Vec<Vec<u64>> {
    let count = |i: usize, j: usize| if i == j { 0 } else { counts[i.min(j)][i.max(j)] };
    (0..n).map(|i| (0..n).map(|j| count(i, j)).collect()).collect()
}

/// The cells of the VMs at these positions.
fn of_positions<T: Copy>(rows: &[Vec<T>], positions: &[usize]) -> Vec<Vec<T>> {
    positions.iter().map(|i| positions.iter().map(|j| rows[*i][*j]).collect()).collect()
}

fn ratio(shared: u64, used: u64) -> f64 {
    if used == 0 { 0.0 } else { shared as f64 / used as f64 }
}
