//! The directory of a run, and whether it is still the one in which recording began.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use huddle_recording::read_manifest;

use super::RecordError;
use super::segment::reserve_space;

/// Space reserved so that the last manifest can be written on a full disk.
const RESERVE_FILE: &str = ".reserve";
const RESERVE_BYTES: i64 = 64 << 10;

/// The directory in which a run is recorded.
pub(super) struct RunDir {
    path: PathBuf,
    /// Id of the run.
    run: String,
    /// Device and number of the directory.
    id: (u64, u64),
}

impl RunDir {
    /// The existing directory `path` of the run of this id.
    pub(super) fn of(path: &Path, run: &str) -> Result<Self, RecordError> {
        let about = std::fs::metadata(path).map_err(RecordError::file("look at", path))?;
        Ok(Self { path: path.to_owned(), run: run.to_owned(), id: (about.dev(), about.ino()) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the directory of this run.
    pub(super) fn is_in_place(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == self.id)
    }

    /// # Errors
    /// The path leads to no directory or to another one, which must not be written to.
    pub(super) fn check_in_place(&self) -> Result<(), RecordError> {
        if self.is_in_place() { Ok(()) } else { Err(RecordError::Gone(self.path.clone())) }
    }

    /// Reserves space for the last manifest.
    pub(super) fn reserve(&self) -> Result<(), RecordError> {
        let path = self.path.join(RESERVE_FILE);
        // A part of it may be left of an attempt that did not fit.
        self.free_reserve();
        reserve_space(&path, RESERVE_BYTES).inspect_err(|_| self.free_reserve())
    }

    /// Frees the reserved space.
    pub(super) fn free_reserve(&self) {
        if self.is_in_place() {
            // Absent after the first time; if it cannot be removed, 64 KiB stay in use.
            let _ = std::fs::remove_file(self.path.join(RESERVE_FILE));
        }
    }

    /// Prepares the directory for writing again, after an interruption.
    ///
    /// # Errors
    /// It cannot be written yet, or no longer belongs to this run.
    pub(super) fn restore(&mut self) -> Result<(), RecordError> {
        match std::fs::metadata(&self.path) {
            Ok(about) if !about.is_dir() => return Err(self.not_ours("is no longer a directory")),
            Ok(about) if (about.dev(), about.ino()) != self.id => self.check_ours()?,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => self.make_again()?,
            Err(error) => return Err(RecordError::file("look at", &self.path)(error)),
        }
        let about = std::fs::metadata(&self.path).map_err(RecordError::file("look at", &self.path))?;
        self.id = (about.dev(), about.ino());
        self.reserve()
    }

    /// Another directory is at the path: it must be empty, or a copy of this run.
    fn check_ours(&self) -> Result<(), RecordError> {
        if read_manifest(&self.path).is_ok_and(|manifest| manifest.run == self.run) {
            return Ok(());
        }
        let mut entries = std::fs::read_dir(&self.path).map_err(RecordError::file("list", &self.path))?;
        if entries.next().is_some() {
            return Err(self.not_ours("is another directory now, and is not empty"));
        }
        Ok(())
    }

    /// The directory was removed. It is made again only on the same file system: if that was unmounted, the mount point
    /// belongs to another file system, which must not be filled by accident.
    fn make_again(&self) -> Result<(), RecordError> {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let about = std::fs::metadata(parent).map_err(RecordError::file("look at", parent))?;
        if about.dev() != self.id.0 {
            return Err(self.not_ours("was in a file system that is not there"));
        }
        let made = std::fs::DirBuilder::new().mode(0o700).create(&self.path);
        made.map_err(RecordError::file("make the directory", &self.path))
    }

    fn not_ours(&self, what: &'static str) -> RecordError {
        RecordError::NotOurs { dir: self.path.clone(), what }
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::schema::MANIFEST_FILE;
    use huddle_testing::sample::manifest;

    use super::*;

    #[test]
    fn a_removed_directory_is_made_again_and_another_one_is_left_alone() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("run");
        std::fs::create_dir(&dir).unwrap();
        let mut run_dir = RunDir::of(&dir, &manifest().run).unwrap();
        run_dir.restore().unwrap();
        assert_eq!(std::fs::metadata(dir.join(RESERVE_FILE)).unwrap().len(), RESERVE_BYTES as u64);

        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        run_dir.restore().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        run_dir.restore().unwrap();
        std::fs::rename(&dir, top.path().join("moved")).unwrap();

        std::fs::create_dir(&dir).unwrap();
        let other = dir.join(MANIFEST_FILE);
        let text =
            |run: &str| huddle_model::schema::Manifest { run: run.into(), ..manifest() }.to_json().unwrap();
        std::fs::write(&other, text("another")).unwrap();
        let error = run_dir.restore().unwrap_err().to_string();
        assert!(error.contains("is another directory now, and is not empty"), "{error}");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::write(&other, text(&manifest().run)).unwrap();
        run_dir.restore().unwrap();

        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::write(&dir, "").unwrap();
        assert!(run_dir.restore().unwrap_err().to_string().contains("is no longer a directory"));
    }

    #[test]
    fn no_other_file_system_is_filled_instead() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("run");
        std::fs::create_dir(&dir).unwrap();
        let mut run_dir = RunDir::of(&dir, "r").unwrap();
        run_dir.id.0 ^= 1;
        std::fs::remove_dir(&dir).unwrap();
        let error = run_dir.restore().unwrap_err().to_string();
        assert!(error.contains("was in a file system that is not there"), "{error}");
        assert!(!dir.exists());
    }
}
