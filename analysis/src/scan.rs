//! Lazy scans of segments, and the types of their columns in Polars.

use std::path::Path;

use huddle_model::schema::ColumnKind;
use polars::io::HiveOptions;
use polars::prelude::{DataType, LazyFrame, PlRefPath, PolarsResult, ScanArgsParquet};

use crate::frame::reading;

/// Scans exactly these files, whatever characters and `key=value` parts their paths have.
pub(crate) fn scan_files<'a>(files: impl Iterator<Item = &'a Path>) -> PolarsResult<LazyFrame> {
    let paths: Vec<PlRefPath> = files.map(PlRefPath::try_from_path).collect::<PolarsResult<_>>()?;
    let args =
        ScanArgsParquet { glob: false, hive_options: HiveOptions::new_disabled(), ..Default::default() };
    reading(|| LazyFrame::scan_parquet_files(paths.into_iter().collect(), args))
}

/// The type of a column in Polars.
pub(crate) fn data_type(kind: ColumnKind) -> DataType {
    match kind {
        ColumnKind::Bool => DataType::Boolean,
        ColumnKind::I32 => DataType::Int32,
        ColumnKind::U32 => DataType::UInt32,
        ColumnKind::I64 => DataType::Int64,
        ColumnKind::U64 => DataType::UInt64,
        ColumnKind::F64 => DataType::Float64,
        ColumnKind::Text => DataType::String,
    }
}
