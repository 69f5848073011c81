//! One segment: does it open, are its columns those of the schema, does its time go forward.

use std::path::Path;

use huddle_model::schema::{ColumnKind, Table};
use polars::prelude::*;

use crate::error::first_line;
use crate::run::scan_files;

/// Where time and rounds stand after the segments looked at so far.
#[derive(Default)]
pub(super) struct Times {
    last_us: Option<i64>,
    last_round: Option<u64>,
}

/// What a readable segment holds.
pub(super) struct Found {
    pub(super) rows: u64,
    pub(super) rounds: Option<(u64, u64)>,
    /// What is wrong though its rows can be used.
    pub(super) problems: Vec<String>,
}

/// Reads all of a segment of a recording of this schema version; an error is why it cannot be used.
pub(super) fn check(path: &Path, table: Table, version: u32, times: &mut Times) -> Result<Found, String> {
    let damaged =
        |error: PolarsError| format!("{} cannot be read: {}", path.display(), first_line(&error.to_string()));
    // A segment is bounded by the recorder's limits, so one at a time fits in memory.
    let frame = scan_files(std::iter::once(path)).and_then(LazyFrame::collect).map_err(damaged)?;
    check_columns(path, table, version, &frame)?;
    let mut problems = Vec::new();
    // The first column of every table is its time.
    let time = table.columns()[0].name;
    let values = frame.column(time).and_then(Column::i64).map_err(damaged)?;
    if let Some((row, before, after)) = first_step_back(times.last_us, values.iter().flatten()) {
        problems.push(format!(
            "{}: {time} goes back by {} us at row {row}: the clock was set back, so order by round",
            path.display(),
            before - after
        ));
    }
    times.last_us = times.last_us.max(values.max());
    let rounds = frame.column("round").and_then(Column::u64).map_err(damaged)?;
    if let Some((row, before, after)) = first_step_back(times.last_round, rounds.iter().flatten()) {
        problems.push(format!(
            "{}: round {after} follows round {before} at row {row}: the rows are of several runs or were reordered",
            path.display()
        ));
    }
    times.last_round = times.last_round.max(rounds.max());
    if table.columns().iter().any(|column| column.name == "end_us") {
        let ends = frame.column("end_us").and_then(Column::i64).map_err(damaged)?;
        let backward = values.iter().zip(ends.iter()).position(|(begin, end)| end < begin);
        if let Some(row) = backward {
            problems.push(format!("{}: row {} ends before it begins", path.display(), row + 1));
        }
    }
    Ok(Found { rows: frame.height() as u64, rounds: rounds.min().zip(rounds.max()), problems })
}

fn check_columns(path: &Path, table: Table, version: u32, frame: &DataFrame) -> Result<(), String> {
    let name_of = |column: &huddle_model::schema::Column| table.column_name(column.name, version);
    let expected: Vec<(&str, DataType)> =
        table.columns().iter().map(|column| (name_of(column), data_type(column.kind))).collect();
    let found: Vec<(&str, DataType)> =
        frame.columns().iter().map(|column| (column.name().as_str(), column.dtype().clone())).collect();
    let drift = |what: String| {
        Err(format!("{} has not the columns of {table} in schema version {version}: {what}", path.display()))
    };
    for (name, kind) in &expected {
        match found.iter().find(|(found, _)| found == name) {
            None => return drift(format!("{name} is missing")),
            Some((_, other)) if other != kind => return drift(format!("{name} is {other}, not {kind}")),
            Some(_) => {}
        }
    }
    if let Some((name, _)) = found.iter().find(|(name, _)| !expected.iter().any(|(known, _)| known == name)) {
        return drift(format!("{name:?} is not one of them"));
    }
    for column in table.columns().iter().filter(|column| !column.nullable) {
        let nulls = frame.column(name_of(column)).map_or(0, Column::null_count);
        if nulls > 0 {
            return drift(format!("{} is null in {nulls} rows and may never be", column.name));
        }
    }
    Ok(())
}

fn data_type(kind: ColumnKind) -> DataType {
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

/// The first value that is less than the greatest before it: its row (from 1), that greatest, itself.
fn first_step_back<T: PartialOrd + Copy>(
    mut greatest: Option<T>,
    values: impl Iterator<Item = T>,
) -> Option<(usize, T, T)> {
    for (row, value) in (1..).zip(values) {
        match greatest {
            Some(before) if value < before => return Some((row, before, value)),
            _ => greatest = Some(value),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_back_is_found_within_and_between_segments() {
        assert_eq!(first_step_back(None, [1, 1, 3, 2, 1].into_iter()), Some((4, 3, 2)));
        assert_eq!(first_step_back(Some(5), [4, 6].into_iter()), Some((1, 5, 4)));
        assert_eq!(first_step_back(Some(5), [5, 6].into_iter()), None);
    }
}
