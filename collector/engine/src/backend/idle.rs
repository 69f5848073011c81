//! Whether ksmd scans at all. It does not where KSM is stopped or no memory is marked mergeable (`ksmd_should_run`,
//! mm/ksm.c, Linux 6.18): then no pass ever completes.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use huddle_host::stages::{Pass, PassTrigger, TriggerError};
use huddle_host::{HostError, HostRoot, ksm};

/// A trigger that also looks whether ksmd scans.
pub(super) struct WatchedPasses {
    passes: Box<dyn PassTrigger>,
    root: HostRoot,
    /// `pages_scanned` at the last look.
    scanned: Option<u64>,
}

impl WatchedPasses {
    pub(super) fn new(passes: Box<dyn PassTrigger>, root: HostRoot) -> Self {
        Self { passes, root, scanned: None }
    }

    fn reason(&mut self) -> Result<Option<String>, HostError> {
        let state = ksm::state(&self.root)?;
        if state.run != 1 {
            self.scanned = None;
            return Ok(Some(format!("KSM is stopped (run is {})", state.run)));
        }
        let scanned = ksm::pages_scanned(&self.root)?;
        let earlier = std::mem::replace(&mut self.scanned, scanned);
        let has_none = match scanned {
            Some(_) => earlier == scanned,
            // Before Linux 6.6: ksmd knows of no page, so there is no memory for it to scan.
            None => {
                state.pages_shared + state.pages_sharing + state.pages_unshared + state.pages_volatile == 0
            }
        };
        Ok(has_none.then(|| "KSM scans nothing: no memory is marked mergeable".to_owned()))
    }
}

impl PassTrigger for WatchedPasses {
    fn name(&self) -> &'static str {
        self.passes.name()
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<Pass>, TriggerError> {
        self.passes.wait(timeout)
    }

    fn ready(&self) -> Option<BorrowedFd<'_>> {
        self.passes.ready()
    }

    fn idle(&mut self) -> Option<String> {
        // A KSM that cannot be read is reported by the trigger and by the rounds.
        self.reason().ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoPass;

    impl PassTrigger for NoPass {
        fn name(&self) -> &'static str {
            "no pass"
        }

        fn wait(&mut self, _timeout: Duration) -> Result<Option<Pass>, TriggerError> {
            Ok(None)
        }
    }

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, HostRoot) {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::at(dir.path());
        let zero = ["full_scans", "pages_shared", "pages_sharing", "pages_unshared", "pages_volatile"];
        let all = zero.into_iter().chain(["pages_to_scan", "sleep_millisecs"]).map(|name| (name, "0\n"));
        std::fs::create_dir_all(root.sys("kernel/mm/ksm")).unwrap();
        for (name, text) in all.chain(files.iter().copied()) {
            std::fs::write(root.sys("kernel/mm/ksm").join(name), text).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn a_stopped_ksm_never_completes_a_pass() {
        for run in ["0", "2"] {
            let (_dir, root) = host(&[("run", run), ("pages_scanned", "7\n")]);
            let idle = WatchedPasses::new(Box::new(NoPass), root).idle();
            assert_eq!(idle.unwrap(), format!("KSM is stopped (run is {run})"));
        }
    }

    #[test]
    fn a_ksmd_that_scans_is_waited_for_and_one_that_does_not_is_not() {
        let (_dir, root) = host(&[("run", "1\n"), ("pages_scanned", "7\n")]);
        let mut watched = WatchedPasses::new(Box::new(NoPass), root.clone());
        assert_eq!(watched.idle(), None, "one look says nothing");
        std::fs::write(root.sys("kernel/mm/ksm/pages_scanned"), "900\n").unwrap();
        assert_eq!(watched.idle(), None, "a pass is under way");
        assert!(watched.idle().unwrap().contains("no memory is marked mergeable"));
    }

    #[test]
    fn an_older_kernel_is_judged_by_what_ksmd_knows() {
        let (_dir, root) = host(&[("run", "1\n")]);
        let mut watched = WatchedPasses::new(Box::new(NoPass), root.clone());
        assert!(watched.idle().unwrap().contains("scans nothing"));
        std::fs::write(root.sys("kernel/mm/ksm/pages_volatile"), "3\n").unwrap();
        assert_eq!(watched.idle(), None);
    }
}
