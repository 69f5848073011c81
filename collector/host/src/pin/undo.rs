//! Putting back what the journal holds.

use std::collections::HashSet;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use huddle_model::cpuset::CpuSet;
use huddle_model::id::XenDomainId;

use super::affinity::{Affinities, Presence, ThreadAffinities, VcpuRef, describe};
use super::journal::{Change, Journal, JournalError, Key, Origin, Subject};
use super::ksm;
use super::pinner::PinError;
use super::started;
use super::state::StateLock;
use crate::{HostRoot, topology};

/// What undoing did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UndoReport {
    /// Threads and settings that are back at their original value.
    pub restored: u32,
    /// What was skipped and why, one sentence each: no reason to worry, and out of the journal.
    pub notes: Vec<String>,
    /// What could not be put back, one sentence each. It stays in the journal; `huddle restore` tries
    /// again.
    pub failures: Vec<String>,
}

/// How one thread, setting or domain fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// Back at its original, with a word where the kernel narrows it.
    Restored(Option<String>),
    /// Nothing to put back, and why.
    Settled(String),
    /// Not put back, and why.
    Failed(String),
}

/// Undoes what a hypervisor merged of one of its domains, as the journal's subject
/// [`Subject::MemorySharing`] holds it.
pub trait UndoMerging: Send {
    /// Gives every page of the domain a frame of its own again, and lets no more be merged.
    fn undo(&self, vm: &str, domain: XenDomainId) -> Undone;
}

/// What puts changes back, one for each kind of change that a journal may hold. Settings of KSM are put back
/// through the host's files.
pub struct Undoers {
    pub(super) root: HostRoot,
    threads: Box<dyn Affinities>,
    xen: Box<dyn Affinities>,
    merging: Box<dyn UndoMerging>,
}

impl Undoers {
    /// For a host without a hypervisor that is asked for anything: what a journal holds of one is a failure
    /// that stays in it.
    pub fn of_host(root: HostRoot) -> Self {
        let threads = Box::new(ThreadAffinities(root.clone()));
        Self { root, threads, xen: Box::new(NoHypervisor), merging: Box::new(NoHypervisor) }
    }

    /// The same with a Xen beneath the host.
    pub fn with_xen(self, affinities: Box<dyn Affinities>, merging: Box<dyn UndoMerging>) -> Self {
        Self { xen: affinities, merging, ..self }
    }

    #[cfg(test)]
    pub(super) fn with_threads(self, threads: Box<dyn Affinities>) -> Self {
        Self { threads, ..self }
    }

    fn of(&self, vcpu: VcpuRef) -> &dyn Affinities {
        match vcpu {
            VcpuRef::Thread { .. } => &*self.threads,
            VcpuRef::Xen { .. } => &*self.xen,
        }
    }
}

impl Affinities for Undoers {
    fn domains(&self) -> Result<Vec<XenDomainId>, PinError> {
        self.xen.domains()
    }

    fn presence(&self, vcpu: VcpuRef) -> Result<Presence, PinError> {
        self.of(vcpu).presence(vcpu)
    }

    fn get(&self, vcpu: VcpuRef) -> Result<CpuSet, Errno> {
        self.of(vcpu).get(vcpu)
    }

    fn set(&self, vcpu: VcpuRef, cpus: &CpuSet) -> Result<(), Errno> {
        self.of(vcpu).set(vcpu, cpus)
    }
}

/// Stands where no hypervisor can be asked.
struct NoHypervisor;

impl NoHypervisor {
    const REASON: &str = "no hypervisor can be asked from here";
}

impl Affinities for NoHypervisor {
    fn presence(&self, _: VcpuRef) -> Result<Presence, PinError> {
        Err(PinError::Hypervisor(Self::REASON.into()))
    }

    fn get(&self, _: VcpuRef) -> Result<CpuSet, Errno> {
        Err(Errno::ENODEV)
    }

    fn set(&self, _: VcpuRef, _: &CpuSet) -> Result<(), Errno> {
        Err(Errno::ENODEV)
    }
}

impl UndoMerging for NoHypervisor {
    fn undo(&self, vm: &str, domain: XenDomainId) -> Undone {
        Undone::Failed(format!("pages of {vm} (Xen domain {domain}) may still be shared: {}", Self::REASON))
    }
}

