//! Rows of a table, one by one, in the types of the schema: for what is made of a recording in one go. Memory is bounded
//! by one batch.

use std::fs::File;

use huddle_model::schema::Row;
use huddle_recording::rows::{Wanted, rows};
use huddle_recording::{SegmentFault, columns};

use crate::AnalysisError;
use crate::run::RunDir;

/// Calls `each` with every row of the usable segments of its table, in the order of the recording. Columns that the
/// recording's version lacks are null.
///
/// # Errors
/// When a segment cannot be read, or `each` fails.
pub(crate) fn each<R: Row>(
    run: &RunDir,
    mut each: impl FnMut(R) -> Result<(), AnalysisError>,
) -> Result<(), AnalysisError> {
    let cannot = |fault: SegmentFault| AnalysisError::unreadable(run.path(), R::TABLE, &fault);
    let (version, files) = run.readable_files(R::TABLE)?;
    for path in files {
        let file = File::open(&path).map_err(|error| cannot(SegmentFault::of(&path, error)))?;
        let footer = columns::footer(&file, R::TABLE, version);
        let footer = footer.map_err(|what| cannot(SegmentFault::of(&path, what)))?;
        let mut failed = None;
        let read = rows(&path, file, footer, Wanted::default(), |row| match each(row) {
            Ok(()) => true,
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        read.map_err(cannot)?;
    }
    Ok(())
}
