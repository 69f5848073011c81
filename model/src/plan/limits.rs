//! Limits that a user sets for every plan.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::named_vms::NamedVms;
use crate::matrix::{MatrixVm, SharingMatrix};
use crate::vm::Vm;

/// Limits for every plan, besides where VMs may run. A plan that cannot keep one names it in its reasons.
/// There are no limits by default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanLimits {
    /// Groups of VMs of which no two may share a cache: tenants that do not trust each other. A VM is named by its
    /// name, by `OWNER:NAME`, or by its UUID. At the start each has to be exactly one VM that runs. Later a loop
    /// remembers who was meant, and reports when it is gone.
    pub apart: Vec<Vec<String>>,
    /// Maximum number of vCPUs on a cache domain per CPU of it. It can only lower the share of the vCPUs that
    /// each domain gets.
    pub vcpus_per_cpu: Option<f64>,
    /// The same per core: two SMT siblings have one pipeline and one first-level cache. If the cores of the
    /// host are unknown, each CPU counts as one.
    pub vcpus_per_core: Option<f64>,
    /// Maximum CPU time that the VMs of a domain use together, per CPU of it, from 0 to 1, in the last window
    /// of observation. A VM that was not observed counts as one with all vCPUs busy.
    pub load_per_cpu: Option<f64>,
    /// Minimum share, from 0 to 1, of a VM's memory that is on the NUMA node of a domain it may go to. A VM
    /// without such a domain is not limited.
    pub local_memory: Option<f64>,
    /// The working set of VMs in a cache, in KiB, by name as in `apart`: for contention, and for an estimate of misses.
    /// For other VMs it is the measurement of the processor's monitoring (resctrl).
    pub working_set_kib: BTreeMap<String, u64>,
    /// With policy `sharing`: how many shared frames within a domain are given up for one frame less of
    /// working sets above the cache size. Without working sets it has no effect. [default: 1]
    pub contention: Option<f64>,
}

/// An invalid limit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadLimit {
    /// A group needs two VMs.
    #[error("apart has the group {0:?}, expected the names of two or more different VMs")]
    Group(Vec<String>),
    /// No VM would fit.
    #[error("vcpus_per_cpu is {0}, expected more than 0")]
    VcpusPerCpu(f64),
    /// No VM would fit.
    #[error("vcpus_per_core is {0}, expected more than 0")]
    VcpusPerCore(f64),
    /// A CPU is busy for at most all of its time.
    #[error("load_per_cpu is {0}, expected more than 0 and at most 1")]
    LoadPerCpu(f64),
    /// It is a share.
    #[error("local_memory is {0}, expected more than 0 and at most 1")]
    LocalMemory(f64),
    /// It cannot be a gain.
    #[error("contention is {0}, expected 0 or more")]
    Contention(f64),
}

impl PlanLimits {
    /// Checks all limits.
    ///
    /// # Errors
    /// The first invalid limit.
    pub fn check(&self) -> Result<(), BadLimit> {
        for group in &self.apart {
            let twice = (1..group.len()).any(|at| group[..at].contains(&group[at]));
            if group.len() < 2 || twice || group.iter().any(String::is_empty) {
                return Err(BadLimit::Group(group.clone()));
            }
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let cost = |value: f64| value.is_finite() && value >= 0.0;
        check(self.vcpus_per_cpu, positive, BadLimit::VcpusPerCpu)?;
        check(self.vcpus_per_core, positive, BadLimit::VcpusPerCore)?;
        check(self.load_per_cpu, share, BadLimit::LoadPerCpu)?;
        check(self.local_memory, share, BadLimit::LocalMemory)?;
        check(self.contention, cost, BadLimit::Contention)
    }

    /// Names in these limits that mean no VM of `matrix`, or more than one, a sentence each: a misspelt name must
    /// not disable a limit silently.
    pub fn problems(&self, matrix: &SharingMatrix) -> Vec<String> {
        NamedVms::default().apply(self, matrix.vms()).problems
    }

    /// The pairs to be kept apart, as positions in `matrix`.
    pub fn pairs_apart(&self, matrix: &SharingMatrix) -> Vec<(usize, usize)> {
        NamedVms::default().apply(self, matrix.vms()).apart
    }

    /// Whether a group to be kept apart names this VM.
    pub fn keeps_apart(&self, vm: &Vm) -> bool {
        self.apart.iter().flatten().any(|name| vm.identity().is_meant_by(name))
    }

    /// What the user says that a VM uses of a cache, in KiB; 0 says nothing.
    pub(super) fn working_set_of(&self, vm: &MatrixVm) -> Option<u64> {
        // What is called exactly so, before what was renamed.
        let exact = self.working_set_kib.get(&vm.name);
        let meant = || {
            let mut sets = self.working_set_kib.iter();
            sets.find(|(name, _)| vm.identity().is_meant_by(name)).map(|(_, kib)| kib)
        };
        exact.or_else(meant).copied().filter(|kib| *kib > 0)
    }
}

fn check(
    value: Option<f64>,
    is_good: impl Fn(f64) -> bool,
    bad: impl Fn(f64) -> BadLimit,
) -> Result<(), BadLimit> {
    value.filter(|value| !is_good(*value)).map_or(Ok(()), |value| Err(bad(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{MemoryUse, Method};

    #[test]
    fn groups_are_pairs_of_those_that_run() {
        let vm = |name: &str| MatrixVm {
            name: name.into(),
            id: None,
            uuid: None,
            owner: None,
            vcpus: 1,
            memory: Some(MemoryUse { frames_used: 1, ..MemoryUse::default() }),
        };
        let vms = ["a", "b", "c"].map(vm).to_vec();
        let matrix = SharingMatrix::measured(Method::Merged, vms, &vec![vec![0; 3]; 3], 0.0, 1.0);
        let group = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let apart = vec![group(&["c", "a", "gone"]), group(&["a", "b"])];
        let limits = PlanLimits { apart, ..PlanLimits::default() };
        assert_eq!(limits.check(), Ok(()));
        assert_eq!(limits.pairs_apart(&matrix), [(2, 0), (0, 1)]);
        for bad in [group(&["a"]), group(&["a", "a"]), group(&["a", ""])] {
            assert!(PlanLimits { apart: vec![bad], ..PlanLimits::default() }.check().is_err());
        }
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            for limits in [
                PlanLimits { vcpus_per_cpu: Some(bad), ..PlanLimits::default() },
                PlanLimits { vcpus_per_core: Some(bad), ..PlanLimits::default() },
                PlanLimits { load_per_cpu: Some(bad), ..PlanLimits::default() },
                PlanLimits { local_memory: Some(bad), ..PlanLimits::default() },
                PlanLimits { contention: Some(bad - 0.5), ..PlanLimits::default() },
            ] {
                assert!(limits.check().is_err(), "{limits:?}");
            }
        }
        let all = PlanLimits { load_per_cpu: Some(1.0), contention: Some(0.0), ..PlanLimits::default() };
        assert_eq!(all.check(), Ok(()));
    }
}
