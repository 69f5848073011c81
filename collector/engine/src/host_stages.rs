//! The stages on this host: `/proc`, `/sys` and the scan of page tables.

use std::collections::BTreeMap;

use huddle_model::ksm::KsmState;
use huddle_model::plan::MergingState;
use huddle_model::topology::Topology;
use huddle_model::vm::{TaskId, Vm};

use huddle_host::clock::own_cpu_us;
use huddle_host::discover::{Discoverer, Discovery};
use huddle_host::stages::{HostSource, SharingSource, StageError, VmSource};
use huddle_host::{HostRoot, ksm, load, numa, process_ksm, topology};
use huddle_sharing::content::ContentScan;
use huddle_sharing::{Measurement, MergedScan};

/// Discovery on this host.
pub struct HostVms(pub Discoverer);

impl VmSource for HostVms {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        Ok(self.0.discover()?)
    }

    fn find_limits(&mut self, vms: &mut [Vm]) -> Result<(), StageError> {
        Ok(self.0.find_limits(vms)?)
    }
}

/// The scan of merged frames.
pub struct HostSharing(pub MergedScan);

impl SharingSource for HostSharing {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        Ok(self.0.measure(vms)?)
    }
}

/// The scan of contents; if it samples, it draws another sample each time.
pub struct HostContents(pub ContentScan);

impl SharingSource for HostContents {
    fn measure(&mut self, vms: &[Vm]) -> Result<Measurement, StageError> {
        self.0.resample();
        Ok(self.0.measure(vms)?)
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

    fn merging(&mut self, vms: &[Vm]) -> MergingState {
        process_ksm::merging(&self.root, vms)
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
