//! Undoing the merging of a domain, also after the merging process was killed.

use huddle_host::HostRoot;
use huddle_host::pin::{self as host, UndoMerging};
use huddle_model::id::XenDomainId;
use nix::errno::Errno;

use crate::toolstack::{BATCH_PAGES, Domain, DomainRef, ForeignMemory, ListDomains, MemorySharing, XenError};

/// Undoes the merging of an ended run, through the Xen below this host.
pub struct UndoSharing(pub HostRoot);

impl UndoMerging for UndoSharing {
    fn undo(&self, vm: &str, domain: XenDomainId) -> host::Undone {
        let root = &self.0;
        let undo = || {
            let toolstack = crate::open(root)?;
            let found = toolstack.domains()?.into_iter().find(|found| found.domain.xen_id().matches(&domain));
            let Some(found) = found else { return Ok(Undone::Gone) };
            let (mut sharing, mut memory) = (crate::open_sharing(root)?, crate::open_memory(root)?);
            let mut list = || toolstack.domains();
            undo_all(found.domain, &mut *sharing, &mut *memory, &mut list)
        };
        match undo() {
            Ok(Undone::Off) => host::Undone::Restored(None),
            Ok(Undone::Gone) => {
                host::Undone::Settled(format!("{vm} (Xen domain {domain}) is gone: nothing to undo"))
            }
            Ok(Undone::StillShared { pages, why }) => host::Undone::Failed(format!(
                "{pages} pages of {vm} (Xen domain {domain}) are still shared: {why}"
            )),
            Err(error) => {
                let error: XenError = error;
                host::Undone::Failed(format!(
                    "pages of {vm} (Xen domain {domain}) may still be shared: {error}"
                ))
            }
        }
    }
}

/// Outcome of an undo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undone {
    /// No page of it is shared or nominated, and sharing is disabled.
    Off,
    /// It has ended, and its shared pages with it.
    Gone,
    /// Some pages could not be unshared; sharing stays enabled, because Xen needs it for unsharing.
    StillShared {
        /// Number of pages still shared.
        pages: u64,
        /// Xen's error.
        why: String,
    },
}

/// Gives every shared or nominated page of a domain its own frame, and disables sharing of the domain.
/// Requires only that all its sharing is from this program. Can be repeated safely.
///
/// # Errors
/// When Xen does not answer.
pub fn undo_all(
    domain: DomainRef,
    sharing: &mut dyn MemorySharing,
    memory: &mut dyn ForeignMemory,
    list: &mut ListDomains<'_>,
) -> Result<Undone, XenError> {
    match unshare_all(domain, sharing, memory, list) {
        Err(error) if error.is_gone() => Ok(Undone::Gone),
        undone => undone,
    }
}

fn unshare_all(
    domain: DomainRef,
    sharing: &mut dyn MemorySharing,
    memory: &mut dyn ForeignMemory,
    list: &mut ListDomains<'_>,
) -> Result<Undone, XenError> {
    let mut found = find(domain, list)?;
    let mut last = None;
    if found.shared_pages != Some(0) {
        for batch in memory.frames(&found)?.chunks(BATCH_PAGES) {
            for frame in batch {
                match sharing.unshare(domain, *frame) {
                    Ok(()) => {}
                    Err(error) if error.is_gone() => return Err(error),
                    // A hole, or a page that cannot be shared.
                    Err(error) if error.errno() == Some(Errno::EINVAL) => {}
                    Err(error) => last = Some(error),
                }
            }
            found = find(domain, list)?;
            if found.shared_pages == Some(0) {
                break;
            }
        }
    }
    let left = match (found.shared_pages, &last) {
        (Some(pages), _) => pages,
        (None, Some(_)) => 1,
        (None, None) => 0,
    };
    if left > 0 {
        let why = last.map_or_else(|| "Xen gives no reason".to_owned(), |error| error.to_string());
        return Ok(Undone::StillShared { pages: left, why });
    }
    match sharing.control(domain, false) {
        // It was announced, but Xen refused to enable it, as it does now.
        Err(error) if is_refusal(&error) => Ok(Undone::Off),
        switched => switched.map(|()| Undone::Off),
    }
}

/// Whether Xen reports that pages of the domain cannot be shared at all (mem_sharing_control(), Xen 4.17).
fn is_refusal(error: &XenError) -> bool {
    matches!(error.errno(), Some(Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EXDEV))
}

/// A domain that is ending counts as gone: Xen unshares its pages itself and refuses requests.
fn find(domain: DomainRef, list: &mut ListDomains<'_>) -> Result<Domain, XenError> {
    let found = list()?.into_iter().find(|found| found.domain == domain && !found.is_ending);
    found.ok_or(XenError::Gone(domain.id))
}
