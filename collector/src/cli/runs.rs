//! Recordings of a service: each run has a directory of its own in `[record] directory`, and the oldest are removed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use huddle_host::clock::unix_us;
use huddle_model::schema::run_id;
use huddle_model::text::counted;

use super::failure::Failure;

/// Where the run that begins now is to be recorded. The oldest recordings are removed before, as long as all of them
/// together are larger than `total_max_bytes`.
pub(crate) fn new_run(directory: &Path, total_max_bytes: u64) -> Result<PathBuf, Failure> {
    let removed = remove_oldest(directory, total_max_bytes)
        .with_context(|| format!("[record] directory {} cannot be used", directory.display()))
        .map_err(Failure::Failed)?;
    if removed > 0 {
        let what = counted(removed, "old recording");
        tracing::info!("{what} removed from {}, by [record] total_max_mib", directory.display());
    }
    Ok(directory.join(run_id(unix_us(), std::process::id())))
}

/// Removes recordings, the oldest first; returns how many.
fn remove_oldest(directory: &Path, total_max_bytes: u64) -> std::io::Result<usize> {
    let mut runs = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        // Nothing but recordings: a directory, and no link to one, with their name and their manifest.
        if entry.file_type()?.is_dir()
            && entry.file_name().to_str().is_some_and(is_run_id)
            && entry.path().join("manifest.json").is_file()
        {
            runs.push((entry.file_name(), size(&entry.path())?));
        }
    }
    // Their names sort by time.
    runs.sort();
    let mut total: u64 = runs.iter().map(|(_, bytes)| bytes).sum();
    let mut removed = 0;
    for (name, bytes) in runs {
        if total <= total_max_bytes {
            break;
        }
        fs::remove_dir_all(directory.join(name))?;
        total -= bytes;
        removed += 1;
    }
    Ok(removed)
}

/// A name that [`run_id`] makes.
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

/// Size of all files below a directory, in bytes.
fn size(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let found = entry.metadata()?;
        bytes += if found.is_dir() { size(&entry.path())? } else { found.len() };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_recordings_are_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let run = |at_us: i64, bytes: usize| {
            let path = dir.path().join(run_id(at_us, 7));
            fs::create_dir_all(path.join("sharing")).unwrap();
            fs::write(path.join("manifest.json"), "").unwrap();
            fs::write(path.join("sharing/0.parquet"), vec![0; bytes]).unwrap();
            path
        };
        let [first, second, third] = [1_000_000, 60_000_000, 120_000_000].map(|at_us| run(at_us, 100));
        let others = [dir.path().join("mine"), dir.path().join(run_id(2_000_000, 8))];
        for other in &others {
            fs::create_dir(other).unwrap();
            fs::write(other.join("file"), vec![0; 1000]).unwrap();
        }
        let new = new_run(dir.path(), 200).unwrap();
        assert!(
            new.starts_with(dir.path()) && is_run_id(new.file_name().unwrap().to_str().unwrap()),
            "{new:?}"
        );
        let is_there = [&first, &second, &third, &others[0], &others[1]].map(|path| path.exists());
        assert_eq!(is_there, [false, true, true, true, true]);
        let why = new_run(&dir.path().join("none"), 1).unwrap_err().to_string();
        assert!(why.contains("[record] directory ") && why.contains("none cannot be used"), "{why}");
    }
}
