//! What of a recording is lost to its readers: times that were not recorded, segments that were removed, and those
//! that cannot be used.
//!
//! Questions are answered from what is left, and say what was not. `validate` reports the same and more.

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

/// What one run lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Losses {
    sentences: Vec<String>,
    /// Segments to be passed over, with the reason.
    unusable: BTreeMap<PathBuf, String>,
    /// Segments that have no checksum, since they were written before segments had one.
    unchecked: usize,
}

impl Losses {
    /// What can be told without reading rows: the gaps of the manifest, the numbers of the segments, whether their
    /// bytes are those that were written, and their columns. Where the manifest cannot be used it is left to the
    /// question to say so.
    pub(crate) fn of(run: &Path) -> Self {
        let manifest = match read_manifest(run) {
            Ok(manifest) => Some(manifest),
            // The responses of an experiment stand without a manifest.
            Err(ManifestFault::File { .. }) => None,
            Err(_) => return Self::default(),
        };
        let manifest = manifest.as_ref();
        let mut losses = Self::default();
        let gaps = manifest.into_iter().flat_map(|manifest| &manifest.gaps);
        losses.sentences.extend(gaps.map(RecordingGap::sentence));
        for table in tables(manifest) {
            match list_segments(run, table) {
                Ok(files) => losses.look(table, &files, manifest),
                Err(error) => losses.sentences.push(error.to_string()),
            }
        }
        losses
    }

    fn look(&mut self, table: Table, files: &Listing, manifest: Option<&Manifest>) {
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
                        Some(manifest) => segment::columns(path, table, manifest.schema_version).err(),
                        None => segment::opens(path).err(),
                    }
                }
            };
            if let Some(why) = why {
                self.give_up(path, &why);
            }
        }
        self.sentences.extend(missing_segments(table, files, manifest));
    }

    /// Reads every row, since damage may be within a segment that has no checksum, and adds what turns out to be
    /// unusable; how many segments that are.
    pub(crate) fn read_through(&mut self, run: &Path) -> usize {
        let known = self.unusable.len();
        let manifest = read_manifest(run).ok();
        let version = manifest.as_ref().map_or(SCHEMA_VERSION, |manifest| manifest.schema_version);
        for table in tables(manifest.as_ref()) {
            for (_, path) in list_segments(run, table).unwrap_or_default().segments {
                if self.fault(&path).is_none()
                    && let Err(why) = segment::check(&path, table, version, &mut segment::Times::default())
                {
                    self.give_up(&path, &why);
                }
            }
        }
        self.unusable.len() - known
    }

    fn give_up(&mut self, path: &Path, why: &SegmentFault) {
        self.sentences.push(why.to_string());
        self.unusable.insert(path.to_owned(), why.to_string());
    }

    /// One sentence a loss.
    pub(crate) fn sentences(&self) -> &[String] {
        &self.sentences
    }

    /// Why a segment must be passed over.
    pub(crate) fn fault(&self, segment: &Path) -> Option<&str> {
        self.unusable.get(segment).map(String::as_str)
    }

    /// What should be known though nothing is known to be lost.
    pub(crate) fn notes(&self) -> impl Iterator<Item = String> + '_ {
        (self.unchecked > 0).then(|| {
            format!(
                "{} segments were written before segments had a checksum: damage in them may go unnoticed",
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

/// Compares the segments of a table with their checksums, several at a time: reading all of a recording is what that
/// takes. Whether each has one, or why it cannot be used.
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
