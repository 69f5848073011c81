//! Every response as a Parquet table, in the form of the recordings' tables: a dataset of segment files
//! whose columns carry their units.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt16Array, UInt32Array};
use arrow_schema::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::load::Response;
use super::measure::WebBlock;

/// The table's name: that of its directory in the run.
pub const TABLE: &str = "responses";

/// One column: name, type, unit, meaning, whether it may be null.
type Column = (&'static str, DataType, &'static str, &'static str, bool);

/// The columns, in the order of the file.
const COLUMNS: [Column; 7] = [
    ("arm", DataType::Utf8, "none", "How the servers were placed, and what they read.", false),
    (
        "block",
        DataType::UInt32,
        "count",
        "The block, from 1; the run's summary names the invalid ones.",
        false,
    ),
    ("vm", DataType::Utf8, "none", "The server that was asked.", false),
    (
        "at_us",
        DataType::Int64,
        "us",
        "When the request was sent, or, in an open loop, was to be sent, since the Unix epoch.",
        false,
    ),
    (
        "latency_us",
        DataType::Float64,
        "us",
        "From then until the response was complete, or until the request failed.",
        false,
    ),
    ("status", DataType::UInt16, "none", "HTTP status; null without a response.", true),
    (
        "failure",
        DataType::Utf8,
        "none",
        "Why it is no good response: connection, timed_out, status or body; null for a good one.",
        true,
    ),
];

/// The table cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}; name another place with --out", path.display())]
pub struct CannotWrite {
    path: PathBuf,
    source: ParquetError,
}

/// Writes all responses of all blocks, the invalid ones too, beneath the run's `directory`.
///
/// # Errors
/// The file cannot be written.
pub fn write(directory: &Path, blocks: &[WebBlock]) -> Result<PathBuf, CannotWrite> {
    let path = directory.join(TABLE).join("segment-000001.parquet");
    let failed = |source| CannotWrite { path: path.clone(), source };
    write_file(&path, blocks).map_err(failed)?;
    Ok(path)
}

fn write_file(path: &Path, blocks: &[WebBlock]) -> Result<(), ParquetError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let schema = Arc::new(schema());
    let temporary = path.with_extension("parquet.tmp");
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(format!("huddle {}", env!("CARGO_PKG_VERSION")))
        .build();
    let mut writer = ArrowWriter::try_new(File::create(&temporary)?, schema.clone(), Some(properties))?;
    for block in blocks {
        writer.write(&RecordBatch::try_new(schema.clone(), columns(block))?)?;
    }
    writer.close()?;
    // Whole or not there.
    Ok(std::fs::rename(&temporary, path)?)
}

fn schema() -> Schema {
    let field = |(name, kind, unit, meaning, nullable): &Column| {
        Field::new(*name, kind.clone(), *nullable).with_metadata(HashMap::from([
            ("unit".to_owned(), (*unit).to_owned()),
            ("meaning".to_owned(), (*meaning).to_owned()),
        ]))
    };
    let about = HashMap::from([("huddle.table".to_owned(), TABLE.to_owned())]);
    Schema::new_with_metadata(COLUMNS.iter().map(field).collect::<Vec<_>>(), about)
}

fn columns(block: &WebBlock) -> Vec<ArrayRef> {
    let number = u32::try_from(block.number).unwrap_or(u32::MAX);
    let rows: Vec<(&str, &str, &Response)> = block
        .samples
        .iter()
        .flat_map(|sample| sample.tenants.iter().map(move |tenant| (sample.arm.name(), tenant)))
        .flat_map(|(arm, tenant)| tenant.responses.iter().map(move |one| (arm, &*tenant.vm, one)))
        .collect();
    vec![
        Arc::new(rows.iter().map(|row| Some(row.0)).collect::<StringArray>()),
        Arc::new(rows.iter().map(|_| Some(number)).collect::<UInt32Array>()),
        Arc::new(rows.iter().map(|row| Some(row.1)).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| Some(row.2.at_us)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| Some(row.2.latency_ns as f64 / 1000.0)).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.2.status).collect::<UInt16Array>()),
        Arc::new(rows.iter().map(|row| row.2.failure.map(|why| why.name())).collect::<StringArray>()),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use arrow_array::cast::AsArray;
    use arrow_array::types::{Float64Type, UInt16Type};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;
    use crate::design::Arm;
    use crate::web::load::Failure;
    use crate::web::measure::{TenantSample, WebSample};

    #[test]
    fn every_response_is_a_row_with_its_unit_and_a_failure_is_no_number() {
        let good = Response { at_us: 7, latency_ns: 1500, status: Some(200), failure: None };
        let bad = Response { at_us: 8, latency_ns: 9, status: None, failure: Some(Failure::TimedOut) };
        let tenant = TenantSample::new("vm1", vec![good, bad], 0..2, None);
        assert_eq!((tenant.failed, tenant.timed_out, tenant.mean_us), (1, 1, Some(1.5)));
        let samples = vec![WebSample { arm: Arm::Opposed, tenants: vec![tenant], plan: None }];
        let dir = tempfile::tempdir().unwrap();
        let path = write(dir.path(), &[WebBlock { number: 3, samples, invalid: None }]).unwrap();
        assert_eq!(path, dir.path().join("responses/segment-000001.parquet"));
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no temporary file is left"
        );

        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        assert_eq!(reader.schema().field_with_name("latency_us").unwrap().metadata()["unit"], "us");
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        assert_eq!((batch.num_rows(), batch.num_columns()), (2, COLUMNS.len()));
        let column = |name| batch.column_by_name(name).unwrap();
        assert_eq!(column("arm").as_string::<i32>().value(0), "opposed");
        assert_eq!(column("latency_us").as_primitive::<Float64Type>().value(0), 1.5);
        let status = column("status");
        assert_eq!((status.as_primitive::<UInt16Type>().value(0), status.null_count()), (200, 1));
        assert_eq!(column("failure").as_string::<i32>().value(1), "timed_out");

        let place = dir.path().join("file");
        std::fs::write(&place, "").unwrap();
        assert!(write(&place, &[]).unwrap_err().to_string().contains("--out"));
    }
}
