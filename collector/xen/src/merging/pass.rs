//! One pass over groups of pages with equal hashes: nominate, compare, share, release pages without a partner.
//!
//! A batch is nominated as a whole, then read, then shared. A page that is written after it was nominated
//! loses its handle, so pages that were equal when they were read are equal when Xen shares them, or Xen
//! refuses. Pages are not mapped while they are nominated, because Xen refuses pages that have other users.

use std::collections::BTreeMap;

use nix::errno::Errno;

use crate::contents::{Candidate, HashGroups};
use crate::toolstack::{BATCH_PAGES, Domain, DomainRef, ForeignMemory, MemorySharing, PAGE_BYTES, XenError};
use huddle_sharing::content::Throttle;

/// Maximum number of different contents per hash; pages with further ones are released.
const MAX_CONTENTS: usize = 4;

/// `XENMEM_SHARING_OP_S_HANDLE_INVALID` (xen/include/public/memory.h), reported as an error number: the
/// source was written to.
const SOURCE_VOID: Errno = Errno::ECHILD;
/// `XENMEM_SHARING_OP_C_HANDLE_INVALID`, likewise: the client was written to.
const CLIENT_VOID: Errno = Errno::EBADF;

/// A nominated page.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// Its group within the batch.
    group: usize,
    domain: usize,
    gfn: u64,
    handle: u64,
}

/// Pages on one frame, and its content.
#[derive(Debug)]
struct FrameGroup {
    content: Box<[u8; PAGE_BYTES]>,
    /// All have the frame's handle; empty if all were written to.
    on: Vec<Page>,
}

/// Result of a pass.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Pages that share a frame with others, by domain.
    pub(super) shared: Vec<u64>,
    pub(super) freed: u64,
    pub(super) refused: u64,
    /// Pages that had changed, or whose partners had.
    pub(super) unpaired: u64,
    pub(super) reasons: Vec<String>,
}

