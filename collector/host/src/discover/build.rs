//! One round of discovery: from processes to VMs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use huddle_model::availability::Availability;
use huddle_model::cpuset::CpuSet;
use huddle_model::ksm::KsmState;
use huddle_model::vm::{GuestRegion, TaskId, Vm, VmmKind};

use super::memory::MAX_AGE;
use super::merge::cannot_merge;
use super::scan::{self, Inspected};
use super::{DiscoverError, Discoverer, Discovery, NamedProcess, cmdline, qmp, vcpus};
use crate::status::{self, Capability, TO_INSPECT};
use crate::task::{self, TaskStat};
use crate::{HostError, HostRoot, cgroup, ksm, topology};

/// How long to leave a QMP socket alone that did not answer.
const QMP_RETRY: Duration = Duration::from_secs(10);

/// What QMP said of a VM's threads, or why it did not.
#[derive(Debug)]
pub(super) struct QmpAnswer {
    at: Instant,
    threads: Result<Vec<(u32, i32)>, String>,
}

/// A process that becomes a VM.
struct Candidate {
    name: String,
    /// The user named it, so the name stays, and all its threads count where none is a vCPU's.
    named: bool,
    process: Inspected,
}

/// What holds for all VMs of one round.
struct Round {
    ksm: Availability<KsmState>,
    online: CpuSet,
    now: Instant,
    notes: Vec<String>,
    /// Processes that may not be inspected.
    denied: BTreeSet<i32>,
}

/// Why a VM was not built.
enum BuildError {
    Ended,
    Failed(HostError),
}

impl From<HostError> for BuildError {
    fn from(error: HostError) -> Self {
        if error.is_gone() { Self::Ended } else { Self::Failed(error) }
    }
}

impl Discoverer {
    pub(super) fn look(&mut self) -> Result<Discovery, DiscoverError> {
        let mut round = Round::begin(&self.root)?;
        let mut candidates = self.named_processes(&mut round)?;
        candidates.extend(self.named_comms(&mut round, &candidates)?);
        let mut claimed: BTreeSet<i32> = candidates.iter().map(|vm| vm.process.stat.id.id).collect();
        let mut vms = Vec::new();
        let cgroups = self.cgroup_vms(&mut round, &mut claimed)?;
        if self.options.scan_host {
            let scanned = scan::host(&self.root, &claimed)?;
            round.notes.extend(scanned.notes);
            round.denied.extend(scanned.denied);
            let taken: BTreeSet<String> = candidates
                .iter()
                .map(|vm| vm.name.clone())
                .chain(cgroups.iter().map(|vm| vm.name.clone()))
                .collect();
            candidates.extend(unique_names(scanned.vms, taken, &mut round.notes));
        }
        let mut cgroups = Some(cgroups);
        for candidate in candidates {
            if !candidate.named {
                vms.extend(cgroups.take().into_iter().flatten());
            }
            vms.extend(self.vm(candidate, &mut round)?);
        }
        vms.extend(cgroups.into_iter().flatten());
        if let Some(note) = denied_note(&self.root, &round.denied) {
            round.notes.push(note);
        }
        Ok(Discovery { vms, notes: round.notes })
    }

