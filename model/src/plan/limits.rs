//! Limits that a user sets for every plan.

use serde::{Deserialize, Serialize};

use crate::matrix::SharingMatrix;

/// What every plan has to keep to, beside where VMs may run. A plan that cannot says so in its reasons.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PlanLimits {
    /// Groups of VMs, by name, of which no two may share a cache: tenants that do not trust each other.
    /// VMs that do not run are passed over.
    pub apart: Vec<Vec<String>>,
    /// Most vCPUs on a domain for each of its CPUs; `None` for the share of the domain alone. It only ever
    /// lowers the share (see [`plan`](super)).
    pub vcpus_per_cpu: Option<f64>,
}

/// A limit that cannot be.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadLimit {
    /// One VM has nobody to be kept apart from.
    #[error("apart has the group {0:?}, expected the names of two or more different VMs")]
    Group(Vec<String>),
    /// No VM fits into that.
    #[error("vcpus_per_cpu is {0}, expected more than 0")]
    VcpusPerCpu(f64),
}

impl PlanLimits {
    /// Says which limit makes no sense, if one does not.
    ///
    /// # Errors
    /// The first limit that cannot be.
    pub fn check(&self) -> Result<(), BadLimit> {
        for group in &self.apart {
            let twice = (1..group.len()).any(|at| group[..at].contains(&group[at]));
            if group.len() < 2 || twice || group.iter().any(String::is_empty) {
                return Err(BadLimit::Group(group.clone()));
            }
        }
        match self.vcpus_per_cpu {
            Some(most) if !(most.is_finite() && most > 0.0) => Err(BadLimit::VcpusPerCpu(most)),
            _ => Ok(()),
        }
    }

    /// The pairs to be kept apart, as positions in `matrix`.
    pub fn pairs_apart(&self, matrix: &SharingMatrix) -> Vec<(usize, usize)> {
        let position = |name: &String| matrix.vms().iter().position(|vm| vm.name == *name);
        let mut pairs = Vec::new();
        for group in &self.apart {
            let here: Vec<usize> = group.iter().filter_map(position).collect();
            for (at, first) in here.iter().enumerate() {
                pairs.extend(here[at + 1..].iter().map(|second| (*first, *second)));
            }
        }
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::{MatrixVm, MemoryUse, Method};

    #[test]
    fn groups_are_pairs_of_those_that_run() {
        let vm = |name: &str| MatrixVm {
            name: name.into(),
            pid: None,
            vcpus: 1,
            memory: Some(MemoryUse { frames_used: 1, ..MemoryUse::default() }),
        };
        let vms = ["a", "b", "c"].map(vm).to_vec();
        let matrix = SharingMatrix::measured(Method::Merged, vms, &vec![vec![0; 3]; 3], 0.0, 1.0);
        let group = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let limits =
            PlanLimits { apart: vec![group(&["c", "a", "gone"]), group(&["a", "b"])], vcpus_per_cpu: None };
        assert_eq!(limits.check(), Ok(()));
        assert_eq!(limits.pairs_apart(&matrix), [(2, 0), (0, 1)]);
        for bad in [group(&["a"]), group(&["a", "a"]), group(&["a", ""])] {
            assert!(PlanLimits { apart: vec![bad], ..PlanLimits::default() }.check().is_err());
        }
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(PlanLimits { vcpus_per_cpu: Some(bad), ..PlanLimits::default() }.check().is_err());
        }
    }
}
