//! Processes that the user names as VMs, by number or by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use huddle_model::vm::VmId;

use super::build::Candidate;
use super::round::{Round, facts};
use super::{DiscoverError, Discoverer, NamedComm, NamedProcess, scan};
use crate::{HostError, status, task};

impl Discoverer {
    pub(super) fn named_processes(&mut self, round: &mut Round) -> Result<Vec<Candidate>, DiscoverError> {
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
            if let Ok(ids) = status::ids(&self.root, pid)
                && ids.process != pid
            {
                return Err(DiscoverError::Thread { name, pid, process: ids.process });
            }
            self.known_processes.insert(pid, stat.id);
            match scan::process(&self.root, &stat, &self.options.limits, round.budget.vm()) {
                Ok(process) => {
                    let candidate = Candidate { name, named: true, process: Arc::new(process) };
                    candidates.push(candidate);
                }
                Err(error) if error.is_gone() => round.ended(&name, pid),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(candidates)
    }

    pub(super) fn named_comms(
        &mut self,
        round: &mut Round,
        named: &[Candidate],
    ) -> Result<Vec<Candidate>, DiscoverError> {
        if self.options.comms.is_empty() {
            return Ok(Vec::new());
        }
        let claimed: BTreeSet<i32> = named.iter().map(|vm| vm.process.id.id).collect();
        let mut found = Vec::new();
        for wanted in self.options.comms.clone() {
            // The kernel keeps 15 bytes of a name; who gives the whole one means the same.
            let kept = wanted.comm.char_indices().take_while(|(at, c)| at + c.len_utf8() <= 15).count();
            let comm: String = wanted.comm.chars().take(kept).collect();
            let wanted = NamedComm { comm, ..wanted };
            let before = found.len();
            self.of_comm(&wanted, &claimed, round, &mut found)?;
            if found.len() == before {
                let whose = if wanted.uid.is_some() { " of that user" } else { "" };
                round.notes.push(format!(
                    "no process called {}{whose} runs now for VM {}",
                    wanted.comm, wanted.name
                ));
            }
        }
        let options = &self.options;
        let reserved = options.processes.iter().map(|vm| &vm.name);
        let reserved = reserved.chain(options.cgroups.iter().map(|vm| &vm.name)).cloned().collect();
        let wanted: Vec<(VmId, String)> =
            found.iter().map(|candidate| (candidate.process.id.into(), candidate.name.clone())).collect();
        let given = self.comm_names.give(&wanted, &reserved);
        for (candidate, given) in found.iter_mut().zip(given) {
            if given.is_renamed {
                round.notes.push(format!(
                    "several processes are called {}: each is a VM, and process {} is called {}",
                    candidate.process.comm, candidate.process.id, given.name
                ));
            }
            candidate.name = given.name;
        }
        Ok(found)
    }

    /// The processes of one name, each as a VM of the name that is wanted.
    fn of_comm(
        &self,
        wanted: &NamedComm,
        claimed: &BTreeSet<i32>,
        round: &mut Round,
        found: &mut Vec<Candidate>,
    ) -> Result<(), DiscoverError> {
        let own = i32::try_from(std::process::id()).unwrap_or(0);
        for pid in task::process_ids(&self.root)? {
            let is_taken = || found.iter().any(|candidate| candidate.process.id.id == pid);
            if pid == own || claimed.contains(&pid) || is_taken() {
                continue;
            }
            let inspected = match task::glance(&self.root, pid) {
                Ok(seen) if seen.is_kernel_thread || seen.is_dead || !is_called(&seen, &wanted.comm) => {
                    continue;
                }
                Ok(_) => task::process(&self.root, pid).and_then(|stat| {
                    scan::process(&self.root, &stat, &self.options.limits, round.budget.vm())
                }),
                Err(error) => Err(error),
            };
            let process = match inspected {
                Ok(process) => Arc::new(process),
                Err(error) if error.is_gone() => continue,
                // One process that lies about itself must not hide the others.
                Err(
                    error @ (HostError::TooMuch(_) | HostError::TooLong { .. } | HostError::Parse { .. }),
                ) => {
                    round.notes.push(format!("process {pid} is ignored: {error}"));
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if wanted.uid.is_some_and(|uid| process.ids.is_none_or(|ids| ids.uids[0] != uid)) {
                continue;
            }
            let owner = self.owner(&process);
            if let Some(why) = self.options.selection.excludes(&facts(&process, &wanted.name, owner.as_ref()))
            {
                round.left_out.push(self.left_out(&process, &wanted.name, why.to_string()));
                continue;
            }
            found.push(Candidate { name: wanted.name.clone(), named: true, process });
        }
        Ok(())
    }
}

fn is_called(seen: &task::Glance, comm: &str) -> bool {
    let end = seen.name.iter().position(|byte| *byte == 0).unwrap_or(seen.name.len());
    String::from_utf8_lossy(&seen.name[..end]) == comm
}
