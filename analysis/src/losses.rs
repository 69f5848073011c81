//! What is missing in a recording: times that were not recorded, segments that were removed, and segments that cannot
//! be used.
//!
//! Queries use the rest, and report what is missing. `validate` reports the same and more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use huddle_model::schema::{Manifest, RecordingGap, SCHEMA_VERSION, Table};
use huddle_recording::columns::{self, Footer};
use huddle_recording::notes::Notes;
use huddle_recording::table::missing_segments;
use huddle_recording::{
    Listing, ManifestFault, Origin, SegmentFault, SegmentName, check_segment, list_segments, read_manifest,
};

/// The losses of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses {
    sentences: Vec<String>,
    /// Segments to skip, with the reason.
    unusable: BTreeMap<PathBuf, String>,
    /// Segments whose columns are not in the form of the recorder's: they are read as [`crate::rewritten`] has them.
    foreign: BTreeSet<PathBuf>,
    /// What is to know of the others.
    notes: Notes,
}

impl Losses {
    /// What can be found without decoding rows: gaps in the manifest, missing segments, wrong checksums and wrong
    /// columns. If the manifest cannot be used, the query itself reports that.
    pub(crate) fn of(run: &Path) -> Self {
        let manifest = match read_manifest(run) {
            Ok(manifest) => Some(manifest),
            // The responses of an experiment have no manifest.
            Err(ManifestFault::File { .. }) => None,
            Err(_) => return Self::default(),
        };
        let manifest = manifest.as_ref();
        let mut losses = Self::default();
        let gaps = manifest.into_iter().flat_map(|manifest| &manifest.gaps);
        losses.sentences.extend(gaps.map(RecordingGap::sentence));
        for table in tables(manifest) {
            match list_segments(run, table) {
                Ok(files) => losses.check_table(table, &files, manifest),
                Err(error) => losses.sentences.push(error.to_string()),
            }
        }
        losses
    }

    fn check_table(&mut self, table: Table, files: &Listing, manifest: Option<&Manifest>) {
        for ((_, path), checked) in files.segments.iter().zip(check_all(table, files, manifest)) {
            let why = match checked {
                // A recorder that still runs removes the oldest ones.
                Err(fault) if fault.is_gone() => {
                    self.unusable.insert(path.clone(), fault.to_string());
                    continue;
                }
                Err(fault) => Some(fault),
                Ok((origin, footer)) => {
                    self.notes.add(table, &origin, &footer.further);
                    // What is read by version needs the columns of that of the manifest.
                    let version = manifest.map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
                    // Another program may have left an Arrow schema that contradicts Parquet's own types, and which Polars
                    // would go by.
                    let is_others = matches!(origin, Origin::Other(_));
                    if is_others || !footer.is_as_written || footer.version != version {
                        self.foreign.insert(path.clone());
                    }
                    None
                }
            };
            if let Some(why) = why {
                self.add_unusable(path, &why);
            }
        }
        self.sentences.extend(missing_segments(table, files, manifest));
    }

    pub(crate) fn add_unusable(&mut self, path: &Path, why: &SegmentFault) {
        self.sentences.push(why.to_string());
        self.unusable.insert(path.to_owned(), why.to_string());
    }

    /// One sentence per loss.
    pub(crate) fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// Why a segment must be skipped.
    pub(crate) fn fault(&self, segment: &Path) -> Option<&str> {
        self.unusable.get(segment).map(String::as_str)
    }

    /// Whether a segment has to be brought into the form of the recorder's before it is read.
    pub(crate) fn is_foreign(&self, segment: &Path) -> bool {
        self.foreign.contains(segment)
    }

    /// How many segments are skipped.
    pub(crate) fn unusable(&self) -> usize {
        self.unusable.len()
    }

    /// Notes for the user that are not losses.
    pub(crate) fn notes(&self) -> &Notes {
        &self.notes
    }
}

/// The tables that the manifest's version knows.
pub(crate) fn tables(manifest: Option<&Manifest>) -> impl Iterator<Item = Table> {
    let is_known = move |table: &Table| manifest.is_none_or(|manifest| manifest.knows(*table));
    Table::ALL.iter().copied().filter(is_known)
}

/// Compares the segments of a table with their checksums, several at a time, since this reads all of a recording, and
/// checks their columns. Returns what is known of each, or why it cannot be used.
fn check_all(
    table: Table,
    files: &Listing,
    manifest: Option<&Manifest>,
) -> Vec<Result<(Origin, Footer), SegmentFault>> {
    let segments = &files.segments;
    let version = manifest.map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
    let check = |number, path: &Path| {
        let checked = check_segment(path, SegmentName { table, number, manifest })?;
        let footer = columns::footer(&checked.file, table, version);
        Ok((checked.origin, footer.map_err(|what| SegmentFault::of(path, what))?))
    };
    let results = Mutex::new(Vec::with_capacity(segments.len()));
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((number, path)) = segments.get(at) else { return };
            let checked = check(*number, path);
            results.lock().unwrap_or_else(PoisonError::into_inner).push((at, checked));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(segments.len());
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, checked)| checked).collect()
}
