//! How busy the host is: `/proc/loadavg` (proc(5), Linux 6.18).

use procfs_core::LoadAverage;

use super::{HostError, HostRoot, parsed};

/// The host's load at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Mean number of tasks that ran, could run or waited for a disk, over the last minute.
    pub one_minute: f64,
    /// Tasks that run or can run now, the one that asks among them.
    pub runnable: u32,
}

/// Reads it.
pub fn read(root: &HostRoot) -> Result<Load, HostError> {
    let load: LoadAverage = parsed(&root.proc("loadavg"), "a line like 0.20 0.18 0.12 1/80 11206")?;
    // The kernel prints hundredths, which the nearest f32 does not keep when it becomes an f64.
    let one_minute = (f64::from(load.one) * 100.0).round() / 100.0;
    Ok(Load { one_minute, runnable: load.cur })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_read_to_the_hundredth() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("")).unwrap();
        for hundredths in [0_u32, 1, 20, 57, 150, 12_345, 409_633] {
            let load = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            std::fs::write(root.proc("loadavg"), format!("{load} 0.18 0.12 3/80 11206\n")).unwrap();
            let expected = Load { one_minute: load.parse().unwrap(), runnable: 3 };
            assert_eq!(read(&root).unwrap(), expected);
        }
        std::fs::write(root.proc("loadavg"), "0.20 0.18 0.12 many\n").unwrap();
        let error = read(&root).unwrap_err().to_string();
        assert!(error.contains("proc/loadavg") && error.contains("many"), "{error}");
    }

    #[test]
    fn somebody_runs_here() {
        assert!(read(&HostRoot::real()).unwrap().runnable > 0);
    }
}
