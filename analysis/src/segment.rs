//! Checks one segment: whether it opens, has the columns of the schema, and has ascending times.

use std::path::Path;

use huddle_model::schema::Table;
use huddle_recording::SegmentFault;
use polars::prelude::*;

use crate::frame::reading;
use crate::scan::scan_files;

/// The last time and round of the segments checked so far.
#[derive(Default)]
pub(crate) struct Times {
    last_us: Option<i64>,
    last_round: Option<u64>,
}

/// What a readable segment holds.
pub(crate) struct Found {
    pub(crate) rows: u64,
    pub(crate) rounds: Option<(u64, u64)>,
    /// Problems although its rows can be used.
    pub(crate) problems: Vec<String>,
}

/// Reads all of a segment of a recording of this schema version, of which `readable` is the file that is read; an error
/// is the reason why it cannot be used.
pub(crate) fn check(
    path: &Path,
    readable: &Path,
    table: Table,
    version: u32,
    times: &mut Times,
) -> Result<Found, SegmentFault> {
    let damaged = |error: PolarsError| SegmentFault::of(path, error);
    // A segment is bounded by the recorder's limits, so one at a time fits in memory.
    let frame =
        reading(|| scan_files(std::iter::once(readable)).and_then(LazyFrame::collect)).map_err(damaged)?;
    check_nulls(path, table, version, &frame)?;
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
    // What is recorded for a fleet belongs to no round.
    let mut found_rounds = None;
    if table.columns().iter().any(|column| column.name == "round") {
        let rounds = frame.column("round").and_then(Column::u64).map_err(damaged)?;
        if let Some((row, before, after)) = first_step_back(times.last_round, rounds.iter().flatten()) {
            problems.push(format!(
                "{}: round {after} follows round {before} at row {row}: the rows are of several runs or were reordered",
                path.display()
            ));
        }
        times.last_round = times.last_round.max(rounds.max());
        found_rounds = rounds.min().zip(rounds.max());
    }
    if table.columns().iter().any(|column| column.name == "end_us") {
        let ends = frame.column("end_us").and_then(Column::i64).map_err(damaged)?;
        let backward = values.iter().zip(ends.iter()).position(|(begin, end)| end < begin);
        if let Some(row) = backward {
            problems.push(format!("{}: row {} ends before it begins", path.display(), row + 1));
        }
    }
    Ok(Found { rows: frame.height() as u64, rounds: found_rounds, problems })
}

fn check_nulls(path: &Path, table: Table, version: u32, frame: &DataFrame) -> Result<(), SegmentFault> {
    for column in table.columns().iter().filter(|column| !table.is_nullable(column, version)) {
        let Some(name) = table.column_name(column.name, version) else { continue };
        let nulls = frame.column(name).map_or(0, Column::null_count);
        if nulls > 0 {
            let what = format!("{} is null in {nulls} rows and may never be", column.name);
            return Err(drift(path, table, version, &what));
        }
    }
    Ok(())
}

fn drift(path: &Path, table: Table, version: u32, what: &str) -> SegmentFault {
    let what = format!("it does not have the columns of {table} in schema version {version}: {what}");
    SegmentFault::of(path, what)
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
