//! The memory of Xen's domains behind the seam of a content scan: pages are mapped read-only in batches, and
//! unmapped before the next.

use huddle_model::vm::Vm;

use super::super::SharingError;
use super::super::processes::ENDED;
use super::memory::{GuestMemory, Slot};
use super::throttle::Throttle;
use crate::xen::toolstack::{BATCH_PAGES, Domain, DomainKind, ForeignMemory, PAGE_BYTES, XenError};

/// The memory of some domains; each is one space, whose slots are its pages at the beginning of the scan.
pub(super) struct DomainMemory<'a> {
    memory: &'a mut dyn ForeignMemory,
    spaces: Vec<Space>,
    frames: Vec<u64>,
    /// The first thing that went wrong though the domain is there.
    error: Option<XenError>,
}

struct Space {
    vm: usize,
    domain: Domain,
    /// The pages as [`ForeignMemory::map`] takes them.
    pages: Vec<u64>,
    is_gone: bool,
}

impl<'a> DomainMemory<'a> {
    /// The memory of those of `vms` that are among `domains`; returns with it the VMs that have ended.
    ///
    /// # Errors
    /// When Xen does not tell which pages a domain has.
    pub(super) fn open(
        memory: &'a mut dyn ForeignMemory,
        domains: Vec<Domain>,
        vms: &[Vm],
    ) -> Result<(Self, Vec<(usize, String)>), XenError> {
        let (mut spaces, mut ended) = (Vec::new(), Vec::new());
        for (vm, found) in vms.iter().enumerate() {
            let domain = domains.iter().find(|domain| domain.domain.task() == found.process);
            let pages = match domain.filter(|domain| !domain.is_ending) {
                Some(domain) => memory.frames(domain).map(|pages| (domain, pages)),
                None => Err(XenError::Gone(u16::try_from(found.process.id).unwrap_or(u16::MAX))),
            };
            match pages {
                Ok((domain, pages)) => {
                    spaces.push(Space { vm, domain: domain.clone(), pages, is_gone: false });
                }
                Err(XenError::Gone(_)) => ended.push((vm, ENDED.to_owned())),
                Err(error) => return Err(error),
            }
        }
        Ok((Self { memory, spaces, frames: Vec::new(), error: None }, ended))
    }

    /// What went wrong on the way.
    pub(super) fn finish(self) -> Result<(), XenError> {
        self.error.map_or(Ok(()), Err)
    }
}

impl GuestMemory for DomainMemory<'_> {
    fn spaces(&self) -> Vec<(usize, u64)> {
        self.spaces.iter().map(|space| (space.vm, space.pages.len() as u64)).collect()
    }

    fn page_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn batch_pages(&self) -> usize {
        BATCH_PAGES
    }

    fn present(&mut self, space: usize, first: u64, slots: &mut Vec<Slot>) -> Result<u64, SharingError> {
        let space = &self.spaces[space];
        if space.is_gone {
            return Ok(0);
        }
        let pages = space.pages.get(first as usize..).unwrap_or_default();
        let pages = &pages[..pages.len().min(BATCH_PAGES)];
        // A machine frame is the same for all domains; a guest's own number says nothing of another's.
        let is_pv = space.domain.kind == Some(DomainKind::Pv);
        let slot = |(number, page): (u64, &u64)| Slot { number, frame: if is_pv { *page } else { 0 } };
        slots.extend((first..).zip(pages).map(slot));
        Ok(pages.len() as u64)
    }

    fn read(&mut self, space: usize, slots: &[Slot], each: &mut dyn FnMut(usize, &[u8])) {
        let space = &mut self.spaces[space];
        for (batch, first) in slots.chunks(BATCH_PAGES).zip((0..).step_by(BATCH_PAGES)) {
            if space.is_gone || self.error.is_some() {
                return;
            }
            self.frames.clear();
            self.frames.extend(batch.iter().map(|slot| space.pages[slot.number as usize]));
            match self.memory.map(space.domain.domain, &self.frames, &mut |at, page| each(first + at, page)) {
                Ok(()) => {}
                Err(XenError::Gone(_)) => space.is_gone = true,
                Err(error) => self.error = Some(error),
            }
        }
    }

    fn still_present(&mut self, space: usize, _: &mut Throttle) -> Result<u64, SharingError> {
        let space = &mut self.spaces[space];
        match self.memory.frames(&space.domain) {
            Ok(pages) => Ok(pages.len() as u64),
            Err(XenError::Gone(_)) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }
}
