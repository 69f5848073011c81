//! Merging equal pages of domains by Xen's memory sharing, as Ito and Kono did it (section 4.1): a hash finds
//! pages that may be equal, they are nominated, compared in full and shared.
//!
//! Few hosts support it: Xen must be built with `CONFIG_MEM_SHARING`, and a domain must have hardware
//! assisted paging (docs/misc/xen-command-line and xen/arch/x86/mm/mem_sharing.c, Xen 4.17). Support is
//! detected by trying; [`Merger::merge`] returns the reason where it is missing.
//!
//! **What is merged**: pages that are equal to one of another domain, and pages of their own domain that
//! equal these. Zero-filled pages are left alone: they count as not shared, and a guest writes to its free
//! memory soon. dom0, domains that are excluded by name, and domains with pages shared by another program are
//! never touched.
//!
//! **Contents** are compared after both pages were nominated ([`pass`]): a later write invalidates a page's
//! handle, and Xen refuses to share it.
//!
//! **What stays behind**: a nominated page without a partner is released before the next ones are nominated,
//! whatever happens. The rest is undone by [`Merger::undo`] and when the merger is dropped, unless it is
//! [kept](Merger::keep). To undo after any other end, each domain is announced for the journal before its
//! sharing is enabled; [`undo_all`] needs nothing else. Since a domain with shared pages is never touched,
//! everything shared in it later is from this program.
//!
//! **Memory** is that of a content scan, and the same again for one content that fills it. **CPU time** is
//! limited in the same way: the merger rests after each batch, when nothing is nominated except the page that
//! the parts of one large group have in common.

mod frames;
mod pass;
#[cfg(test)]
mod tests;
mod undo;

use std::collections::{BTreeMap, BTreeSet};

use huddle_model::availability::Availability;
use nix::errno::Errno;

pub use self::frames::shared_frames;
use self::pass::Pass;
pub use self::undo::{UndoSharing, Undone, undo_all};
use huddle_model::selection::Selection;

use super::contents::search;
use super::toolstack::{Domain, DomainKind, DomainRef, ForeignMemory, MemorySharing, PAGE_BYTES, XenError};
use super::vms::judge;
use huddle_host::pin::JournalError;
use huddle_host::stop::Stop;
use huddle_sharing::content::ContentSettings;
use huddle_sharing::{SharingError, UnmeasuredVm};

/// The parts of Xen that merging uses.
pub struct Xen {
    /// Shares pages.
    pub sharing: Box<dyn MemorySharing>,
    /// Reads them.
    pub memory: Box<dyn ForeignMemory>,
    /// Lists the domains.
    pub list: Box<dyn FnMut() -> Result<Vec<Domain>, XenError> + Send>,
}

/// Limits of merging.
#[derive(Clone, Debug, Default)]
pub struct MergeSettings {
    /// Memory and processor time, as for a content scan. All pages are read; sampling is not used.
    pub content: ContentSettings,
    /// Which domains are never touched: those that are no VMs by it.
    pub selection: Selection,
    /// Names of the only domains that are touched; `None` for all domains.
    pub only: Option<BTreeSet<String>>,
}

/// Result of a merge pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Pages of each domain that share a frame at the end, by name, including those of earlier passes.
    pub domains: Vec<(String, u64)>,
    /// Their sum.
    pub pages_shared: u64,
    /// Frames that became free in this pass.
    pub frames_freed: u64,
    /// Pages that were not merged because Xen refused to nominate or share them.
    pub refused: u64,
    /// Pages with equal hashes that had changed since, or whose partners had changed.
    pub unpaired: u64,
    /// What was left out or refused, with the reason, one sentence each.
    pub reasons: Vec<String>,
}

/// Why merging ended early. Nothing stays nominated; shared pages are undone as usual.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// Xen does not answer.
    #[error(transparent)]
    Xen(#[from] XenError),
    /// Pages could not be read.
    #[error(transparent)]
    Sharing(#[from] SharingError),
    /// The journal cannot be written, so nothing is changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// Called with each domain before its sharing is enabled, to write it to the journal.
pub type Announce = Box<dyn FnMut(&Domain) -> Result<(), JournalError> + Send>;

/// Memory that cannot be read any more once a stop is set: what goes through all of it then ends soon.
struct Stoppable<'a> {
    memory: &'a mut dyn ForeignMemory,
    stop: &'a Stop,
}

impl Stoppable<'_> {
    fn go_on(&self) -> Result<(), XenError> {
        if self.stop.is_set() { Err(XenError::Ending) } else { Ok(()) }
    }
}

