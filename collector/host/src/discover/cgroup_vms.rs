//! Control groups (containers) that the user names as VMs.

use std::collections::BTreeSet;

use huddle_model::cpuset::CpuSet;
use huddle_model::vm::{GuestRegion, TaskId, Vm, VmmKind};

use super::memory::ProcessRole;
use super::merge::cannot_merge;
use super::round::{BuildError, Round, list};
use super::{DiscoverError, Discoverer, vcpus};
use crate::task::{self, TaskStat};
use crate::{HostError, cgroup};

/// What is known of one process of a control group.
struct Part {
    process: TaskId,
    threads: Vec<(u32, TaskStat)>,
    memory: Vec<GuestRegion>,
    allowed: CpuSet,
}

impl Discoverer {
    pub(super) fn cgroup_vms(
        &mut self,
        round: &mut Round,
        claimed: &mut BTreeSet<i32>,
    ) -> Result<Vec<Vm>, DiscoverError> {
        let mut vms = Vec::new();
        for group in self.options.cgroups.clone() {
            let name = group.name.clone();
            let directory = match cgroup::directory(&self.root, &group.path) {
                Ok(directory) => directory,
                Err(error) if error.is_gone() && self.known_cgroups.contains(&group.path) => {
                    round.notes.push(format!("VM {name}: its control group was removed"));
                    continue;
                }
                Err(source) => return Err(DiscoverError::NoCgroup { name, source }),
            };
            self.known_cgroups.insert(group.path);
            let pids = match cgroup::processes(&self.root, &directory, self.options.limits.cgroup_processes) {
                Err(HostError::TooMuch(why)) => {
                    round.notes.push(format!("VM {name} is left out: {why}"));
                    continue;
                }
                pids => pids?,
            };
            let (twice, pids): (Vec<i32>, Vec<i32>) = pids.into_iter().partition(|pid| claimed.contains(pid));
            if !twice.is_empty() {
                round.notes.push(format!(
                    "VM {name}: processes {} of its control group belong to another VM already and are left out",
                    list(twice)
                ));
            }
            match self.cgroup_vm(&name, &pids, round)? {
                Some(vm) => {
                    claimed.extend(pids);
                    vms.push(vm);
                }
                None => round.notes.push(format!("VM {name}: no process is in its control group now")),
            }
        }
        Ok(vms)
    }

    fn cgroup_vm(
        &mut self,
        name: &str,
        pids: &[i32],
        round: &mut Round,
    ) -> Result<Option<Vm>, DiscoverError> {
        let mut vm: Option<Vm> = None;
        for pid in pids {
            // Processes come and go in a container; each is taken whole or not at all.
            let part = match self.cgroup_process(*pid, round) {
                Ok(part) => part,
                Err(BuildError::Ended) => continue,
                Err(BuildError::Failed(HostError::TooMuch(why))) => {
                    round.notes.push(format!("process {pid} of VM {name} is left out: {why}"));
                    continue;
                }
                Err(BuildError::Failed(error)) => return Err(error.into()),
            };
            let Part { process, threads, memory, allowed } = part;
            let vm = vm.get_or_insert_with(|| Vm {
                name: name.to_owned(),
                id: process.into(),
                uuid: None,
                vmid: None,
                owner: None,
                vmm: VmmKind::Cgroup,
                vcpus: Vec::new(),
                memory: Vec::new(),
                left_out: Vec::new(),
                allowed_cpus: allowed.clone(),
                cannot_merge: Vec::new(),
            });
            vm.vcpus.extend(vcpus::complete(&self.root, process, threads)?);
            // A thread that ended just now leaves no gap.
            for (index, vcpu) in (0..).zip(&mut vm.vcpus) {
                vcpu.index = index;
            }
            vm.memory.extend(memory);
            vm.allowed_cpus = vm.allowed_cpus.iter().chain(allowed.iter()).collect();
        }
        if let Some(vm) = &mut vm {
            round.cpus.fill(&self.root, vm)?;
            vm.memory.sort_by_key(|region| (region.process, region.start));
            vm.cannot_merge = cannot_merge(&vm.memory, vm.vmm, &round.ksm);
            let pinned = vm.processes().into_iter().map(|process| self.pinned_bytes(process, false));
            vm.cannot_merge.extend(super::merge::pinned(&vm.memory, pinned.fold(0, u64::saturating_add)));
        }
        Ok(vm)
    }

    fn cgroup_process(&mut self, pid: i32, round: &mut Round) -> Result<Part, BuildError> {
        let stat = task::process(&self.root, pid)?;
        if stat.is_dead() || stat.is_kernel_thread {
            return Err(BuildError::Ended);
        }
        let time = round.budget.vm();
        let threads = vcpus::all(&vcpus::threads(&self.root, pid, &self.options.limits, Some(time))?);
        let memory = self.memory_of(stat.id, ProcessRole::Tenant, round, time)?.regions;
        let allowed = round.cpus.of_process(&self.root, pid)?;
        round.budget.take(super::build::weight(threads.len(), memory.len()))?;
        if !task::is_alive(&self.root, stat.id)? {
            return Err(BuildError::Ended);
        }
        Ok(Part { process: stat.id, threads, memory, allowed })
    }
}
