//! Rows of a table, one by one, in the types of the schema: for what is made of a recording in one go. Memory is bounded
//! by one batch.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef};
use huddle_model::schema::{Column, ColumnKind, Row, Value};
use huddle_recording::SegmentFault;
use huddle_recording::guarded::{Threads, guarded};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use crate::AnalysisError;
use crate::run::RunDir;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 4096;

/// Calls `each` with every row of the usable segments of its table, in the order of the recording. Columns that the
/// recording's version lacks are null.
///
/// # Errors
/// When a segment cannot be read, or `each` fails.
pub(crate) fn each<R: Row>(
    run: &RunDir,
    mut each: impl FnMut(R) -> Result<(), AnalysisError>,
) -> Result<(), AnalysisError> {
    let (version, files) = run.readable_files(R::TABLE)?;
    for path in files {
        let mut failed = None;
        let read = guarded(Threads::This, || {
            decode::<R>(&path, version, |row| match each(row) {
                Ok(()) => true,
                Err(error) => {
                    failed = Some(error);
                    false
                }
            })
        });
        let read = read.map_err(|panicked| format!("its pages are damaged ({panicked})")).flatten();
        if let Some(error) = failed {
            return Err(error);
        }
        let cannot =
            |what: String| AnalysisError::unreadable(run.path(), R::TABLE, &SegmentFault::of(&path, what));
        read.map_err(cannot)?;
    }
    Ok(())
}

/// Reads rows until `each` returns false.
fn decode<R: Row>(path: &Path, version: u32, mut each: impl FnMut(R) -> bool) -> Result<(), String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    // The types follow from Parquet's own.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let batches = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)
        .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
        .map_err(|error| error.to_string())?;
    for batch in batches {
        let batch = batch.map_err(|error| error.to_string())?;
        let array = |column: &Column| {
            R::TABLE.column_name(column.name, version).and_then(|name| batch.column_by_name(name))
        };
        let arrays: Vec<Option<&ArrayRef>> = R::COLUMNS.iter().map(array).collect();
        for row in 0..batch.num_rows() {
            let value = |at: usize| match arrays[at] {
                Some(array) => value(array, R::COLUMNS[at].kind, row),
                None => Value::Null,
            };
            let row = R::of(value).ok_or("a value is null that may not be, or a column has another type")?;
            if !each(row) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Null also where the column has another type, which a column that is never null turns into an error.
fn value(array: &ArrayRef, kind: ColumnKind, row: usize) -> Value<'_> {
    if array.is_null(row) {
        return Value::Null;
    }
    let found = match kind {
        ColumnKind::Bool => array.as_boolean_opt().map(|values| Value::Bool(values.value(row))),
        ColumnKind::I32 => array.as_primitive_opt::<Int32Type>().map(|values| Value::I32(values.value(row))),
        ColumnKind::U32 => array.as_primitive_opt::<UInt32Type>().map(|values| Value::U32(values.value(row))),
        ColumnKind::I64 => array.as_primitive_opt::<Int64Type>().map(|values| Value::I64(values.value(row))),
        ColumnKind::U64 => array.as_primitive_opt::<UInt64Type>().map(|values| Value::U64(values.value(row))),
        ColumnKind::F64 => {
            array.as_primitive_opt::<Float64Type>().map(|values| Value::F64(values.value(row)))
        }
        ColumnKind::Text => array.as_string_opt::<i32>().map(|values| Value::Text(values.value(row))),
    };
    found.unwrap_or(Value::Null)
}
