//! One round of discovery: from processes to VMs.

use std::collections::BTreeSet;
use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::selection::Facts;
use huddle_model::text::plain_short;
use huddle_model::vm::{Owner, VmmKind};

use super::build::Candidate;
use super::scan::{self, Inspected};
use super::vcpu_limits::HostCpus;
use super::{DiscoverError, DiscoverOptions, Discoverer, Discovery, LeftOut};
use crate::limits::{Budget, Limits};
use crate::status::{self, Capability, TO_INSPECT};
use crate::users::Users;
use crate::{HostError, HostRoot, ksm, memory, optional};

/// What holds for all VMs of one round.
pub(super) struct Round {
    pub(super) ksm: Availability<KsmState>,
    pub(super) cpus: HostCpus,
    /// Memory of this host, where that is known.
    pub(super) host_bytes: Option<u64>,
    pub(super) budget: Budget,
    pub(super) notes: Vec<String>,
    pub(super) left_out: Vec<LeftOut>,
    /// Processes that may not be inspected.
    pub(super) denied: BTreeSet<i32>,
    /// VMs that were not reached in time.
    pub(super) postponed: usize,
}

impl Discoverer {
    pub(super) fn look(&mut self) -> Result<Discovery, DiscoverError> {
        if self.users.is_none() {
            self.users = Some(Users::read(&self.root)?);
        }
        let mut round = Round::begin(&self.root, &self.options)?;
        let mut candidates = self.named_processes(&mut round)?;
        candidates.extend(self.named_comms(&mut round, &candidates)?);
        let mut claimed: BTreeSet<i32> = candidates.iter().map(|vm| vm.process.id.id).collect();
        let cgroups = self.cgroup_vms(&mut round, &mut claimed)?;
        if self.options.scan_host {
            candidates.extend(self.found(&mut round, &claimed, &candidates)?);
        }
        let prepared = self.prepare_all(candidates, &mut round)?;
        self.ask_monitors(&prepared);
        let mut vms = Vec::new();
        let mut cgroups = Some(cgroups);
        for prepared in prepared {
            if !prepared.is_named() {
                vms.extend(cgroups.take().into_iter().flatten());
            }
            vms.extend(self.finish(prepared, &mut round)?);
        }
        vms.extend(cgroups.into_iter().flatten());
        self.forget_refused(&vms, &round);
        if let Some(note) = denied_note(&self.root, &round.denied) {
            round.notes.push(note);
        }
        if round.postponed > 0 {
            round.notes.push(format!(
                "looking for VMs takes longer than {} ms ([limits] round_ms): the rest is left for later rounds",
                self.options.limits.round_ms
            ));
        }
        round.left_out.sort_by_key(|left| left.id);
        self.cpus = Some(round.cpus);
        Ok(Discovery { vms, left_out: round.left_out, notes: round.notes })
    }

    /// The VMs that nobody named, as far as they are taken.
    fn found(
        &mut self,
        round: &mut Round,
        claimed: &BTreeSet<i32>,
        named: &[Candidate],
    ) -> Result<Vec<Candidate>, DiscoverError> {
        let limits = &self.options.limits;
        let seen = self.processes.refresh(&self.root, claimed, limits, &round.budget)?;
        round.notes.extend(seen.notes);
        round.denied.extend(seen.hidden);
        round.postponed += seen.postponed;
        let (vmms, notes) = scan::without_heirs(&self.root, seen.vmms, limits);
        round.notes.extend(notes);

        let mut strangers = 0;
        let mut taken = Vec::new();
        for vmm in vmms.into_iter().filter(|vmm| !vmm.line.is_without_machine) {
            let name = wanted_name(&vmm, limits);
            match self.options.selection.judge(&facts(&vmm, &name, self.owner(&vmm).as_ref())) {
                Ok(()) => match &vmm.too_much {
                    None => taken.push((vmm, name)),
                    Some(why) => {
                        round.notes.push(format!("VM {name} ({}) is left out: {why}", vmm.id));
                        round.left_out.push(self.left_out(&vmm, &name, why.to_string()));
                    }
                },
                Err(why) => {
                    strangers += 1;
                    round.left_out.push(self.left_out(&vmm, &name, why.to_string()));
                }
            }
        }
        if strangers > 0 && !std::mem::replace(&mut self.has_said_strangers, true) {
            round.notes.push(
                "there are processes that look like VMs and are not taken for some; `huddle vms` lists them, \
                 with the reasons"
                    .to_owned(),
            );
        }
        let options = &self.options;
        let reserved = (options.processes.iter().map(|vm| &vm.name))
            .chain(options.cgroups.iter().map(|vm| &vm.name))
            .chain(options.comms.iter().map(|vm| &vm.name))
            .chain(named.iter().map(|vm| &vm.name));
        let reserved = reserved.cloned().collect();
        let wanted: Vec<_> = taken.iter().map(|(vmm, name)| (vmm.id.into(), name.clone())).collect();
        let given = self.names.give(&wanted, &reserved);
        let mut candidates = Vec::new();
        for ((process, wanted), given) in taken.into_iter().zip(given) {
            if given.is_renamed {
                round.notes.push(format!(
                    "several VMs are called {wanted}: process {} is called {}",
                    process.id, given.name
                ));
            }
            candidates.push(Candidate { name: given.name, named: false, process });
        }
        Ok(candidates)
    }

