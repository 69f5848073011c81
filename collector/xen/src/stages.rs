//! The other stages of the loop on Xen: facts of the host, and the trigger of rounds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::topology::Topology;
use huddle_model::vm::{TaskId, Vm};

use super::contents::measure_domains;
use super::merging::{MergeError, MergeSettings, Merged, Merger, Xen};
use super::toolstack::{Domain, ForeignMemory, Toolstack};
use super::topology::{KnownCaches, topology};
use huddle_host::clock::own_cpu_us;
use huddle_host::pin::{Change, Journal, Key, UndoReport};
use huddle_host::stages::{
    HostSource, PageMerger, Pass, PassTrigger, SharingSource, StageError, TriggerError,
};
use huddle_host::stop::Stop;
use huddle_sharing::content::ContentScan;
use huddle_sharing::{Measurement, SharingError};

/// Topology and own cost; values that Xen does not report are unavailable.
pub struct XenFacts {
    /// Source of CPUs and cpupools.
    pub toolstack: Box<dyn Toolstack>,
    /// Further facts about caches.
    pub caches: KnownCaches,
    /// Cache level chosen by the user.
    pub cache_level: Option<u8>,
}

impl HostSource for XenFacts {
    fn topology(&mut self) -> Result<Topology, StageError> {
        Ok(topology(&self.toolstack.machine()?, &self.caches, self.cache_level)?)
    }

    fn ksm(&mut self) -> Result<KsmState, StageError> {
        Err("domains are not merged by KSM: their memory is Xen's".into())
    }

    fn node_pages(&mut self, _: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        Err("Xen does not report on which nodes a domain's memory is".into())
    }

    fn runnable_per_cpu(&mut self) -> Result<f64, StageError> {
        Err("Xen does not report how many vCPUs are ready to run".into())
    }

    fn own_cpu_us(&mut self) -> Result<u64, StageError> {
        own_cpu_us()
    }
}

/// What the memory of domains has in common, by content.
pub struct XenContents {
    scan: ContentScan,
    toolstack: Box<dyn Toolstack>,
    memory: Box<dyn ForeignMemory>,
}

impl XenContents {
    /// A scan of the memory that `memory` maps.
    pub fn new(scan: ContentScan, toolstack: Box<dyn Toolstack>, memory: Box<dyn ForeignMemory>) -> Self {
        Self { scan, toolstack, memory }
    }

    /// The matrix of these VMs, which must be domains.
    ///
    /// # Errors
    /// When Xen does not answer, or a limit of the scan is reached.
    pub fn scan(&mut self, vms: &[Vm]) -> Result<Measurement, SharingError> {
        let toolstack = &self.toolstack;
        measure_domains(&self.scan, &mut *self.memory, &mut || toolstack.domains(), vms)
    }
}

impl SharingSource for XenContents {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        self.scan.resample();
        Ok(self.scan(vms)?)
    }
}

/// Merging through Xen's memory sharing, with its journal; undone when it is dropped.
pub struct Merging {
    merger: Merger,
    journal: Arc<Mutex<Journal>>,
}

impl Merging {
    /// Nothing is changed before the first [`Self::merge`].
    pub fn new(xen: Xen, settings: MergeSettings, journal: Journal) -> Self {
        let journal = Arc::new(Mutex::new(journal));
        let announced = Arc::clone(&journal);
        let announce = move |domain: &Domain| {
            let change = Change::MemorySharing { vm: domain.name.clone(), domain: domain.domain.xen_id() };
            lock(&announced).record(&[change])
        };
        Self { merger: Merger::new(xen, settings, Box::new(announce)), journal }
    }

    /// Merges all equal pages once.
    ///
    /// # Errors
    /// As [`Merger::merge`]; missing support for merging is not an error.
    pub fn merge_once(&mut self) -> Result<Availability<Merged>, MergeError> {
        self.merger.merge(&Stop::default())
    }
}

impl PageMerger for Merging {
    fn merge(&mut self, stop: &Stop) -> Result<Vec<String>, StageError> {
        Ok(match self.merger.merge(stop)? {
            Availability::Available(merged) => {
                let mut notes = merged.reasons;
                let (pages, frames) = (merged.pages_shared, merged.frames_freed);
                notes.push(format!(
                    "{pages} pages are shared by Xen; {frames} frames became free in this round"
                ));
                if merged.refused > 0 {
                    notes.push(format!("Xen refused to share {} pages", merged.refused));
                }
                notes
            }
            Availability::Unavailable(reason) => vec![format!("memory is not merged: {reason}")],
        })
    }

