//! Facts of the host and changes to it: readers of the kernel's file systems, one file each; finding VMs; setting
//! affinities, with the journal that they are undone from; and the stages of the loop as traits.
//!
//! Every reader of `/proc` or `/sys` takes a [`HostRoot`], so that tests give it a tree of fixtures. Everything
//! that changes the host goes through [`pin::journal`].

pub mod architecture;
pub mod arm_core;
pub mod cgroup;
pub mod clock;
pub mod core_class;
pub mod core_scheduling;
pub mod cpufreq;
pub mod cpuinfo;
pub mod descriptors;
pub mod discover;
pub mod event_source;
pub mod files;
pub mod huge_pages;
pub mod kernel;
pub mod ksm;
pub mod kvm;
pub mod limits;
pub mod load;
pub mod maps;
pub mod memory;
pub mod mounts;
pub mod numa;
pub mod online;
pub mod page;
pub mod pin;
pub mod process_ksm;
pub mod schedulers;
pub mod socket;
pub mod stages;
pub mod status;
pub mod stop;
pub mod task;
pub mod threads;
pub mod topology;
pub mod users;
pub mod watchdog;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use huddle_model::cpuset::CpuSet;
use procfs_core::FromRead;

/// Where a host's `/proc`, `/sys`, `/dev` and `/run` are: the real ones, or a tree of fixtures.
#[derive(Clone, Debug)]
pub struct HostRoot {
    proc: PathBuf,
    sys: PathBuf,
    dev: PathBuf,
    run: PathBuf,
    etc: PathBuf,
}

/// A kernel file that could not be read or understood.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The read failed.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It is longer than what is read of it.
    #[error("{} is longer than {most} bytes, which is more than is read of it", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        most: usize,
    },
    /// There is too much of what is read.
    #[error(transparent)]
    TooMuch(#[from] limits::TooMuch),
    /// The content is not what the kernel documents.
    #[error("{} holds {text:?}, which is not {expected}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The offending part.
        text: String,
        /// What was expected.
        expected: &'static str,
    },
}

impl HostError {
    /// Whether the task or file is simply not there (any more): ENOENT or ESRCH.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Read { source, .. }
            if source.kind() == std::io::ErrorKind::NotFound
                || source.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32))
    }

    /// Whether this program may not read the file: EACCES or EPERM.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
    }

    /// Whether this program, or the host, has no more open files or memory to give: EMFILE, ENFILE or ENOMEM.
    pub fn is_exhausted(&self) -> bool {
        use nix::errno::Errno;
        matches!(self, Self::Read { source, .. }
        if source.raw_os_error().is_some_and(|errno| {
            [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM].contains(&Errno::from_raw(errno))
        }))
    }

    /// The content of `path` is not `expected`; `text` is the offending part, of which the beginning is kept.
    pub fn parse(path: &Path, text: &str, expected: &'static str) -> Self {
        let text = text[..text.floor_char_boundary(MAX_SHOWN)].to_owned();
        Self::Parse { path: path.to_owned(), text, expected }
    }
}

impl HostRoot {
    /// The host this program runs on.
    pub fn real() -> Self {
        Self {
            proc: "/proc".into(),
            sys: "/sys".into(),
            dev: "/dev".into(),
            run: "/run".into(),
            etc: "/etc".into(),
        }
    }

    /// A tree with `proc`, `sys`, `dev`, `run` and `etc` in it.
    pub fn at(root: &Path) -> Self {
        let below = |name: &str| root.join(name);
        Self {
            proc: below("proc"),
            sys: below("sys"),
            dev: below("dev"),
            run: below("run"),
            etc: below("etc"),
        }
    }

    /// The same with another `/run`: for tests that lock a host which other tests lock at the same time.
    pub fn with_run(self, run: &Path) -> Self {
        Self { run: run.to_owned(), ..self }
    }

    /// Whether `/proc` is that of the host this program runs on, so that its tasks are those of system calls.
    pub(crate) fn has_real_proc(&self) -> bool {
        self.proc == Path::new("/proc")
    }

    /// A path below `/run`.
    pub fn run(&self, path: impl AsRef<Path>) -> PathBuf {
        self.run.join(path)
    }

    /// Whether `/run` is that of the host this program runs on.
    pub(crate) fn has_real_run(&self) -> bool {
        self.run == Path::new("/run")
    }

    /// A path below `/proc`.
    pub fn proc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.proc.join(path)
    }

    /// A path below `/sys`.
    pub fn sys(&self, path: impl AsRef<Path>) -> PathBuf {
        self.sys.join(path)
    }

    /// A path below `/dev`.
    pub fn dev(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dev.join(path)
    }

    /// A path below `/etc`.
    pub fn etc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.etc.join(path)
    }
}

/// Most of an offending text that is shown, in bytes.
const MAX_SHOWN: usize = 200;

/// Most that is read of any one file, in bytes. The longest, `/proc/kallsyms`, has 20 MiB at most.
const MAX_BYTES: usize = 64 << 20;

/// Room for a file at first, in bytes.
const USUAL_BYTES: usize = 2048;

/// Reads a file of at most `most` bytes, and of a longer one no more than that.
///
/// # Errors
/// It cannot be read, or is longer.
pub fn read_at_most(path: &Path, most: usize) -> Result<Vec<u8>, HostError> {
    let read = |source| HostError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    // Files of the kernel have no size that would tell; most are shorter, and read at once.
    let mut bytes = Vec::with_capacity(most.min(USUAL_BYTES));
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(read)?;
    if bytes.len() > most {
        return Err(HostError::TooLong { path: path.to_owned(), most });
    }
    Ok(bytes)
}

/// Reads a whole file.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, HostError> {
    read_at_most(path, MAX_BYTES)
}

/// Reads a whole text file; bytes that are not UTF-8 (thread names may hold any) are replaced.
pub fn read_text(path: &Path) -> Result<String, HostError> {
    Ok(String::from_utf8_lossy(&read_bytes(path)?).into_owned())
}

/// Reads a file of one line, without the space around it.
pub fn read_line(path: &Path) -> Result<String, HostError> {
    Ok(read_text(path)?.trim().to_owned())
}

/// Reads a file that procfs-core understands. It is given text in which bytes that are not UTF-8 are
/// replaced: most of its parsers refuse such bytes. Its errors tell neither path nor text, ours the
/// first line.
pub(crate) fn parsed<T: FromRead>(path: &Path, expected: &'static str) -> Result<T, HostError> {
    let text = read_text(path)?;
    T::from_read(text.as_bytes())
        .map_err(|_| HostError::parse(path, text.lines().next().unwrap_or_default(), expected))
}

/// Reads a file that holds one number.
pub fn read_number<T: std::str::FromStr>(path: &Path) -> Result<T, HostError> {
    let text = read_text(path)?;
    text.trim().parse().map_err(|_| HostError::parse(path, text.trim(), "a number"))
}

/// `None` where the file is not there, which is how the kernel says that it lacks a feature.
pub fn optional<T>(result: Result<T, HostError>) -> Result<Option<T>, HostError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a file that holds a list of CPUs.
pub fn read_cpus(path: &Path) -> Result<CpuSet, HostError> {
    let text = read_text(path)?;
    text.parse().map_err(|_| HostError::parse(path, text.trim(), "a list of CPUs like 0-3,8"))
}
