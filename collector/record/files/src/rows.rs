//! The rows of a segment, one by one, in the types of the schema.
//!
//! Columns are matched by name and type ([`crate::columns`]), memory is limited to one batch, and what does not match the
//! schema is an error of that segment. Replay and analysis both read rows with this.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array as _, ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    UInt32Array, UInt64Array,
};
use arrow_schema::{ArrowError, DataType};
use huddle_model::schema::{Column, Row, Table, Value};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowPredicateFn, ParquetRecordBatchReaderBuilder, RowFilter};

use super::columns::{self, Footer};
use super::guarded::{Threads, guarded};
use super::segment::SegmentFault;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 4096;

/// The column by which rows are looked up: the window if the table has windows, else the round.
pub fn key(table: Table) -> &'static str {
    let has_windows = table.columns().iter().any(|column| column.name == "window");
    if has_windows { "window" } else { "round" }
}

/// The part of a segment that is wanted; all of it by default.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Positions of row groups; `None` for all.
    pub groups: Option<Vec<usize>>,
    /// The key of the rows; `None` for all.
    pub key: Option<u64>,
}

/// Reads the rows of a segment whose footer was checked ([`columns::footer`]), one by one, until `each` returns false. Columns
/// that the segment's version lacks are null. `path` names the file in errors.
///
/// # Errors
/// It is damaged, or a value does not match the schema.
pub fn rows<R: Row>(
    path: &Path,
    file: File,
    footer: Footer,
    wanted: Wanted,
    mut each: impl FnMut(R) -> bool,
) -> Result<(), SegmentFault> {
    let names: Vec<&'static str> = R::COLUMNS.iter().map(|column| column.name).collect();
    cells(path, file, footer, R::TABLE, &names, wanted, |cells| {
        let row = R::of(|at| cells.value(at)).ok_or("a value is null that may not be")?;
        Ok(each(row))
    })
}

/// The values of one row, by the position of the requested column.
#[derive(Debug)]
pub struct Cells<'a> {
    /// `None` for a column that the segment's version does not have.
    columns: &'a [Option<Array<'a>>],
    row: usize,
}

/// One column of a batch.
#[derive(Debug)]
enum Array<'a> {
    Bool(&'a BooleanArray),
    I32(&'a Int32Array),
    U32(&'a UInt32Array),
    I64(&'a Int64Array),
    U64(&'a UInt64Array),
    F64(&'a Float64Array),
    Text(&'a StringArray),
}

impl<'a> Array<'a> {
    /// `None` for a type that no column of the schema has.
    fn of(column: &'a dyn arrow_array::Array) -> Option<Self> {
        Some(match column.data_type() {
            DataType::Boolean => Self::Bool(column.as_boolean_opt()?),
            DataType::Int32 => Self::I32(column.as_primitive_opt()?),
            DataType::UInt32 => Self::U32(column.as_primitive_opt()?),
            DataType::Int64 => Self::I64(column.as_primitive_opt()?),
            DataType::UInt64 => Self::U64(column.as_primitive_opt()?),
            DataType::Float64 => Self::F64(column.as_primitive_opt()?),
            DataType::Utf8 => Self::Text(column.as_string_opt()?),
            _ => return None,
        })
    }
}

impl<'a> Cells<'a> {
    /// Null where there is no such column.
    pub fn value(&self, position: usize) -> Value<'a> {
        macro_rules! value {
            ($array:ident, $kind:ident) => {
                if $array.is_null(self.row) { Value::Null } else { Value::$kind($array.value(self.row)) }
            };
        }
        match self.columns.get(position).and_then(Option::as_ref) {
            None => Value::Null,
            Some(Array::Bool(array)) => value!(array, Bool),
            Some(Array::I32(array)) => value!(array, I32),
            Some(Array::U32(array)) => value!(array, U32),
            Some(Array::I64(array)) => value!(array, I64),
            Some(Array::U64(array)) => value!(array, U64),
            Some(Array::F64(array)) => value!(array, F64),
            Some(Array::Text(array)) => value!(array, Text),
        }
    }
}

/// Reads the columns `names` of a segment of `table`, row by row, until `each` returns false.
///
/// # Errors
/// As [`rows`], or `each` fails.
pub fn cells(
    path: &Path,
    file: File,
    footer: Footer,
    table: Table,
    names: &[&'static str],
    wanted: Wanted,
    each: impl FnMut(&Cells<'_>) -> Result<bool, &'static str>,
) -> Result<(), SegmentFault> {
    guarded(Threads::This, || decode(file, footer, table, names, wanted, each))
        .map_err(|panicked| format!("its pages are damaged ({panicked})"))
        .flatten()
        .map_err(|what| SegmentFault::of(path, what))
}

fn decode(
    file: File,
    footer: Footer,
    table: Table,
    names: &[&'static str],
    wanted: Wanted,
    mut each: impl FnMut(&Cells<'_>) -> Result<bool, &'static str>,
) -> Result<(), String> {
    // Each requested column, and its name in the version that wrote this segment.
    let of_table = |name: &&'static str| table.columns().iter().find(|column| column.name == *name);
    let named = |column: &'static Column| Some((column, table.column_name(column.name, footer.version)?));
    let asked: Vec<Option<(&Column, &str)>> = names.iter().map(|name| named(of_table(name)?)).collect();
    let key_column = of_table(&key(table)).ok_or("the table has no key")?;
    let parquet = footer.metadata.parquet_schema();
    let projection = ProjectionMask::columns(parquet, asked.iter().flatten().map(|(_, name)| *name));
    let filter = wanted.key.map(|key_wanted| {
        let only = ProjectionMask::columns(parquet, std::iter::once(key_column.name));
        let is_wanted = move |batch: RecordBatch| equal(&batch, key_column, key_wanted);
        RowFilter::new(vec![Box::new(ArrowPredicateFn::new(only, is_wanted))])
    });
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.metadata)
        .with_batch_size(BATCH_ROWS)
        .with_projection(projection);
    if let Some(groups) = wanted.groups {
        builder = builder.with_row_groups(groups);
    }
    if let Some(filter) = filter {
        builder = builder.with_row_filter(filter);
    }
    let mut rows_before = 0;
    for batch in builder.build().map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        let column = |asked: &Option<(&Column, &str)>| match asked {
            None => Ok(None),
            Some((column, name)) => {
                let array = batch.column_by_name(name).ok_or("a column is missing")?;
                columns::in_schema(array, column, rows_before).map(Some)
            }
        };
        let arrays: Vec<Option<ArrayRef>> = asked.iter().map(column).collect::<Result<_, String>>()?;
        let columns: Vec<Option<Array<'_>>> =
            arrays.iter().map(|array| array.as_ref().and_then(|array| Array::of(array))).collect();
        for row in 0..batch.num_rows() {
            if !each(&Cells { columns: &columns, row })? {
                return Ok(());
            }
        }
        rows_before += batch.num_rows();
    }
    Ok(())
}

/// Which rows of a batch, whose only column is the key, have this key.
fn equal(batch: &RecordBatch, column: &Column, key: u64) -> Result<BooleanArray, ArrowError> {
    let found =
        batch.columns().first().ok_or_else(|| ArrowError::SchemaError("there is no key".to_owned()))?;
    let found = columns::in_schema(found, column, 0).map_err(ArrowError::SchemaError)?;
    let keys = found.as_primitive_opt::<UInt64Type>();
    let keys = keys.ok_or_else(|| ArrowError::SchemaError("the key is not an unsigned number".to_owned()))?;
    Ok(keys.iter().map(|found| Some(found == Some(key))).collect())
}
