//! The segments of a recording: which exist, which are damaged, which are missing.

use std::fs::File;
use std::path::{Path, PathBuf};

use huddle_model::schema::{Manifest, Row, SCHEMA_VERSION, Table};
use huddle_recording::columns::{self, Footer};
use huddle_recording::notes::Notes;
use huddle_recording::rows::{self, Cells, Wanted};
use huddle_recording::segment::Origin;
use huddle_recording::segment::{FileId, SegmentFault, SegmentName, check_segment, reopen};
use huddle_recording::table::missing_segments;
use huddle_recording::{Listing, list_segments};

use super::ReplayError;
use super::segment;

/// Most rows of one table that belong to one round or window: 2,000 VMs share in as many pairs.
pub(super) const MAX_ROWS: usize = 4 << 20;

/// Footers that are cached: what is read next is mostly in the same segments.
const FOOTERS_CACHED: usize = 32;

/// The closed segments of one table that can be read.
pub(super) struct TableFiles {
    pub(super) table: Table,
    segments: Vec<Segment>,
    /// Whether rows are known to be missing: damaged, removed, lost or not closed.
    pub(super) has_gaps: bool,
}

/// A closed segment, with the index of its row groups.
struct Segment {
    number: u64,
    path: PathBuf,
    /// The file that was checked.
    id: FileId,
    /// The schema version of the recording, for a file that does not have its own.
    version: u32,
    /// Least and greatest key of each row group.
    groups: Vec<(u64, u64)>,
}

impl TableFiles {
    /// Compares every segment with its checksum, and reads the footers of those that are undamaged. Problems are added
    /// to `warnings`, and the rest can be read.
    pub(super) fn open(
        run: &Path,
        table: Table,
        manifest: &Manifest,
        notes: &mut Notes,
        warnings: &mut Vec<String>,
    ) -> Self {
        let known = warnings.len();
        let mut files = Self { table, segments: Vec::new(), has_gaps: manifest.end_us.is_none() };
        let listing = list_segments(run, table).unwrap_or_else(|fault| {
            warnings.push(fault.to_string());
            Listing::default()
        });
        if !manifest.knows(table) {
            if !listing.segments.is_empty() {
                warnings.push(format!(
                    "the table {table} is skipped: it was added in schema version {}, and the manifest has version {}",
                    table.since(),
                    manifest.schema_version
                ));
            }
            return files;
        }
        warnings.extend(missing_segments(table, &listing, Some(manifest)));
        let lost = manifest.counts(table).rows_lost;
        if lost > 0 {
            warnings.push(format!("{table} lacks {lost} rows that the recorder could not write"));
        }
        for (number, path) in listing.segments {
            let name = SegmentName { table, number, manifest: Some(manifest) };
            match Segment::open(path, name) {
                Ok((segment, origin, further)) => {
                    notes.add(table, &origin, &further);
                    files.segments.push(segment);
                }
                Err(fault) => warnings.push(missing_rows(&fault)),
            }
        }
        files.has_gaps |= warnings.len() > known;
        files
    }

    /// Reads the columns `names` of all rows; a segment that cannot be read to its end is added to `warnings`.
    pub(super) fn scan(
        &mut self,
        names: &[&'static str],
        warnings: &mut Vec<String>,
        mut each: impl FnMut(&Cells<'_>) -> Result<(), &'static str>,
    ) {
        for segment in &self.segments {
            let read = segment.footer(self.table).and_then(|(file, footer)| {
                let all = Wanted::default();
                let each = |cells: &Cells<'_>| each(cells).map(|()| true);
                rows::cells(&segment.path, file, footer, self.table, names, all, each)
            });
            if let Err(fault) = read {
                self.has_gaps = true;
                warnings.push(missing_rows(&fault));
            }
        }
    }

    /// Reads all rows of a small table, at most `most`.
    pub(super) fn all<R: Row>(&self, most: usize, warnings: &mut Vec<String>) -> Vec<R> {
        let mut rows = Vec::new();
        for segment in &self.segments {
            let wanted = Wanted::default();
            let read = segment.footer(self.table).and_then(|(file, footer)| {
                rows::rows(&segment.path, file, footer, wanted, |row| {
                    rows.push(row);
                    rows.len() < most
                })
            });
            if let Err(fault) = read {
                warnings.push(missing_rows(&fault));
            }
            if rows.len() >= most {
                warnings.push(format!("only the first {most} rows of {} are shown", self.table));
                break;
            }
        }
        rows
    }
}

impl Segment {
    /// The segment, and a note for the user if it is not what the recorder wrote.
    fn open(path: PathBuf, name: SegmentName<'_>) -> Result<(Self, Origin, Vec<String>), SegmentFault> {
        let checked = check_segment(&path, name)?;
        let version = name.manifest.map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
        let footer = columns::footer(&checked.file, name.table, version)
            .map_err(|what| SegmentFault::of(&path, what))?;
        let groups = segment::key_spans(&footer, name.table);
        let segment = Self { number: name.number, id: checked.id, version, path, groups };
        Ok((segment, checked.origin, footer.further))
    }

    /// The file that was checked, open, and its footer.
    fn footer(&self, table: Table) -> Result<(File, Footer), SegmentFault> {
        let file = reopen(&self.path, self.id)?;
        let footer = columns::footer(&file, table, self.version);
        Ok((file, footer.map_err(|what| SegmentFault::of(&self.path, what))?))
    }
}

fn missing_rows(fault: &SegmentFault) -> String {
    format!("{fault}; its rows are missing")
}

/// A cache of the footers that were used last.
#[derive(Default)]
pub(super) struct Footers(std::collections::VecDeque<((Table, u64), Footer)>);

impl Footers {
    fn get(&mut self, table: Table, segment: &Segment) -> Result<(File, Footer), SegmentFault> {
        let name = (table, segment.number);
        if let Some(at) = self.0.iter().position(|(kept, _)| *kept == name)
            && let Some(entry) = self.0.remove(at)
        {
            let file = reopen(&segment.path, segment.id)?;
            self.0.push_back(entry.clone());
            return Ok((file, entry.1));
        }
        let (file, footer) = segment.footer(table)?;
        if self.0.len() >= FOOTERS_CACHED {
            self.0.pop_front();
        }
        self.0.push_back((name, footer.clone()));
        Ok((file, footer))
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
            let (file, footer) = self.get(files.table, segment)?;
            let wanted = Wanted { groups: Some(groups), key: Some(key) };
            rows::rows(&segment.path, file, footer, wanted, |row| {
                count += 1;
                if count <= MAX_ROWS {
                    each(row);
                }
                count <= MAX_ROWS
            })?;
            if count > MAX_ROWS {
                let key_name = rows::key(files.table);
                return Err(ReplayError::TooManyRows {
                    table: files.table,
                    key: key_name,
                    at: key,
                    limit: MAX_ROWS,
                });
            }
        }
        Ok(())
    }
}
