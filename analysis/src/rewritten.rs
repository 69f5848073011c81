//! Segments that another program wrote, in the form of the recorder's.
//!
//! Polars takes the types of a file as they are. So that every query means the same whoever wrote the file, such a segment
//! is first written to a temporary directory (`TMPDIR`) with the columns of the schema, by the code that also reads it for
//! a replay.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use huddle_model::schema::SCHEMA_VERSION;
use huddle_recording::rewrite::rewrite;
use huddle_recording::{SegmentFault, SegmentName, check_segment, columns};
use tempfile::TempDir;

/// The segments of a run that were rewritten so far; they are removed with it.
#[derive(Debug, Default)]
pub(crate) struct Rewritten(Mutex<Files>);

#[derive(Debug, Default)]
struct Files {
    dir: Option<TempDir>,
    by_segment: BTreeMap<PathBuf, PathBuf>,
}

impl Rewritten {
    /// The file with the rows of the segment at `path`, with the columns of the version of its run.
    pub(crate) fn of(&self, path: &Path, name: SegmentName<'_>) -> Result<PathBuf, SegmentFault> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = files.by_segment.get(path) {
            return Ok(known.clone());
        }
        let fault = |what: String| SegmentFault::of(path, what);
        let checked = check_segment(path, name)?;
        let version = name.manifest.map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
        let footer = columns::footer(&checked.file, name.table, version).map_err(fault)?;
        let number = files.by_segment.len();
        let dir = match &mut files.dir {
            Some(dir) => dir,
            none => {
                let made = tempfile::Builder::new().prefix("huddle-analysis-").tempdir();
                none.insert(made.map_err(|error| fault(format!("no temporary directory: {error}")))?)
            }
        };
        let to = dir.path().join(format!("{}-{number}.parquet", name.table));
        rewrite(checked.file, footer, name.table, version, &to).map_err(fault)?;
        files.by_segment.insert(path.to_owned(), to.clone());
        Ok(to)
    }
}
