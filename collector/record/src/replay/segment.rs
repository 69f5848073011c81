//! One closed segment: its footer, and rows out of it by their key.
//!
//! The contents of a file are not trusted: columns are matched by name and type, memory is limited to one batch,
//! and what does not match the schema is an error of that segment.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::UInt64Type;
use arrow_array::{
    Array as _, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
    UInt64Array,
};
use arrow_schema::{ArrowError, DataType};
use huddle_model::schema::{ColumnKind, OLDEST_SCHEMA_VERSION, Row, SCHEMA_VERSION, Table, Value};
use huddle_recording::SegmentFault;
use huddle_recording::guarded::{Panicked, Threads, guarded};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowPredicateFn, ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowFilter,
};
use parquet::file::reader::ChunkReader;
use parquet::file::statistics::Statistics;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 4096;

/// The column by which rows are looked up: the window if the table has windows, else the round.
pub(super) fn key(table: Table) -> &'static str {
    let has_windows = table.columns().iter().any(|column| column.name == "window");
    if has_windows { "window" } else { "round" }
}

/// The message if the reader panicked.
fn damaged(panicked: &Panicked) -> String {
    format!("its pages are damaged ({panicked})")
}

/// The footer of a segment of `table`, with its columns checked.
pub(super) fn footer(segment: &impl ChunkReader, table: Table) -> Result<ArrowReaderMetadata, String> {
    // The types follow from Parquet's own; the Arrow schema in the file would have to be checked too.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let footer = guarded(Threads::This, || ArrowReaderMetadata::load(segment, options))
        .map_err(|panicked| damaged(&panicked))?
        .map_err(|error| error.to_string())?;
    check(&footer, table)?;
    Ok(footer)
}

/// The index of a segment of `table`: the least and the greatest key of each row group. The key is the window, or
/// the round if the table has no windows; a row group without statistics may have every key.
///
/// # Errors
/// When it is not a Parquet file that huddle wrote for this table: what is wrong, of any length.
pub fn row_group_keys(segment: &impl ChunkReader, table: Table) -> Result<Vec<(u64, u64)>, String> {
    Ok(key_spans(&footer(segment, table)?, table))
}

