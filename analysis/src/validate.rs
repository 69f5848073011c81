//! Checks a recording: what is missing or damaged, and what can be used.

use std::fmt;
use std::path::PathBuf;

use huddle_model::schema::{Manifest, SCHEMA_VERSION, Table, TableCounts};
use huddle_recording::table::missing_segments;
use huddle_recording::{Listing, SegmentName};
use serde::Serialize;

use crate::AnalysisError;
use crate::run::RunDir;
use crate::segment::{self, Times};
use crate::text::clean;

/// What was found in one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Directory of the run.
    pub path: PathBuf,
    /// What is wrong, one sentence each; empty when the recording is intact.
    pub problems: Vec<String>,
    /// Notes for the user that are not problems.
    pub notes: Vec<String>,
    /// What can be used, by table; empty when the run was refused altogether.
    pub usable: Vec<Usable>,
}

/// What can be used of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Usable {
    /// The table.
    pub table: Table,
    /// Segments that can be used.
    pub segments: u64,
    /// Rows in them.
    pub rows: u64,
    /// Their first and last round; `None` without a row.
    pub rounds: Option<(u64, u64)>,
    /// Segments that exist and cannot be used.
    pub damaged: u64,
}

impl Report {
    /// Checks one run: reads all of it.
    pub fn of(run: &RunDir) -> Self {
        let mut report =
            Self { path: run.path().to_owned(), problems: Vec::new(), notes: Vec::new(), usable: Vec::new() };
        let manifest = match run.manifest() {
            Ok(manifest) => Some(manifest),
            Err(error @ AnalysisError::Read { .. }) => {
                report.problems.push(format!("{error}; the tables are checked without it"));
                None
            }
            Err(error) => {
                // The tables of another version may differ in meaning, so they are not guessed at.
                report.problems.push(error.to_string());
                return report;
            }
        };
        if let Some(manifest) = &manifest {
            report.check_end(manifest);
        }
        report.notes.extend(run.notes().sentences());
        for table in Table::ALL {
            match run.files(*table) {
                // A table gets its directory with its first row, so most runs lack some.
                Ok(files) if files == Listing::default() && !is_expected(manifest.as_ref(), *table) => {}
                Ok(files) if manifest.as_ref().is_some_and(|manifest| !manifest.knows(*table)) => {
                    report.problems.push(format!(
                        "{} has the table {table}, which was added in schema version {}, but its manifest has version {}: \
                         {} files were ignored",
                        run.path().display(),
                        table.since(),
                        manifest.as_ref().map_or(0, |manifest| manifest.schema_version),
                        files.segments.len() + files.open.len() + files.unknown.len(),
                    ));
                }
                Ok(files) => report.check_table(run, *table, &files, manifest.as_ref()),
                Err(error) => report.problems.push(error.to_string()),
            }
        }
        report
    }

    /// Whether nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.problems.is_empty()
    }

    fn check_end(&mut self, manifest: &Manifest) {
        self.problems.extend(manifest.interruptions());
        match manifest.end_us {
            None => self.problems.push(
                "the manifest has no end: the recording still runs, or was killed with its last segments open"
                    .to_owned(),
            ),
            Some(end) if end < manifest.begin_us => self.problems.push(format!(
                "the run ends {} us before it begins: the clock was set back, so trust rounds, not times",
                manifest.begin_us - end
            )),
            Some(_) => {}
        }
    }

    fn check_table(&mut self, run: &RunDir, table: Table, files: &Listing, manifest: Option<&Manifest>) {
        for open in &files.open {
            self.problems.push(format!(
                "{} is an open segment: unreadable, its rows are lost unless the recording still runs",
                open.display()
            ));
        }
        for unknown in &files.unknown {
            self.notes.push(format!("{} is not part of a recording and was ignored", unknown.display()));
        }
        let mut usable = Usable { table, segments: 0, rows: 0, rounds: None, damaged: 0 };
        let mut times = Times::default();
        let version = manifest.map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
        for (number, path) in &files.segments {
            let name = SegmentName { table, number: *number, manifest };
            let checked = match run.fault(path) {
                Some(why) => Err(why.to_owned()),
                None => run
                    .readable(path, name)
                    .and_then(|readable| segment::check(path, &readable, table, version, &mut times))
                    .map_err(|why| why.to_string()),
            };
            match checked {
                Ok(found) => {
                    self.problems.extend(found.problems);
                    usable.segments += 1;
                    usable.rows += found.rows;
                    usable.rounds = match (usable.rounds, found.rounds) {
                        (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
                        (one, other) => one.or(other),
                    };
                }
                Err(problem) => {
                    self.problems.push(problem);
                    usable.damaged += 1;
                }
            }
        }
        let missing = missing_segments(table, files, manifest);
        let is_complete = missing.is_empty();
        self.problems.extend(missing);
        if let Some(manifest) = manifest {
            self.note_counts(manifest, table);
            // While a run goes on the manifest may be out of date.
            if is_complete && manifest.end_us.is_some() {
                self.check_counts(manifest, table, files, &usable);
            }
        }
        self.usable.push(usable);
    }

    fn note_counts(&mut self, manifest: &Manifest, table: Table) {
        let TableCounts { rows_lost, rows_removed, .. } = manifest.counts(table);
        if rows_lost > 0 {
            self.notes.push(format!(
                "{table} lost {rows_lost} rows while recording, because the writer could not keep up or failed"
            ));
        }
        if rows_removed > 0 {
            self.notes.push(format!(
                "the first {rows_removed} rows of {table} were removed to keep within the limits of the recording"
            ));
        }
    }

    fn check_counts(&mut self, manifest: &Manifest, table: Table, files: &Listing, usable: &Usable) {
        let TableCounts { segments_written, segments_removed, .. } = manifest.counts(table);
        let (first, last) = (segments_removed + 1, segments_written);
        match files.span() {
            Some((found_first, found_last)) if found_first < first || found_last > last => {
                self.problems.push(format!(
                    "{table} has segments {found_first} to {found_last}, and the manifest counts {first} to {last} only: \
                     they may belong to another run"
                ));
            }
            _ if usable.damaged == 0 && usable.rows != manifest.counts(table).rows_kept() => {
                self.problems.push(format!(
                    "{table} has {} rows, but the manifest counts {}",
                    usable.rows,
                    manifest.counts(table).rows_kept()
                ));
            }
            _ => {}
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.path.display(), verdict(self.problems.len()))?;
        for problem in &self.problems {
            writeln!(f, "  wrong   {}", clean(problem))?;
        }
        for note in &self.notes {
            writeln!(f, "  note    {}", clean(note))?;
        }
        for Usable { table, segments, rows, rounds, damaged } in &self.usable {
            write!(f, "  usable  {table}: {rows} rows in {segments} segments")?;
            if let Some((first, last)) = rounds {
                write!(f, ", rounds {first} to {last}")?;
            }
            if *damaged > 0 {
                write!(f, "; {damaged} segments cannot be used")?;
            }
            writeln!(f)?;
        }
        if self.usable.is_empty() {
            writeln!(f, "  usable  nothing")?;
        }
        Ok(())
    }
}

/// Whether segments of `table` should exist according to the manifest.
fn is_expected(manifest: Option<&Manifest>, table: Table) -> bool {
    manifest.map(|manifest| manifest.counts(table)).is_some_and(|counts| {
        counts.segments_written > counts.segments_removed || counts.rows_lost > 0 || counts.rows_removed > 0
    })
}

fn verdict(problems: usize) -> String {
    match problems {
        0 => "intact".to_owned(),
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    }
}
