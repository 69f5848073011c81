//! Queries with Polars: they run on its streaming engine, so that a recording may be larger than memory.

use std::path::Path;

use polars::io::HiveOptions;
use polars::prelude::*;

/// Runs the query on the streaming engine; only the result must fit in memory.
pub(crate) fn collect(query: LazyFrame) -> PolarsResult<DataFrame> {
    // One query has one result; only `collect_all` returns several.
    query.collect_with_engine(Engine::Streaming).map(|answer| answer.unwrap_single())
}

/// Scans exactly these files, whatever characters and `key=value` parts their paths have.
pub(crate) fn scan_files<'a>(files: impl Iterator<Item = &'a Path>) -> PolarsResult<LazyFrame> {
    let paths: Vec<PlRefPath> = files.map(PlRefPath::try_from_path).collect::<PolarsResult<_>>()?;
    let args =
        ScanArgsParquet { glob: false, hive_options: HiveOptions::new_disabled(), ..Default::default() };
    LazyFrame::scan_parquet_files(paths.into_iter().collect(), args)
}

/// Rows of a result, by column name.
pub(crate) struct Answer(DataFrame);

impl Answer {
    /// Runs the query.
    pub(crate) fn of(query: LazyFrame) -> PolarsResult<Self> {
        collect(query).map(Self)
    }

    /// Number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.0.height()
    }

    /// A column of numbers as floats, whatever its numeric type.
    pub(crate) fn f64s(&self, name: &str) -> PolarsResult<Vec<Option<f64>>> {
        Ok(self.0.column(name)?.cast(&DataType::Float64)?.f64()?.iter().collect())
    }

    /// A column of unsigned integers.
    pub(crate) fn u64s(&self, name: &str) -> PolarsResult<Vec<Option<u64>>> {
        Ok(self.0.column(name)?.cast(&DataType::UInt64)?.u64()?.iter().collect())
    }

    /// A column of signed integers: times.
    pub(crate) fn i64s(&self, name: &str) -> PolarsResult<Vec<Option<i64>>> {
        Ok(self.0.column(name)?.cast(&DataType::Int64)?.i64()?.iter().collect())
    }

    /// A column of text.
    pub(crate) fn texts(&self, name: &str) -> PolarsResult<Vec<Option<String>>> {
        Ok(self.0.column(name)?.str()?.iter().map(|text| text.map(str::to_owned)).collect())
    }
}

/// The sum of a column over the rows in which both it and `other` have a value.
pub(crate) fn sum_with(column: &str, other: &str) -> Expr {
    col(column).filter(col(other).is_not_null()).sum()
}

/// Number of rows for which the condition holds; null does not count.
pub(crate) fn count_where(condition: Expr) -> Expr {
    condition.fill_null(lit(false)).cast(DataType::UInt64).sum()
}
