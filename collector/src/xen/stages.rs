//! The rest of the loop's stages on Xen: facts of the host, and when rounds happen.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use huddle_model::ksm::KsmState;
use huddle_model::topology::Topology;
use huddle_model::vm::{TaskId, Vm};

use super::toolstack::{ForeignMemory, Toolstack};
use super::topology::{KnownCaches, topology};
use crate::engine::own_cpu_us;
use crate::engine::stages::{HostSource, SharingSource, StageError};
use crate::observe::probes::pass::{Pass, PassTrigger, TriggerError};
use crate::sharing::content::ContentScan;
use crate::sharing::{Measurement, SharingError};

/// Topology and own cost; what Xen does not tell is unavailable.
pub struct XenFacts {
    /// Knows CPUs and cpupools.
    pub toolstack: Box<dyn Toolstack>,
    /// What else is known of caches.
    pub caches: KnownCaches,
    /// Cache level the user asked for.
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
        Err("Xen does not tell on which nodes a domain's memory is".into())
    }

    fn runnable_per_cpu(&mut self) -> Result<f64, StageError> {
        Err("Xen does not tell how many vCPUs are ready to run".into())
    }

    fn own_cpu_us(&mut self) -> Result<u64, StageError> {
        own_cpu_us()
    }
}

/// What the pages of domains have in common by their content.
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

    /// The matrix of these VMs, which are domains.
    ///
    /// # Errors
    /// When Xen does not answer, or a limit of the scan is reached.
    pub fn scan(&mut self, vms: &[Vm]) -> Result<Measurement, SharingError> {
        let toolstack = &self.toolstack;
        self.scan.measure_domains(&mut *self.memory, &mut || toolstack.domains(), vms)
    }
}

impl SharingSource for XenContents {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        self.scan.draw_anew();
        Ok(self.scan(vms)?)
    }
}

/// A round at fixed times, where nobody tells when merging has completed a pass.
#[derive(Debug)]
pub struct Interval {
    every: Duration,
    next: Instant,
    told: u64,
}

impl Interval {
    /// The first is `every` from now.
    pub fn new(every: Duration) -> Self {
        Self { every, next: Instant::now() + every, told: 0 }
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
        self.told += 1;
        let pass =
            Pass { full_scans: self.told, began_ns: None, ended_ns: None, rmap_items: None, passed_over: 0 };
        Ok(Some(pass))
    }
}
