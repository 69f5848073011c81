//! What is done to a recording.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use huddle_model::rng::Rng;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// A recording with its segments, by their paths within it.
pub(crate) struct Original {
    pub(crate) dir: PathBuf,
    pub(crate) segments: Vec<PathBuf>,
}

/// What became of a copy of the recording.
#[derive(Default)]
pub(crate) struct Harmed {
    /// What was done, for messages.
    pub(crate) what: Vec<String>,
    /// Segments that are not what they were, by their paths within the recording; segments that were added too.
    pub(crate) damaged: Vec<PathBuf>,
    /// Whether the manifest is another: then it is enough to survive.
    pub(crate) is_manifest_harmed: bool,
}

impl Original {
    pub(crate) fn of(dir: &Path) -> Self {
        let mut segments = Vec::new();
        for table in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
            if table.file_type().unwrap().is_dir() {
                for file in fs::read_dir(table.path()).unwrap() {
                    segments.push(PathBuf::from(table.file_name()).join(file.unwrap().file_name()));
                }
            }
        }
        segments.sort();
        Self { dir: dir.to_owned(), segments }
    }

    /// A copy in `to`, without these segments. Files are shared: whoever changes one replaces it.
    pub(crate) fn copy(&self, to: &Path, without: &[PathBuf]) {
        fs::create_dir(to).unwrap();
        fs::copy(self.dir.join("manifest.json"), to.join("manifest.json")).unwrap();
        for segment in &self.segments {
            fs::create_dir_all(to.join(segment.parent().unwrap())).unwrap();
            if !without.contains(segment) {
                fs::hard_link(self.dir.join(segment), to.join(segment)).unwrap();
            }
        }
    }

    fn read(&self, segment: &Path) -> Vec<u8> {
        fs::read(self.dir.join(segment)).unwrap()
    }
}

/// Harms the copy of `original` in `dir`, as `rng` draws it; `other` is another run of the same kind.
pub(crate) fn harm(original: &Original, other: &Original, dir: &Path, rng: &mut Rng) -> Harmed {
    let mut harmed = Harmed::default();
    for _ in 0..1 + rng.below(3) {
        let segment = original.segments[rng.below(original.segments.len())].clone();
        match rng.below(20) {
            0..=11 => change(original, dir, &segment, rng, &mut harmed),
            12 | 13 => exchange(original, dir, &segment, rng, &mut harmed),
            14 => {
                let from = &other.segments[rng.below(other.segments.len())];
                harmed.what.push(format!("{} of another run for {}", from.display(), segment.display()));
                replace(dir, &segment, &other.read(from), &mut harmed);
            }
            15 => add(original, dir, &segment, rng, &mut harmed),
            16 | 17 => no_file(dir, &segment, rng, &mut harmed),
            18 => {
                harmed.what.push(format!("{} open", segment.display()));
                let name = format!(".{}.tmp", segment.file_name().unwrap().to_str().unwrap());
                fs::write(dir.join(segment.with_file_name(name)), "PAR1").unwrap();
            }
            _ => manifest(dir, rng, &mut harmed),
        }
    }
    // What was changed back, or into itself, is whole.
    let is_changed = |segment: &PathBuf| {
        let is_known = original.segments.contains(segment);
        let is_file = fs::symlink_metadata(dir.join(segment)).is_ok_and(|about| about.is_file());
        !(is_known && is_file && fs::read(dir.join(segment)).unwrap() == original.read(segment))
    };
    harmed.damaged.retain(is_changed);
    harmed.damaged.sort();
    harmed.damaged.dedup();
    harmed
}

/// Puts other bytes in the place of a segment.
fn replace(dir: &Path, segment: &Path, bytes: &[u8], harmed: &mut Harmed) {
    let path = dir.join(segment);
    remove(&path);
    fs::write(path, bytes).unwrap();
    harmed.damaged.push(segment.to_owned());
}

fn remove(path: &Path) {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|about| about.is_dir());
    let _ = if is_dir { fs::remove_dir(path) } else { fs::remove_file(path) };
}

/// Changes bytes of one segment.
fn change(original: &Original, dir: &Path, segment: &Path, rng: &mut Rng, harmed: &mut Harmed) {
    let whole = original.read(segment);
    let (bytes, what) = changed(whole, rng);
    harmed.what.push(format!("{}: {what}", segment.display()));
    replace(dir, segment, &bytes, harmed);
}

