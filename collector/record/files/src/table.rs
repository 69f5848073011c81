//! The segments of a table: which files exist, and which are missing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use huddle_model::schema::{Manifest, Table};

use super::place::table_dir;
use super::regular::name_of;

/// The files in the directory of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Closed segments with their numbers, ascending.
    pub segments: Vec<(u64, PathBuf)>,
    /// Segments that were open when the recorder ended; they cannot be read.
    pub open: Vec<PathBuf>,
    /// Files that the recorder did not make.
    pub unknown: Vec<PathBuf>,
}

/// A directory of a table that cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum TableFault {
    /// It is not a directory.
    #[error("{} is {what}, and the segments of a table are in a directory: its rows are missing", path.display())]
    NoDirectory {
        /// Where it should be.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// The kernel refuses.
    #[error("cannot list {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
}

/// Name of the file of a closed segment.
pub fn file_name(number: u64) -> String {
    format!("segment-{number:06}.parquet")
}

/// Name of the file of a segment that is being written.
pub fn open_name(number: u64) -> String {
    format!(".{}.tmp", file_name(number))
}

/// The number of the closed segment of this file name.
pub fn number_of(name: &str) -> Option<u64> {
    let number = name.strip_prefix("segment-")?.strip_suffix(".parquet")?.parse().ok()?;
    // Only the spelling of `file_name` is valid.
    (number > 0 && file_name(number) == name).then_some(number)
}

/// The files of `table` in the run `dir`; none if its directory does not exist, since a table gets one with its first
/// row. A symbolic link in the place of the directory is not followed.
///
/// # Errors
/// It is not a directory, or cannot be listed.
pub fn list_segments(dir: &Path, table: Table) -> Result<Listing, TableFault> {
    let path = table_dir(dir, table);
    match std::fs::symlink_metadata(&path) {
        Ok(about) if about.is_dir() => list(&path).map_err(|source| TableFault::Io { path, source }),
        Ok(about) => Err(TableFault::NoDirectory { path, what: other_name(about.file_type()) }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Listing::default()),
        Err(source) => Err(TableFault::Io { path, source }),
    }
}

fn other_name(kind: std::fs::FileType) -> &'static str {
    if kind.is_file() { "a file" } else { name_of(kind) }
}

fn list(dir: &Path) -> std::io::Result<Listing> {
    let mut files = Listing::default();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match number_of(&name) {
            Some(number) => files.segments.push((number, path)),
            None if name.starts_with(".segment-") && name.ends_with(".tmp") => files.open.push(path),
            None => files.unknown.push(path),
        }
    }
    files.segments.sort();
    files.open.sort();
    files.unknown.sort();
    Ok(files)
}

impl Listing {
    /// The numbers of the first and the last segment.
    pub fn span(&self) -> Option<(u64, u64)> {
        self.segments.first().zip(self.segments.last()).map(|((first, _), (last, _))| (*first, *last))
    }
}

/// The missing segments of `table`, one sentence per range. Segments are numbered consecutively, and the recorder
/// removes the oldest first; without a manifest only gaps between segments are known.
pub fn missing_segments(table: Table, files: &Listing, manifest: Option<&Manifest>) -> Vec<String> {
    let numbers: Vec<u64> = files.segments.iter().map(|(number, _)| *number).collect();
    let sentence = |(first, last)| match first == last {
        true => format!("{table} lacks segment {first}: it was removed, and its rows are missing"),
        false => {
            format!("{table} lacks segments {first} to {last}: they were removed, and their rows are missing")
        }
    };
    missing(&numbers, manifest.map(|manifest| expected(table, manifest))).into_iter().map(sentence).collect()
}

/// The segments of a table according to the manifest.
#[derive(Clone, Copy, Debug)]
struct Expected {
    first: u64,
    last: u64,
    /// Whether the run has ended; before, segments may have been removed that the manifest does not count yet.
    is_final: bool,
}

fn expected(table: Table, manifest: &Manifest) -> Expected {
    let counts = manifest.counts(table);
    Expected {
        first: counts.segments_removed.saturating_add(1),
        last: counts.segments_written,
        is_final: manifest.end_us.is_some(),
    }
}

/// Ranges that are missing in ascending numbers.
fn missing(numbers: &[u64], expected: Option<Expected>) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut note = |first: u64, last: u64| {
        if first <= last {
            ranges.push((first, last));
        }
    };
    let found = numbers.first().copied();
    let mut next = match (expected, found) {
        (Some(expected), Some(found)) if !expected.is_final => found.max(expected.first),
        (Some(expected), _) => expected.first,
        (None, found) => found.unwrap_or(1),
    };
    for number in numbers {
        note(next, number.saturating_sub(1));
        next = next.max(number.saturating_add(1));
    }
    if let Some(Expected { last, .. }) = expected {
        note(next, last);
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_segments_are_accepted() {
        assert_eq!(number_of("segment-000042.parquet"), Some(42));
        assert_eq!(number_of("segment-1000000.parquet"), Some(1_000_000));
        for name in [
            ".segment-000001.parquet.tmp",
            "segment-1.parquet",
            "segment-00000x.parquet",
            "segment-+00001.parquet",
            "segment-0000001.parquet",
            "segment-000000.parquet",
            "segment-000001.parquet.crc",
            "a",
        ] {
            assert_eq!(number_of(name), None, "{name}");
        }
        assert_eq!(open_name(3), ".segment-000003.parquet.tmp");
    }

    #[test]
    fn missing_ranges_follow_from_the_numbers_and_the_manifest() {
        let manifest = |first, last, is_final| Some(Expected { first, last, is_final });
        for (numbers, expected, lacking) in [
            (&[1, 2, 3][..], manifest(1, 3, true), &[][..]),
            (&[1, 4, 6], manifest(1, 6, true), &[(2, 3), (5, 5)]),
            (&[3, 4], manifest(3, 4, true), &[]),
            (&[3, 4], manifest(1, 5, true), &[(1, 2), (5, 5)]),
            (&[3, 4], manifest(1, 4, false), &[]),
            (&[], manifest(1, 2, false), &[(1, 2)]),
            (&[], manifest(1, 2, true), &[(1, 2)]),
            (&[], manifest(1, 0, true), &[]),
            (&[2, 5], manifest(4, 5, true), &[(4, 4)]),
            (&[u64::MAX], manifest(u64::MAX, 1, true), &[]),
            (&[2, 5], None, &[(3, 4)]),
            (&[], None, &[]),
        ] {
            assert_eq!(missing(numbers, expected), lacking, "{numbers:?} {expected:?}");
        }
    }

    #[test]
    fn only_a_directory_holds_segments() {
        use std::os::unix::fs::symlink;
        let dir = tempfile::tempdir().unwrap();
        let table = |name: &str| dir.path().join(name);
        assert_eq!(list_segments(dir.path(), Table::Vms).unwrap(), Listing::default());
        std::fs::create_dir(table("vms")).unwrap();
        for name in
            ["segment-000002.parquet", "segment-000001.parquet", ".segment-000003.parquet.tmp", "notes"]
        {
            std::fs::write(table("vms").join(name), "").unwrap();
        }
        let found = list_segments(dir.path(), Table::Vms).unwrap();
        assert_eq!((found.span(), found.open.len(), found.unknown.len()), (Some((1, 2)), 1, 1));
        symlink(table("vms"), table("sharing")).unwrap();
        std::fs::write(table("ksm"), "").unwrap();
        for (of, words) in [(Table::Sharing, "sharing is a symbolic link"), (Table::Ksm, "ksm is a file")] {
            let error = list_segments(dir.path(), of).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
