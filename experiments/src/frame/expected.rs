//! Whether guests share what they should: the check that decides which blocks are valid.

use huddle_guest::chase::PAGE_BYTES;
use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharingMatrix};
use huddle_model::plan::Plan;
use huddle_model::stats::median;

/// Least part of its data that a pair with the same data must have merged.
const MIN_WITHIN: f64 = 0.95;

/// Which pairs of guests hold the same data, how much of it, and whether it is to be merged.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What it is, for sentences.
    what: &'static str,
    /// By VM; empty where it holds none.
    data_names: Vec<String>,
    data_pages: u64,
    merges: bool,
}

/// A pair that does not share what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMerged {
    /// Same data, but not merged.
    #[error(
        "{first} and {second} hold the same {data_pages} pages of {what} and {shared} of them are merged"
    )]
    Within {
        /// What they hold.
        what: &'static str,
        /// A VM.
        first: String,
        /// Its partner.
        second: String,
        /// Pages of the data.
        data_pages: u64,
        /// How many of them are on one frame.
        shared: u64,
    },
    /// Merged, though nothing should be.
    #[error("{first} and {second} share {shared} pages of {what}, and in a placebo none is to be merged")]
    Merged {
        /// What they hold.
        what: &'static str,
        /// A VM.
        first: String,
        /// Its partner.
        second: String,
        /// Pages of the data on one frame.
        shared: u64,
    },
    /// A VM has vanished.
    #[error("{found} of {wanted} VMs could be measured")]
    Vanished {
        /// VMs that were measured.
        found: usize,
        /// VMs there should be.
        wanted: usize,
    },
}

impl Expected {
    /// `data_names`: for each VM, in the order of the matrix, the name of its data, empty for none; `data_bytes`: the
    /// size of a data set; whether it `merges`, or is to stay unmerged.
    pub fn new(data_names: &[String], data_bytes: u64, merges: bool) -> Self {
        let data_pages = data_bytes / PAGE_BYTES as u64;
        Self { what: "data", data_names: data_names.to_vec(), data_pages, merges }
    }

    /// Called `what` in sentences.
    pub(super) fn called(self, what: &'static str) -> Self {
        Self { what, ..self }
    }

    /// Whether VMs `i` and `j` hold the same data.
    pub fn same_data(&self, i: usize, j: usize) -> bool {
        self.data_names[i] == self.data_names[j] && !self.data_names[i].is_empty()
    }

    /// Checks that pairs with the same data have nearly all of it on common frames, or none. `shared`: for each
    /// pair of VMs the pages of their data that are. (VMs with different data share none of it: no two
    /// of its pages are equal.)
    ///
    /// # Errors
    /// The first pair that does not.
    pub fn verify(&self, shared: &[Vec<u64>]) -> Result<(), NotMerged> {
        let (vms, what) = (self.data_names.len(), self.what);
        if shared.len() != vms {
            return Err(NotMerged::Vanished { found: shared.len(), wanted: vms });
        }
        let pairs = (0..vms).flat_map(|i| (i + 1..vms).map(move |j| (i, j)));
        let name = |vm: usize| format!("vm{}", vm + 1);
        for (i, j) in pairs.filter(|(i, j)| self.same_data(*i, *j)) {
            let shared = shared[i][j];
            if !self.merges && shared > 0 {
                return Err(NotMerged::Merged { what, first: name(i), second: name(j), shared });
            }
            if self.merges && (shared as f64) < self.data_pages as f64 * MIN_WITHIN {
                let data_pages = self.data_pages;
                return Err(NotMerged::Within { what, first: name(i), second: name(j), data_pages, shared });
            }
        }
        Ok(())
    }

    /// What VMs would share if the data they hold were merged and nothing else.
    pub(crate) fn in_common(&self, matrix: &SharingMatrix) -> SharingMatrix {
        let pages = self.data_pages;
        let memory =
            MemoryUse { pages_resident: pages, pages_used: pages, frames_used: pages, ..Default::default() };
        let vms: Vec<MatrixVm> =
            matrix.vms().iter().map(|vm| MatrixVm { memory: Some(memory), ..vm.clone() }).collect();
        let shared = |i: usize, j: usize| if self.same_data(i, j) { pages } else { 0 };
        let frames: Vec<Vec<u64>> =
            (0..vms.len()).map(|i| (0..vms.len()).map(|j| shared(i, j)).collect()).collect();
        SharingMatrix::measured(Method::File, vms, &frames, 0.0, 1.0)
    }

    /// How many pairs with the same data run within one cache domain, by where their first vCPUs are.
    pub fn pairs_together(&self, plan: &Plan, matrix: &SharingMatrix) -> u64 {
        let domain = |vm: usize| plan.domain_of(&matrix.vms()[vm].name, 0).map(|domain| domain.id);
        let together = |(i, j): &(usize, usize)| domain(*i).is_some() && domain(*i) == domain(*j);
        matrix.pairs().filter(|(i, j)| self.same_data(*i, *j)).filter(together).count() as u64
    }

    /// The median rate (0 to 1) over ordered pairs with the same data, and over the others.
    pub fn rates(&self, matrix: &SharingMatrix) -> (Option<f64>, Option<f64>) {
        rates_by(matrix, |i, j| self.same_data(i, j))
    }
}

/// The median rate (0 to 1) over ordered pairs that are alike, and over the others.
pub fn rates_by(matrix: &SharingMatrix, alike: impl Fn(usize, usize) -> bool) -> (Option<f64>, Option<f64>) {
    let rates = |wanted: bool| {
        let pairs = matrix.pairs().filter(|(i, j)| alike(*i, *j) == wanted);
        median(&pairs.flat_map(|(i, j)| [matrix.rate(i, j), matrix.rate(j, i)]).collect::<Vec<_>>())
    };
    (rates(true), rates(false))
}
