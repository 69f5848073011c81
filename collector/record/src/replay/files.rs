//! The segments of a recording: which are there, which are damaged, which are missing.

use std::path::{Path, PathBuf};

use huddle_model::schema::{Manifest, Row, Table, TableCounts};
use parquet::arrow::arrow_reader::ArrowReaderMetadata;

use super::ReplayError;
use super::segment::{self, Cells, Wanted};

/// Most rows of one table that belong to one round or window: 2,000 VMs share in as many pairs.
pub(super) const MOST_ROWS: usize = 4 << 20;

/// Footers that are kept: what is read next is mostly in the same segments.
const FOOTERS_KEPT: usize = 32;

/// The closed segments of one table.
pub(super) struct TableFiles {
    pub(super) table: Table,
    dir: PathBuf,
    segments: Vec<Segment>,
    /// Whether rows are known to be missing: damaged, removed, lost or not closed.
    pub(super) has_gaps: bool,
}

/// A closed segment: as little as finds rows in it.
struct Segment {
    number: u64,
    /// Least and greatest key of each row group.
    groups: Vec<(u64, u64)>,
}

impl TableFiles {
    /// Looks at every footer. What is wrong is told in `warnings`, and the rest can be read.
    pub(super) fn open(run: &Path, table: Table, manifest: &Manifest, warnings: &mut Vec<String>) -> Self {
        let dir = run.join(table.name());
        let mut files = Self { table, dir, segments: Vec::new(), has_gaps: manifest.end_us.is_none() };
        let mut numbers = match files.numbers() {
            Ok(numbers) => numbers,
            Err(error) => {
                files.has_gaps = true;
                warnings.push(error.to_string());
                return files;
            }
        };
        numbers.sort_unstable();
        let known = warnings.len();
        if !manifest.knows(table) {
            if !numbers.is_empty() {
                warnings.push(format!(
                    "the table {table} is passed over: it came with schema version {}, and the manifest says {}",
                    table.since(),
                    manifest.schema_version
                ));
            }
            return files;
        }
        for gap in gaps(&numbers, manifest.counts(table), manifest.end_us.is_some()) {
            warnings.push(format!("{table} lacks {gap}: somebody removed them, and their rows are missing"));
        }
        let lost = manifest.counts(table).rows_lost;
        if lost > 0 {
            warnings.push(format!("{table} lacks {lost} rows that the recorder could not write"));
        }
        for number in numbers {
            let path = files.path(number);
            match segment::footer(&path, table) {
                Ok(footer) => {
                    let groups = segment::key_spans(&footer, table);
                    files.segments.push(Segment { number, groups });
                }
                Err(error) => warnings.push(format!("{error}; its rows are missing")),
            }
        }
        files.has_gaps |= warnings.len() > known;
        files
    }

