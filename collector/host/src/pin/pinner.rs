//! Carrying out a plan: affinities of vCPU threads, and the settings of KSM that experiments need.

mod origins;
mod settings;

use std::collections::{HashMap, HashSet};

use huddle_model::assignment::Assignment;
use huddle_model::cpuset::CpuSet;
use huddle_model::id::{TaskId, VcpuId};
use huddle_model::pinning::PinOutcome;
use huddle_model::plan::Plan;
use huddle_model::topology::{CacheDomain, DomainId};
use huddle_model::vm::{Vm, VmmKind};
use nix::errno::Errno;

use super::affinity::{Affinities as _, Presence, Scheduler, VcpuRef, describe};
use super::journal::{Change, Journal, JournalError, Key, Origin};
use super::ksm;
use super::started;
use super::undo::{UndoReport, Undoers, Undone, undo_all, undo_key};
use crate::stages::{Pinner, StageError};
use crate::stop::Stop;
use crate::{HostError, HostRoot};

/// One thread, or vCPU of a domain of Xen, and the CPUs it shall run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadPin {
    /// Name of the VM, for messages.
    pub vm: String,
    /// Number of the vCPU, for messages.
    pub vcpu: u32,
    /// The thread, or the vCPU of the domain.
    pub id: VcpuId,
    /// The process of the thread; `None` on Xen.
    pub process: Option<TaskId>,
    /// Where it shall run.
    pub cpus: CpuSet,
    /// CPUs that it may use: where somebody else has bound it to some of these since huddle pinned it, it is left there.
    /// `None` to pin it in any case.
    pub within: Option<CpuSet>,
}

/// What pinning did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinReport {
    /// The counts. A thread that got back what it had before huddle counts as changed.
    pub outcome: PinOutcome,
    /// The vCPUs of the plan that are bound to the CPUs of their domain now, as far as they may use them. Empty for
    /// explicit sets of CPUs.
    pub in_force: Assignment,
    /// What was skipped or turned out otherwise than asked, one sentence each.
    pub notes: Vec<String>,
}

