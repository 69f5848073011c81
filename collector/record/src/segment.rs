//! One segment file, from its temporary name to its final one.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow_schema::SchemaRef;
use huddle_model::schema::{Row, SCHEMA_VERSION, Table, Value};
use huddle_recording::columns::{TABLE_KEY, VERSION_KEY};
use huddle_recording::{label, table, table_dir};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use super::RecordError;
use super::batch::{arrow_schema, batch, pieces};
use huddle_host::files;

/// The column of hashes in the table `sketches`.
const HASH: &str = "hash";

/// A segment that is being written. If it is dropped without [`OpenSegment::close`], it removes its file, which
/// could not be read.
pub(super) struct OpenSegment {
    temporary: PathBuf,
    name: PathBuf,
    schema: SchemaRef,
    /// Device and number of the file at the temporary name.
    file: (u64, u64),
    /// `None` once closing has begun.
    writer: Option<ArrowWriter<File>>,
    /// Rows in it.
    pub(super) rows: u64,
    /// The time of its first row, in microseconds since the Unix epoch.
    pub(super) first_us: Option<i64>,
    /// When it was opened.
    pub(super) opened: Instant,
}

/// A segment that was closed.
#[derive(Debug)]
pub(super) struct ClosedSegment {
    /// Its file.
    pub(super) path: PathBuf,
    /// Rows in it.
    pub(super) rows: u64,
    /// Size of its file.
    pub(super) bytes: u64,
}

impl OpenSegment {
    /// Opens segment `number` (from 1) of `table` in the run of this id in `dir`.
    pub(super) fn open(
        dir: &Path,
        run: &str,
        table: Table,
        number: u64,
        now: Instant,
    ) -> Result<Self, RecordError> {
        let run_dir = dir;
        let dir = table_dir(run_dir, table);
        make_table_dir(run_dir, &dir)?;
        let temporary = dir.join(table::open_name(number));
        let name = dir.join(table::file_name(number));
        // A file that an earlier attempt could not remove.
        let _ = std::fs::remove_file(&temporary);
        let file = create_private(&temporary)?;
        let about_file = file.metadata().map_err(RecordError::file("look at", &temporary))?;
        let about = |key: &str, value: String| KeyValue::new(key.to_owned(), value);
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            // Names repeat in every round, so dictionaries are most of the compression.
            .set_dictionary_enabled(true)
            .set_created_by(format!("{}{}", label::WRITER, env!("CARGO_PKG_VERSION")))
            .set_key_value_metadata(Some(vec![
                about(TABLE_KEY, table.name().to_owned()),
                about(VERSION_KEY, SCHEMA_VERSION.to_string()),
                about(label::LABEL_KEY, label::unsealed(run, table.name(), number)),
            ]))
            // Hashes do not repeat, and those of a VM are ascending.
            .set_column_dictionary_enabled(HASH.into(), false)
            .set_column_encoding(HASH.into(), Encoding::DELTA_BINARY_PACKED)
            .build();
        let schema = arrow_schema(table);
        let writer = ArrowWriter::try_new(file, schema.clone(), Some(properties));
        let writer = writer.map_err(|source| {
            // The first write failed: leave nothing behind, and report that error.
            let _ = std::fs::remove_file(&temporary);
            RecordError::parquet(&temporary)(source)
        })?;
        Ok(Self {
            temporary,
            name,
            schema,
            file: (about_file.dev(), about_file.ino()),
            writer: Some(writer),
            rows: 0,
            first_us: None,
            opened: now,
        })
    }

    /// Adds rows.
    pub(super) fn append<R: Row>(&mut self, rows: &[R]) -> Result<(), RecordError> {
        let Some(writer) = self.writer.as_mut() else { return Ok(()) };
        for piece in pieces(rows) {
            batch(self.schema.clone(), piece)
                .map_err(parquet::errors::ParquetError::from)
                .and_then(|batch| writer.write(&batch))
                .map_err(RecordError::parquet(&self.temporary))?;
        }
        self.rows += rows.len() as u64;
        self.first_us = self.first_us.or_else(|| time_of(rows.first()?));
        Ok(())
    }