    fn named_processes(&mut self, round: &mut Round) -> Result<Vec<Candidate>, DiscoverError> {
        let mut candidates = Vec::new();
        for NamedProcess { name, pid } in self.options.processes.clone() {
            let known = self.known_processes.get(&pid).copied();
            let no_vm = |why| DiscoverError::NoVm { name: name.clone(), pid, why };
            let stat = match task::process(&self.root, pid) {
                Ok(stat) if known.is_none() || known == Some(stat.id) && !stat.is_dead() => stat,
                Ok(_) => {
                    round.notes.push(format!("VM {name} ({pid}) has ended"));
                    continue;
                }
                Err(error) if error.is_gone() && known.is_some() => {
                    round.notes.push(format!("VM {name} ({pid}) has ended"));
                    continue;
                }
                Err(error) if error.is_gone() => return Err(DiscoverError::NoSuchProcess { name, pid }),
                Err(error) => return Err(error.into()),
            };
            if stat.is_kernel_thread {
                return Err(no_vm("it is a kernel thread, which has no memory of its own"));
            }
            if stat.is_dead() {
                return Err(no_vm("it has ended and waits for its parent to collect it"));
            }
            self.known_processes.insert(pid, stat.id);
            match scan::process(&self.root, stat) {
                Ok(process) => candidates.push(Candidate { name, named: true, process }),
                Err(error) if error.is_gone() => round.ended(&name, pid),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(candidates)
    }

    fn named_comms(&self, round: &mut Round, named: &[Candidate]) -> Result<Vec<Candidate>, DiscoverError> {
        if self.options.comms.is_empty() {
            return Ok(Vec::new());
        }
        let claimed: BTreeSet<i32> = named.iter().map(|vm| vm.process.stat.id.id).collect();
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        let mut by_comm: BTreeMap<String, Vec<TaskStat>> = BTreeMap::new();
        for pid in scan::pids(&self.root)? {
            if pid == own || claimed.contains(&pid) {
                continue;
            }
            match task::process(&self.root, pid) {
                Ok(stat) if stat.is_kernel_thread || stat.is_dead() => {}
                Ok(stat) => by_comm.entry(stat.name.clone()).or_default().push(stat),
                Err(error) if error.is_gone() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut candidates = Vec::new();
        for wanted in &self.options.comms {
            // The kernel keeps 15 bytes of a name; who gives the whole one means the same.
            let kept = wanted.comm.char_indices().take_while(|(at, c)| at + c.len_utf8() <= 15).count();
            let comm: String = wanted.comm.chars().take(kept).collect();
            let stats = by_comm.remove(&comm).unwrap_or_default();
            match stats.len() {
                0 => round.notes.push(format!("no process called {comm} runs now for VM {}", wanted.name)),
                1 => {}
                several => round.notes.push(format!(
                    "{several} processes are called {comm}: each is a VM, called {}-PID",
                    wanted.name
                )),
            }
            let several = stats.len() > 1;
            for stat in stats {
                let pid = stat.id.id;
                let name = if several { format!("{}-{pid}", wanted.name) } else { wanted.name.clone() };
                match scan::process(&self.root, stat) {
                    Ok(process) => candidates.push(Candidate { name, named: true, process }),
                    Err(error) if error.is_gone() => round.ended(&name, pid),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(candidates)
    }

    /// The VM of a candidate; `None`, with a note, where it ended meanwhile.
    fn vm(&mut self, candidate: Candidate, round: &mut Round) -> Result<Option<Vm>, DiscoverError> {
        let (name, named, id) = (candidate.name.clone(), candidate.named, candidate.process.stat.id);
        match self.build(candidate, round) {
            Ok(vm) => return Ok(Some(vm)),
            Err(BuildError::Ended) => round.ended(&name, id.id),
            Err(BuildError::Failed(error)) if named => return Err(error.into()),
            Err(BuildError::Failed(error)) => {
                round.notes.push(format!("VM {name} ({id}) is left out: {error}"));
            }
        }
        Ok(None)
    }

    fn build(&mut self, candidate: Candidate, round: &mut Round) -> Result<Vm, BuildError> {
        let Candidate { name, named, process: Inspected { stat, kind, args, kvm } } = candidate;
        let (process, pid) = (stat.id, stat.id.id);
        let threads = vcpus::threads(&self.root, pid)?;
        let mut chosen = vcpus::by_name(&threads);
        if chosen.is_empty() && kind.is_some() {
            chosen = self.ask_qmp(&name, process, &args, &threads, round);
        }
        if chosen.is_empty() && named {
            chosen = vcpus::all(&threads);
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
        let vcpus = vcpus::complete(&self.root, process, chosen)?;
        let memory = self.memory_of(process, round)?;
        if memory.is_empty() && !round.denied.contains(&pid) {
            // Only a process that is ending has given its memory back already.
            return Err(BuildError::Ended);
        }
        let allowed_cpus = allowed_cpus(&self.root, pid, &round.online)?;
        if !task::is_alive(&self.root, process)? {
            return Err(BuildError::Ended);
        }
        let cannot_merge = cannot_merge(&memory, vmm, &round.ksm);
        let uuid = kind.and_then(|kind| cmdline::vm_uuid(kind, &args));
        Ok(Vm { name, id: process.into(), uuid, vmm, vcpus, memory, allowed_cpus, cannot_merge })
    }

    /// The guest memory of a process; empty, and said in the end, where it may not be seen.
    fn memory_of(&mut self, process: TaskId, round: &mut Round) -> Result<Vec<GuestRegion>, HostError> {
        let run = round.ksm.value().map(|ksm| ksm.run);
        match self.memory.regions(&self.root, process, run, round.now) {
            Err(error) if error.is_denied() => {
                round.denied.insert(process.id);
                Ok(Vec::new())
            }
            other => other,
        }
    }

    /// Asks the QMP sockets on the command line until one answers. Threads do not change their
    /// vCPU, so an answer is kept as long as its threads are there, and [`MAX_AGE`] at most.
    fn ask_qmp(
        &mut self,
        name: &str,
        process: TaskId,
        args: &[String],
        threads: &[TaskStat],
        round: &mut Round,
    ) -> Vec<(u32, TaskStat)> {
        let sockets = cmdline::qmp_sockets(args);
        if sockets.is_empty() {
            return Vec::new();
        }
        let fresh = self.qmp.remove(&process).filter(|answer| {
            let limit = if answer.threads.is_ok() { MAX_AGE } else { QMP_RETRY };
            round.now.saturating_duration_since(answer.at) < limit
        });
        let find = |asked: &[(u32, i32)]| vcpus::by_own_id(&self.root, process.id, threads, asked);
        let fresh = fresh.filter(|answer| match &answer.threads {
            Ok(asked) => {
                let distinct: BTreeSet<i32> = asked.iter().map(|(_, thread)| *thread).collect();
                find(asked).len() == distinct.len()
            }
            Err(_) => true,
        });
        let answer = fresh.unwrap_or_else(|| {
            let mut threads = Err(String::new());
            for socket in &sockets {
                let path = as_seen_by(&self.root, process.id, socket);
                threads = qmp::query_cpus(&path, self.options.qmp_timeout).map_err(|error| error.to_string());
                if threads.is_ok() {
                    break;
                }
            }
            QmpAnswer { at: Instant::now(), threads }
        });
        let found = match &answer.threads {
            Ok(asked) => find(asked),
            Err(error) => {
                round.notes.push(format!("VM {name} ({process}): {error}"));
                Vec::new()
            }
        };
        self.qmp.insert(process, answer);
        found
    }

    fn cgroup_vms(
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
            let pids = cgroup::processes(&directory)?;
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
            let (process, threads, memory, allowed) = match self.cgroup_process(*pid, round) {
                Ok(parts) => parts,
                Err(BuildError::Ended) => continue,
                Err(BuildError::Failed(error)) => return Err(error.into()),
            };
            let vm = vm.get_or_insert_with(|| Vm {
                name: name.to_owned(),
                id: process.into(),
                uuid: None,
                vmm: VmmKind::Cgroup,
                vcpus: Vec::new(),
                memory: Vec::new(),
                allowed_cpus: allowed.clone(),
                cannot_merge: Vec::new(),
            });
            let first = u32::try_from(vm.vcpus.len()).unwrap_or(u32::MAX);
            let numbered = (first..).zip(threads).collect();
            vm.vcpus.extend(vcpus::complete(&self.root, process, numbered)?);
            // A thread that ended just now leaves no gap.
            for (index, vcpu) in (0..).zip(&mut vm.vcpus) {
                vcpu.index = index;
            }
            vm.memory.extend(memory);
            let both = vm.allowed_cpus.intersection(&allowed);
            if !both.is_empty() {
                vm.allowed_cpus = both;
            }
        }
        if let Some(vm) = &mut vm {
            vm.memory.sort_by_key(|region| (region.process, region.start));
            vm.cannot_merge = cannot_merge(&vm.memory, vm.vmm, &round.ksm);
        }
        Ok(vm)
    }

    #[allow(clippy::type_complexity, reason = "the parts of one process, taken apart at once")]
    fn cgroup_process(
        &mut self,
        pid: i32,
        round: &mut Round,
    ) -> Result<(TaskId, Vec<TaskStat>, Vec<GuestRegion>, CpuSet), BuildError> {
        let stat = task::process(&self.root, pid)?;
        if stat.is_dead() || stat.is_kernel_thread {
            return Err(BuildError::Ended);
        }
        let threads = vcpus::threads(&self.root, pid)?;
        let memory = self.memory_of(stat.id, round)?;
        let allowed = allowed_cpus(&self.root, pid, &round.online)?;
        if !task::is_alive(&self.root, stat.id)? {
            return Err(BuildError::Ended);
        }
        Ok((stat.id, threads, memory, allowed))
    }
}

impl Round {
    fn begin(root: &HostRoot) -> Result<Self, DiscoverError> {
        let ksm = match ksm::state(root) {
            Ok(state) => Availability::Available(state),
            Err(error) if error.is_gone() => {
                Availability::Unavailable("this kernel has no KSM (CONFIG_KSM)".into())
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            ksm,
            online: topology::online_cpus(root)?,
            now: Instant::now(),
            notes: Vec::new(),
            denied: BTreeSet::new(),
        })
    }

    fn ended(&mut self, name: &str, pid: i32) {
        self.notes.push(format!("VM {name} ({pid}) ended during the scan"));
    }
}

/// Names for VMs that nobody named: what the command line says, else `COMM-PID`; `NAME-PID` where
/// that is taken.
fn unique_names(
    found: Vec<Inspected>,
    mut taken: BTreeSet<String>,
    notes: &mut Vec<String>,
) -> Vec<Candidate> {
    let wanted = |vm: &Inspected| {
        vm.kind.and_then(|kind| cmdline::vm_name(kind, &vm.args)).unwrap_or_else(|| {
            let comm: String = vm.stat.name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
            format!("{comm}-{}", vm.stat.id)
        })
    };
    let names: Vec<String> = found.iter().map(wanted).collect();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for name in &names {
        *count.entry(name).or_default() += 1;
    }
    // Names that are alone are given first, so that they stay whatever the others become.
    let alone = |name: &String, taken: &BTreeSet<String>| count[name.as_str()] == 1 && !taken.contains(name);
    let kept: Vec<bool> = names.iter().map(|name| alone(name, &taken)).collect();
    taken.extend(names.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(name, _)| name.clone()));
    let mut candidates = Vec::new();
    for ((process, name), kept) in found.into_iter().zip(&names).zip(kept) {
        let mut unique = name.clone();
        if !kept {
            while taken.contains(&unique) || unique == *name {
                unique = format!("{unique}-{}", process.stat.id);
            }
            notes.push(format!(
                "several VMs are called {name}: process {} is called {unique}",
                process.stat.id
            ));
            taken.insert(unique.clone());
        }
        candidates.push(Candidate { name: unique, named: false, process });
    }
    candidates
}

/// The CPUs its cgroup allows among the online ones; all of these where that is not known.
fn allowed_cpus(root: &HostRoot, pid: i32, online: &CpuSet) -> Result<CpuSet, HostError> {
    let allowed = cgroup::allowed_cpus(root, pid)?.map(|cpus| cpus.intersection(online));
    Ok(allowed.filter(|cpus| !cpus.is_empty()).unwrap_or_else(|| online.clone()))
}

/// A path of a process's command line as this program reaches it: through the process's own root
/// and working directory, which may be a container's.
fn as_seen_by(root: &HostRoot, pid: i32, path: &Path) -> PathBuf {
    match path.strip_prefix("/") {
        Ok(below) => root.proc(format!("{pid}/root")).join(below),
        Err(_) => root.proc(format!("{pid}/cwd")).join(path),
    }
}

fn denied_note(root: &HostRoot, denied: &BTreeSet<i32>) -> Option<String> {
    if denied.is_empty() {
        return None;
    }
    let missing = status::own(root).map_or_else(
        |_| Vec::new(),
        |status| TO_INSPECT.into_iter().filter(|capability| !status.has(*capability)).collect(),
    );
    let why = if missing.is_empty() {
        "although huddle has the capabilities: a security module or another user namespace forbids it"
            .to_owned()
    } else {
        let missing: Vec<&str> = missing.into_iter().map(Capability::name).collect();
        format!("because huddle lacks {}: run it as root", missing.join(" and "))
    };
    let processes = if denied.len() == 1 { "process" } else { "processes" };
    let (count, pids) = (denied.len(), list(denied.iter().copied()));
    Some(format!(
        "{count} {processes} could not be inspected ({pids}), {why}; VMs among them are seen only in part"
    ))
}

/// The first few of many numbers.
fn list(numbers: impl IntoIterator<Item = i32>) -> String {
    const SHOWN: usize = 8;
    let mut numbers = numbers.into_iter();
    let shown: Vec<String> = numbers.by_ref().take(SHOWN).map(|number| number.to_string()).collect();
    let more = if numbers.next().is_some() { ", .." } else { "" };
    format!("{}{more}", shown.join(", "))
}