/// Undoes everything the journal of an ended run holds: the command `huddle restore`.
///
/// Of a damaged journal all that can be read is undone; the damaged lines are failures of the report,
/// and the file is kept as `journal.damaged-N`. Where nothing can be written, everything is undone all the same, and
/// a note says that the journal still holds it.
///
/// # Errors
/// When the journal cannot be read at all.
pub fn restore(undoers: &Undoers, state: &StateLock) -> Result<UndoReport, JournalError> {
    let mut report = UndoReport::default();
    for subject in Subject::ALL {
        let mut journal = Journal::open_salvaging(subject, &undoers.root, state)?;
        report.failures.extend(journal.damage());
        let begin = report.notes.len();
        undo_all(undoers, &mut journal, &mut report);
        // Read last: undoing adds where the damaged file went.
        report.notes.splice(begin..begin, journal.notes().iter().cloned());
    }
    Ok(report)
}

/// Undoes what an ended run left in a journal that was just opened, before a new run uses it.
pub fn recover(undoers: &Undoers, journal: &mut Journal) -> UndoReport {
    let mut report = UndoReport { notes: journal.notes().to_vec(), ..UndoReport::default() };
    if !journal.is_empty() {
        report.notes.push("an earlier huddle ended without undoing its changes; they are undone now".into());
    }
    undo_all(undoers, journal, &mut report);
    report
}

/// Undoes every key, the last one first, and leaves in the journal what failed.
pub(super) fn undo_all(undoers: &Undoers, journal: &mut Journal, report: &mut UndoReport) {
    let mut failed = HashSet::new();
    for key in journal.by_key().keys().into_iter().rev() {
        match undo_key(undoers, journal, &key) {
            Undone::Restored(note) => {
                report.restored += 1;
                report.notes.extend(note);
            }
            Undone::Settled(note) => report.notes.push(note),
            Undone::Failed(failure) => {
                report.failures.push(failure);
                failed.insert(key);
            }
        }
    }
    let is_undone = |change: &&Change| !failed.contains(&change.key());
    let started = started::undo(undoers, journal.by_key().iter().filter(is_undone));
    report.restored += started.restored;
    report.notes.extend(started.note());
    report.failures.extend(started.failures);
    let left = journal.by_key().iter().filter(|change| failed.contains(&change.key())).cloned().collect();
    if let Err(error) = journal.keep_only(left) {
        // What is undone is undone: a disk that is full or read-only takes nothing of that back.
        let path = journal.path();
        report.notes.push(format!(
            "the journal {} still holds what is undone, since it could not be emptied ({}); undoing it again with \
             `huddle restore` is harmless",
            path.display(),
            cause(&error)
        ));
    }
}

/// What the system said, where it said something.
fn cause(error: &JournalError) -> String {
    match error {
        JournalError::Io { what, source, .. } => format!("cannot {what} it: {source}"),
        error => error.to_string(),
    }
}

/// Undoes one key; the journal is not touched.
pub(super) fn undo_key(undoers: &Undoers, journal: &Journal, key: &Key) -> Undone {
    let root = &undoers.root;
    let changes: Vec<&Change> = journal.by_key().of(key).collect();
    match changes.first() {
        Some(Change::Affinity { before, origin, .. }) => {
            undo_affinity(undoers, &changes, &target(root, before, origin))
        }
        Some(Change::KsmSetting { file, before, .. }) => {
            // While an advisor runs, the kernel itself writes pages_to_scan (mm/ksm.c, Linux 6.18).
            let kernel_writes =
                file == "pages_to_scan" && journal.first(&Key::KsmSetting("advisor_mode".into())).is_some();
            let ours = |current: &str| {
                kernel_writes
                    || changes
                        .iter()
                        .any(|change| matches!(change, Change::KsmSetting { after, .. } if after == current))
            };
            undo_setting(root, file, before, ours)
        }
        Some(Change::MemorySharing { vm, domain }) => undoers.merging.undo(vm, *domain),
        None => Undone::Settled("nothing to undo".into()),
    }
}

/// What is asked for to undo a change: what was there before, or all CPUs where that was all that was allowed, so that a
/// cpuset that grew and a CPU that came back are used.
pub(super) fn target(root: &HostRoot, before: &CpuSet, origin: &Origin) -> CpuSet {
    let possible = if origin.is_whole { topology::possible_cpus(root).ok() } else { None };
    match possible {
        Some(possible) => possible.iter().chain(before.iter()).collect(),
        None => before.clone(),
    }
}