    fn undo(&mut self) -> UndoReport {
        let undone = self.merger.undo();
        let keys: Vec<Key> = undone.undone.iter().map(|domain| Key::MemorySharing(domain.xen_id())).collect();
        let forgotten = lock(&self.journal).forget(&keys);
        let restored = u32::try_from(keys.len()).unwrap_or(u32::MAX);
        let mut report = UndoReport { restored, failures: undone.failures, ..UndoReport::default() };
        // They are undone; that the file still has them is harmless.
        report.notes.extend(forgotten.err().map(|error| error.to_string()));
        report
    }
}

impl Drop for Merging {
    fn drop(&mut self) {
        for failure in self.undo().failures {
            tracing::error!("not undone: {failure}; try `huddle restore`");
        }
    }
}

/// A panic while it was locked left no half-written entry: the journal ensures that itself.
fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rounds at fixed intervals, where nothing reports passes of merging.
#[derive(Debug)]
pub struct Interval {
    every: Duration,
    next: Instant,
    count: u64,
}

impl Interval {
    /// The first round is `every` from now.
    pub fn new(every: Duration) -> Self {
        Self { every, next: Instant::now() + every, count: 0 }
    }
}

impl PassTrigger for Interval {
    fn name(&self) -> &'static str {
        "the clock"
    }

    fn wait(&mut self, timeout: Duration) -> Result<Option<Pass>, TriggerError> {
        let left = self.next.saturating_duration_since(Instant::now());
        std::thread::sleep(left.min(timeout));
        if left > timeout {
            return Ok(None);
        }
        self.next = Instant::now() + self.every;
        self.count += 1;
        let pass =
            Pass { full_scans: self.count, began_ns: None, ended_ns: None, rmap_items: None, missed: 0 };
        Ok(Some(pass))
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake_memory::FakeXen;
    use super::super::toolstack::DomainKind;
    use super::*;
    use huddle_host::HostRoot;
    use huddle_host::pin::{StateDir, Subject};

    /// Two domains that have 20 pages in common.
    fn made() -> FakeXen {
        let pages = |from: u64| (from..from + 40).map(Some).collect::<Vec<_>>();
        FakeXen::of(DomainKind::Hvm, &[pages(1), pages(21)])
    }

    #[test]
    fn merging_is_in_its_journal_until_it_is_undone() {
        let (xen, dir) = (made(), tempfile::tempdir().unwrap());
        let root = HostRoot::real().with_run(dir.path());
        let state = StateDir::open(Some(&dir.path().join("state"))).unwrap().lock(&root).unwrap();
        let open = || Journal::open_of(Subject::MemorySharing, &root, &state).unwrap();
        let parts =
            Xen { sharing: Box::new(xen.clone()), memory: Box::new(xen.clone()), list: Box::new(xen.list()) };
        let mut merging = Merging::new(parts, MergeSettings::default(), open());
        assert_eq!(open().entries(), [], "nothing is changed yet");
        let notes = merging.merge(&Stop::default()).unwrap().join("; ");
        assert!(notes.contains("40 pages are shared by Xen; 20 frames became free"), "{notes}");
        // What `huddle restore` would find after a kill -9.
        let names: Vec<String> = open()
            .entries()
            .iter()
            .map(|change| match change {
                Change::MemorySharing { vm, .. } => vm.clone(),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["vm1", "vm2"]);
        assert!(!xen.lock().is_untouched());
        assert_eq!(merging.undo(), UndoReport { restored: 2, ..UndoReport::default() });
        drop(merging);
        assert!(xen.lock().is_untouched());
        assert_eq!(open().entries(), []);
    }

    #[test]
    fn rounds_come_at_fixed_times() {
        let mut interval = Interval::new(Duration::from_millis(30));
        assert_eq!(interval.wait(Duration::from_millis(1)).unwrap(), None);
        let first = interval.wait(Duration::from_secs(5)).unwrap().unwrap();
        let second = interval.wait(Duration::from_secs(5)).unwrap().unwrap();
        assert_eq!((first.full_scans, second.full_scans), (1, 2));
    }
}
