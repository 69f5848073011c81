//! What is missing in a recording: times that were not recorded, segments that were removed, and segments that cannot
//! be used.
//!
//! Queries use the rest, and report what is missing. `validate` reports the same and more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use huddle_model::schema::{Manifest, RecordingGap, SCHEMA_VERSION, Table};
use huddle_recording::table::missing_segments;
use huddle_recording::{
    Listing, ManifestFault, SegmentFault, SegmentName, check_segment, list_segments, read_manifest,
};

use crate::segment;

/// The losses of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Losses {
    sentences: Vec<String>,
    /// Segments to skip, with the reason.
    unusable: BTreeMap<PathBuf, String>,
    /// How many segments have no checksum, since an older version wrote them.
    unchecked: usize,
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
                Ok(has_checksum) => {
                    self.unchecked += usize::from(!has_checksum);
                    match manifest {
                        Some(manifest) => segment::check_columns(path, table, manifest.schema_version).err(),
                        None => segment::check_opens(path).err(),
                    }
                }
            };
            if let Some(why) = why {
                self.add_unusable(path, &why);
            }
        }
        self.sentences.extend(missing_segments(table, files, manifest));
    }

    /// Reads every row, since a segment without a checksum may be damaged inside, and adds the unusable segments; returns
    /// how many were added.
    pub(crate) fn check_all_rows(&mut self, run: &Path) -> usize {
        let known = self.unusable.len();
        let manifest = read_manifest(run).ok();
        let version = manifest.as_ref().map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
        for table in tables(manifest.as_ref()) {
            for (_, path) in list_segments(run, table).unwrap_or_default().segments {
                if self.fault(&path).is_none()
                    && let Err(why) = segment::check(&path, table, version, &mut segment::Times::default())
                {
                    self.add_unusable(&path, &why);
                }
            }
        }
        self.unusable.len() - known
    }

    fn add_unusable(&mut self, path: &Path, why: &SegmentFault) {
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

    /// Notes for the user that are not losses.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> + '_ {
        (self.unchecked > 0).then(|| {
            format!(
                "{} segments have no checksum, as older versions wrote them: damage in them may go unnoticed",
                self.unchecked
            )
        })
        .into_iter()
    }
}

/// The tables that the manifest's version knows.
fn tables(manifest: Option<&Manifest>) -> impl Iterator<Item = Table> {
    let is_known = move |table: &Table| manifest.is_none_or(|manifest| manifest.knows(*table));
    Table::ALL.iter().copied().filter(is_known)
}

/// Compares the segments of a table with their checksums, several at a time, since this reads all of a recording.
/// Returns whether each has one, or why it cannot be used.
fn check_all(table: Table, files: &Listing, manifest: Option<&Manifest>) -> Vec<Result<bool, SegmentFault>> {
    let segments = &files.segments;
    let results = Mutex::new(Vec::with_capacity(segments.len()));
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some((number, path)) = segments.get(at) else { return };
            let checked = check_segment(path, SegmentName { table, number: *number, manifest });
            let checked = checked.map(|checked| checked.has_checksum);
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