fn undo_affinity(affinities: &dyn Affinities, changes: &[&Change], target: &CpuSet) -> Undone {
    let Some(Change::Affinity { vm, vcpu, of, before, .. }) = changes.first() else {
        return Undone::Settled("nothing to undo".into());
    };
    let of = *of;
    let who = describe(vm, *vcpu, of);
    let gone = |presence: Presence| Undone::Settled(format!("{who} {}: nothing to undo", presence.reason()));
    let failed = |what: &str, errno: Errno| {
        let advice = match errno {
            Errno::EINVAL => "none of these CPUs is online and in its cpuset or cpupool",
            Errno::EPERM => "run as the user who pinned it, as root, or with CAP_SYS_NICE",
            _ => "try again",
        };
        Undone::Failed(format!("cannot {what} the affinity {before} of {who}: {errno}; {advice}"))
    };
    match affinities.presence(of) {
        Ok(Presence::Here) => {}
        Ok(other) => return gone(other),
        Err(error) => return Undone::Failed(format!("cannot put back {who}: {error}")),
    }
    let current = match affinities.get(of) {
        Ok(current) => current,
        Err(Errno::ESRCH) => return gone(Presence::Gone),
        Err(errno) => return failed("look at, to put back,", errno),
    };
    if current == *before {
        return Undone::Settled(format!("{who} was not changed: its affinity is {before} already"));
    }
    let afters: Vec<&CpuSet> = changes
        .iter()
        .rev()
        .filter_map(|change| match change {
            Change::Affinity { after, .. } => Some(after),
            Change::KsmSetting { .. } | Change::MemorySharing { .. } => None,
        })
        .collect();
    match is_ours(affinities, of, &current, &afters) {
        Ok(true) => {}
        Ok(false) => {
            return Undone::Settled(format!(
                "somebody else set the affinity of {who} to {current}: left as it is; before huddle it was {before}"
            ));
        }
        Err(Errno::ESRCH) => return gone(Presence::Gone),
        Err(errno) => return failed("put back", errno),
    }
    match affinities.set(of, target) {
        Ok(()) => {}
        Err(Errno::ESRCH) => return gone(Presence::Gone),
        Err(errno) => return failed("put back", errno),
    }
    match affinities.get(of) {
        // All CPUs were asked for: it has what its cpuset and the online CPUs allow.
        Ok(now) if now == *before || target != before => Undone::Restored(None),
        Ok(now) if now.is_subset(before) => Undone::Restored(Some(format!(
            "{who} has its affinity {before} back, of which its cpuset and the online CPUs allow {now} now"
        ))),
        Ok(now) => Undone::Failed(format!(
            "{who} should have its affinity {before} back, but somebody else set {now} at the same moment"
        )),
        Err(Errno::ESRCH) => gone(Presence::Gone),
        Err(errno) => failed("confirm", errno),
    }
}

/// Whether `current` is what huddle set. A part of it may be the kernel's doing (a cpuset shrank, a CPU
/// went offline) or set by somebody: asking for the whole again tells, since the kernel then narrows it
/// to the same part, while a set value is gone and is put back.
fn is_ours(
    affinities: &dyn Affinities,
    of: VcpuRef,
    current: &CpuSet,
    afters: &[&CpuSet],
) -> Result<bool, Errno> {
    if afters.contains(&current) {
        return Ok(true);
    }
    for after in afters.iter().filter(|after| current.is_subset(after)) {
        match affinities.set(of, after) {
            Err(Errno::EINVAL) => continue,
            result => result?,
        }
        if affinities.get(of)? == *current {
            return Ok(true);
        }
        affinities.set(of, current)?;
    }
    Ok(false)
}

fn undo_setting(root: &HostRoot, file: &str, before: &str, ours: impl Fn(&str) -> bool) -> Undone {
    if !ksm::SETTINGS.contains(&file) {
        return Undone::Failed(format!("the journal names {file:?}, which is not a setting of KSM"));
    }
    let current = match ksm::read(root, file) {
        Ok(current) => current,
        Err(error) => return Undone::Failed(format!("cannot put back KSM's {file} to {before}: {error}")),
    };
    if current == before {
        return Undone::Settled(format!("KSM's {file} was not changed: it is {before} already"));
    }
    if !ours(&current) {
        return Undone::Settled(format!(
            "somebody else set KSM's {file} to {current}: left as it is; before huddle it was {before}"
        ));
    }
    if let Err(error) = ksm::write(root, file, before) {
        let advice = ksm::advice(&error);
        return Undone::Failed(format!("cannot put back KSM's {file} to {before}: {error}; {advice}"));
    }
    match ksm::read(root, file) {
        Ok(now) if now == before => Undone::Restored(None),
        Ok(now) => {
            Undone::Failed(format!("KSM's {file} should be {before} again, but the kernel says {now}"))
        }
        Err(error) => Undone::Failed(format!("cannot confirm that KSM's {file} is {before} again: {error}")),
    }
}
