//! Counts of VMs and pairs from groups of equal pages.

use huddle_model::matrix::{MemoryUse, SampledContents, SharedGroups, SharingMatrix};

use super::super::pairs::{Counts, Pairs};
use super::draw::Draw;

/// Counts of the pages read.
pub(super) struct Tally {
    draw: Draw,
    vms: Vec<OfVm>,
    /// Distinct contents of each VM and pair.
    pairs: Pairs,
    /// How often each VM has the current content, and which VMs have it.
    times: Vec<u32>,
    having: Vec<usize>,
    row: Vec<u64>,
}

/// Counts of one VM.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OfVm {
    /// Pages that are present.
    pub(super) resident: u64,
    /// Pages that were read.
    pub(super) read: u64,
    /// Pages that were present but could not be read.
    pub(super) lost: u64,
    /// Zero-filled pages among those read.
    pub(super) zero: u64,
    /// Pages among those read whose content the VM has more than once.
    repeated: u64,
    /// Contents seen on exactly one page.
    unique: u64,
}

/// The figures of a scan.
pub(super) struct Figures {
    pub(super) memory: Vec<MemoryUse>,
    /// `[i][j]` for `i < j`.
    pub(super) shared: Vec<Vec<u64>>,
    /// The sets of VMs that have the same contents; not for a sample.
    pub(super) groups: Option<SharedGroups>,
    /// What was drawn; only for a sample.
    pub(super) sampled: Option<Sampled>,
}

/// What a sample saw, as [`SampledContents`].
pub(crate) struct Sampled {
    probability: f64,
    seen: Vec<u64>,
    seen_in_both: Vec<Vec<u64>>,
}

impl Sampled {
    /// The matrix of the VMs at these positions as estimates.
    pub(crate) fn estimate(&self, matrix: SharingMatrix, positions: &[usize]) -> SharingMatrix {
        let seen: Vec<u64> = positions.iter().map(|vm| self.seen[*vm]).collect();
        let row = |i: &usize| positions.iter().map(|j| self.seen_in_both[*i][*j]).collect();
        let seen_in_both: Vec<Vec<u64>> = positions.iter().map(row).collect();
        let probability = self.probability;
        matrix.estimated(&SampledContents { probability, seen: &seen, seen_in_both: &seen_in_both })
    }
}

impl Tally {
    pub(super) fn new(vms: usize, draw: Draw) -> Self {
        Self {
            draw,
            vms: vec![OfVm::default(); vms],
            pairs: Pairs::new(vms),
            times: vec![0; vms],
            having: Vec::new(),
            row: vec![0; vms.div_ceil(64)],
        }
    }

    pub(super) fn vm(&mut self, vm: usize) -> &mut OfVm {
        &mut self.vms[vm]
    }

    pub(super) fn vms(&self) -> &[OfVm] {
        &self.vms
    }

    /// Counts a nonzero content seen on only this page.
    #[inline]
    pub(super) fn unique(&mut self, vm: usize) {
        self.vms[vm].unique += 1;
    }

    /// Counts a nonzero content: the VMs that have it, and how often; a VM may occur several times.
    pub(super) fn content(&mut self, pages: impl Iterator<Item = (usize, u32)>) {
        for (vm, times) in pages {
            if self.times[vm] == 0 {
                self.having.push(vm);
                self.row[vm / 64] |= 1 << (vm % 64);
            }
            self.times[vm] = self.times[vm].saturating_add(times);
        }
        self.pairs.add(&self.row);
        for vm in &self.having {
            let times = self.times[*vm];
            if times > 1 {
                self.vms[*vm].repeated += u64::from(times);
            }
        }
        for vm in self.having.drain(..) {
            self.times[vm] = 0;
            self.row[vm / 64] = 0;
        }
    }

    /// The coverage of the matrix.
    pub(super) fn coverage(&self) -> f64 {
        self.draw.probability()
    }

    /// The figures; of a sample they are estimates, clamped to possible values: no more shared than used, no more used
    /// than resident.
    pub(super) fn figures(self) -> Figures {
        let draw = self.draw;
        let scale = |count: u64| {
            if draw.is_all() { count } else { (count as f64 / draw.probability()).round() as u64 }
        };
        let Counts { frames: seen_in_both, sets, rest } = self.pairs.finish();
        let own = self.vms.iter().enumerate();
        let seen: Vec<u64> = own.map(|(position, vm)| seen_in_both[position][position] + vm.unique).collect();
        let memory: Vec<MemoryUse> = self
            .vms
            .iter()
            .zip(&seen)
            .map(|(vm, seen)| {
                let pages_used = vm.read - vm.zero;
                MemoryUse {
                    pages_resident: vm.read,
                    pages_used,
                    frames_used: scale(*seen).min(pages_used),
                    pages_zero: vm.zero,
                    self_shared_pages: scale(vm.repeated).min(pages_used),
                    pages_file: None,
                }
            })
            .collect();
        if draw.is_all() {
            let groups = Some(SharedGroups::of(sets, rest));
            return Figures { memory, shared: seen_in_both, groups, sampled: None };
        }
        let mut shared = seen_in_both.clone();
        for (i, row) in shared.iter_mut().enumerate() {
            for (j, count) in row.iter_mut().enumerate().skip(i + 1) {
                *count = scale(*count).min(memory[i].frames_used).min(memory[j].frames_used);
            }
        }
        Figures {
            memory,
            shared,
            groups: None,
            sampled: Some(Sampled { probability: draw.probability(), seen, seen_in_both }),
        }
    }
}
