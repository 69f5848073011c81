//! Tables as trees of their own: `TABLE/host=HOST/run=RUN/segment-NNNNNN.parquet`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use huddle_model::schema::{SCHEMA_VERSION, Table};
use huddle_model::text::first_line;
use huddle_recording::partition;
use huddle_recording::table::file_name;
use polars::prelude::*;

use crate::AnalysisError;
use crate::frame::collect;
use crate::run::RunDir;

/// Writes the usable segments of `tables` to `unfinished`, and returns the paths of their files in it; errors name them in
/// `dir`. Segments are copied as they are. Those of an older schema version are written again as one segment with the
/// columns of this version, so that all files of a table have the same ones.
pub(super) fn write(
    runs: &[RunDir],
    tables: &[Table],
    unfinished: &Path,
    dir: &Path,
) -> Result<Vec<String>, AnalysisError> {
    let mut written = Vec::new();
    let mut partitions = BTreeSet::new();
    for run in runs {
        let manifest = run.manifest()?;
        let partition = partition::of_run(&manifest.host, &manifest.run);
        if !partitions.insert(partition.clone()) {
            return Err(AnalysisError::Write {
                path: dir.join("TABLE").join(partition),
                message: format!(
                    "two recordings are the run {:?} of the host {:?}; name one of them",
                    manifest.run, manifest.host
                ),
            });
        }
        for table in tables {
            let (version, segments) = run.readable_files(*table)?;
            let place = Path::new(table.name()).join(&partition);
            let name = |file: &str| place.join(file).to_string_lossy().into_owned();
            let cannot = |message: String| AnalysisError::Write { path: dir.join(&place), message };
            if segments.is_empty() {
                continue;
            }
            fs::create_dir_all(unfinished.join(&place)).map_err(|error| cannot(error.to_string()))?;
            if version == SCHEMA_VERSION {
                for (number, segment) in (1..).zip(segments) {
                    let name = name(&file_name(number));
                    fs::copy(&segment, unfinished.join(&name)).map_err(|error| cannot(error.to_string()))?;
                    written.push(name);
                }
            } else if let Some(frame) = run.scan(*table)? {
                let name = name(&file_name(1));
                write_again(frame, unfinished.join(&name))
                    .map_err(|error| cannot(first_line(&error.to_string()).to_owned()))?;
                written.push(name);
            }
        }
    }
    Ok(written)
}

fn write_again(frame: LazyFrame, path: PathBuf) -> PolarsResult<()> {
    let target = SinkTarget::Path(PlRefPath::try_from_path(&path)?);
    let kind = FileWriteFormat::Parquet(Arc::default());
    collect(frame.sink(SinkDestination::File { target }, kind, UnifiedSinkArgs::default())?).map(|_| ())
}
