//! Running Polars queries on its streaming engine, so that a recording may be larger than memory.
//!
//! Every call that may read a segment goes through [`reading`].

use huddle_recording::guarded::{Threads, guarded};
use polars::prelude::*;

/// Runs `work`, which reads with Polars; a panic of Polars, in any thread, becomes an error and is not printed. Segments
/// with a checksum are compared with it before, so damaged bytes get here from recordings of older versions only.
pub(crate) fn reading<T>(work: impl FnOnce() -> PolarsResult<T>) -> PolarsResult<T> {
    guarded(Threads::All, work)
        .unwrap_or_else(|panicked| polars_bail!(ComputeError: "the Parquet reader panicked: {panicked}"))
}

/// Runs the query on the streaming engine; the result must fit in memory.
pub(crate) fn collect(query: LazyFrame) -> PolarsResult<DataFrame> {
    // One query has one result; only `collect_all` has several.
    reading(|| query.collect_with_engine(Engine::Streaming).map(|result| result.unwrap_single()))
}

/// The rows of a query result, by column name.
pub(crate) struct Answer(DataFrame);

impl From<DataFrame> for Answer {
    fn from(frame: DataFrame) -> Self {
        Self(frame)
    }
}

impl Answer {
    /// Runs the query.
    pub(crate) fn of(query: LazyFrame) -> PolarsResult<Self> {
        collect(query).map(Self)
    }

    /// A column of unsigned integers that has no null.
    pub(crate) fn all_u64s(&self, name: &str) -> PolarsResult<Vec<u64>> {
        Self::all(name, self.u64s(name)?)
    }

    /// A column of text that has no null.
    pub(crate) fn all_texts(&self, name: &str) -> PolarsResult<Vec<String>> {
        Self::all(name, self.texts(name)?)
    }

    fn all<T>(name: &str, values: Vec<Option<T>>) -> PolarsResult<Vec<T>> {
        let all: Option<Vec<T>> = values.into_iter().collect();
        all.ok_or_else(|| polars_err!(ComputeError: "the column {name} has a null"))
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        self.0.height()
    }

    /// A column of numbers as floats, whatever kind of number it holds.
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

/// In how many rows the condition is true; null counts as false.
pub(crate) fn count_where(condition: Expr) -> Expr {
    condition.fill_null(lit(false)).cast(DataType::UInt64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A query that panics on purpose, on the engine's own threads.
    #[test]
    fn a_panic_of_polars_is_an_error_in_one_line() {
        let frame = df!("a" => [1, 2, 3]).unwrap().lazy();
        let panics = col("a").map(
            |column| if column.len() < 10 { panic!("of a test\nin two lines") } else { Ok(column) },
            |_, field| Ok(field.clone()),
        );
        let error = collect(frame.clone().select([panics])).unwrap_err().to_string();
        // Polars passes it on as the error of a task, with its text escaped.
        assert!(error.starts_with("the Parquet reader panicked: ") && error.contains("of a test"), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert_eq!(collect(frame).unwrap().height(), 3);
    }
}
