//! What is mounted where: `/proc/self/mounts`, `/proc/self/mountinfo` and `/proc/filesystems` (proc(5), Linux 6.18).
//!
//! The parser is our own: procfs-core 0.18 leaves a space of a mount point as `\040`, and refuses the
//! whole table for one path that is not UTF-8 (docs/decisions/procfs.md).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::{HostError, HostRoot, read_bytes, read_text};

/// Where the first file system of a kind is mounted; `None` where none is.
pub fn mount_point(root: &HostRoot, kind: &str) -> Result<Option<PathBuf>, HostError> {
    let mounts = read_bytes(&root.proc("self/mounts"))?;
    Ok(points(&mounts, kind).next())
}

/// Where the file systems of a kind are mounted.
fn points<'a>(mounts: &'a [u8], kind: &'a str) -> impl Iterator<Item = PathBuf> {
    mounts.split(|byte| *byte == b'\n').filter_map(move |line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(1);
        let (at, found) = (fields.next()?, fields.next()?);
        (found == kind.as_bytes()).then(|| PathBuf::from(OsString::from_vec(unescape(at))))
    })
}

/// Whether a file system of a kind is mounted at `path` or at a directory above it.
pub fn is_on(root: &HostRoot, kind: &str, path: &Path) -> Result<bool, HostError> {
    Ok(points(&read_bytes(&root.proc("self/mounts"))?, kind).any(|point| path.starts_with(point)))
}

/// One mount of a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is mounted.
    pub at: PathBuf,
    /// The directory of the file system that is mounted there, such as `/` or `/docker/0123`.
    pub root: PathBuf,
    /// Its kind.
    pub kind: String,
    /// Options of the file system (not of the mount).
    pub options: Vec<String>,
}

/// All mounts of the kinds of file systems that `is_wanted` says, in the order in which they were mounted.
pub fn mounts(root: &HostRoot, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Mount>, HostError> {
    let lines = read_bytes(&root.proc("self/mountinfo"))?;
    let all = lines.split(|byte| *byte == b'\n').filter_map(parse_mount);
    Ok(all.filter(|mount| is_wanted(&mount.kind)).collect())
}

/// A line of mountinfo; `None` where it is none.
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    // Fields 4 and 5 are root and mount point; after the first hyphen behind field 6 come kind, source and options.
    let separator = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let text = |at: usize| Some(String::from_utf8_lossy(fields.get(at)?).into_owned());
    let path = |at: usize| Some(PathBuf::from(OsString::from_vec(unescape(fields.get(at)?))));
    let options = text(separator + 3)?.split(',').map(str::to_owned).collect();
    Some(Mount { at: path(4)?, root: path(3)?, kind: text(separator + 1)?, options })
}

/// Whether this kernel knows a kind of file system, mounted or not.
pub fn is_known(root: &HostRoot, kind: &str) -> Result<bool, HostError> {
    let kinds = read_text(&root.proc("filesystems"))?;
    Ok(kinds.lines().any(|line| line.split_ascii_whitespace().last() == Some(kind)))
}

/// The kernel writes space, tab, end of line, backslash and hash as a backslash and three octal digits
/// (`mangle` in fs/proc_namespace.c, Linux 6.18).
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some((first, rest)) = text.split_first() {
        let octal = match rest {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if *first == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(*first));
        text = if octal.is_some() { &rest[3..] } else { rest };
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn root_with(mounts: &[u8]) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("self")).unwrap();
        std::fs::write(root.proc("self/mounts"), mounts).unwrap();
        (dir, root)
    }

    #[test]
    fn a_kind_is_found_whatever_else_is_mounted() {
        let (_dir, root) = root_with(
            b"sysfs /sys sysfs rw 0 0\n/dev/a /mnt/\xff ext4 rw 0 0\n\
              resctrl /sys/fs/resctrl resctrl rw 0 0\nresctrl /second resctrl rw 0 0\n",
        );
        let found = mount_point(&root, "resctrl").unwrap();
        assert_eq!(found.as_deref(), Some(Path::new("/sys/fs/resctrl")));
        assert_eq!(mount_point(&root, "fs").unwrap(), None);
        let is_on = |path: &str| is_on(&root, "resctrl", Path::new(path)).unwrap();
        assert!(is_on("/second") && is_on("/second/info") && !is_on("/sys/fs") && !is_on("/secondary"));
        std::fs::write(root.proc("filesystems"), "nodev\tresctrl\n\text4\n").unwrap();
        assert!(is_known(&root, "resctrl").unwrap() && is_known(&root, "ext4").unwrap());
        assert!(!is_known(&root, "nodev").unwrap());
    }

    #[test]
    fn paths_are_as_they_were_before_the_kernel_escaped_them() {
        let (_dir, root) = root_with(br"none /a\040b\134043\011\400\9 resctrl rw 0 0");
        let found = mount_point(&root, "resctrl").unwrap();
        assert_eq!(found.as_deref(), Some(Path::new("/a b\\043\t\\400\\9")));
    }

    #[test]
    fn mountinfo_has_roots_and_options() {
        let (_dir, root) = root_with(b"");
        let text = "30 24 0:26 / /sys/fs/cgroup/cpuset rw shared:9 - cgroup cgroup rw,cpuset\n\
            31 24 0:27 /docker/1 /c\\040g rw - cgroup2 cgroup2 rw,nsdelegate\n\
            32 24 8:1 / / rw - ext4 /dev/a rw\n\
            33 24\n34 24 0:28 / /x rw -\n";
        std::fs::write(root.proc("self/mountinfo"), text).unwrap();
        let found = mounts(&root, |kind| kind.starts_with("cgroup")).unwrap();
        let seen: Vec<_> = found.iter().map(|m| (m.at.to_str(), m.root.to_str(), m.kind.as_str())).collect();
        assert_eq!(
            seen,
            [
                (Some("/sys/fs/cgroup/cpuset"), Some("/"), "cgroup"),
                (Some("/c g"), Some("/docker/1"), "cgroup2")
            ]
        );
        assert_eq!(found[0].options, ["rw", "cpuset"]);
    }

    #[test]
    fn proc_is_mounted_here() {
        let found = mount_point(&HostRoot::real(), "proc").unwrap();
        assert_eq!(found.as_deref(), Some(Path::new("/proc")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(line in proptest::collection::vec(prop_oneof![Just(b' '), Just(b'-'), any::<u8>()], 0..80)) {
            let _ = parse_mount(&line);
        }
    }
}
