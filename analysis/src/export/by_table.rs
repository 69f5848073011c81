//! Recordings in the layout by table: the segments as they are, where a reader of Parquet finds one table of all hosts in
//! one directory.

use std::fs;
use std::path::Path;

use huddle_model::schema::{MANIFEST_FILE, Table};
use huddle_recording::{RecordTarget, table_dir};

use crate::AnalysisError;
use crate::run::RunDir;

/// Copies what can be read of `tables` of `runs` below `root`, which is to be shown as `shown` in errors, and returns
/// the paths of the segments below it.
///
/// # Errors
/// Two recordings are of one host and one run; something cannot be read or written.
pub(crate) fn copy(
    runs: &[RunDir],
    tables: &[Table],
    root: &Path,
    shown: &Path,
) -> Result<Vec<String>, AnalysisError> {
    let mut written = Vec::new();
    for run in runs {
        let mut manifest = run.manifest()?;
        let (host, id) = (manifest.host.clone(), manifest.run.clone());
        let dir = RecordTarget::ByTable { root: root.to_owned(), host, run: id }.dir();
        let cannot = |path: &Path, message: String| {
            let path = shown.join(path.strip_prefix(root).unwrap_or(path));
            AnalysisError::Write { path, message }
        };
        if dir.exists() {
            let same = format!(
                "{} is of the same host and run as another recording; leave one out",
                run.path().display()
            );
            return Err(cannot(&dir, same));
        }
        make(&dir).map_err(|error| cannot(&dir, error.to_string()))?;
        // Readers miss no table that was not wanted.
        manifest.tables.retain(|table, _| tables.contains(table));
        let text = manifest.to_json().map_err(|error| cannot(&dir, error.to_string()))?;
        let path = dir.join(MANIFEST_FILE);
        fs::write(&path, text).map_err(|error| cannot(&path, error.to_string()))?;
        for table in tables {
            let to = table_dir(&dir, *table);
            let usable =
                run.files(*table)?.segments.into_iter().filter(|(_, path)| run.fault(path).is_none());
            for (_, from) in usable {
                make(&to).map_err(|error| cannot(&to, error.to_string()))?;
                let path = to.join(from.file_name().unwrap_or_default());
                fs::copy(&from, &path).map_err(|error| cannot(&path, error.to_string()))?;
                written.push(path.strip_prefix(root).unwrap_or(&path).display().to_string());
            }
        }
    }
    Ok(written)
}

/// Makes a directory for the owner alone.
fn make(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}
