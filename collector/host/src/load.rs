//! How busy the host is: `/proc/loadavg` and `/proc/stat` (proc(5), Linux 6.18).

use procfs_core::LoadAverage;

use super::{HostError, HostRoot, parsed, read_text};

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

/// CPU time since boot, all CPUs together, in clock ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTicks {
    total: u64,
    stolen: u64,
}

impl CpuTicks {
    /// Reads it; `None` where the host does not tell.
    pub fn read(root: &HostRoot) -> Option<Self> {
        let text = read_text(&root.proc("stat")).ok()?;
        let fields: Vec<u64> = text
            .lines()
            .find_map(|line| line.strip_prefix("cpu "))?
            .split_ascii_whitespace()
            .map(|field| field.parse().ok())
            .collect::<Option<_>>()?;
        // user, nice, system, idle, iowait, irq, softirq, steal; guest time is part of user time.
        Some(Self { total: fields.get(..8)?.iter().sum(), stolen: *fields.get(7)? })
    }

    /// The part (0 to 1) of the CPUs' time since `earlier` that the host's own hypervisor gave to others.
    pub fn stolen_since(&self, earlier: &Self) -> Option<f64> {
        let total = self.total.checked_sub(earlier.total).filter(|total| *total > 0)?;
        Some(self.stolen.checked_sub(earlier.stolen)? as f64 / total as f64)
    }
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

    #[test]
    fn stolen_time_is_a_part_of_all_time() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        assert_eq!(CpuTicks::read(&root), None);
        std::fs::create_dir_all(root.proc("")).unwrap();
        std::fs::write(root.proc("stat"), "cpu  10 0 10 70 0 0 0 10 5 0\ncpu0 10 0 10 70 0 0 0 10 5 0\n")
            .unwrap();
        let early = CpuTicks::read(&root).unwrap();
        assert_eq!(early, CpuTicks { total: 100, stolen: 10 });
        let late = CpuTicks { total: 300, stolen: 20 };
        assert_eq!(late.stolen_since(&early), Some(0.05));
        assert_eq!(early.stolen_since(&late), None);
        assert_eq!(early.stolen_since(&early), None);
    }
}
