//! The directory of a run, and whether it is still the one where recording began.

use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use huddle_recording::read_manifest;

use super::RecordError;
use super::segment::reserve_space;

/// Space kept so that a full disk can still be told in the last manifest.
const RESERVE_FILE: &str = ".reserve";
const RESERVE_BYTES: i64 = 64 << 10;

/// Where a run is recorded.
pub(super) struct Place {
    dir: PathBuf,
    /// Id of the run.
    run: String,
    /// Device and number of the directory.
    id: (u64, u64),
}

impl Place {
    /// The directory `dir`, which is there and is of the run of this id.
    pub(super) fn of(dir: &Path, run: &str) -> Result<Self, RecordError> {
        let about = std::fs::metadata(dir).map_err(RecordError::file("look at", dir))?;
        Ok(Self { dir: dir.to_owned(), run: run.to_owned(), id: (about.dev(), about.ino()) })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the directory that is there is the one of this run.
    pub(super) fn is_here(&self) -> bool {
        std::fs::metadata(&self.dir).is_ok_and(|about| (about.dev(), about.ino()) == self.id)
    }

    /// # Errors
    /// The directory that is there is another one, which is nobody's to write to.
    pub(super) fn be_here(&self) -> Result<(), RecordError> {
        if self.is_here() { Ok(()) } else { Err(RecordError::Gone(self.dir.clone())) }
    }

    /// Keeps space back.
    pub(super) fn reserve(&self) -> Result<(), RecordError> {
        let path = self.dir.join(RESERVE_FILE);
        // Half of it may be there, where the other half did not fit.
        self.free_reserve();
        reserve_space(&path, RESERVE_BYTES).inspect_err(|_| self.free_reserve())
    }

    /// Gives it back.
    pub(super) fn free_reserve(&self) {
        if self.is_here() {
            // Absent after the first time, and of no consequence but 64 KiB where it cannot be removed.
            let _ = std::fs::remove_file(self.dir.join(RESERVE_FILE));
        }
    }

    /// Has the place ready for more, after it could not be written.
    ///
    /// # Errors
    /// It cannot be written yet, or is no longer this run's.
    pub(super) fn restore(&mut self) -> Result<(), RecordError> {
        match std::fs::metadata(&self.dir) {
            Ok(about) if !about.is_dir() => return Err(self.not_ours("is no directory any more")),
            Ok(about) if (about.dev(), about.ino()) != self.id => self.be_ours()?,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => self.make_again()?,
            Err(error) => return Err(RecordError::file("look at", &self.dir)(error)),
        }
        let about = std::fs::metadata(&self.dir).map_err(RecordError::file("look at", &self.dir))?;
        self.id = (about.dev(), about.ino());
        self.reserve()
    }

    /// Another directory has the name: it must be empty, or a copy of this run that was put back.
    fn be_ours(&self) -> Result<(), RecordError> {
        if read_manifest(&self.dir).is_ok_and(|manifest| manifest.run == self.run) {
            return Ok(());
        }
        let mut entries = std::fs::read_dir(&self.dir).map_err(RecordError::file("list", &self.dir))?;
        if entries.next().is_some() {
            return Err(self.not_ours("is another directory now, and is not empty"));
        }
        Ok(())
    }

    /// The directory was removed. It is made again only in the file system where it was: where that is gone, its
    /// mount point is a directory of another one, which must not be filled unseen.
    fn make_again(&self) -> Result<(), RecordError> {
        let parent = match self.dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let about = std::fs::metadata(parent).map_err(RecordError::file("look at", parent))?;
        if about.dev() != self.id.0 {
            return Err(self.not_ours("was in a file system that is not there"));
        }
        let made = std::fs::DirBuilder::new().mode(0o700).create(&self.dir);
        made.map_err(RecordError::file("make the directory", &self.dir))
    }

    fn not_ours(&self, what: &'static str) -> RecordError {
        RecordError::NotOurs { dir: self.dir.clone(), what }
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::schema::MANIFEST_FILE;
    use huddle_testing::sample::manifest;

    use super::*;

    #[test]
    fn a_directory_that_went_is_made_again_and_anothers_is_left_alone() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("run");
        std::fs::create_dir(&dir).unwrap();
        let mut place = Place::of(&dir, &manifest().run).unwrap();
        place.restore().unwrap();
        assert_eq!(std::fs::metadata(dir.join(RESERVE_FILE)).unwrap().len(), RESERVE_BYTES as u64);

        // Removed with its parent: nobody wants that again.
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::create_dir(&dir).unwrap();
        place.restore().unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        place.restore().unwrap();
        std::fs::rename(&dir, top.path().join("moved")).unwrap();

        std::fs::create_dir(&dir).unwrap();
        let other = dir.join(MANIFEST_FILE);
        let text =
            |run: &str| huddle_model::schema::Manifest { run: run.into(), ..manifest() }.to_json().unwrap();
        std::fs::write(&other, text("another")).unwrap();
        let error = place.restore().unwrap_err().to_string();
        assert!(error.contains("is another directory now, and is not empty"), "{error}");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::write(&other, text(&manifest().run)).unwrap();
        place.restore().unwrap();

        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::write(&dir, "").unwrap();
        assert!(place.restore().unwrap_err().to_string().contains("is no directory any more"));
    }

    #[test]
    fn no_other_file_system_is_filled_instead() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("run");
        std::fs::create_dir(&dir).unwrap();
        let mut place = Place::of(&dir, "r").unwrap();
        place.id.0 ^= 1;
        std::fs::remove_dir(&dir).unwrap();
        let error = place.restore().unwrap_err().to_string();
        assert!(error.contains("was in a file system that is not there"), "{error}");
        assert!(!dir.exists());
    }
}
