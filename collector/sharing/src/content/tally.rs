//! Counts of VMs and pairs from groups of equal pages.

use huddle_model::matrix::{MemoryUse, SharedGroups};

use super::super::pairs::{Counts, Pairs};
use super::draw::Draw;

/// Counts of the pages read.
pub(super) struct Tally {
    draw: Draw,
    vms: Vec<OfVm>,
    /// Distinct contents of each VM and pair, by plain count.
    pairs: Pairs,
    /// The same by weight, `[i][j]` for `i <= j`; only for a sample.
    weighed: Vec<Vec<f64>>,
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
    /// Standard error of each rate; only for a sample.
    pub(super) errors: Option<Vec<Vec<f64>>>,
    /// The sets of VMs that have the same contents; not for a sample, which sees few contents in all of their VMs.
    pub(super) groups: Option<SharedGroups>,
}

impl Tally {
    pub(super) fn new(vms: usize, draw: Draw) -> Self {
        let weighed = if draw.is_all() { Vec::new() } else { vec![vec![0.0; vms]; vms] };
        Self {
            draw,
            vms: vec![OfVm::default(); vms],
            pairs: Pairs::new(vms),
            weighed,
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
        if !self.draw.is_all() {
            for i in &self.having {
                let weight = self.draw.weight(self.times[*i]);
                self.weighed[*i][*i] += weight;
                for j in self.having.iter().filter(|j| *j > i) {
                    self.weighed[*i][*j] += weight * self.draw.weight(self.times[*j]);
                }
            }
        }
        for vm in self.having.drain(..) {
            self.times[vm] = 0;
            self.row[vm / 64] = 0;
        }
    }

    /// Share (0 to 1) of the resident pages that was read; 1 if there are none.
    pub(super) fn coverage(&self) -> f64 {
        let sum = |of: fn(&OfVm) -> u64| self.vms.iter().map(of).sum::<u64>();
        let resident = sum(|vm| vm.resident);
        if resident == 0 || self.draw.is_all() {
            return 1.0;
        }
        sum(|vm| vm.read) as f64 / resident as f64
    }

    pub(super) fn figures(self) -> Figures {
        if self.draw.is_all() { self.counted() } else { self.estimated() }
    }

    fn counted(self) -> Figures {
        let Counts { frames: shared, sets, rest } = self.pairs.finish();
        let memory = self.vms.iter().enumerate().map(|(position, vm)| MemoryUse {
            pages_resident: vm.read,
            pages_used: vm.read - vm.zero,
            frames_used: shared[position][position] + vm.unique,
            pages_zero: vm.zero,
            self_shared_pages: vm.repeated,
            pages_file: None,
        });
        let memory = memory.collect();
        Figures { memory, shared, errors: None, groups: Some(SharedGroups::of(sets, rest)) }
    }

    /// Estimates are clamped to possible values: no more shared than used, no more used than resident.
    fn estimated(self) -> Figures {
        let scale = |count: u64| (count as f64 / self.draw.probability()).round() as u64;
        let memory: Vec<MemoryUse> = self
            .vms
            .iter()
            .enumerate()
            .map(|(position, vm)| {
                let pages_zero = scale(vm.zero).min(vm.resident);
                let pages_used = vm.resident - pages_zero;
                let frames = self.weighed[position][position] + vm.unique as f64 * self.draw.weight(1);
                MemoryUse {
                    pages_resident: vm.resident,
                    pages_used,
                    frames_used: (frames.round() as u64).min(pages_used),
                    pages_zero,
                    self_shared_pages: scale(vm.repeated).min(pages_used),
                    pages_file: None,
                }
            })
            .collect();
        let n = self.vms.len();
        let mut shared = vec![vec![0; n]; n];
        let mut errors = vec![vec![0.0; n]; n];
        for i in 0..n {
            for j in i + 1..n {
                let (used_i, used_j) = (memory[i].frames_used, memory[j].frames_used);
                let count = (self.weighed[i][j].round() as u64).min(used_i).min(used_j);
                shared[i][j] = count;
                errors[i][j] = self.draw.rate_error(count as f64, used_i as f64);
                errors[j][i] = self.draw.rate_error(count as f64, used_j as f64);
            }
        }
        Figures { memory, shared, errors: Some(errors), groups: None }
    }
}