impl ForeignMemory for Stoppable<'_> {
    fn frames(&mut self, domain: &Domain) -> Result<Vec<u64>, XenError> {
        self.go_on()?;
        self.memory.frames(domain)
    }

    fn map(
        &mut self,
        domain: DomainRef,
        frames: &[u64],
        each: &mut dyn FnMut(usize, &[u8; PAGE_BYTES]),
    ) -> Result<(), XenError> {
        self.go_on()?;
        self.memory.map(domain, frames, each)
    }
}

/// Merges pages of domains. Dropping it undoes what it did, unless it is [kept](Self::keep).
pub struct Merger {
    xen: Xen,
    settings: MergeSettings,
    announce: Announce,
    /// Announced domains with their names: their sharing may have been enabled.
    announced: BTreeMap<DomainRef, String>,
    /// Domains whose sharing this run has enabled.
    on: BTreeSet<DomainRef>,
    is_kept: bool,
}

impl Merger {
    /// A merger that has touched nothing yet.
    pub fn new(xen: Xen, settings: MergeSettings, announce: Announce) -> Self {
        Self { xen, settings, announce, announced: BTreeMap::new(), on: BTreeSet::new(), is_kept: false }
    }

    /// Takes over a domain from the journal that an earlier run announced and left as it was.
    pub fn adopt(&mut self, domain: DomainRef, name: String) {
        self.announced.insert(domain, name);
    }

    /// Merges all equal pages once. Pages merged by earlier passes stay merged. Soon after `stop` is set nothing
    /// more is read, and so nothing more is merged.
    ///
    /// # Errors
    /// [`MergeError`]; missing support for merging is not an error.
    pub fn merge(&mut self, stop: &Stop) -> Result<Availability<Merged>, MergeError> {
        let listed = (self.xen.list)()?;
        let mut reasons = Vec::new();
        let mut eligible = Vec::new();
        for domain in listed {
            match self.is_eligible(&domain) {
                Ok(true) => eligible.push(domain),
                Ok(false) => {}
                Err(reason) => reasons.push(reason),
            }
        }
        let mut targets = Vec::new();
        // A single domain has no partner and is not touched.
        for domain in if eligible.len() > 1 { eligible } else { Vec::new() } {
            match self.switch_on(&domain)? {
                Switched::On => targets.push(domain),
                Switched::Refused(reason) => reasons.push(reason),
                Switched::NotOnThisHost(reason) => return Ok(Availability::Unavailable(reason)),
            }
        }
        if targets.len() < 2 {
            reasons.insert(0, "there are no two domains whose pages Xen can share".to_owned());
            return Ok(Availability::Unavailable(reasons.join("; ")));
        }
        let mut merged = Merged { reasons, ..Merged::default() };
        self.pass(&targets, stop, &mut merged)?;
        Ok(Availability::Available(merged))
    }

    fn pass(&mut self, targets: &[Domain], stop: &Stop, merged: &mut Merged) -> Result<(), MergeError> {
        let mut pass = Pass::new(&mut *self.xen.sharing, targets);
        let wanted: Vec<_> =
            targets.iter().map(|domain| (domain.domain.xen_id(), domain.name.as_str())).collect();
        let searched = search(
            &mut Stoppable { memory: &mut *self.xen.memory, stop },
            &mut *self.xen.list,
            &wanted,
            &self.settings.content,
            &mut |memory, alike, throttle| pass.take(memory, alike, throttle),
        );
        let found = pass.finish();
        let searched = searched?;
        for UnmeasuredVm { vm: domain, reason, .. } in searched.unmeasured {
            merged.reasons.push(format!("{:?} was left out: {reason}", targets[domain].name));
        }
        merged.reasons.extend(searched.notes);
        merged.reasons.extend(found.reasons);
        merged.domains =
            targets.iter().zip(&found.shared).map(|(domain, pages)| (domain.name.clone(), *pages)).collect();
        merged.pages_shared = found.shared.iter().sum();
        (merged.frames_freed, merged.refused, merged.unpaired) = (found.freed, found.refused, found.unpaired);
        Ok(())
    }

