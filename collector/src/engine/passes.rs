//! The pass trigger that needs no privilege and no probe: watching `full_scans`.

use std::time::Duration;

use super::stages::PassTrigger;
use crate::host::{HostRoot, ksm};

/// Looks at `/sys/kernel/mm/ksm/full_scans` (Documentation/admin-guide/mm/ksm.rst, Linux 6.18: "how
/// many times all mergeable areas have been scanned") at an interval.
#[derive(Debug)]
pub struct FullScans {
    root: HostRoot,
    interval: Duration,
    seen: Option<u64>,
}

impl FullScans {
    /// Looks every `interval`; passes completed before the first call count as seen.
    pub fn new(root: HostRoot, interval: Duration) -> Self {
        let seen = full_scans(&root);
        Self { root, interval, seen }
    }
}

/// `None` where the kernel has no KSM or it cannot be read: then no pass ever completes.
fn full_scans(root: &HostRoot) -> Option<u64> {
    ksm::state(root).ok().map(|state| state.full_scans)
}

impl PassTrigger for FullScans {
    async fn next_pass(&mut self) {
        loop {
            tokio::time::sleep(self.interval).await;
            let now = full_scans(&self.root);
            if now != self.seen {
                // The counter may have been reset or have come into being: that is no completed pass.
                let completed = matches!((self.seen, now), (Some(seen), Some(now)) if now > seen);
                self.seen = now;
                if completed {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &HostRoot, full_scans: u64) {
        let dir = root.sys("kernel/mm/ksm");
        std::fs::create_dir_all(&dir).unwrap();
        for file in ["run", "pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"] {
            std::fs::write(dir.join(file), "1\n").unwrap();
        }
        for file in ["pages_to_scan", "sleep_millisecs"] {
            std::fs::write(dir.join(file), "20\n").unwrap();
        }
        std::fs::write(dir.join("full_scans"), format!("{full_scans}\n")).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_growing_counter_is_a_pass() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        write(&root, 7);
        let mut passes = FullScans::new(root.clone(), Duration::from_millis(10));
        let soon = Duration::from_secs(1);
        assert!(tokio::time::timeout(soon, passes.next_pass()).await.is_err(), "nothing has changed");
        write(&root, 9);
        assert!(tokio::time::timeout(soon, passes.next_pass()).await.is_ok());
        write(&root, 0);
        assert!(tokio::time::timeout(soon, passes.next_pass()).await.is_err(), "a reset is no pass");
        write(&root, 1);
        assert!(tokio::time::timeout(soon, passes.next_pass()).await.is_ok());
    }
}
