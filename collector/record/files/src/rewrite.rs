//! A segment of another program in the form of the recorder's: for a reader that takes columns by their order and types.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{RecordBatch, new_null_array};
use arrow_schema::{Field, Schema};
use huddle_model::schema::Table;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::columns::{Footer, data_type, in_schema};
use super::guarded::{Threads, guarded};

/// Writes the rows of `segment`, whose footer was checked, to `to` with the columns of schema version `version`. What the
/// segment lacks is null.
///
/// # Errors
/// It cannot be read, or holds a value that does not fit: what, of any length.
pub fn rewrite(segment: File, footer: Footer, table: Table, version: u32, to: &Path) -> Result<(), String> {
    guarded(Threads::This, || write(segment, footer, table, version, to))
        .map_err(|panicked| format!("its pages are damaged ({panicked})"))
        .flatten()
}

fn write(segment: File, footer: Footer, table: Table, version: u32, to: &Path) -> Result<(), String> {
    // The column, its name in the segment if it has it, and its name in the version that is written.
    let columns: Vec<_> = table
        .columns()
        .iter()
        .filter_map(|column| {
            let name = table.column_name(column.name, version)?;
            Some((column, table.column_name(column.name, footer.version), name))
        })
        .collect();
    let fields = columns.iter().map(|(column, _, name)| Field::new(*name, data_type(column.kind), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default()));
    let file = File::create(to).map_err(|error| format!("{}: {error}", to.display()))?;
    let text = |error: parquet::errors::ParquetError| error.to_string();
    let mut writer =
        ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties.build())).map_err(text)?;
    let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(segment, footer.metadata);
    let mut rows = 0;
    for batch in batches.build().map_err(text)? {
        let batch = batch.map_err(|error| error.to_string())?;
        let arrays = columns.iter().map(|(column, found, _)| {
            match found.and_then(|name| batch.column_by_name(name)) {
                Some(array) => in_schema(array, column, rows),
                None => Ok(new_null_array(&data_type(column.kind), batch.num_rows())),
            }
        });
        let batch = RecordBatch::try_new(Arc::clone(&schema), arrays.collect::<Result<_, _>>()?);
        let batch = batch.map_err(|error| error.to_string())?;
        rows += batch.num_rows();
        writer.write(&batch).map_err(text)?;
    }
    writer.close().map(drop).map_err(text)
}