/// A change that could not be made. What was changed before it is in the journal and is undone with it.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// No journal, no change.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A reading of the host failed.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The hypervisor beneath this host could not be asked.
    #[error(transparent)]
    Hypervisor(StageError),
    /// The kernel does not let this process change the thread.
    #[error(
        "cannot {what} the affinity of {who}: {errno}; run as root, with CAP_SYS_NICE, or as the user of the VM"
    )]
    Affinity {
        /// `read` or `set`.
        what: &'static str,
        /// The vCPU.
        who: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// There was no time for all of it.
    #[error("the loop is ending, and pins nothing more")]
    Ending,
    /// Not a setting of KSM.
    #[error("KSM has no setting {file:?}; huddle knows {}", ksm::SETTINGS.join(", "))]
    UnknownSetting {
        /// What was asked for.
        file: String,
    },
    /// The kernel refused the value.
    #[error("cannot set KSM's {file} to {value:?}: {source}; {}", ksm::advice(source))]
    Setting {
        /// The setting.
        file: String,
        /// What was asked for.
        value: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The kernel took the value for another.
    #[error("KSM's {file} was set to {value:?}, but the kernel says {got:?}")]
    SettingNotTaken {
        /// The setting.
        file: String,
        /// What was asked for.
        value: String,
        /// What it is now.
        got: String,
    },
}

/// The one that changes the host. Dropping it undoes everything the journal holds, also what an earlier
/// `huddle pin` left there, unless it is [kept](HostPinner::keep).
pub struct HostPinner {
    root: HostRoot,
    journal: Journal,
    undoers: Undoers,
    /// Who schedules what is pinned here; what the journal holds may be another's.
    scheduler: Scheduler,
    /// Whether to pin also what somebody else bound since huddle pinned it.
    overrides_bindings: bool,
    /// Set when no more is to be pinned.
    stop: Stop,
    /// The settings of KSM that were set, by file, with the last value of each.
    settings: Vec<(String, String)>,
    kept: bool,
}

/// Which threads a round of pinning settled.
#[derive(Default)]
struct Round {
    report: PinReport,
    /// Where they shall be, by huddle's doing or anyway.
    placed: HashSet<Key>,
    /// Passed over, with a note.
    skipped: HashSet<Key>,
    /// The first change that the kernel did not permit.
    refused: Option<PinError>,
    /// Names of VMs that are control groups.
    groups: HashSet<String>,
}

impl Round {
    fn skip(&mut self, key: Key, note: String) {
        self.report.outcome.skipped += 1;
        self.report.notes.push(note);
        self.skipped.insert(key);
    }

    /// One thread that may not be changed must not keep others from their places.
    fn refuse(&mut self, key: Key, error: PinError) {
        self.skip(key, error.to_string());
        self.refused.get_or_insert(error);
    }
}

impl HostPinner {
    /// A pinner that writes to `journal`. What is in the journal already keeps its original values; a
    /// new run calls [`recover`](super::recover) first.
    pub fn new(root: HostRoot, journal: Journal) -> Self {
        let undoers = Undoers::of_host(root.clone());
        Self::with(root, journal, undoers, Scheduler::Host)
    }

    /// The same with what puts back a hypervisor's changes, and for the vCPUs of `scheduler`.
    pub fn with(root: HostRoot, journal: Journal, undoers: Undoers, scheduler: Scheduler) -> Self {
        let (stop, settings) = (Stop::default(), Vec::new());
        Self { root, journal, undoers, scheduler, overrides_bindings: false, stop, settings, kept: false }
    }

    /// The same for a user who wants bindings overridden, or not.
    pub fn overriding_bindings(mut self, overrides: bool) -> Self {
        self.overrides_bindings = overrides;
        self
    }

    /// The same for a loop that may have to end while many vCPUs are pinned.
    pub fn until(mut self, stop: Stop) -> Self {
        self.stop = stop;
        self
    }

    /// The journal, for its entries and notes.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Sets the affinity of each placed vCPU thread to the CPUs of its domain that it may use
    /// ([`Vm::allowed_cpus_of`]). vCPUs that the plan does not name, those that their owner bound, and VMs that are no
    /// longer in `vms`, get back what they had before huddle touched them, unless the plan is [waiting](Plan::waiting).
    /// vCPUs that somebody else bound since huddle pinned them are left there, with a note, also before `vms` tells of
    /// it.
    ///
    /// Threads that are gone or replaced by others are skipped with a note, and so are placements
    /// of VMs that are not in `vms`.
    ///
    /// # Errors
    /// When the journal cannot be written, or the kernel permits not one of the changes. What it does not
    /// permit of several is skipped with a note.
    pub fn apply(&mut self, vms: &[Vm], plan: &Plan) -> Result<PinReport, PinError> {
        let mut round = Round::default();
        let (mut pins, mut domain_of_pin) = (Vec::new(), Vec::new());
        let domains: HashMap<DomainId, &CacheDomain> =
            plan.domains.iter().map(|domain| (domain.id, domain)).collect();
        let mut placed: HashMap<(&str, u32), DomainId> = HashMap::new();
        for place in &plan.placement {
            placed.entry((&place.vm, place.vcpu)).or_insert(place.domain);
        }
        let mut found = HashSet::new();
        for vm in vms {
            if vm.vmm == VmmKind::Cgroup {
                round.groups.insert(vm.name.clone());
            }
            for vcpu in &vm.vcpus {
                let place = (vm.name.as_str(), vcpu.index);
                found.insert(place);
                if vcpu.limits.binding.is_some() {
                    continue;
                }
                let domain = placed.get(&place).and_then(|domain| domains.get(domain));
                let Some(domain) = domain else { continue };
                let allowed = vm.allowed_cpus_of(vcpu);
                let cpus = domain.cpus.intersection(allowed);
                if cpus.is_empty()
                    && let Some(of) = VcpuRef::of(self.scheduler, vcpu.id, vcpu.process)
                {
                    let who = describe(&vm.name, vcpu.index, of);
                    let note = format!(
                        "{who} is not pinned: domain {} has CPUs {} and the vCPU may use only {allowed}",
                        domain.id, domain.cpus
                    );
                    round.skip(of.into(), note);
                    continue;
                }
                domain_of_pin.push(domain.id);
                pins.push(ThreadPin {
                    vm: vm.name.clone(),
                    vcpu: vcpu.index,
                    id: vcpu.id,
                    process: vcpu.process,
                    cpus,
                    // Xen's vCPUs have no owner's bindings.
                    within: (!self.overrides_bindings && vcpu.process.is_some()).then(|| allowed.clone()),
                });
            }
        }
        for placed in &plan.placement {
            if !found.contains(&(placed.vm.as_str(), placed.vcpu)) {
                round.report.outcome.skipped += 1;
                round.report.notes.push(format!(
                    "vCPU {} of VM {} is placed, but was not found on this host",
                    placed.vcpu, placed.vm
                ));
            }
        }
        self.pin(&pins, &mut round)?;
        let in_force = pins.iter().zip(domain_of_pin).filter_map(|(pin, domain)| {
            let of = VcpuRef::of(self.scheduler, pin.id, pin.process)?;
            round.placed.contains(&of.into()).then(|| ((pin.vm.clone(), pin.vcpu), domain))
        });
        round.report.in_force = in_force.collect();
        if plan.waiting.is_none() {
            self.release_others(&mut round);
        }
        Ok(round.report)
    }

    /// Sets affinities to explicit sets and leaves all other threads alone.
    ///
    /// # Errors
    /// As [`HostPinner::apply`].
    pub fn set_affinities(&mut self, pins: &[ThreadPin]) -> Result<PinReport, PinError> {
        let mut round = Round::default();
        self.pin(pins, &mut round)?;
        Ok(round.report)
    }

    fn pin(&mut self, pins: &[ThreadPin], round: &mut Round) -> Result<(), PinError> {
        if self.journal.has_partly_known_domains() {
            self.journal.complete_domains(&self.undoers.domains()?)?;
        }
        let mut todo: Vec<(&ThreadPin, VcpuRef, CpuSet)> = Vec::new();
        let (mut seen, mut foreign) = (HashSet::new(), Vec::new());
        for pin in pins {
            self.go_on()?;
            let Some(of) = VcpuRef::of(self.scheduler, pin.id, pin.process) else {
                round.report.outcome.skipped += 1;
                round.report.notes.push(format!(
                    "vCPU {} of VM {} is passed over: {} is not scheduled here",
                    pin.vcpu, pin.vm, pin.id
                ));
                continue;
            };
            let key = Key::from(of);
            let who = describe(&pin.vm, pin.vcpu, of);
            if !seen.insert(key.clone()) {
                round.report.outcome.skipped += 1;
                round.report.notes.push(format!("{who} is skipped: the thread is another vCPU's as well"));
                continue;
            }
            match self.undoers.presence(of)? {
                Presence::Here => {}
                other => {
                    round.skip(key, format!("{who} {}: skipped", other.reason()));
                    continue;
                }
            }
            let current = match self.undoers.get(of) {
                Ok(current) => current,
                Err(Errno::ESRCH) => {
                    round.skip(key, format!("{who} {}: skipped", Presence::Gone.reason()));
                    continue;
                }
                Err(errno) => {
                    round.refuse(key, PinError::Affinity { what: "read", who, errno });
                    continue;
                }
            };
            if current == pin.cpus {
                round.report.outcome.unchanged += 1;
                round.placed.insert(key);
            } else {
                if self.is_foreign(&key, &current) {
                    if pin.within.as_ref().is_some_and(|within| !within.is_subset(&current)) {
                        round.skip(key, format!("somebody else bound {who} to {current}: left as it is"));
                        continue;
                    }
                    round.report.notes.push(format!(
                        "somebody else set the affinity of {who} to {current}; huddle will return it to that"
                    ));
                    foreign.push(key);
                }
                todo.push((pin, of, current));
            }
        }
        let changes = self.changes(&todo, &foreign, &round.groups);
        // All at once: the disk is waited for once a round, and all is on it before the first change.
        self.journal.record_anew(&foreign, &changes)?;
        let mut narrowed = Vec::new();
        for (pin, of, current) in todo {
            self.go_on()?;
            narrowed.extend(self.pin_one(pin, of, &current, round)?);
        }
        // Undoing recognizes what the kernel narrowed without this too, only less directly.
        if let Err(error) = self.journal.record(&narrowed) {
            round.report.notes.push(error.to_string());
        }
        match round.refused.take() {
            Some(error) if round.placed.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    fn go_on(&self) -> Result<(), PinError> {
        if self.stop.is_set() { Err(PinError::Ending) } else { Ok(()) }
    }

    /// Whether neither huddle nor the kernel's narrowing of what huddle set explains `current`.
    fn is_foreign(&self, key: &Key, current: &CpuSet) -> bool {
        let mut known = self.journal.by_key().of(key).peekable();
        known.peek().is_some()
            && !known.any(|change| {
                matches!(change, Change::Affinity { before, after, .. }
                    if current == before || current.is_subset(after))
            })
    }

    /// Sets one affinity that is in the journal; what is to be written there too, where the kernel narrowed it. Where
    /// nothing comes of it the entry stays: undoing it is harmless.
    fn pin_one(
        &mut self,
        pin: &ThreadPin,
        of: VcpuRef,
        current: &CpuSet,
        round: &mut Round,
    ) -> Result<Option<Change>, PinError> {
        let key = Key::from(of);
        let who = describe(&pin.vm, pin.vcpu, of);
        let result = self.undoers.set(of, &pin.cpus).and_then(|()| self.undoers.get(of));
        // Between the first look and the system call the number may have come to another task, which
        // then gets back what was read before the call.
        let after = self.undoers.presence(of)?;
        if after != Presence::Here {
            // A domain's number is never another's within the call: Xen's answer is of the domain that is meant.
            if after == Presence::Reused
                && result.is_ok()
                && let VcpuRef::Thread { thread: tid, .. } = of
            {
                let undone = self.undoers.set(of, current);
                round.report.notes.push(match undone {
                    Ok(()) => format!("thread {tid} was taken by another task while it was pinned; its affinity is {current} again"),
                    Err(errno) => format!("thread {tid} was taken by another task while it was pinned to {}, and cannot be set to {current} again: {errno}", pin.cpus),
                });
            }
            round.skip(key, format!("{who} {}: skipped", after.reason()));
            return Ok(None);
        }
        let mut narrowed = None;
        match result {
            Ok(got) => {
                round.report.outcome.changed += 1;
                round.placed.insert(key);
                if got != pin.cpus {
                    round.report.notes.push(format!(
                        "{who} should run on {}, but the kernel allows {got} of it (its cpuset, or CPUs offline)",
                        pin.cpus
                    ));
                    narrowed = Some(pin.change(of, current, &got));
                }
            }
            Err(Errno::EINVAL) => {
                let cpus = &pin.cpus;
                round.skip(
                    key,
                    format!("{who} cannot run on {cpus}: none of them is online and in its cpuset"),
                );
            }
            Err(Errno::ESRCH) => {
                round.skip(key, format!("{who} {}: skipped", Presence::Gone.reason()));
            }
            Err(errno) => round.refuse(key, PinError::Affinity { what: "set", who, errno }),
        }
        Ok(narrowed)
    }

    /// Puts back every journaled thread that this round did not place.
    fn release_others(&mut self, round: &mut Round) {
        let is_other = |key: &Key| key.is_of_vcpu() && !round.placed.contains(key);
        let others: Vec<Key> = self.journal.by_key().keys().into_iter().filter(is_other).collect();
        let mut settled = Vec::new();
        for key in others {
            match undo_key(&self.undoers, &self.journal, &key) {
                Undone::Restored(note) => {
                    round.report.outcome.changed += 1;
                    round.report.notes.extend(note);
                    settled.push(key);
                }
                Undone::Settled(note) => {
                    if !round.skipped.contains(&key) {
                        round.report.notes.push(note);
                    }
                    settled.push(key);
                }
                Undone::Failed(failure) => {
                    round.report.outcome.skipped += 1;
                    round.report.notes.push(failure);
                }
            }
        }
        let changes = settled.iter().flat_map(|key| self.journal.by_key().of(key));
        let started = started::undo(&self.undoers, changes);
        round.report.notes.extend(started.note());
        round.report.notes.extend(started.failures);
        if let Err(error) = self.journal.forget(&settled) {
            // They are back; that the file still has them is harmless.
            round
                .report
                .notes
                .push(format!("{} vCPUs that are back stay in the journal: {error}", settled.len()));
        }
    }

    /// Undoes everything in the journal, the newest first; see [the module](super) for what is left
    /// alone. The journal keeps what could not be undone.
    pub fn undo(&mut self) -> UndoReport {
        let mut report = UndoReport::default();
        undo_all(&self.undoers, &mut self.journal, &mut report);
        report
    }

    /// Ends without undoing: changes and journal stay, for `huddle restore`.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Pinner for HostPinner {
    fn apply(&mut self, vms: &[Vm], plan: &Plan) -> Result<PinReport, StageError> {
        Ok(HostPinner::apply(self, vms, plan)?)
    }

    fn undo(&mut self) -> UndoReport {
        HostPinner::undo(self)
    }

    fn resume(&mut self) -> Vec<String> {
        self.set_ksm_again()
    }
}

impl Drop for HostPinner {
    fn drop(&mut self) {
        if self.kept || self.journal.is_empty() {
            return;
        }
        let report = self.undo();
        for note in report.notes {
            tracing::info!("{note}");
        }
        for failure in report.failures {
            tracing::error!("not undone: {failure}; try `huddle restore`");
        }
    }
}

impl ThreadPin {
    fn change(&self, of: VcpuRef, before: &CpuSet, after: &CpuSet) -> Change {
        Change::Affinity {
            vm: self.vm.clone(),
            vcpu: self.vcpu,
            of,
            before: before.clone(),
            after: after.clone(),
            origin: Origin::default(),
        }
    }
}

#[cfg(test)]
mod tests;