    /// Numbers of the closed segments; none where the table has no directory.
    fn numbers(&self) -> Result<Vec<u64>, ReplayError> {
        let entries = match std::fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ReplayError::file("list", &self.dir)(error)),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry.map_err(ReplayError::file("list", &self.dir))?.file_name();
            let name = name.to_string_lossy();
            let number = name.strip_prefix("segment-").and_then(|name| name.strip_suffix(".parquet"));
            // What has another name is an open segment, or nothing of ours.
            let number = number.and_then(|digits| digits.parse().ok());
            numbers.extend(number.filter(|number| self.path(*number).ends_with(&*name)));
        }
        Ok(numbers)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("segment-{number:06}.parquet"))
    }

    /// Reads three columns of all rows; a segment that breaks off is told in `warnings`.
    pub(super) fn scan(
        &mut self,
        names: &[&'static str],
        warnings: &mut Vec<String>,
        mut each: impl FnMut(&Cells<'_>) -> Result<(), &'static str>,
    ) {
        for at in 0..self.segments.len() {
            let path = self.path(self.segments[at].number);
            let read = segment::footer(&path, self.table).and_then(|footer| {
                let all = Wanted { groups: None, key: None };
                segment::cells(&path, footer, self.table, names, all, |cells| each(cells).map(|()| true))
            });
            if let Err(error) = read {
                self.has_gaps = true;
                warnings.push(format!("{error}; its rows are missing"));
            }
        }
    }

    /// Reads all rows of a table that has few.
    pub(super) fn all<R: Row>(&self, most: usize, warnings: &mut Vec<String>) -> Vec<R> {
        let mut rows = Vec::new();
        for segment in &self.segments {
            let path = self.path(segment.number);
            let wanted = Wanted { groups: None, key: None };
            let read = segment::footer(&path, self.table).and_then(|footer| {
                segment::rows(&path, footer, wanted, |row| {
                    rows.push(row);
                    rows.len() < most
                })
            });
            if let Err(error) = read {
                warnings.push(format!("{error}; its rows are missing"));
            }
            if rows.len() >= most {
                warnings.push(format!("only the first {most} rows of {} are shown", self.table));
                break;
            }
        }
        rows
    }
}

/// The ranges of segments that the manifest or their own numbers say should be there.
fn gaps(numbers: &[u64], counts: TableCounts, is_final: bool) -> Vec<String> {
    let mut gaps = Vec::new();
    let mut note = |first: u64, last: u64| match last.checked_sub(first) {
        Some(0) => gaps.push(format!("segment {first}")),
        Some(_) => gaps.push(format!("segments {first} to {last}")),
        None => {}
    };
    // While a run goes on its manifest lags behind what was removed to keep within its limits.
    let first = counts.segments_removed.saturating_add(1);
    let mut next = if is_final { first } else { numbers.first().copied().unwrap_or(first) };
    for number in numbers {
        note(next, number.saturating_sub(1));
        next = number.saturating_add(1);
    }
    note(next, counts.segments_written);
    gaps
}

/// The footers that were used last.
#[derive(Default)]
pub(super) struct Footers(std::collections::VecDeque<((Table, u64), ArrowReaderMetadata)>);

impl Footers {
    fn get(&mut self, files: &TableFiles, number: u64) -> Result<ArrowReaderMetadata, ReplayError> {
        let name = (files.table, number);
        if let Some(at) = self.0.iter().position(|(kept, _)| *kept == name)
            && let Some(entry) = self.0.remove(at)
        {
            self.0.push_back(entry.clone());
            return Ok(entry.1);
        }
        let footer = segment::footer(&files.path(number), files.table)?;
        if self.0.len() >= FOOTERS_KEPT {
            self.0.pop_front();
        }
        self.0.push_back((name, footer.clone()));
        Ok(footer)
    }

    /// Reads the rows with this key, in the order they were written.
    pub(super) fn rows<R: Row>(
        &mut self,
        files: &TableFiles,
        key: u64,
        mut each: impl FnMut(R),
    ) -> Result<(), ReplayError> {
        let mut count = 0;
        for segment in &files.segments {
            let holds = |span: &(u64, u64)| (span.0..=span.1).contains(&key);
            let groups: Vec<usize> =
                (0..segment.groups.len()).filter(|group| holds(&segment.groups[*group])).collect();
            if groups.is_empty() {
                continue;
            }
            let footer = self.get(files, segment.number)?;
            let wanted = Wanted { groups: Some(groups), key: Some(key) };
            segment::rows(&files.path(segment.number), footer, wanted, |row| {
                count += 1;
                if count <= MOST_ROWS {
                    each(row);
                }
                count <= MOST_ROWS
            })?;
            if count > MOST_ROWS {
                let key_name = segment::key(files.table);
                return Err(ReplayError::TooManyRows {
                    table: files.table,
                    key: key_name,
                    at: key,
                    limit: MOST_ROWS,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_what_the_numbers_and_the_manifest_say() {
        let counts = |segments_removed, segments_written| TableCounts {
            segments_removed,
            segments_written,
            ..TableCounts::default()
        };
        for (numbers, counts, is_final, expected) in [
            (&[1, 2, 3][..], counts(0, 3), true, &[][..]),
            (&[1, 4, 6], counts(0, 6), true, &["segments 2 to 3", "segment 5"]),
            (&[3, 4], counts(2, 4), true, &[]),
            (&[3, 4], counts(0, 5), true, &["segments 1 to 2", "segment 5"]),
            (&[3, 4], counts(0, 4), false, &[]),
            (&[], counts(0, 2), false, &["segments 1 to 2"]),
            (&[], counts(0, 0), true, &[]),
            (&[u64::MAX], counts(u64::MAX, 1), true, &[]),
        ] {
            assert_eq!(gaps(numbers, counts, is_final), expected, "{numbers:?} {counts:?}");
        }
    }
}
