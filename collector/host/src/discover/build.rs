//! From a process to a VM: its threads, its vCPUs, its memory.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use huddle_model::vm::{GuestRegion, TaskId, Vcpu, Vm, VmmKind};

use super::memory::{GuestMemory, ProcessRole};
use super::merge::cannot_merge;
use super::monitors::Question;
use super::round::{BuildError, Round};
use super::scan::Inspected;
use super::{DiscoverError, Discoverer, vcpus};
use crate::HostError;
use crate::limits::{TooMuch, VmTime};
use crate::status;
use crate::task::{self, TaskStat};

/// How long a VM that is beyond a limit is not looked at again, at first and at most.
const REFUSED: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(600)];

/// A process that becomes a VM.
pub(super) struct Candidate {
    pub(super) name: String,
    /// The user named it, so the name stays, and all its threads count where none is a vCPU's.
    pub(super) named: bool,
    pub(super) process: Arc<Inspected>,
}

/// A candidate with its threads.
pub(super) struct Prepared {
    candidate: Candidate,
    threads: Vec<TaskStat>,
    /// Those that run vCPUs, as far as their names tell.
    chosen: Vec<(u32, TaskStat)>,
}

impl Prepared {
    pub(super) fn is_named(&self) -> bool {
        self.candidate.named
    }

    fn asks_monitor(&self) -> bool {
        let process = &self.candidate.process;
        let line = &process.line;
        let may_have_one = !line.monitors.is_empty() || !line.configs.paths.is_empty();
        self.chosen.is_empty() && process.kind.is_some() && may_have_one
    }
}

/// A VM that was beyond a limit.
#[derive(Clone, Debug)]
pub(super) struct Refused {
    why: TooMuch,
    until: Instant,
    patience: Duration,
}

impl Discoverer {
    /// Reads the threads of all candidates; those that ended or are beyond a limit are left out, with a note.
    pub(super) fn prepare_all(
        &mut self,
        candidates: Vec<Candidate>,
        round: &mut Round,
    ) -> Result<Vec<Prepared>, DiscoverError> {
        let mut all = Vec::new();
        for candidate in candidates {
            let id = candidate.process.id;
            // What was whole before is looked at again in any case: a VM does not come and go with the load.
            if !candidate.named && !self.built.contains(&id) && round.budget.is_over() {
                round.postponed += 1;
                continue;
            }
            let known = self.refused.get(&id).filter(|refused| Instant::now() < refused.until);
            if let Some(why) = known.map(|refused| refused.why.clone()) {
                self.leave_out(&candidate, &why, round);
                continue;
            }
            match vcpus::threads(&self.root, id.id, &self.options.limits, Some(round.budget.vm())) {
                Ok(threads) => {
                    let chosen = vcpus::by_name(&threads);
                    all.push(Prepared { candidate, threads, chosen });
                }
                Err(error) => self.failed(&candidate, error.into(), round)?,
            }
        }
        Ok(all)
    }

    /// Asks the monitors of those whose threads have no telling names.
    pub(super) fn ask_monitors(&mut self, prepared: &[Prepared]) {
        let questions: Vec<Question> = prepared
            .iter()
            .filter(|prepared| prepared.asks_monitor())
            .filter_map(|Prepared { candidate, threads, .. }| {
                let process = &candidate.process;
                let sockets = process.line.monitors.clone();
                let configs = process.line.configs.clone();
                // Whose socket it has to be is not known of a process whose owner is hidden.
                let uid = process.ids?.uids[0];
                Some(Question { process: process.id, uid, sockets, configs, threads: threads.len() })
            })
            .collect();
        self.monitors.retain(&questions.iter().map(|question| question.process).collect());
        self.monitors.ask(&self.root, &questions, &self.options.limits);
    }

