//! One closed segment: whether it is undamaged and in its place.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use huddle_model::schema::{Manifest, Table};
use huddle_model::text::first_line;

use parquet::file::metadata::ParquetMetaDataReader;

use super::guarded::{Threads, guarded};
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
    /// What is known of its bytes.
    pub origin: Origin,
}

/// Who wrote a segment, as far as that says whether its bytes are those that were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The recorder: its checksum is right.
    Checked,
    /// The recorder of a version without checksums: damage may go unnoticed.
    Older,
    /// Another program, by this name in the file: it has no checksum of its own, and damage may go unnoticed.
    Other(String),
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
/// passed to a decoder. A segment of the recorder without a checksum is accepted only if the manifest does not say that all
/// have one. A segment that another program wrote has none.
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
    let origin = match &label {
        // Some programs keep the metadata of what they read, so the label of the segment that they rewrote.
        Some(label) if label.bytes() != bytes => match other_writer(&file) {
            Some(program) => Origin::Other(program),
            None => {
                return Err(label::check(&file, bytes, label).err().map_or(Fault::Changed, Fault::Damaged));
            }
        },
        Some(label) => {
            // The checksum first: a damaged label could name another segment.
            label::check(&file, bytes, label).map_err(Fault::Damaged)?;
            check_place(label, name)?;
            Origin::Checked
        }
        None => match other_writer(&file) {
            Some(program) => Origin::Other(program),
            None if name.manifest.is_some_and(Manifest::has_checksums) => return Err(Fault::NoLabel),
            None => Origin::Older,
        },
    };
    Ok(Checked { file, id: FileId::of(&about), origin })
}

/// The name of the program that wrote a file, from its footer; `None` if it was the recorder or that cannot be told.
fn other_writer(file: &File) -> Option<String> {
    // The file was not compared with a checksum yet.
    let footer = guarded(Threads::This, || ParquetMetaDataReader::new().parse_and_finish(file)).ok()?.ok()?;
    let program = footer.file_metadata().created_by()?;
    (!is_recorder(program)).then(|| label::escaped(program))
}

/// Whether this is the recorder's name in a file, also if some of its bytes were damaged: a damaged segment must not be
/// taken for one of another program.
fn is_recorder(program: &str) -> bool {
    let name = label::WRITER.as_bytes();
    let differ = name.iter().zip(program.as_bytes()).filter(|(ours, theirs)| ours != theirs).count();
    differ <= 3
}

fn check_place(label: &Label, name: SegmentName<'_>) -> Result<(), Fault> {
    let is_of_run = name.manifest.is_none_or(|manifest| label::escaped(&manifest.run) == label.run);
    if label.table == name.table.name() && label.number == name.number && is_of_run {
        return Ok(());
    }
    let Label { number, table, run, .. } = label.clone();
    Err(Fault::Other { number, table, run })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_name_of_the_recorder_is_still_its_name() {
        for name in ["huddle 0.1.0", "iuddle 0.1.0", "hu\u{7f}dlE 0.2", "huddle 12", "hud", ""] {
            assert!(is_recorder(name), "{name}");
        }
        for name in
            ["parquet-cpp-arrow version 26.0.1", "DuckDB version v2.0.0", "Polars", "parquet-rs version 59"]
        {
            assert!(!is_recorder(name), "{name}");
        }
    }
}
