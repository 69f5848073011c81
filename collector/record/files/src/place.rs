//! Where a run is recorded, and where its tables are.
//!
//! There are two layouts. By run: a directory has a manifest and a directory for each table. By table, for a fleet: what
//! a reader of Parquet takes for one table is one directory, `TABLE/host=HOST/run=RUN`, and the manifests are in a table
//! of their own beside. Everything that reads or writes a run names it by the directory of its manifest, from which
//! [`table_dir`] tells the layout.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use huddle_model::schema::Table;

/// The directory of the manifests in the layout by table. No table has this name.
pub const MANIFESTS: &str = "manifest";

/// Where a run is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordTarget {
    /// This directory, which must be new or empty.
    Run(PathBuf),
    /// `root/host=HOST/run=RUN`: partitions that any reader of Parquet datasets understands, so that one query covers
    /// many hosts.
    Fleet {
        /// The tree of all hosts.
        root: PathBuf,
        /// Name of this host.
        host: String,
        /// Id of this run.
        run: String,
    },
    /// `root/TABLE/host=HOST/run=RUN`, with the manifest in `root/manifest/host=HOST/run=RUN`.
    ByTable {
        /// The tree of all tables.
        root: PathBuf,
        /// Name of this host.
        host: String,
        /// Id of this run.
        run: String,
    },
}

impl RecordTarget {
    /// The directory of the run, which is that of its manifest.
    pub fn dir(&self) -> PathBuf {
        match self {
            Self::Run(dir) => dir.clone(),
            Self::Fleet { root, host, run } => partition(root, host, run),
            Self::ByTable { root, host, run } => partition(&root.join(MANIFESTS), host, run),
        }
    }
}

/// The partition of a run below a directory.
fn partition(dir: &Path, host: &str, run: &str) -> PathBuf {
    dir.join(format!("host={}", escaped(host))).join(format!("run={}", escaped(run)))
}

/// Where the segments of a table of a run are, by the directory of its manifest, whatever path leads there.
pub fn table_dir(run: &Path, table: Table) -> PathBuf {
    let real = std::fs::canonicalize(run);
    let found = real.ok().and_then(|real| by_table(&real, table)).or_else(|| by_table(run, table));
    found.unwrap_or_else(|| run.join(table.name()))
}

/// The same in the layout by table; `None` for a run in the other one.
fn by_table(run: &Path, table: Table) -> Option<PathBuf> {
    let (run_part, host_dir) = (run.file_name()?, run.parent()?);
    let (host_part, manifests) = (host_dir.file_name()?, host_dir.parent()?);
    let is_partition = host_part.to_str()?.starts_with("host=") && run_part.to_str()?.starts_with("run=");
    let is_by_table = is_partition && manifests.file_name()? == MANIFESTS;
    is_by_table.then(|| manifests.with_file_name(table.name()).join(host_part).join(run_part))
}

/// A partition's value as Hive writes it: all but letters, digits, `-`, `_` and `.` as `%XX`.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_partitioned_and_names_cannot_leave_it() {
        let target = RecordTarget::Fleet {
            root: "/r".into(),
            host: "../a=b c".into(),
            run: "20261123T060233Z-1".into(),
        };
        assert_eq!(target.dir().to_str(), Some("/r/host=..%2Fa%3Db%20c/run=20261123T060233Z-1"));
        let counters = table_dir(&target.dir(), Table::Counters);
        assert_eq!(counters, target.dir().join("counters"));
        assert_eq!(RecordTarget::Run("x".into()).dir(), PathBuf::from("x"));
    }

    #[test]
    fn by_table_each_table_has_the_partitions() {
        let target = RecordTarget::ByTable { root: "/r".into(), host: "h 1".into(), run: "7".into() };
        let dir = target.dir();
        assert_eq!(dir.to_str(), Some("/r/manifest/host=h%201/run=7"));
        assert_eq!(table_dir(&dir, Table::Vms).to_str(), Some("/r/vms/host=h%201/run=7"));
        assert!(Table::ALL.iter().all(|table| table.name() != MANIFESTS));
        // By a symbolic link, too.
        let top = tempfile::tempdir().unwrap();
        let real = top.path().join("manifest/host=a/run=b");
        std::fs::create_dir_all(&real).unwrap();
        std::os::unix::fs::symlink(&real, top.path().join("link")).unwrap();
        let expected = top.path().canonicalize().unwrap().join("vms/host=a/run=b");
        assert_eq!(table_dir(&top.path().join("link"), Table::Vms), expected);
        // Other names are not taken for it.
        let relative = Path::new("manifest/host=a/run=b");
        assert_eq!(table_dir(relative, Table::Vms).to_str(), Some("vms/host=a/run=b"));
        for other in ["manifest/a/run=b", "manifest/host=a/b", "host=a/run=b", "run=b", "/", ".", ""] {
            assert_eq!(table_dir(Path::new(other), Table::Vms), Path::new(other).join("vms"), "{other}");
        }
    }
}
