//! Classes of the cores of a hybrid host. On x86 each kind of core has a PMU of its own, `cpu_core`, `cpu_atom` and
//! `cpu_lowpower`, which lists its CPUs (Documentation/admin-guide/perf and arch/x86/events/intel/core.c, Linux 6.18);
//! elsewhere the scheduler's `cpu_capacity` tells them apart (Documentation/scheduler/sched-capacity.rst, Linux 6.18).

use std::collections::BTreeMap;

use huddle_model::cpuset::CpuSet;
use huddle_model::topology::{CacheInfo, CoreClasses};

use super::{HostError, HostRoot, optional, read_cpus, read_number};

/// The classes of `cpus`, whose caches are `caches`; empty if all are of one class or the kernel does not report them.
pub fn read(root: &HostRoot, cpus: &CpuSet, caches: &[CacheInfo]) -> Result<CoreClasses, HostError> {
    let of_kind = |pmu: &str| -> Result<CpuSet, HostError> {
        let listed = optional(read_cpus(&root.sys(format!("devices/{pmu}/cpus"))))?;
        Ok(listed.unwrap_or_default().intersection(cpus))
    };
    let performance = of_kind("cpu_core")?;
    let (efficient, low_power) = (of_kind("cpu_atom")?, of_kind("cpu_lowpower")?);
    if !(performance.is_empty() && efficient.is_empty() && low_power.is_empty()) {
        return Ok(CoreClasses::of_kinds(&performance, &efficient, &low_power, caches));
    }
    let mut capacities = BTreeMap::new();
    for cpu in cpus.iter() {
        let path = root.sys(format!("devices/system/cpu/cpu{cpu}/cpu_capacity"));
        // All CPUs have it or none.
        let Some(capacity) = optional(read_number::<u64>(&path))? else { break };
        capacities.insert(cpu, capacity);
    }
    Ok(if capacities.len() == cpus.len() {
        CoreClasses::of_capacities(&capacities)
    } else {
        CoreClasses::default()
    })
}
