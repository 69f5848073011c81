//! The stages on this host: `/proc`, `/sys` and the scan of page tables.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use huddle_model::ksm::KsmState;
use huddle_model::plan::Plan;
use huddle_model::topology::Topology;
use huddle_model::vm::{TaskId, Vm};

use super::stages::{Clock, HostSource, Pinner, SharingSource, StageError, VmSource};
use crate::discover::{Discoverer, Discovery};
use crate::host::{HostRoot, ksm, load, numa, topology};
use crate::pin::{HostPinner, PinReport, UndoReport};
use crate::sharing::content::ContentScan;
use crate::sharing::{Measurement, MergedScan};

/// Discovery on this host.
pub struct HostVms(pub Discoverer);

impl VmSource for HostVms {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        Ok(self.0.discover()?)
    }
}

/// The scan of merged frames.
pub struct HostSharing(pub MergedScan);

impl SharingSource for HostSharing {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        Ok(self.0.measure(vms)?)
    }
}

/// The scan of contents; where it draws a sample, it draws another one each time.
pub struct HostContents(pub ContentScan);

impl SharingSource for HostContents {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        self.0.draw_anew();
        Ok(self.0.measure(vms)?)
    }
}

impl Pinner for HostPinner {
    fn apply(&mut self, vms: &[Vm], plan: &Plan) -> Result<PinReport, StageError> {
        Ok(HostPinner::apply(self, vms, plan)?)
    }

    fn undo(&mut self) -> UndoReport {
        HostPinner::undo(self)
    }
}

/// Topology, KSM and own cost.
#[derive(Debug)]
pub struct HostFacts {
    /// Where the host's files are.
    pub root: HostRoot,
    /// Cache level the user asked for.
    pub cache_level: Option<u8>,
}

impl HostSource for HostFacts {
    fn topology(&mut self) -> Result<Topology, StageError> {
        Ok(topology::read(&self.root, self.cache_level)?)
    }

    fn ksm(&mut self) -> Result<KsmState, StageError> {
        Ok(ksm::state(&self.root)?)
    }

    fn node_pages(&mut self, process: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        Ok(numa::node_pages(&self.root, process.id)?)
    }

    fn runnable_per_cpu(&mut self) -> Result<f64, StageError> {
        let runnable = load::read(&self.root)?.runnable;
        Ok(f64::from(runnable) / topology::usable_cpus(&self.root)?.len().max(1) as f64)
    }

    fn own_cpu_us(&mut self) -> Result<u64, StageError> {
        own_cpu_us()
    }
}

/// CPU time this process has used so far, in microseconds.
pub(crate) fn own_cpu_us() -> Result<u64, StageError> {
    let used = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID)?;
    Ok(u64::try_from(std::time::Duration::from(used).as_micros())?)
}

/// The wall clock.
#[derive(Clone, Copy, Debug)]
pub struct HostClock;

impl Clock for HostClock {
    fn now_unix_us(&self) -> u64 {
        // A clock before 1970 is a broken clock; 0 then sorts first and `validate` sees it.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(crate::observe::monotonic_ns())
    }
}
