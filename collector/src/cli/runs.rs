//! Recordings of a service: each run has a directory of its own in `[record] directory`, and the oldest are removed.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use huddle_model::text::counted;

use super::failure::Failure;
use super::names::new_run;

/// A run that is recorded.
#[derive(Debug)]
pub(crate) struct Run {
    /// Of all runs.
    directory: PathBuf,
    /// In it.
    name: String,
}

impl Run {
    /// One that begins now, in a directory that can be used.
    pub(crate) fn new(directory: &Path) -> Result<Self, Failure> {
        fs::read_dir(directory)
            .with_context(|| format!("[record] directory {} cannot be used", directory.display()))
            .map_err(Failure::Failed)?;
        Ok(Self { directory: directory.to_owned(), name: new_run() })
    }

    /// Where it is recorded.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Removes the oldest recordings of other runs as long as all together are larger than this; logs what it did. To be
    /// called when nothing prevents this run any more: one that fails at its start must not cost a recording.
    pub(crate) fn remove_oldest(&self, total_max_bytes: u64) {
        let (removed, failed) = remove_oldest(&self.directory, &self.name, total_max_bytes);
        let directory = self.directory.display();
        if removed > 0 {
            let what = counted(removed, "old recording");
            tracing::info!("{what} removed from {directory}, by [record] total_max_mib");
        }
        if let Err(error) = failed {
            tracing::warn!(
                "old recordings in {directory} are not removed, remove some if the disk gets full: {error:#}"
            );
        }
    }
}

/// Removes recordings except `own`, the oldest first; returns how many, and what ended it early.
fn remove_oldest(directory: &Path, own: &str, total_max_bytes: u64) -> (usize, anyhow::Result<()>) {
    let mut removed = 0;
    let outcome = (|| {
        // Their names sort by time.
        let runs = runs(directory).with_context(|| format!("cannot list {}", directory.display()))?;
        let mut total: u64 = runs.iter().map(|(_, bytes)| bytes).sum();
        for (name, bytes) in runs.iter().filter(|(name, _)| name != own) {
            if total <= total_max_bytes {
                break;
            }
            let path = directory.join(name);
            gone(fs::remove_dir_all(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
            total -= bytes;
            removed += 1;
        }
        Ok(())
    })();
    (removed, outcome)
}

/// The recordings in a directory, by name, with their sizes in bytes.
fn runs(directory: &Path) -> io::Result<Vec<(String, u64)>> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Nothing but recordings: a directory, and no link to one, with their name and their manifest.
        let Some(name) = entry.file_name().to_str().filter(|name| is_run_id(name)).map(str::to_owned) else {
            continue;
        };
        if found(entry.file_type())?.is_some_and(|kind| kind.is_dir())
            && entry.path().join("manifest.json").is_file()
        {
            runs.push((name, size(&entry.path())?));
        }
    }
    runs.sort();
    Ok(runs)
}

/// A name that [`new_run`] makes.
fn is_run_id(name: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    name.rsplit_once('-').is_some_and(|(time, pid)| {
        is_number(pid)
            && time
                .strip_suffix('Z')
                .and_then(|time| time.split_once('T'))
                .is_some_and(|(day, time)| is_number(day) && is_number(time))
    })
}

/// Size of all files below a directory, in bytes. A file that vanishes meanwhile has none: a recording that is being
/// written replaces its files, and somebody may remove one by hand.
fn size(directory: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let Some(entries) = found(fs::read_dir(directory))? else { return Ok(0) };
    for entry in entries {
        let Some(entry) = found(entry)? else { continue };
        let Some(metadata) = found(entry.metadata())? else { continue };
        bytes += if metadata.is_dir() { size(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// `None` for what is not there.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is not there need not be removed.
fn gone(result: io::Result<()>) -> io::Result<()> {
    found(result).map(drop)
}

#[cfg(test)]
mod tests {
    use huddle_model::schema::run_id;

    use super::*;

    fn recording(directory: &Path, at_us: i64, bytes: usize) -> PathBuf {
        let path = directory.join(run_id(at_us, 7));
        fs::create_dir_all(path.join("sharing")).unwrap();
        fs::write(path.join("manifest.json"), "").unwrap();
        fs::write(path.join("sharing/0.parquet"), vec![0; bytes]).unwrap();
        path
    }

    #[test]
    fn the_oldest_recordings_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second, third] =
            [1_000_000, 60_000_000, 120_000_000].map(|at_us| recording(dir.path(), at_us, 100));
        let others = [dir.path().join("mine"), dir.path().join(run_id(2_000_000, 8))];
        for other in &others {
            fs::create_dir(other).unwrap();
            fs::write(other.join("file"), vec![0; 1000]).unwrap();
        }
        let run = Run::new(dir.path()).unwrap();
        let path = run.path();
        assert!(is_run_id(path.strip_prefix(dir.path()).unwrap().to_str().unwrap()), "{path:?}");
        let is_there = || [&first, &second, &third, &others[0], &others[1]].map(|path| path.exists());
        assert_eq!(is_there(), [true; 5], "a run that is only prepared removes nothing");
        run.remove_oldest(200);
        assert_eq!(is_there(), [false, true, true, true, true]);
        // The run itself counts, and stays whatever its size.
        fs::create_dir(&path).unwrap();
        fs::write(path.join("manifest.json"), vec![0; 150]).unwrap();
        run.remove_oldest(200);
        assert_eq!(is_there(), [false, false, false, true, true]);
        run.remove_oldest(0);
        assert!(path.exists());
        let why = Run::new(&dir.path().join("none")).unwrap_err().to_string();
        assert!(why.contains("[record] directory ") && why.contains("none cannot be used"), "{why}");
    }

    #[test]
    fn what_vanishes_meanwhile_has_no_size() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(size(&dir.path().join("gone")).unwrap(), 0);
        assert!(gone(fs::remove_dir_all(dir.path().join("gone"))).is_ok());
        // Files come and go while they are counted.
        recording(dir.path(), 1_000_000, 100);
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    for at_us in 2..50 {
                        let path = recording(dir.path(), at_us * 1_000_000, 10);
                        fs::remove_dir_all(path).unwrap();
                    }
                }
            });
            let outcomes: Vec<_> = (0..500).map(|_| runs(dir.path())).collect();
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            for outcome in outcomes {
                assert!(outcome.unwrap().iter().any(|(_, bytes)| *bytes == 100));
            }
        });
    }
}