/// Bytes that are others, and what was done.
fn changed(mut bytes: Vec<u8>, rng: &mut Rng) -> (Vec<u8>, String) {
    let range = |rng: &mut Rng, length: usize| {
        let start = rng.below(length + 1);
        start..start + rng.below((length - start).min(400) + 1)
    };
    let length = bytes.len();
    if length == 0 {
        return (vec![0; rng.below(100)], "bytes in an empty one".to_owned());
    }
    let what = match rng.below(8) {
        0 => {
            let (at, bit) = (rng.below(length), rng.below(8));
            bytes[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
        1 => {
            let count = 1 + rng.below(8);
            (0..count).for_each(|_| bytes[rng.below(length)] = rng.next_u64() as u8);
            format!("{count} bytes")
        }
        // The footer is what a reader believes first.
        2 => {
            let foot = length.min(2000);
            let count = 1 + rng.below(4);
            (0..count).for_each(|_| bytes[length - 1 - rng.below(foot)] = rng.next_u64() as u8);
            format!("{count} bytes of the footer")
        }
        3 => {
            let at = rng.below(length);
            bytes.truncate(at);
            format!("cut to {at}")
        }
        4 => {
            let (range, value) = (range(rng, length), [0, 0xff][rng.below(2)]);
            bytes[range.clone()].fill(value);
            format!("{range:?} of {value}")
        }
        5 => {
            let range = range(rng, length);
            bytes.drain(range.clone());
            format!("without {range:?}")
        }
        6 => {
            let (at, count) = (rng.below(length + 1), 1 + rng.below(64));
            let more: Vec<u8> = (0..count).map(|_| rng.next_u64() as u8).collect();
            bytes.splice(at..at, more);
            format!("{count} bytes more at {at}")
        }
        _ => {
            let count = 1 + rng.below(length.min(300));
            let (one, another) = (rng.below(length - count + 1), rng.below(length - count + 1));
            let (first, second) =
                (bytes[one..one + count].to_vec(), bytes[another..another + count].to_vec());
            bytes[one..one + count].copy_from_slice(&second);
            bytes[another..another + count].copy_from_slice(&first);
            format!("{count} bytes at {one} and {another} swapped")
        }
    };
    (bytes, what)
}

/// Exchanges two segments, of one table or two.
fn exchange(original: &Original, dir: &Path, segment: &Path, rng: &mut Rng, harmed: &mut Harmed) {
    let with = original.segments[rng.below(original.segments.len())].clone();
    harmed.what.push(format!("{} and {} exchanged", segment.display(), with.display()));
    replace(dir, segment, &original.read(&with), harmed);
    replace(dir, &with, &original.read(segment), harmed);
}

/// Adds a segment that the recorder did not write, under a number of its own.
fn add(original: &Original, dir: &Path, segment: &Path, rng: &mut Rng, harmed: &mut Harmed) {
    let number = [0, 3, 4, 7, 1_000_000][rng.below(5)];
    let added = segment.with_file_name(format!("segment-{number:06}.parquet"));
    harmed.what.push(format!("{} added", added.display()));
    replace(dir, &added, &original.read(segment), harmed);
}

/// Something that is no file.
fn no_file(dir: &Path, segment: &Path, rng: &mut Rng, harmed: &mut Harmed) {
    let path = dir.join(segment);
    remove(&path);
    let what = match rng.below(5) {
        0 => {
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
            "a named pipe"
        }
        1 => {
            drop(UnixListener::bind(&path).unwrap());
            "a socket"
        }
        2 => {
            fs::create_dir(&path).unwrap();
            "a directory"
        }
        3 => {
            symlink("/dev/zero", &path).unwrap();
            "a link to a device"
        }
        _ => {
            symlink(dir.join("nowhere"), &path).unwrap();
            "a link to nothing"
        }
    };
    harmed.what.push(format!("{} is {what}", segment.display()));
    harmed.damaged.push(segment.to_owned());
}

fn manifest(dir: &Path, rng: &mut Rng, harmed: &mut Harmed) {
    let path = dir.join("manifest.json");
    harmed.is_manifest_harmed = true;
    if !path.is_file() {
        return;
    }
    if rng.below(6) == 0 {
        remove(&path);
        if rng.below(2) == 0 {
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
        harmed.what.push("no manifest".to_owned());
        return;
    }
    let (bytes, what) = changed(fs::read(&path).unwrap_or_default(), rng);
    harmed.what.push(format!("manifest: {what}"));
    remove(&path);
    fs::write(path, bytes).unwrap();
}
