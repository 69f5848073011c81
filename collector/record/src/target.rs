//! Where a run is recorded.

use std::path::PathBuf;

use huddle_recording::partition;

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
}

impl RecordTarget {
    /// The directory of the run.
    pub fn dir(&self) -> PathBuf {
        match self {
            Self::Run(dir) => dir.clone(),
            Self::Fleet { root, host, run } => root.join(partition::of_run(host, run)),
        }
    }
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
        assert_eq!(RecordTarget::Run("x".into()).dir(), PathBuf::from("x"));
    }
}
