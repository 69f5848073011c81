//! One pass over groups of pages of one hash: nominate, compare, share, release what found no partner.
//!
//! A batch is nominated as a whole, then read, then shared. A page that is written after it was nominated loses
//! its handle, so what was equal when it was read is equal when Xen shares it, or Xen refuses. Pages are not
//! mapped while they are nominated, as Xen refuses pages that have other users.

use std::collections::BTreeMap;

use nix::errno::Errno;

use crate::contents::{Candidate, HashGroups};
use crate::toolstack::{BATCH_PAGES, Domain, DomainRef, ForeignMemory, MemorySharing, PAGE_BYTES, XenError};
use huddle_sharing::content::Throttle;

/// Contents of one hash that are distinguished; pages of others are released.
const MAX_CONTENTS: usize = 4;

/// `XENMEM_SHARING_OP_S_HANDLE_INVALID` (xen/include/public/memory.h), which comes as an error number: the
/// source was written.
const SOURCE_VOID: Errno = Errno::ECHILD;
/// `XENMEM_SHARING_OP_C_HANDLE_INVALID`, likewise: the client was.
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

/// Pages that are on one frame, and what is in it.
#[derive(Debug)]
struct FrameGroup {
    content: Box<[u8; PAGE_BYTES]>,
    /// All have the frame's handle; empty when they were all written.
    on: Vec<Page>,
}

/// What a pass did.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Pages on a frame with others, by domain.
    pub(super) shared: Vec<u64>,
    pub(super) freed: u64,
    pub(super) refused: u64,
    /// Pages whose partners had changed, or that had themselves.
    pub(super) unpaired: u64,
    pub(super) reasons: Vec<String>,
}

/// A pass and its books.
pub(super) struct Pass<'a> {
    sharing: &'a mut dyn MemorySharing,
    domains: Vec<(DomainRef, &'a str)>,
    is_gone: Vec<bool>,
    found: Found,
    /// How often what was refused with which words.
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

    /// Merges what is equal of some groups. Nothing is nominated afterwards but what is shared.
    pub(super) fn take(
        &mut self,
        memory: &mut dyn ForeignMemory,
        alike: &HashGroups,
        throttle: &mut Throttle,
    ) {
        let groups: Vec<&[Candidate]> = alike.groups().collect();
        let mut leads: Vec<Option<FrameGroup>> = groups.iter().map(|_| None).collect();
        match &groups[..] {
            // One large group in parts: they have their lead in common.
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

    /// The end of it, with what was refused in words.
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
        // Mostly all pages of a group are equal, and once is enough. Where the first was written since it was
        // hashed, the others are compared with one of theirs.
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

    /// Puts pages on the frame of their lead if they are equal to it; a group without one takes its first page.
    /// Returns the pages that differ; those that cannot be read or shared are released.
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

    /// Puts a page that is equal to the lead on its frame, or releases it.
    fn join(&mut self, lead: &mut FrameGroup, page: Page) {
        while let Some(source) = lead.on.last().copied() {
            // On one frame since an earlier pass.
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
                // Another page may be on the frame still.
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

    /// Counts the pages of a frame, or releases the one that is alone on it.
    fn settle(&mut self, lead: FrameGroup) {
        match lead.on[..] {
            [] => {}
            [only] => self.part_with(only),
            _ => lead.on.iter().for_each(|page| self.found.shared[page.domain] += 1),
        }
    }

    /// Releases a page that has no equal any more.
    fn part_with(&mut self, page: Page) {
        self.found.unpaired += u64::from(!self.is_gone[page.domain]);
        self.release(page);
    }

    /// Has a page be nominated no more.
    fn release(&mut self, page: Page) {
        if self.is_gone[page.domain] {
            return;
        }
        match self.sharing.unshare(self.domains[page.domain].0, page.gfn) {
            // Given back by its guest meanwhile.
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

    /// A page that cannot be merged, unless its domain has ended.
    fn refuse(&mut self, what: &'static str, error: &XenError) {
        self.note(error);
        if !error.is_gone() {
            self.found.refused += 1;
            *self.refusals.entry((what, error.to_string())).or_default() += 1;
        }
    }

    /// Remembers a domain that has ended.
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
