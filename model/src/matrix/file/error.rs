//! What can be wrong with a matrix file.

use super::MAX_VCPUS;
use crate::matrix::BadGroups;

/// A matrix file that cannot be used; each message names the position and the offending text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MatrixFileError {
    /// Neither valid JSON nor CSV.
    #[error("not a matrix: {0}")]
    Syntax(String),
    /// JSON with another schema.
    #[error("the schema is {0:?}, expected \"huddle/matrix/1\"")]
    Schema(String),
    /// No VM in it.
    #[error("the matrix names no VM")]
    Empty,
    /// A VM named twice.
    #[error("two VMs of the matrix are named {0:?}; names must differ")]
    DuplicateName(String),
    /// A VM without a name.
    #[error("VM {0} of the matrix has no name")]
    NoName(usize),
    /// Rows and columns differ in number.
    #[error("the matrix is not square: {what} has {found} cells for {expected} VMs")]
    NotSquare {
        /// The row or table.
        what: String,
        /// Its number of cells.
        found: usize,
        /// Number of VMs.
        expected: usize,
    },
    /// The first column does not repeat the header.
    #[error(
        "row {row} is for VM {found:?}, but column {row} is for {expected:?}; rows and columns must have the same order"
    )]
    RowName {
        /// Row number from 1.
        row: usize,
        /// Name in the first column.
        found: String,
        /// Name in the header.
        expected: String,
    },
    /// A cell that is not a rate.
    #[error("the cell of {row:?} and {column:?} is {text:?}; expected {expected}")]
    Cell {
        /// VM of the row.
        row: String,
        /// VM of the column.
        column: String,
        /// The text of the cell.
        text: String,
        /// The expected text.
        expected: &'static str,
    },
    /// The cells may be percentages or fractions.
    #[error(
        "{0}, so it is unclear whether its cells are percentages or fractions: write a % sign after each percentage"
    )]
    Unit(&'static str),
    /// What is wrong in a table of text, with its position.
    #[error("line {line}, column {column}: {source}")]
    At {
        /// Line of the file, from 1.
        line: u64,
        /// Field of the line, from 1.
        column: usize,
        /// What is wrong.
        source: Box<MatrixFileError>,
    },
    /// More vCPUs than a VM can have.
    #[error("VM {name:?} of the matrix has {vcpus} vCPUs, expected {MAX_VCPUS} at most")]
    Vcpus {
        /// Name of the VM.
        name: String,
        /// Its number of vCPUs.
        vcpus: u32,
    },
    /// Figures of a VM that contradict each other.
    #[error("{figure} of VM {name:?} is {value}, expected at most its {limit} ({most})")]
    Memory {
        /// Name of the VM.
        name: String,
        /// The figure.
        figure: &'static str,
        /// Its value.
        value: u64,
        /// The figure that bounds it.
        limit: &'static str,
        /// Its value.
        most: u64,
    },
    /// A figure of the measurement that cannot be.
    #[error("{figure} of the matrix is {value}, expected {expected}")]
    Measurement {
        /// The figure.
        figure: &'static str,
        /// Its value, as text.
        value: String,
        /// The values that can be.
        expected: &'static str,
    },
    /// Shared frames of the page cache without shared frames.
    #[error("the matrix has shared_file_frames and no shared_frames, of which they are a part")]
    FileFramesAlone,
    /// Some of what belongs to reads is missing.
    #[error(
        "the matrix has a part of what belongs together: shared_frames_read, read_window_ms and shared_frames (shared_groups_read may be left out)"
    )]
    HalfOfReads,
    /// Groups that are none of its shared frames.
    #[error("shared_groups of the matrix: {0}")]
    Groups(#[from] BadGroups),
    /// One end of the intervals without the other.
    #[error("the matrix has one of rate_low and rate_high; give both or none")]
    HalfAnInterval,
    /// Some of a measured VM's figures are missing.
    #[error(
        "VM {0:?} has some of the memory figures but not all; give all or none of pages_resident, pages_used, frames_used, pages_zero, self_shared_pages"
    )]
    PartialMemory(String),
}
