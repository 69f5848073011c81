//! One closed segment: whether it is undamaged and in its place.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use huddle_model::schema::{Manifest, Table};
use huddle_model::text::first_line;

use super::label::{self, Label, LabelFault};
use super::regular::{self, RegularError};

/// Which segment a file should be.
#[derive(Clone, Copy, Debug)]
pub struct SegmentName<'a> {
    /// Its table.
    pub table: Table,
    /// Its number within the table, from 1.
    pub number: u64,
    /// The manifest of the run; `None` if there is none.
    pub manifest: Option<&'a Manifest>,
}

/// A segment that may be read.
#[derive(Debug)]
pub struct Checked {
    /// The file, open.
    pub file: File,
    /// Identity of the file, to open it again.
    pub id: FileId,
    /// Whether its bytes were compared with a checksum; false for a segment of a version without checksums.
    pub has_checksum: bool,
}

/// Distinguishes a file from another at the same path, and from itself after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// Why a segment must not be read.
#[derive(Debug, thiserror::Error)]
#[error("{} cannot be read: {fault}", path.display())]
pub struct SegmentFault {
    /// Its file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a segment.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It is not a regular file.
    #[error(transparent)]
    NotRegular(#[from] RegularError),
    /// Its size or checksum is wrong.
    #[error("{0}")]
    Damaged(LabelFault),
    /// It has no label, although all segments of the recording should.
    #[error(
        "it has no checksum, and every segment of this recording was written with one: it was cut off or damaged"
    )]
    NoLabel,
    /// It is another segment.
    #[error("it is segment {number} of {table} of the run {run}, in the place of another segment")]
    Other {
        /// Its number.
        number: u64,
        /// Its table.
        table: String,
        /// Its run.
        run: String,
    },
    /// Something else.
    #[error("{0}")]
    What(String),
    /// The file was replaced or changed after it was checked.
    #[error("it was changed while the recording was open")]
    Changed,
}

impl SegmentFault {
    /// The first line of an error of a decoder or of a schema check.
    pub fn of(path: &Path, what: impl std::fmt::Display) -> Self {
        Self { path: path.to_owned(), fault: Fault::What(first_line(&what.to_string()).to_owned()) }
    }

    /// Whether nothing is there.
    pub fn is_gone(&self) -> bool {
        matches!(&self.fault, Fault::NotRegular(error) if error.is_not_found())
    }
}

impl FileId {
    fn of(about: &std::fs::Metadata) -> Self {
        Self {
            device: about.dev(),
            inode: about.ino(),
            bytes: about.len(),
            changed: (about.mtime(), about.mtime_nsec()),
        }
    }
}

/// Opens the segment at `path`, which should be `name`, and compares all of its bytes with its checksum, before it is
/// passed to a decoder. A segment without a checksum is accepted only if the manifest does not say that all have one.
///
/// # Errors
/// It is damaged, or another segment.
pub fn check_segment(path: &Path, name: SegmentName<'_>) -> Result<Checked, SegmentFault> {
    checked(path, name).map_err(|fault| SegmentFault { path: path.to_owned(), fault })
}

/// Opens a segment again that was checked before.
///
/// # Errors
/// It is no longer the same file.
pub fn reopen(path: &Path, id: FileId) -> Result<File, SegmentFault> {
    let again = || {
        let (file, about) = regular::open(path)?;
        if FileId::of(&about) == id { Ok(file) } else { Err(Fault::Changed) }
    };
    again().map_err(|fault| SegmentFault { path: path.to_owned(), fault })
}

fn checked(path: &Path, name: SegmentName<'_>) -> Result<Checked, Fault> {
    let (file, about) = regular::open(path)?;
    let bytes = about.len();
    let label = label::find(&file, bytes).map_err(RegularError::from)?;
    if let Some(label) = &label {
        // The checksum first: a damaged label could name another segment.
        label::check(&file, bytes, label).map_err(Fault::Damaged)?;
        check_place(label, name)?;
    } else if name.manifest.is_some_and(Manifest::has_checksums) {
        return Err(Fault::NoLabel);
    }
    Ok(Checked { file, id: FileId::of(&about), has_checksum: label.is_some() })
}

fn check_place(label: &Label, name: SegmentName<'_>) -> Result<(), Fault> {
    let is_of_run = name.manifest.is_none_or(|manifest| label::escaped(&manifest.run) == label.run);
    if label.table == name.table.name() && label.number == name.number && is_of_run {
        return Ok(());
    }
    let Label { number, table, run, .. } = label.clone();
    Err(Fault::Other { number, table, run })
}
