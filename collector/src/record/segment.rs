//! One segment: a Parquet file that has its name only when it is whole.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{DataType, Field, Schema};
use huddle_model::schema::{Cell, Column, ColumnType, Row, SCHEMA_VERSION};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::RecordError;

/// An open segment.
pub(super) struct Segment {
    writer: ArrowWriter<File>,
    schema: Arc<Schema>,
    temporary: PathBuf,
    path: PathBuf,
    rows: u64,
    opened: Instant,
}

/// A segment that is whole.
pub(super) struct Closed {
    pub(super) path: PathBuf,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl Segment {
    /// Opens segment `number` of the table whose directory is `dir`.
    pub(super) fn open(dir: &Path, number: u64, columns: &[Column]) -> Result<Self, RecordError> {
        let name = format!("segment-{number:06}.parquet");
        let (path, temporary) = (dir.join(&name), dir.join(format!(".{name}.tmp")));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(RecordError::write(&temporary))?;
        let schema = Arc::new(arrow_schema(columns));
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties.build()))
            .map_err(parquet_error(&temporary))?;
        Ok(Self { writer, schema, temporary, path, rows: 0, opened: Instant::now() })
    }

    pub(super) fn write<R: Row>(&mut self, rows: &[R]) -> Result<(), RecordError> {
        let columns = R::COLUMNS.iter().enumerate().map(|(at, column)| array(rows, at, column.column_type));
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns.collect());
        let batch = batch.map_err(|error| parquet_error(&self.temporary)(error.into()))?;
        self.writer.write(&batch).map_err(parquet_error(&self.temporary))?;
        self.rows += rows.len() as u64;
        Ok(())
    }

    pub(super) fn opened(&self) -> Instant {
        self.opened
    }

    /// About how large it is: what is encoded, on disk or not yet.
    pub(super) fn bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size()) as u64
    }

    /// Closes, syncs and names it.
    pub(super) fn close(self) -> Result<Closed, RecordError> {
        let Self { writer, temporary, path, rows, .. } = self;
        let file = writer.into_inner().map_err(parquet_error(&temporary))?;
        file.sync_all().map_err(RecordError::write(&temporary))?;
        let bytes = file.metadata().map_err(RecordError::write(&temporary))?.len();
        std::fs::rename(&temporary, &path).map_err(RecordError::write(&path))?;
        sync_parent(&path)?;
        Ok(Closed { path, rows, bytes })
    }
}

/// Makes a rename or a removal in the file's directory last.
pub(super) fn sync_parent(path: &Path) -> Result<(), RecordError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(RecordError::write(parent))
}

fn parquet_error(path: &Path) -> impl FnOnce(ParquetError) -> RecordError + '_ {
    |source| RecordError::Parquet { path: path.to_owned(), source }
}

fn arrow_schema(columns: &[Column]) -> Schema {
    let fields: Vec<Field> = columns
        .iter()
        .map(|column| {
            let data_type = match column.column_type {
                ColumnType::U64 => DataType::UInt64,
                ColumnType::I64 => DataType::Int64,
                ColumnType::F64 => DataType::Float64,
                ColumnType::Bool => DataType::Boolean,
                ColumnType::Text => DataType::Utf8,
            };
            Field::new(column.name, data_type, column.nullable)
        })
        .collect();
    let version = ("huddle.schema_version".to_owned(), SCHEMA_VERSION.to_string());
    Schema::new(fields).with_metadata(HashMap::from([version]))
}

/// The values of one column.
fn array<R: Row>(rows: &[R], column: usize, column_type: ColumnType) -> ArrayRef {
    /// A cell is of its column's type by the definition of [`Row`].
    macro_rules! values {
        ($variant:ident, $array:ty) => {{
            let cells = rows.iter().map(|row| match row.cell(column) {
                Cell::$variant(value) => value,
                _ => None,
            });
            Arc::new(cells.collect::<$array>())
        }};
    }
    match column_type {
        ColumnType::U64 => values!(U64, UInt64Array),
        ColumnType::I64 => values!(I64, Int64Array),
        ColumnType::F64 => values!(F64, Float64Array),
        ColumnType::Bool => values!(Bool, BooleanArray),
        ColumnType::Text => values!(Text, StringArray),
    }
}