    /// The VM of a candidate; `None`, with a note, where it ended meanwhile or is beyond a limit.
    pub(super) fn finish(
        &mut self,
        prepared: Prepared,
        round: &mut Round,
    ) -> Result<Option<Vm>, DiscoverError> {
        let id = prepared.candidate.process.id;
        match self.build(&prepared, round) {
            Ok(vm) => {
                self.refused.remove(&id);
                self.built.insert(id);
                return Ok(Some(vm));
            }
            Err(error) => self.failed(&prepared.candidate, error, round)?,
        }
        Ok(None)
    }

    /// Says why there is no VM; that a process which the user named cannot be read is an error.
    fn failed(
        &mut self,
        candidate: &Candidate,
        error: BuildError,
        round: &mut Round,
    ) -> Result<(), DiscoverError> {
        let (name, id) = (&candidate.name, candidate.process.id);
        match error {
            BuildError::Ended => round.ended(name, id.id),
            BuildError::Failed(HostError::TooMuch(why)) => {
                let before = self.refused.get(&id).map(|refused| refused.patience * 2);
                let patience = before.map_or(REFUSED[0], |patience| patience.min(REFUSED[1]));
                let until = Instant::now() + patience;
                self.refused.insert(id, Refused { why: why.clone(), until, patience });
                self.leave_out(candidate, &why, round);
            }
            BuildError::Failed(error) if candidate.named => return Err(error.into()),
            BuildError::Failed(error) => {
                round.notes.push(format!("VM {name} ({id}) is left out: {error}"));
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, candidate: &Candidate, why: &TooMuch, round: &mut Round) {
        let (name, process) = (&candidate.name, &candidate.process);
        round.notes.push(format!("VM {name} ({}) is left out: {why}", process.id));
        round.left_out.push(self.left_out(process, name, why.to_string()));
    }

    /// Forgets what was refused of processes that are not there any more.
    pub(super) fn forget_refused(&mut self, vms: &[Vm], round: &Round) {
        let here: BTreeSet<TaskId> = vms
            .iter()
            .filter_map(Vm::process)
            .chain(round.left_out.iter().filter_map(|left| left.id.process()))
            .collect();
        self.refused.retain(|process, _| here.contains(process));
    }

    fn build(&mut self, prepared: &Prepared, round: &mut Round) -> Result<Vm, BuildError> {
        let Prepared { candidate: Candidate { name, named, process }, threads, chosen } = prepared;
        let (id, pid, kind, kvm) = (process.id, process.id.id, process.kind, &process.kvm);
        let time = round.budget.vm();
        let mut chosen = chosen.clone();
        if prepared.asks_monitor() {
            chosen = self.told_by_monitor(prepared, round);
        }
        if chosen.is_empty() && *named {
            chosen = vcpus::all(threads);
        }
        if chosen.is_empty() {
            let many = if kvm.vcpus() > 0 { format!("{} vCPUs", kvm.vcpus()) } else { "its vCPUs".into() };
            round.notes.push(format!(
                "VM {name} ({pid}): the threads of {many} are not known by name; \
                 it is measured and not pinned (QEMU: -name debug-threads=on or a QMP socket)"
            ));
        }
        if threads.iter().any(|thread| vcpus::role(&thread.name) == Some(vcpus::Role::AllVcpus)) {
            round.notes.push(format!(
                "VM {name} ({pid}) runs all its vCPUs on one thread (-accel tcg,thread=single): it counts as one vCPU"
            ));
        }
        if kvm.vms() > 1 {
            round.notes.push(format!("process {pid} holds {} KVM VMs: they count as one, {name}", kvm.vms()));
        }
        let vmm = match kind {
            // With descriptors hidden, only the threads distinguish KVM from TCG.
            Some(VmmKind::QemuTcg) if chosen.iter().any(|(_, thread)| thread.name.ends_with("/KVM")) => {
                VmmKind::QemuKvm
            }
            Some(kind) => kind,
            None => VmmKind::Process,
        };
        let vcpus = vcpus::complete(&self.root, id, chosen)?;
        let role = if vmm == VmmKind::Process { ProcessRole::Tenant } else { ProcessRole::Vmm };
        let GuestMemory { regions: memory, left_out } = self.memory_of(id, role, round, time)?;
        if memory.is_empty() && !round.denied.contains(&pid) {
            // Only a process that is ending has given its memory back already.
            return Err(BuildError::Ended);
        }
        let allowed_cpus = round.cpus.of_process(&self.root, pid)?;
        round.budget.take(weight(vcpus.len(), memory.len()))?;
        if !task::is_alive(&self.root, id)? {
            return Err(BuildError::Ended);
        }
        let mut cannot_merge = cannot_merge(&memory, vmm, &round.ksm);
        cannot_merge.extend(super::merge::pinned(&memory, self.pinned_bytes(id, kvm.has_vfio())));
        let (uuid, vmid, owner) = (process.line.uuid, process.line.vmid, self.owner(process));
        let mut vm = Vm {
            name: name.clone(),
            id: id.into(),
            uuid,
            vmid,
            owner,
            vmm,
            vcpus,
            memory,
            left_out,
            allowed_cpus,
            cannot_merge,
        };
        round.cpus.fill(&self.root, &mut vm)?;
        Ok(vm)
    }

    /// Memory of a process that is pinned, in bytes. With devices of VFIO locked memory counts too; elsewhere that may be
    /// mlock(2), which KSM does not mind. 0 where it may not be seen: that is no reason to leave a VM out.
    pub(super) fn pinned_bytes(&self, process: TaskId, has_vfio: bool) -> u64 {
        let kept = status::kept_in_place(&self.root, process.id).unwrap_or_default();
        kept.pinned.saturating_add(if has_vfio { kept.locked } else { 0 })
    }

    /// The guest memory of a process; empty, and said in the end, where it may not be seen.
    pub(super) fn memory_of(
        &mut self,
        process: TaskId,
        role: ProcessRole,
        round: &mut Round,
        time: VmTime,
    ) -> Result<GuestMemory, HostError> {
        let run = round.ksm.value().map(|ksm| ksm.run);
        let limits = &self.options.limits;
        let memory = match self.memory.memory(&self.root, process, role, run, limits, time) {
            Err(error) if error.is_denied() => {
                round.denied.insert(process.id);
                return Ok(GuestMemory::default());
            }
            other => other?,
        };
        let bytes: u64 = memory.regions.iter().map(GuestRegion::len_bytes).fold(0, u64::saturating_add);
        let most = round.host_bytes.map(|host| host.saturating_mul(limits.memory_factor.into()));
        match most {
            Some(most) if bytes > most => {
                let most = most >> 20;
                Err(TooMuch::Count { of: "MiB of guest memory", most, limit: "memory_factor" }.into())
            }
            _ => Ok(memory),
        }
    }

    /// The vCPU threads that the monitor named. An answer of which threads are gone is of no use any more.
    fn told_by_monitor(&mut self, prepared: &Prepared, round: &mut Round) -> Vec<(u32, TaskStat)> {
        let Prepared { candidate: Candidate { name, process, .. }, threads, .. } = prepared;
        match self.monitors.answer(process.id) {
            None => Vec::new(),
            Some(Err(error)) => {
                round.notes.push(format!("VM {name} ({}): {error}", process.id));
                Vec::new()
            }
            Some(Ok(told)) => {
                let found = vcpus::by_own_id(&self.root, process.id.id, threads, told);
                let distinct: BTreeSet<i32> = told.iter().map(|(_, thread)| *thread).collect();
                if found.len() < distinct.len() {
                    self.monitors.forget(process.id);
                }
                found
            }
        }
    }
}

/// About how many bytes are kept of a VM.
pub(super) fn weight(threads: usize, regions: usize) -> usize {
    const VCPU: usize = size_of::<Vcpu>() + 128;
    size_of::<Vm>() + 1024 + threads * VCPU + regions * size_of::<GuestRegion>()
}
