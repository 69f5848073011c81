//! Where recordings are, and how their tables are scanned.

use std::path::{Path, PathBuf};

use huddle_model::schema::{MANIFEST_FILE, Manifest, Table};
use polars::io::HiveOptions;
use polars::prelude::{LazyFrame, PlRefPath, PolarsResult, ScanArgsParquet};

use crate::AnalysisError;

/// How many directories below the named one a run may be: `host=NAME/run=ID`, and one for a tree of trees.
const DEEPEST: usize = 3;

/// The directory of one run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RunDir(PathBuf);

/// The files of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableFiles {
    /// Closed segments with their numbers, ascending.
    pub segments: Vec<(u64, PathBuf)>,
    /// Segments that were open when the recording stopped; nobody can read them.
    pub open: Vec<PathBuf>,
    /// Files that no recorder makes.
    pub strange: Vec<PathBuf>,
}

impl RunDir {
    /// The runs at `path`: the directory of one, a tree that holds some, or a pattern (`*`, `?`, `[..]`)
    /// of such, in ascending order.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(path: &Path) -> Result<Vec<Self>, AnalysisError> {
        // A path that exists is meant as it is, whatever characters it has.
        match path.to_str().filter(|text| text.contains(['*', '?', '[']) && !path.exists()) {
            Some(pattern) => Self::matching(pattern),
            None => Self::at(path),
        }
    }

    /// The runs at all paths that match a pattern; what is no recording is passed over.
    fn matching(pattern: &str) -> Result<Vec<Self>, AnalysisError> {
        let bad = |error: &dyn std::fmt::Display| {
            AnalysisError::Pattern(format!("{pattern:?} is not a pattern of paths: {error}"))
        };
        let mut found = Vec::new();
        for path in glob::glob(pattern).map_err(|error| bad(&error))? {
            match Self::at(&path.map_err(|error| bad(&error))?) {
                Ok(runs) => found.extend(runs),
                Err(AnalysisError::NoRun(_) | AnalysisError::NotADirectory(_)) => {}
                Err(error) => return Err(error),
            }
        }
        found.sort();
        found.dedup();
        if found.is_empty() {
            return Err(AnalysisError::Pattern(format!("{pattern:?} matches no recording")));
        }
        Ok(found)
    }

    fn at(path: &Path) -> Result<Vec<Self>, AnalysisError> {
        let about = std::fs::metadata(path).map_err(AnalysisError::read(path))?;
        if !about.is_dir() {
            return Err(AnalysisError::NotADirectory(path.to_owned()));
        }
        let mut found = Vec::new();
        find_below(path, DEEPEST, &mut found)?;
        if found.is_empty() {
            return Err(AnalysisError::NoRun(path.to_owned()));
        }
        found.sort();
        Ok(found)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Path of its manifest.
    pub fn manifest_path(&self) -> PathBuf {
        self.0.join(MANIFEST_FILE)
    }

    /// Its manifest.
    ///
    /// # Errors
    /// When it cannot be read, or is of a version that this program does not know.
    pub fn manifest(&self) -> Result<Manifest, AnalysisError> {
        let path = self.manifest_path();
        let text = std::fs::read_to_string(&path).map_err(AnalysisError::read(&path))?;
        Manifest::from_json(&text).map_err(|source| AnalysisError::Manifest { path, source })
    }

    /// The files of a table; none where its directory is not there, since a table gets one with its
    /// first row.
    pub fn files(&self, table: Table) -> Result<TableFiles, AnalysisError> {
        let dir = self.0.join(table.name());
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(TableFiles::default()),
            Err(error) => return Err(AnalysisError::read(&dir)(error)),
        };
        let mut files = TableFiles::default();
        for entry in entries {
            let path = entry.map_err(AnalysisError::read(&dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match segment_number(&name) {
                Some(number) => files.segments.push((number, path)),
                None if name.starts_with(".segment-") && name.ends_with(".tmp") => files.open.push(path),
                None => files.strange.push(path),
            }
        }
        files.segments.sort();
        files.open.sort();
        files.strange.sort();
        Ok(files)
    }

    /// A lazy scan of a table's closed segments in order; `None` where there is none.
    pub fn scan(&self, table: Table) -> Result<Option<LazyFrame>, AnalysisError> {
        let files = self.files(table)?;
        if files.segments.is_empty() {
            return Ok(None);
        }
        let frame = scan_files(files.segments.iter().map(|(_, path)| path.as_path()));
        frame.map(Some).map_err(AnalysisError::table(&self.0, table))
    }
}

/// Scans exactly these files, whatever characters and `key=value` parts their paths have.
pub(crate) fn scan_files<'a>(files: impl Iterator<Item = &'a Path>) -> PolarsResult<LazyFrame> {
    let paths: Vec<PlRefPath> = files.map(PlRefPath::try_from_path).collect::<PolarsResult<_>>()?;
    let args =
        ScanArgsParquet { glob: false, hive_options: HiveOptions::new_disabled(), ..Default::default() };
    LazyFrame::scan_parquet_files(paths.into_iter().collect(), args)
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?.strip_suffix(".parquet")?;
    (digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn find_below(dir: &Path, depth: usize, found: &mut Vec<RunDir>) -> Result<(), AnalysisError> {
    if is_run(dir) {
        found.push(RunDir(dir.to_owned()));
        return Ok(());
    }
    if depth == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).map_err(AnalysisError::read(dir))? {
        let entry = entry.map_err(AnalysisError::read(dir))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            find_below(&entry.path(), depth - 1, found)?;
        }
    }
    Ok(())
}

/// A run has a manifest; one that lost it still has its tables, which `validate` has to find.
fn is_run(dir: &Path) -> bool {
    let has_segment = |table: &&Table| {
        std::fs::read_dir(dir.join(table.name())).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry.is_ok_and(|entry| segment_number(&entry.file_name().to_string_lossy()).is_some())
            })
        })
    };
    dir.join(MANIFEST_FILE).is_file() || Table::ALL.iter().any(|table| has_segment(&table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_told_from_everything_else() {
        assert_eq!(segment_number("segment-000042.parquet"), Some(42));
        assert_eq!(segment_number("segment-1000000.parquet"), Some(1_000_000));
        for name in [".segment-000001.parquet.tmp", "segment-1.parquet", "segment-00000x.parquet", "a"] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_recording_is_said_in_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        for (path, words) in
            [("", "holds no recording"), ("file", "is a file"), ("none", "No such file or directory")]
        {
            let error = RunDir::find(&dir.path().join(path)).unwrap_err().to_string();
            assert!(error.contains(words) && !error.contains('\n'), "{error}");
        }
    }
}
