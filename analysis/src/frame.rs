//! Asking Polars: queries run on its streaming engine, so that a recording may be larger than memory.

use polars::prelude::*;

/// Runs the query on the streaming engine; the answer is what must fit in memory.
pub(crate) fn collect(query: LazyFrame) -> PolarsResult<DataFrame> {
    // One query has one answer; several come of `collect_all` only.
    query.collect_with_engine(Engine::Streaming).map(|answer| answer.unwrap_single())
}

/// Rows of an answer, by column name.
pub(crate) struct Answer(DataFrame);

impl Answer {
    /// Runs the query.
    pub(crate) fn of(query: LazyFrame) -> PolarsResult<Self> {
        collect(query).map(Self)
    }

    /// How many rows.
    pub(crate) fn rows(&self) -> usize {
        self.0.height()
    }

    /// A column of numbers as floats, whatever kind of number it holds.
    pub(crate) fn f64s(&self, name: &str) -> PolarsResult<Vec<Option<f64>>> {
        Ok(self.0.column(name)?.cast(&DataType::Float64)?.f64()?.iter().collect())
    }

    /// A column of whole numbers.
    pub(crate) fn u64s(&self, name: &str) -> PolarsResult<Vec<Option<u64>>> {
        Ok(self.0.column(name)?.cast(&DataType::UInt64)?.u64()?.iter().collect())
    }

    /// A column of whole numbers with sign: times.
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

/// How many rows the condition holds in; a null is not a yes.
pub(crate) fn count_where(condition: Expr) -> Expr {
    condition.fill_null(lit(false)).cast(DataType::UInt64).sum()
}
