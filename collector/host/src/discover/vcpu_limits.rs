//! Where the vCPUs of a VM may run, and how their owner bound them. Each thread has a cpuset of its own, and an
//! affinity that may be huddle's doing: the rules are those of [`huddle_model::binding`], on what was there before.

use huddle_model::binding::ThreadCpus;
use huddle_model::cpuset::CpuSet;
use huddle_model::vm::Vm;

use super::DiscoverOptions;
use crate::cgroup::Cpusets;
use crate::pin::OwnPins;
use crate::{HostError, HostRoot, core_scheduling, optional, topology};

/// What holds for the vCPUs of all VMs of one round.
#[derive(Debug)]
pub(super) struct HostCpus {
    pub(super) online: CpuSet,
    isolated: CpuSet,
    cpusets: Cpusets,
    own: OwnPins,
    overrides_bindings: bool,
}

impl HostCpus {
    pub(super) fn of_host(root: &HostRoot, options: &DiscoverOptions) -> Result<Self, HostError> {
        let own = options.state_dir.as_ref().map(|state| OwnPins::read(root, state));
        Ok(Self {
            online: topology::online_cpus(root)?,
            isolated: topology::isolated_cpus(root)?,
            cpusets: Cpusets::of_host(root),
            own: own.unwrap_or_default(),
            overrides_bindings: options.override_bindings,
        })
    }

    /// Fills in the limits of the vCPUs that have none yet, and with them those of the VM.
    pub(super) fn fill(&mut self, root: &HostRoot, vm: &mut Vm) -> Result<(), HostError> {
        for vcpu in vm.vcpus.iter_mut().filter(|vcpu| vcpu.limits.allowed_cpus.is_none()) {
            let Some((process, thread)) = vcpu.thread() else { continue };
            let cpuset = known(self.cpusets.of_thread(root, process.id, thread.id))?;
            let before = self.own.before(&vm.name, process, thread, &vcpu.affinity);
            let affinity = match (&before, &cpuset) {
                // It had no affinity of its own.
                (Some(before), Some(cpuset)) if before.is_whole => cpuset,
                (Some(before), _) => &before.cpus,
                (None, _) => &vcpu.affinity,
            };
            let cpus = ThreadCpus {
                affinity,
                cpuset: cpuset.as_ref(),
                online: &self.online,
                isolated: &self.isolated,
                real_time: vcpu.limits.real_time,
            };
            vcpu.limits.binding = if self.overrides_bindings { None } else { cpus.binding() };
            vcpu.limits.allowed_cpus = Some(cpus.allowed());
            // As the kernel tells an affinity: without CPUs that are offline.
            vcpu.limits.before_huddle = before.is_some().then(|| affinity.intersection(&self.online));
            if root.has_real_proc() {
                vcpu.limits.core_cookie = core_scheduling::cookie(thread.id).ok();
            }
        }
        let all: CpuSet = vm
            .vcpus
            .iter()
            .filter_map(|vcpu| vcpu.limits.allowed_cpus.as_ref())
            .flat_map(CpuSet::iter)
            .collect();
        if !all.is_empty() {
            vm.allowed_cpus = all;
        }
        Ok(())
    }

    /// The CPUs that the cgroup of a process allows among the online ones; all of these where that is not known.
    pub(super) fn of_process(&mut self, root: &HostRoot, pid: i32) -> Result<CpuSet, HostError> {
        let allowed = self.cpusets.of_process(root, pid)?.map(|cpus| cpus.intersection(&self.online));
        Ok(allowed.filter(|cpus| !cpus.is_empty()).unwrap_or_else(|| self.online.clone()))
    }
}

/// `None` where the thread ended, or may not be seen.
fn known(cpuset: Result<Option<CpuSet>, HostError>) -> Result<Option<CpuSet>, HostError> {
    match optional(cpuset) {
        Err(error) if error.is_denied() => Ok(None),
        other => Ok(other?.flatten()),
    }
}
