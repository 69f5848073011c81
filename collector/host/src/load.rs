//! The load of the host (`/proc/loadavg` and `/proc/stat`, proc(5)).

use super::{HostError, HostRoot, read_text};

/// What `/proc/loadavg` tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Mean number of runnable tasks over the last minute.
    pub one_minute: f64,
    /// Tasks that run or could run now.
    pub runnable: u32,
}

/// Reads it.
///
/// # Errors
/// The file cannot be read, or is none as the kernel documents it.
pub fn average(root: &HostRoot) -> Result<Load, HostError> {
    let path = root.proc("loadavg");
    let text = read_text(&path)?;
    // `0.20 0.18 0.12 1/80 11206`: runnable tasks are before the stroke.
    let mut fields = text.split_ascii_whitespace();
    let one_minute = fields.next().and_then(|field| field.parse().ok());
    let runnable = fields.nth(2).and_then(|field| field.split_once('/')?.0.parse().ok());
    one_minute.zip(runnable).map(|(one_minute, runnable)| Load { one_minute, runnable }).ok_or_else(|| {
        HostError::parse(&path, text.trim(), "a load average like `0.20 0.18 0.12 1/80 11206`")
    })
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
    fn the_load_is_read_and_nonsense_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("")).unwrap();
        let read = |text: &str| {
            std::fs::write(root.proc("loadavg"), text).unwrap();
            average(&root)
        };
        assert_eq!(read("1.50 0.40 0.30 2/200 4711\n").unwrap(), Load { one_minute: 1.5, runnable: 2 });
        for text in ["", "1.50 0.40 0.30\n", "1.50 0.40 0.30 x/200 4711\n"] {
            assert!(read(text).unwrap_err().to_string().contains("load average"), "{text}");
        }
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
