//! What of the shared frames was read, as a file or a recording has it.

use super::{MatrixFileError, cell, check_square};
use crate::matrix::{SharedGroups, SharedReads, SharingMatrix};

/// What of the shared frames was read, before it is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadParts {
    /// Frames that both VMs of a pair read; `None` where reads of one of them are not seen.
    pub frames: Vec<Vec<Option<u64>>>,
    /// The sets of VMs that read the same frames; `None` where only pairs were counted.
    pub groups: Option<SharedGroups>,
    /// Least time between clearing an accessed bit and reading it again, in milliseconds.
    pub window_ms: u32,
    /// By VM: why its reads are not seen, as one clause.
    pub unavailable: Vec<Option<String>>,
}

impl SharingMatrix {
    /// The same with reads, which are checked.
    pub(super) fn try_with_reads(self, parts: ReadParts) -> Result<Self, MatrixFileError> {
        let ReadParts { frames, groups, window_ms, unavailable } = parts;
        check_square("shared_frames_read", &frames, self.len())?;
        let Some(shared) = &self.cells.shared_frames else { return Err(MatrixFileError::HalfOfReads) };
        for (i, j) in (0..self.len()).flat_map(|i| (0..self.len()).map(move |j| (i, j))) {
            let is_unseen = unavailable[i].is_some() || unavailable[j].is_some();
            let expected = match frames[i][j] {
                _ if frames[i][j] != frames[j][i] => "the same number of frames that are read both ways",
                None if !is_unseen => "a number, or reads_unavailable of one of the VMs",
                Some(_) if is_unseen => "null, as reads of one of the VMs are unavailable",
                Some(read) if read > shared[i][j] => "no more frames that are read than shared frames",
                _ => continue,
            };
            let text = frames[i][j].map_or_else(|| "null".to_owned(), |frames| frames.to_string());
            return Err(cell(&self.vms, i, j, text, expected));
        }
        let known: Vec<Vec<u64>> =
            frames.iter().map(|row| row.iter().map(|frames| frames.unwrap_or(0)).collect()).collect();
        if let Some(groups) = &groups {
            let names: Vec<&str> = self.vms.iter().map(|vm| vm.name.as_str()).collect();
            groups.check(&names, &known)?;
        }
        Ok(self.with_reads(SharedReads::new(&known, groups, window_ms, unavailable)))
    }
}
