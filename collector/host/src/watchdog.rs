//! What the kernel finds hard lock-ups with, where `/proc/sys/kernel/nmi_watchdog` is 1: a counter of each CPU
//! (kernel/watchdog_perf.c), or, since Linux 6.5 and where the kernel is built so, timers of neighbouring CPUs
//! (kernel/watchdog_buddy.c), which take none. The file does not say; the kernel's symbols do, since each detector has
//! functions of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};

use super::{HostError, HostRoot};

/// A detector of hard lock-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detector {
    /// Counts cycles on every CPU, which takes one of its counters.
    Perf,
    /// Each CPU looks after the next by timer.
    Buddy,
}

/// The function that only the detector by counters has: what its event calls (kernel/watchdog_perf.c, and
/// kernel/watchdog_hld.c before Linux 6.5).
const OF_PERF: &str = "watchdog_overflow_callback";
/// The function that only the other has (kernel/watchdog_buddy.c, Linux 6.5 to 6.18).
const OF_BUDDY: &str = "watchdog_buddy_check_hardlockup";

/// The detector of this kernel, from the names in `/proc/kallsyms`, which everyone may read; `None` where it names
/// neither or both, as without CONFIG_KALLSYMS.
///
/// # Errors
/// The symbols cannot be read.
pub fn detector(root: &HostRoot) -> Result<Option<Detector>, HostError> {
    let path = root.proc("kallsyms");
    let failed = |source| HostError::Read { path: path.clone(), source };
    let mut lines = BufReader::with_capacity(1 << 16, File::open(&path).map_err(failed)?);
    let (mut perf, mut buddy) = (false, false);
    let mut line = Vec::new();
    // A line at a time: there are some 100,000.
    while lines.read_until(b'\n', &mut line).map_err(failed)? > 0 {
        let name = line.split(u8::is_ascii_whitespace).nth(2).unwrap_or_default();
        perf |= name == OF_PERF.as_bytes();
        buddy |= name == OF_BUDDY.as_bytes();
        line.clear();
    }
    Ok(match (perf, buddy) {
        (true, false) => Some(Detector::Perf),
        (false, true) => Some(Detector::Buddy),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(text: &str) -> Result<Option<Detector>, HostError> {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        std::fs::create_dir_all(root.proc("")).unwrap();
        std::fs::write(root.proc("kallsyms"), text).unwrap();
        detector(&root)
    }

    #[test]
    fn each_detector_is_known_by_its_function() {
        let perf = "0000000000000000 t watchdog_overflow_callback\n";
        let buddy = "0000000000000000 T watchdog_buddy_check_hardlockup\n";
        let other = "0000000000000000 T watchdog_hardlockup_check\n0000000000000000 t x\twatchdog_buddy\n";
        let prefix = "0000000000000000 t __pfx_watchdog_overflow_callback\n";
        assert_eq!(symbols(&format!("{other}{perf}")).unwrap(), Some(Detector::Perf));
        assert_eq!(symbols(&format!("{buddy}{other}")).unwrap(), Some(Detector::Buddy));
        assert_eq!(symbols(&format!("{other}{prefix}\n\n")).unwrap(), None);
        assert_eq!(symbols(&format!("{perf}{buddy}")).unwrap(), None, "both are built in");
        assert!(detector(&HostRoot::at(std::path::Path::new("/nowhere"))).unwrap_err().is_gone());
    }
}
