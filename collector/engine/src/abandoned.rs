//! The placeholder for a stage that was abandoned: the loop is ending, and the stage cannot be read any more.

use std::collections::BTreeMap;

use huddle_host::discover::Discovery;
use huddle_host::stages::{HostSource, Measurement, Observer, SharingSource, StageError, VmSource};
use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::observation::Observation;
use huddle_model::topology::Topology;
use huddle_model::vm::{TaskId, Vm};

/// Why a fact is unavailable.
pub(super) const ENDING: &str = "the loop is ending, and does not wait for this";

/// Replaces any stage; every reading fails.
pub(super) struct Abandoned;

impl VmSource for Abandoned {
    fn discover(&mut self) -> Result<Discovery, StageError> {
        Err(ENDING.into())
    }
}

impl SharingSource for Abandoned {
    fn measure(&mut self, _: &[Vm]) -> Result<Measurement, StageError> {
        Err(ENDING.into())
    }
}

impl HostSource for Abandoned {
    fn topology(&mut self) -> Result<Topology, StageError> {
        Err(ENDING.into())
    }

    fn ksm(&mut self) -> Result<KsmState, StageError> {
        Err(ENDING.into())
    }

    fn node_pages(&mut self, _: TaskId) -> Result<BTreeMap<u32, u64>, StageError> {
        Err(ENDING.into())
    }

    fn runnable_per_cpu(&mut self) -> Result<f64, StageError> {
        Err(ENDING.into())
    }

    fn own_cpu_us(&mut self) -> Result<u64, StageError> {
        Err(ENDING.into())
    }
}

impl Observer for Abandoned {
    fn observe(&mut self, _: &[Vm], _: Option<&Topology>) -> Availability<Observation> {
        Availability::Unavailable(ENDING.to_owned())
    }
}