    /// Whether a domain's pages may be shared; with the reason if the user cannot know it.
    fn is_eligible(&self, domain: &Domain) -> Result<bool, String> {
        let name = &domain.name;
        let MergeSettings { selection, only, .. } = &self.settings;
        let is_chosen =
            only.as_ref().is_none_or(|only| only.contains(name)) && judge(selection, domain).is_ok();
        if domain.domain.id == 0 || domain.is_ending || !is_chosen {
            return Ok(false);
        }
        if domain.kind == Some(DomainKind::Pv) {
            return Err(format!(
                "{name:?} is paravirtualised, and Xen shares pages only of domains with hardware assisted paging \
                 (PVH, HVM)"
            ));
        }
        if !self.announced.contains_key(&domain.domain)
            && let Some(pages @ 1..) = domain.shared_pages
        {
            return Err(format!(
                "{pages} pages of {name:?} are shared by another program, so it is left alone"
            ));
        }
        Ok(true)
    }

    fn switch_on(&mut self, domain: &Domain) -> Result<Switched, MergeError> {
        if self.on.contains(&domain.domain) {
            return Ok(Switched::On);
        }
        if !self.announced.contains_key(&domain.domain) {
            (self.announce)(domain)?;
            self.announced.insert(domain.domain, domain.name.clone());
        }
        let error = match self.xen.sharing.control(domain.domain, true) {
            Ok(()) => {
                self.on.insert(domain.domain);
                return Ok(Switched::On);
            }
            Err(error) => error,
        };
        let name = &domain.name;
        // mem_sharing_control() and arch_memory_op(), Xen 4.17.
        Ok(match error.errno() {
            Some(Errno::ENOSYS) => Switched::NotOnThisHost(
                "this Xen was built without memory sharing (ENOSYS): it takes one built with CONFIG_MEM_SHARING=y"
                    .to_owned(),
            ),
            Some(Errno::EOPNOTSUPP) => Switched::Refused(format!(
                "Xen does not share pages of {name:?} (EOPNOTSUPP): it was built without memory sharing, or the \
                 domain is of a kind that has none"
            )),
            Some(Errno::ENODEV) => Switched::Refused(format!(
                "{name:?} has no hardware assisted paging (ENODEV), so its pages cannot be shared"
            )),
            Some(Errno::EXDEV) => Switched::Refused(format!(
                "{name:?} has a device passed through to it (EXDEV), so its pages cannot be shared"
            )),
            _ if error.is_gone() => Switched::Refused(format!("{name:?} ended meanwhile")),
            _ => return Err(error.into()),
        })
    }

    /// Gives every merged page its own frame, and disables sharing where it was enabled. Failures are tried
    /// again by the next call.
    pub fn undo(&mut self) -> UndoneAll {
        let mut all = UndoneAll::default();
        let Xen { sharing, memory, list } = &mut self.xen;
        self.on.clear();
        self.announced.retain(|domain, name| {
            match undo_all(*domain, &mut **sharing, &mut **memory, &mut **list) {
                Ok(Undone::Off | Undone::Gone) => {
                    all.undone.push(*domain);
                    false
                }
                Ok(Undone::StillShared { pages, why }) => {
                    all.failures.push(format!("{pages} pages of {name:?} are still shared: {why}"));
                    true
                }
                Err(error) => {
                    all.failures.push(format!("the pages of {name:?} may still be shared: {error}"));
                    true
                }
            }
        });
        all
    }

    /// Keeps everything merged.
    pub fn keep(mut self) {
        self.is_kept = true;
    }
}

/// Result of [`Merger::undo`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UndoneAll {
    /// Domains that are restored or have ended: their journal entries can be removed.
    pub undone: Vec<DomainRef>,
    /// What could not be undone, one sentence each.
    pub failures: Vec<String>,
}

impl Drop for Merger {
    fn drop(&mut self) {
        if !self.is_kept {
            for failure in self.undo().failures {
                tracing::error!("{failure}");
            }
        }
    }
}

/// Outcome of enabling sharing.
enum Switched {
    On,
    /// Not possible for this domain.
    Refused(String),
    /// Not possible for any domain.
    NotOnThisHost(String),
}