    /// The user that a process belongs to, where that is not hidden.
    pub(super) fn owner(&self, process: &Inspected) -> Option<Owner> {
        Some(self.users.as_ref()?.owner(process.ids?.uids[0]))
    }

    pub(super) fn left_out(&self, process: &Inspected, name: &str, reason: String) -> LeftOut {
        LeftOut {
            name: name.to_owned(),
            id: process.id.into(),
            vmm: process.kind.unwrap_or(VmmKind::Process),
            owner: self.owner(process),
            uuid: process.line.uuid,
            reason,
        }
    }
}

/// What is judged by.
pub(super) fn facts<'a>(process: &'a Inspected, name: &'a str, owner: Option<&'a Owner>) -> Facts<'a> {
    Facts {
        name,
        owner,
        uids: process.ids.as_ref().map_or(&[], |ids| &ids.uids),
        cgroups: &process.cgroups,
        uuid: process.line.uuid,
        holds_vm: process.kvm.vms() > 0,
    }
}

/// What the command line calls a VM, else `COMM-PID`.
fn wanted_name(process: &Arc<Inspected>, limits: &Limits) -> String {
    let name = process.line.name.clone().unwrap_or_else(|| format!("{}-{}", process.comm, process.id));
    plain_short(&name, limits.wanted_name_bytes())
}

impl Round {
    fn begin(root: &HostRoot, options: &DiscoverOptions) -> Result<Self, DiscoverError> {
        let ksm = match ksm::state(root) {
            Ok(state) => Availability::Available(state),
            Err(error) if error.is_gone() => {
                Availability::Unavailable("this kernel has no KSM (CONFIG_KSM)".into())
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Self {
            ksm,
            cpus: HostCpus::of_host(root, options)?,
            host_bytes: optional(memory::total_bytes(root))?,
            budget: Budget::of_round(&options.limits),
            notes: Vec::new(),
            left_out: Vec::new(),
            denied: BTreeSet::new(),
            postponed: 0,
        })
    }

    pub(super) fn ended(&mut self, name: &str, pid: i32) {
        self.notes.push(format!("VM {name} ({pid}) ended during the scan"));
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
        "{count} {processes} could not be inspected (pid {pids}), {why}; VMs among them are seen only in part"
    ))
}

/// The first few of many numbers.
pub(super) fn list(numbers: impl IntoIterator<Item = i32>) -> String {
    const SHOWN: usize = 8;
    let mut numbers = numbers.into_iter();
    let shown: Vec<String> = numbers.by_ref().take(SHOWN).map(|number| number.to_string()).collect();
    let more = if numbers.next().is_some() { ", .." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Why something of a process could not be read.
pub(super) enum BuildError {
    Ended,
    Failed(HostError),
}

impl From<HostError> for BuildError {
    fn from(error: HostError) -> Self {
        if error.is_gone() { Self::Ended } else { Self::Failed(error) }
    }
}

impl From<crate::limits::TooMuch> for BuildError {
    fn from(error: crate::limits::TooMuch) -> Self {
        Self::Failed(error.into())
    }
}