    /// Whether its file is still where it was opened; if not, its rows are lost when it is closed.
    pub(super) fn is_in_place(&self) -> bool {
        let there = std::fs::symlink_metadata(&self.temporary);
        there.is_ok_and(|about| (about.dev(), about.ino()) == self.file)
    }

    /// About how many bytes its file will have.
    pub(super) fn bytes(&self) -> u64 {
        self.writer.as_ref().map_or(0, |writer| (writer.bytes_written() + writer.in_progress_size()) as u64)
    }

    /// Writes the remaining rows, seals the label, syncs, and gives the file its final name: from then on a crash
    /// cannot harm it, and any reader can check it.
    pub(super) fn close(mut self) -> Result<ClosedSegment, RecordError> {
        let Some(writer) = self.writer.take() else {
            return Err(RecordError::Panicked("a segment was closed twice".to_owned()));
        };
        let file = writer.into_inner().map_err(RecordError::parquet(&self.temporary))?;
        label::seal(&file).map_err(RecordError::label(&self.temporary))?;
        let bytes = file.metadata().map_err(RecordError::file("look at", &self.temporary))?.len();
        files::publish(&file, &self.temporary, &self.name).map_err(|source| {
            // It may have its final name without being on disk: its rows are counted as lost.
            let _ = std::fs::remove_file(&self.name);
            RecordError::file("sync and rename", &self.temporary)(source)
        })?;
        Ok(ClosedSegment { path: self.name.clone(), rows: self.rows, bytes })
    }
}

impl Drop for OpenSegment {
    fn drop(&mut self) {
        // After `close` the temporary name is gone and this does nothing.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// The time of a row: the first column of every table is one.
pub(super) fn time_of<R: Row>(row: &R) -> Option<i64> {
    match R::CELLS.first()?(row) {
        Value::I64(time_us) => Some(time_us),
        _ => None,
    }
}

/// Writes a dataset of one segment, with the rows of all `groups`, in `dir`: a table beside the result of a run
/// instead of in a recording. Everybody may read it, as the result.
///
/// # Errors
/// It cannot be written.
pub fn write_segment<R: Row>(
    dir: &Path,
    table: Table,
    groups: impl Iterator<Item = Vec<R>>,
) -> Result<PathBuf, RecordError> {
    make_private_dir(dir)?;
    // It belongs to no run; the result is beside it.
    let mut segment = OpenSegment::open(dir, "-", table, 1, Instant::now())?;
    groups.into_iter().try_for_each(|rows| segment.append(&rows))?;
    let path = segment.close()?.path;
    for (path, mode) in [(&*path, 0o644), (&*dir.join(table.name()), 0o755)] {
        let readable = std::fs::set_permissions(path, Permissions::from_mode(mode));
        readable.map_err(RecordError::file("let others read", path))?;
    }
    Ok(path)
}

/// Makes `dir` and its missing parents, for the owner alone.
pub(super) fn make_private_dir(dir: &Path) -> Result<(), RecordError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(RecordError::file("make the directory", dir))
}

/// Makes the directory of a table in that of its run. The run's directory is not made: if it was removed or moved,
/// recording is interrupted and has to resume.
fn make_table_dir(run: &Path, dir: &Path) -> Result<(), RecordError> {
    if dir.parent() != Some(run) {
        // By table: what is above it belongs to no run.
        return if run.is_dir() { make_private_dir(dir) } else { Err(RecordError::Gone(run.to_owned())) };
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(RecordError::Gone(run.to_owned())),
        made => made.map_err(RecordError::file("make the directory", dir)),
    }
}

/// Makes a file that occupies `bytes` on disk.
pub(super) fn reserve_space(path: &Path, bytes: i64) -> Result<(), RecordError> {
    let file = create_private(path)?;
    let reserved = nix::fcntl::posix_fallocate(&file, 0, bytes).map_err(std::io::Error::from);
    reserved.map_err(RecordError::file("reserve space in", path))
}

fn create_private(path: &Path) -> Result<File, RecordError> {
    // The label is sealed by reading what was written.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path);
    file.map_err(RecordError::file("create", path))
}