fn check(footer: &ArrowReaderMetadata, table: Table) -> Result<(), String> {
    if metadata_value(footer, "huddle.table") != Some(table.name()) {
        return Err(format!("it is not a segment of the table {table}"));
    }
    let known = |version: &u32| (OLDEST_SCHEMA_VERSION..=SCHEMA_VERSION).contains(version);
    let Some(version) = version(footer).filter(known) else {
        let found = metadata_value(footer, VERSION).unwrap_or("none");
        return Err(format!(
            "it has schema version {found}, and this version reads {OLDEST_SCHEMA_VERSION} to {SCHEMA_VERSION} only"
        ));
    };
    for column in table.columns() {
        // Columns of later versions are null for this segment.
        let Some(name) = table.column_name(column.name, version) else { continue };
        match footer.schema().field_with_name(name) {
            Err(_) => return Err(format!("the column {name} is missing")),
            Ok(field) if !is_of(field.data_type(), column.kind) => {
                return Err(format!("the column {name} is {}", field.data_type()));
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

const VERSION: &str = "huddle.schema_version";

/// A value of the file's key-value metadata.
fn metadata_value<'a>(footer: &'a ArrowReaderMetadata, key: &str) -> Option<&'a str> {
    let about = footer.metadata().file_metadata().key_value_metadata();
    let entry = about.into_iter().flatten().find(|entry| entry.key == key);
    entry.and_then(|entry| entry.value.as_deref())
}

fn version(footer: &ArrowReaderMetadata) -> Option<u32> {
    metadata_value(footer, VERSION)?.parse().ok()
}

fn is_of(found: &DataType, kind: ColumnKind) -> bool {
    matches!(
        (found, kind),
        (DataType::Boolean, ColumnKind::Bool)
            | (DataType::Int32, ColumnKind::I32)
            | (DataType::UInt32, ColumnKind::U32)
            | (DataType::Int64, ColumnKind::I64)
            | (DataType::UInt64, ColumnKind::U64)
            | (DataType::Float64, ColumnKind::F64)
            | (DataType::Utf8, ColumnKind::Text)
    )
}

/// Least and greatest key of each row group; without statistics, all keys.
pub(super) fn key_spans(footer: &ArrowReaderMetadata, table: Table) -> Vec<(u64, u64)> {
    let position = footer.schema().index_of(key(table)).ok();
    let span = |statistics: Option<&Statistics>| match statistics {
        Some(Statistics::Int64(known)) => Some((*known.min_opt()? as u64, *known.max_opt()? as u64)),
        _ => None,
    };
    let groups = footer.metadata().row_groups().iter();
    groups
        .map(|group| {
            let column = position.and_then(|position| group.columns().get(position));
            // An unsigned column is stored, and ordered, as the bits of a signed one.
            span(column.and_then(|column| column.statistics())).unwrap_or((0, u64::MAX))
        })
        .collect()
}

/// The part of a segment that is wanted.
pub(super) struct Wanted {
    /// Positions of row groups; `None` for all.
    pub(super) groups: Option<Vec<usize>>,
    /// The key of the rows; `None` for all.
    pub(super) key: Option<u64>,
}

/// Reads rows, one by one, until `each` returns false.
pub(super) fn rows<R: Row>(
    path: &Path,
    file: File,
    footer: ArrowReaderMetadata,
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
pub(super) struct Cells<'a> {
    /// `None` for a column that the segment's version does not have.
    columns: &'a [Option<Array<'a>>],
    row: usize,
}

/// One column of a batch.
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
    pub(super) fn value(&self, position: usize) -> Value<'a> {
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

/// Reads the columns `names`, row by row, until `each` returns false.
pub(super) fn cells(
    path: &Path,
    file: File,
    footer: ArrowReaderMetadata,
    table: Table,
    names: &[&'static str],
    wanted: Wanted,
    each: impl FnMut(&Cells<'_>) -> Result<bool, &'static str>,
) -> Result<(), SegmentFault> {
    guarded(Threads::This, || decode(file, footer, table, names, wanted, each))
        .map_err(|panicked| damaged(&panicked))
        .flatten()
        .map_err(|what| SegmentFault::of(path, what))
}

fn decode(
    file: File,
    footer: ArrowReaderMetadata,
    table: Table,
    names: &[&'static str],
    wanted: Wanted,
    mut each: impl FnMut(&Cells<'_>) -> Result<bool, &'static str>,
) -> Result<(), String> {
    // The column names of the version that wrote this segment.
    let version = version(&footer).unwrap_or(SCHEMA_VERSION);
    let names: Vec<Option<&str>> = names.iter().map(|name| table.column_name(name, version)).collect();
    let parquet = footer.parquet_schema();
    let projection = ProjectionMask::columns(parquet, names.iter().copied().flatten());
    let filter = wanted.key.map(|key_wanted| {
        let only = ProjectionMask::columns(parquet, std::iter::once(key(table)));
        RowFilter::new(vec![Box::new(ArrowPredicateFn::new(only, move |batch| equal(&batch, key_wanted)))])
    });
    let mut builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer)
        .with_batch_size(BATCH_ROWS)
        .with_projection(projection);
    if let Some(groups) = wanted.groups {
        builder = builder.with_row_groups(groups);
    }
    if let Some(filter) = filter {
        builder = builder.with_row_filter(filter);
    }
    for batch in builder.build().map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        let column = |name: &Option<&str>| match name {
            None => Some(None),
            Some(name) => Array::of(batch.column_by_name(name)?).map(Some),
        };
        let columns: Option<Vec<Option<Array<'_>>>> = names.iter().map(column).collect();
        let columns = columns.ok_or("a column is missing")?;
        for row in 0..batch.num_rows() {
            if !each(&Cells { columns: &columns, row })? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Which rows of a batch, whose only column is the key, have this key.
fn equal(batch: &RecordBatch, key: u64) -> Result<BooleanArray, ArrowError> {
    let keys = batch.columns().first().and_then(|column| column.as_primitive_opt::<UInt64Type>());
    let keys = keys.ok_or_else(|| ArrowError::SchemaError("the key is not an unsigned number".to_owned()))?;
    Ok(keys.iter().map(|found| Some(found == Some(key))).collect())
}