/// A pass with its counts.
pub(super) struct Pass<'a> {
    sharing: &'a mut dyn MemorySharing,
    domains: Vec<(DomainRef, &'a str)>,
    is_gone: Vec<bool>,
    found: Found,
    /// Number of refusals by operation and message.
    refusals: BTreeMap<(&'static str, String), u64>,
}

impl<'a> Pass<'a> {
    pub(super) fn new(sharing: &'a mut dyn MemorySharing, domains: &'a [Domain]) -> Self {
        Self {
            sharing,
            domains: domains.iter().map(|domain| (domain.domain, domain.name.as_str())).collect(),
            is_gone: vec![false; domains.len()],
            found: Found { shared: vec![0; domains.len()], ..Found::default() },
            refusals: BTreeMap::new(),
        }
    }

    /// Merges the equal pages of some groups. Afterwards only shared pages are nominated.
    pub(super) fn take(
        &mut self,
        memory: &mut dyn ForeignMemory,
        alike: &HashGroups,
        throttle: &mut Throttle,
    ) {
        let groups: Vec<&[Candidate]> = alike.groups().collect();
        let mut leads: Vec<Option<FrameGroup>> = groups.iter().map(|_| None).collect();
        match &groups[..] {
            // One large group in parts, which have the lead page in common.
            [only] => {
                for part in only.chunks(BATCH_PAGES) {
                    self.part(memory, &[part], &mut leads);
                    throttle.rest();
                }
            }
            groups => self.part(memory, groups, &mut leads),
        }
        leads.into_iter().flatten().for_each(|lead| self.settle(lead));
        throttle.rest();
    }

    /// Finishes the pass, with refusals as sentences.
    pub(super) fn finish(mut self) -> Found {
        for ((what, why), pages) in self.refusals {
            self.found.reasons.push(format!("{pages} pages could not be {what}: {why}"));
        }
        for (domain, (_, name)) in self.domains.iter().enumerate().filter(|(domain, _)| self.is_gone[*domain])
        {
            self.found.reasons.push(format!("{name:?} ended meanwhile"));
            self.found.shared[domain] = 0;
        }
        self.found
    }

    fn part(
        &mut self,
        memory: &mut dyn ForeignMemory,
        groups: &[&[Candidate]],
        leads: &mut [Option<FrameGroup>],
    ) {
        let mut open = self.nominate(groups);
        // Usually all pages of a group are equal, and once is enough. If the first one was written to since
        // it was hashed, the others are compared with one of theirs.
        open = self.compare_and_share(memory, open, leads);
        for _ in 1..MAX_CONTENTS {
            let alone = |page: &Page| open.iter().filter(|other| other.group == page.group).count() < 2;
            if open.iter().all(alone) {
                break;
            }
            let mut others: Vec<Option<FrameGroup>> = groups.iter().map(|_| None).collect();
            open = self.compare_and_share(memory, open, &mut others);
            others.into_iter().flatten().for_each(|lead| self.settle(lead));
        }
        open.into_iter().for_each(|page| self.part_with(page));
    }

    fn nominate(&mut self, groups: &[&[Candidate]]) -> Vec<Page> {
        let mut pages = Vec::new();
        for (group, candidates) in groups.iter().enumerate() {
            for Candidate { domain, frame } in *candidates {
                if self.is_gone[*domain] {
                    continue;
                }
                match self.sharing.nominate(self.domains[*domain].0, *frame) {
                    Ok(handle) => pages.push(Page { group, domain: *domain, gfn: *frame, handle }),
                    Err(error) => self.refuse("nominated", &error),
                }
            }
        }
        pages
    }

    /// Moves pages to the frame of their lead page if they are equal to it; a group without a lead uses its
    /// first page. Returns the pages that differ; pages that cannot be read or shared are released.
    fn compare_and_share(
        &mut self,
        memory: &mut dyn ForeignMemory,
        mut pages: Vec<Page>,
        leads: &mut [Option<FrameGroup>],
    ) -> Vec<Page> {
        pages.sort_by_key(|page| page.domain);
        let mut differing = Vec::new();
        let mut equal = Vec::new();
        let mut unread = Vec::new();
        for of_domain in pages.chunk_by(|left, right| left.domain == right.domain) {
            let gfns: Vec<u64> = of_domain.iter().map(|page| page.gfn).collect();
            let mut is_read = vec![false; gfns.len()];
            let read = memory.map(self.domains[of_domain[0].domain].0, &gfns, &mut |position, bytes| {
                is_read[position] = true;
                let page = of_domain[position];
                match &mut leads[page.group] {
                    Some(lead) if *lead.content == *bytes => equal.push(page),
                    Some(_) => differing.push(page),
                    none => {
                        *none = Some(FrameGroup { content: Box::new(*bytes), on: Vec::new() });
                        equal.push(page);
                    }
                }
            });
            if let Err(error) = read {
                self.note(&error);
            }
            unread
                .extend(of_domain.iter().zip(is_read).filter(|(_, is_read)| !is_read).map(|(page, _)| *page));
        }
        for page in equal {
            if let Some(lead) = &mut leads[page.group] {
                self.join(lead, page);
            }
        }
        unread.into_iter().for_each(|page| self.part_with(page));
        differing
    }

    /// Shares a page that equals the lead, or releases it.
    fn join(&mut self, lead: &mut FrameGroup, page: Page) {
        while let Some(source) = lead.on.last().copied() {
            // They share a frame since an earlier pass.
            if source.handle == page.handle {
                break;
            }
            let place = |page: Page| (self.domains[page.domain].0, page.gfn, page.handle);
            let (from, to) = (place(source), place(page));
            match self.sharing.share(from, to) {
                Ok(()) => {
                    self.found.freed += 1;
                    lead.on.push(Page { handle: source.handle, ..page });
                    return;
                }
                // Another page may still be on the frame.
                Err(error) if error.errno() == Some(SOURCE_VOID) || self.is_end_of(&error, source) => {
                    self.note(&error);
                    lead.on.pop();
                    self.part_with(source);
                }
                Err(error) if error.errno() == Some(CLIENT_VOID) => {
                    return self.part_with(page);
                }
                Err(error) => {
                    self.refuse("shared", &error);
                    return self.release(page);
                }
            }
        }
        lead.on.push(page);
    }

    /// Counts the pages of a frame, or releases a single page.
    fn settle(&mut self, lead: FrameGroup) {
        match lead.on[..] {
            [] => {}
            [only] => self.part_with(only),
            _ => lead.on.iter().for_each(|page| self.found.shared[page.domain] += 1),
        }
    }

    /// Releases a page that has no equal page any more.
    fn part_with(&mut self, page: Page) {
        self.found.unpaired += u64::from(!self.is_gone[page.domain]);
        self.release(page);
    }

    /// Reverts the nomination of a page.
    fn release(&mut self, page: Page) {
        if self.is_gone[page.domain] {
            return;
        }
        match self.sharing.unshare(self.domains[page.domain].0, page.gfn) {
            // The guest has given it back since.
            Err(error) if error.errno() == Some(Errno::EINVAL) => {}
            Err(error) => {
                self.note(&error);
                if !error.is_gone() {
                    *self.refusals.entry(("released", error.to_string())).or_default() += 1;
                }
            }
            Ok(()) => {}
        }
    }

    /// Counts a page that cannot be merged, unless its domain has ended.
    fn refuse(&mut self, what: &'static str, error: &XenError) {
        self.note(error);
        if !error.is_gone() {
            self.found.refused += 1;
            *self.refusals.entry((what, error.to_string())).or_default() += 1;
        }
    }

    /// Records that a domain has ended.
    fn note(&mut self, error: &XenError) {
        if let XenError::Gone(id) = error
            && let Some(position) = self.domains.iter().position(|(domain, _)| domain.id == *id)
        {
            self.is_gone[position] = true;
        }
    }

    fn is_end_of(&self, error: &XenError, page: Page) -> bool {
        matches!(error, XenError::Gone(id) if *id == self.domains[page.domain].0.id)
    }
}
