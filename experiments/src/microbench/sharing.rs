//! Whether the guests share what they should: the check that decides which measurements count.

use huddle_model::matrix::SharingMatrix;

use huddle_guest::chase::PAGE_BYTES;
use huddle_model::stats::median;

/// Least part of the data's frames that a pair with the same data must share.
const LEAST_WITHIN: f64 = 0.95;

/// Most frames that a pair with different data may share, as part of the data's frames.
const MOST_ACROSS: f64 = 0.05;

/// How much of the base of a pair of VMs may come or go while they run.
const BASE_SLACK: f64 = 0.05;

/// Which pairs of guests hold the same data, and how much of it.
#[derive(Clone, Debug)]
pub struct Expected {
    holds: Vec<String>,
    data_frames: u64,
    /// What pairs shared before they held data: VMs of one operating system share a large base.
    base: Option<SharingMatrix>,
}

/// A pair that does not share what it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotMerged {
    /// Same data, but not merged.
    #[error("{first} and {second} hold the same {data_frames} pages of data and share {shared} frames")]
    Within {
        /// A VM.
        first: String,
        /// Its partner.
        second: String,
        /// Pages of the data.
        data_frames: u64,
        /// What they share.
        shared: u64,
    },
    /// Different data, but shared frames.
    #[error("{first} and {second} hold different data and share {shared} frames")]
    Across {
        /// A VM.
        first: String,
        /// The other one.
        second: String,
        /// What they share.
        shared: u64,
    },
    /// A VM has vanished from the matrix.
    #[error("{found} of {wanted} VMs could be measured")]
    Vanished {
        /// VMs in the matrix.
        found: usize,
        /// VMs there should be.
        wanted: usize,
    },
    /// The matrix has rates only.
    #[error("the matrix does not tell shared frames")]
    NoFrames,
}

impl Expected {
    /// `holds`: for each VM, in the order of the matrix, the name of its data; `data_bytes`: the size of
    /// a data set; `base`: what was shared before the data was there.
    pub fn new(holds: &[String], data_bytes: u64, base: Option<SharingMatrix>) -> Self {
        Self { holds: holds.to_vec(), data_frames: data_bytes / PAGE_BYTES as u64, base }
    }

    /// Whether VMs `i` and `j` hold the same data.
    pub fn same_data(&self, i: usize, j: usize) -> bool {
        self.holds[i] == self.holds[j]
    }

    /// Checks that pairs with the same data share nearly all of its frames, beyond what they shared
    /// before, and other pairs nearly none.
    ///
    /// # Errors
    /// The first pair that does not.
    pub fn verify(&self, matrix: &SharingMatrix) -> Result<(), NotMerged> {
        if matrix.len() != self.holds.len() {
            return Err(NotMerged::Vanished { found: matrix.len(), wanted: self.holds.len() });
        }
        for (i, j) in matrix.pairs() {
            let now = matrix.shared_frames(i, j).ok_or(NotMerged::NoFrames)?;
            let before = self.base.as_ref().and_then(|base| base.shared_frames(i, j)).unwrap_or(0);
            let shared = now.saturating_sub(before);
            let part = shared as f64 / self.data_frames as f64;
            // Of VMs the base moves while they run: by what, no data set tells, but the base does.
            let slack = before as f64 * BASE_SLACK / self.data_frames as f64;
            let name = |vm: usize| matrix.vms()[vm].name.clone();
            let (first, second) = (name(i), name(j));
            if self.same_data(i, j) && part < LEAST_WITHIN - slack.min(0.2) {
                return Err(NotMerged::Within { first, second, data_frames: self.data_frames, shared });
            }
            if !self.same_data(i, j) && part > MOST_ACROSS + slack.min(0.2) {
                return Err(NotMerged::Across { first, second, shared });
            }
        }
        Ok(())
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
