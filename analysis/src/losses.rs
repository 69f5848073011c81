//! Losses of a recording: segments that were removed, and those that cannot be used.
//!
//! Questions are answered from the rest, with a note of the losses. `validate` reports the same and more.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use huddle_model::schema::{Manifest, SCHEMA_VERSION, Table, TableCounts};

use crate::AnalysisError;
use crate::directory::{Directory, TableFiles};
use crate::segment;

/// Losses of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Losses {
    sentences: Vec<String>,
    unusable: BTreeSet<PathBuf>,
}

impl Losses {
    /// Losses that show without reading rows: from the numbers of the segments, their footers and columns. An
    /// unusable manifest is reported by the question itself.
    pub(crate) fn of(run: &Directory) -> Self {
        let manifest = match run.manifest() {
            Ok(manifest) => Some(manifest),
            // The responses of an experiment have no manifest.
            Err(AnalysisError::Read { .. }) => None,
            Err(_) => return Self::default(),
        };
        let mut losses = Self::default();
        losses.look(run, manifest.as_ref(), |path, table| match &manifest {
            Some(manifest) => segment::columns(path, table, manifest.schema_version),
            None => segment::opens(path),
        });
        for (table, files) in tables(run, manifest.as_ref()) {
            losses.sentences.extend(missing(table, &files, manifest.as_ref()));
        }
        losses
    }

    /// Reads every row, since damage may be inside, and adds segments that turn out to be unusable; returns
    /// their number.
    pub(crate) fn read_through(&mut self, run: &Directory) -> usize {
        let known = self.unusable.len();
        let manifest = run.manifest().ok();
        let version = manifest.as_ref().map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
        self.look(run, manifest.as_ref(), |path, table| {
            segment::check(path, table, version, &mut segment::Times::default()).map(|_| ())
        });
        self.unusable.len() - known
    }

    /// One sentence per loss.
    pub(crate) fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// Whether a segment must be skipped.
    pub(crate) fn has(&self, segment: &Path) -> bool {
        self.unusable.contains(segment)
    }

    fn look(
        &mut self,
        run: &Directory,
        manifest: Option<&Manifest>,
        check: impl Fn(&Path, Table) -> Result<(), String>,
    ) {
        for (table, files) in tables(run, manifest) {
            for (_, path) in files.segments {
                if !self.has(&path)
                    && let Err(why) = check(&path, table)
                {
                    self.sentences.push(why);
                    self.unusable.insert(path);
                }
            }
        }
    }
}

/// The tables of the manifest's version, with their files; a directory that cannot be listed is reported by
/// the question that needs it.
fn tables(run: &Directory, manifest: Option<&Manifest>) -> impl Iterator<Item = (Table, TableFiles)> {
    Table::ALL
        .iter()
        .copied()
        .filter(move |table| manifest.is_none_or(|manifest| manifest.knows(*table)))
        .filter_map(|table| Some((table, run.files(table).ok()?)))
}

/// The missing segments of `table`, one sentence per range. Segments are numbered consecutively, and the
/// recorder removes the oldest first; without a manifest only gaps are known.
pub(crate) fn missing(table: Table, files: &TableFiles, manifest: Option<&Manifest>) -> Vec<String> {
    let gaps = files.segments.windows(2).filter(|pair| pair[1].0 > pair[0].0 + 1);
    let mut found: Vec<String> = gaps
        .map(|pair| {
            format!("{table} lacks the segments {} to {}: they were removed", pair[0].0 + 1, pair[1].0 - 1)
        })
        .collect();
    let Some(manifest) = manifest else { return found };
    let TableCounts { segments_written: last, segments_removed, .. } = manifest.counts(table);
    let first = segments_removed + 1;
    let Some((found_first, found_last)) = files.span() else {
        if last >= first {
            found.push(format!("{table} lacks all of its segments {first} to {last}: they were removed"));
        }
        return found;
    };
    // During a run the manifest may not include the latest removals.
    if manifest.end_us.is_some() && found_first > first {
        found.push(format!("{table} lacks its segments {first} to {}: they were removed", found_first - 1));
    }
    if found_last < last {
        found.push(format!("{table} lacks its segments {} to {last}: they were removed", found_last + 1));
    }
    found
}
