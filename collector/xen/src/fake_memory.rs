//! The memory of domains of a fake Xen: frames, who maps them, and how sharing changes them.
//!
//! Sharing behaves as in Xen 4.17 (xen/arch/x86/mm/mem_sharing.c): a nominated page and a shared one differ
//! only in the number of pages on the frame, and a write to either unshares its page.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::toolstack::{
    BATCH_PAGES, Domain, DomainKind, DomainRef, ForeignMemory, MemorySharing, PAGE_BYTES, XenError,
};

/// An action that runs before the call with this number.
pub(crate) type Event = Box<dyn FnOnce(&mut State) + Send>;

/// The fake host; clones share its state.
#[derive(Clone, Default)]
pub(crate) struct FakeXen(Arc<Mutex<State>>);

/// Its state.
#[derive(Default)]
pub(crate) struct State {
    domains: BTreeMap<u16, Domain>,
    /// The frame of each page, by domain and guest frame number.
    pages: BTreeMap<(u16, u64), u64>,
    /// The content of each frame.
    contents: BTreeMap<u64, u64>,
    /// The handle of each frame that is nominated or shared.
    handles: BTreeMap<u64, u64>,
    /// Domains whose pages may be shared.
    pub(crate) controlled: BTreeSet<u16>,
    /// The error with which each domain refuses control; `None` is for the host.
    pub(crate) refusals: BTreeMap<Option<u16>, Errno>,
    /// Pages that cannot be nominated.
    pub(crate) fixed: BTreeSet<(u16, u64)>,
    /// Domains whose pages cannot be mapped, or not be listed.
    pub(crate) unmappable: BTreeSet<u16>,
    pub(crate) unlistable: BTreeSet<u16>,
    /// Whether memory for unsharing is exhausted.
    pub(crate) is_full: bool,
    next: u64,
    calls: u64,
    events: BTreeMap<u64, Vec<Event>>,
    /// Every page that was read, in order.
    pub(crate) read: Vec<(u16, u64)>,
    /// Number of pages of each mapping.
    pub(crate) batches: Vec<usize>,
}

/// A domain named after its number.
pub(crate) fn domain_ref(id: u16) -> DomainRef {
    DomainRef { id, uuid: [id as u8 + 1; 16] }
}

impl FakeXen {
    /// A host with domains 1, 2 and so on of that kind, each with pages of these contents; `None` is a hole.
    pub(crate) fn of(kind: DomainKind, domains: &[Vec<Option<u64>>]) -> Self {
        let xen = Self::default();
        for (id, pages) in (1..).zip(domains) {
            xen.lock().add(id, kind, pages);
        }
        xen
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Schedules an action before the call with this number, from 1; each page read is a call.
    pub(crate) fn at(&self, call: u64, event: impl FnOnce(&mut State) + Send + 'static) {
        self.lock().events.entry(call).or_default().push(Box::new(event));
    }

    /// The domains in the form of a toolstack's list.
    pub(crate) fn list(&self) -> impl FnMut() -> Result<Vec<Domain>, XenError> + Send + use<> {
        let xen = self.clone();
        move || {
            let state = xen.lock();
            let mut domains: Vec<Domain> = state.domains.values().cloned().collect();
            for domain in &mut domains {
                let own = || state.pages.iter().filter(|((id, _), _)| *id == domain.domain.id);
                domain.pages = own().count() as u64;
                let shared = own().filter(|(_, frame)| state.handles.contains_key(frame)).count();
                domain.shared_pages = Some(shared as u64);
            }
            Ok(domains)
        }
    }
}

impl State {
    pub(crate) fn add(&mut self, id: u16, kind: DomainKind, pages: &[Option<u64>]) {
        let domain = Domain {
            domain: domain_ref(id),
            name: format!("vm{id}"),
            kind: Some(kind),
            pool: 0,
            is_paused: false,
            is_ending: false,
            pages: 0,
            shared_pages: Some(0),
            vcpus: Vec::new(),
        };
        self.domains.insert(id, domain);
        for (gfn, content) in (0..).zip(pages) {
            if let Some(content) = content {
                self.write(id, gfn, *content);
            }
        }
    }

    pub(crate) fn domain(&mut self, id: u16) -> &mut Domain {
        self.domains.get_mut(&id).unwrap()
    }

    /// The guest writes to a page, allocating it if needed.
    pub(crate) fn write(&mut self, id: u16, gfn: u64, content: u64) {
        if !self.domains.contains_key(&id) {
            return;
        }
        if self.pages.contains_key(&(id, gfn)) {
            self.take_out(id, gfn);
        } else {
            let frame = self.new_frame();
            self.pages.insert((id, gfn), frame);
        }
        self.contents.insert(self.pages[&(id, gfn)], content);
    }

    /// The guest gives a page back.
    pub(crate) fn give_back(&mut self, id: u16, gfn: u64) {
        if self.pages.contains_key(&(id, gfn)) {
            self.take_out(id, gfn);
            let frame = self.pages.remove(&(id, gfn)).unwrap();
            self.contents.remove(&frame);
        }
    }

    /// The domain ends; frames it shared with others stay with them.
    pub(crate) fn end(&mut self, id: u16) {
        let gfns: Vec<u64> = self.pages.keys().filter(|(of, _)| *of == id).map(|(_, gfn)| *gfn).collect();
        gfns.into_iter().for_each(|gfn| self.give_back(id, gfn));
        self.domains.remove(&id);
        self.controlled.remove(&id);
    }

    /// The content of a page as the domain sees it.
    pub(crate) fn content(&self, id: u16, gfn: u64) -> Option<u64> {
        self.pages.get(&(id, gfn)).map(|frame| self.contents[frame])
    }

    /// The frame a page is on.
    pub(crate) fn frame(&self, id: u16, gfn: u64) -> Option<u64> {
        self.pages.get(&(id, gfn)).copied()
    }

    /// Number of frames that all domains use.
    pub(crate) fn frames(&self) -> usize {
        self.contents.len()
    }

    /// Whether a page is nominated or shared.
    pub(crate) fn is_nominated(&self, id: u16, gfn: u64) -> bool {
        self.frame(id, gfn).is_some_and(|frame| self.handles.contains_key(&frame))
    }

    /// Nominated pages that are alone on their frame.
    pub(crate) fn nominated_alone(&self) -> usize {
        self.handles.keys().filter(|frame| self.on(**frame) == 1).count()
    }

    /// Whether nothing is shared or nominated any more.
    pub(crate) fn is_untouched(&self) -> bool {
        self.handles.is_empty() && self.controlled.is_empty()
    }

    fn on(&self, frame: u64) -> usize {
        self.pages.values().filter(|of| **of == frame).count()
    }

    fn new_frame(&mut self) -> u64 {
        self.next += 1;
        // Not all consecutive.
        1000 + self.next + self.next / 5
    }

    /// Gives a page its own frame, which is not nominated.
    fn take_out(&mut self, id: u16, gfn: u64) {
        let frame = self.pages[&(id, gfn)];
        if !self.handles.contains_key(&frame) {
            return;
        }
        if self.on(frame) == 1 {
            self.handles.remove(&frame);
            return;
        }
        let own = self.new_frame();
        self.contents.insert(own, self.contents[&frame]);
        self.pages.insert((id, gfn), own);
    }

    fn call(&mut self) {
        self.calls += 1;
        for event in self.events.remove(&self.calls).unwrap_or_default() {
            event(self);
        }
    }

    fn check(&self, domain: DomainRef) -> Result<(), XenError> {
        match self.domains.get(&domain.id) {
            Some(found) if found.domain == domain => Ok(()),
            _ => Err(XenError::Gone(domain.id)),
        }
    }

    fn frame_of(&self, domain: DomainRef, gfn: u64) -> Result<u64, XenError> {
        self.check(domain)?;
        self.pages.get(&(domain.id, gfn)).copied().ok_or_else(|| refused(Errno::EINVAL))
    }
}

fn refused(errno: Errno) -> XenError {
    XenError::Call { call: "a fake call".into(), errno }
}

fn bytes_of(content: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    bytes[PAGE_BYTES - 8..].copy_from_slice(&content.to_ne_bytes());
    bytes
}

impl ForeignMemory for FakeXen {
    fn frames(&mut self, domain: &Domain) -> Result<Vec<u64>, XenError> {
        let mut state = self.lock();
        state.call();
        state.check(domain.domain)?;
        if state.unlistable.contains(&domain.domain.id) {
            return Err(refused(Errno::EFAULT));
        }
        let own = state.pages.iter().filter(|((id, _), _)| *id == domain.domain.id);
        if domain.kind == Some(DomainKind::Pv) {
            return Ok(own.map(|(_, frame)| *frame).collect());
        }
        let end = own.map(|((_, gfn), _)| gfn + 1).max().unwrap_or(0);
        Ok((0..end).collect())
    }

    fn map(
        &mut self,
        domain: DomainRef,
        frames: &[u64],
        each: &mut dyn FnMut(usize, &[u8; PAGE_BYTES]),
    ) -> Result<(), XenError> {
        assert!((1..=BATCH_PAGES).contains(&frames.len()), "{} pages at once", frames.len());
        let mut state = self.lock();
        state.batches.push(frames.len());
        for (position, frame) in frames.iter().enumerate() {
            state.call();
            state.check(domain)?;
            if state.unmappable.contains(&domain.id) {
                return Err(refused(Errno::EPERM));
            }
            let is_pv = state.domains[&domain.id].kind == Some(DomainKind::Pv);
            let frame = match is_pv {
                true => state
                    .pages
                    .iter()
                    .find(|((id, _), own)| *id == domain.id && *own == frame)
                    .map(|(_, own)| *own),
                false => state.frame(domain.id, *frame),
            };
            if let Some(frame) = frame {
                state.read.push((domain.id, frames[position]));
                each(position, &bytes_of(state.contents[&frame]));
            }
        }
        Ok(())
    }
}

impl MemorySharing for FakeXen {
    fn control(&mut self, domain: DomainRef, is_on: bool) -> Result<(), XenError> {
        let mut state = self.lock();
        state.call();
        let refusal = state.refusals.get(&None).or_else(|| state.refusals.get(&Some(domain.id)));
        if let Some(errno) = refusal {
            return Err(refused(*errno));
        }
        state.check(domain)?;
        if is_on {
            state.controlled.insert(domain.id)
        } else {
            state.controlled.remove(&domain.id)
        };
        Ok(())
    }

    fn nominate(&mut self, domain: DomainRef, gfn: u64) -> Result<u64, XenError> {
        let mut state = self.lock();
        state.call();
        let frame = state.frame_of(domain, gfn)?;
        if !state.controlled.contains(&domain.id) {
            return Err(refused(Errno::EINVAL));
        }
        if state.fixed.contains(&(domain.id, gfn)) {
            return Err(refused(Errno::E2BIG));
        }
        if let Some(handle) = state.handles.get(&frame) {
            return Ok(*handle);
        }
        state.next += 1;
        let handle = state.next;
        state.handles.insert(frame, handle);
        Ok(handle)
    }

    fn share(
        &mut self,
        source: (DomainRef, u64, u64),
        client: (DomainRef, u64, u64),
    ) -> Result<(), XenError> {
        let mut state = self.lock();
        state.call();
        let from = state.frame_of(client.0, client.1)?;
        let to = state.frame_of(source.0, source.1)?;
        if !state.controlled.contains(&source.0.id) || !state.controlled.contains(&client.0.id) || from == to
        {
            return Err(refused(Errno::EINVAL));
        }
        // XENMEM_SHARING_OP_S_HANDLE_INVALID and C_HANDLE_INVALID are 10 and 9 (xen/include/public/memory.h).
        if state.handles.get(&to) != Some(&source.2) {
            return Err(refused(Errno::ECHILD));
        }
        if state.handles.get(&from) != Some(&client.2) {
            return Err(refused(Errno::EBADF));
        }
        // Sharing different pages destroys one of them, as in Xen.
        state.pages.values_mut().filter(|frame| **frame == from).for_each(|frame| *frame = to);
        state.contents.remove(&from);
        state.handles.remove(&from);
        Ok(())
    }

    fn unshare(&mut self, domain: DomainRef, gfn: u64) -> Result<(), XenError> {
        let mut state = self.lock();
        state.call();
        let frame = state.frame_of(domain, gfn)?;
        if state.is_full && state.handles.contains_key(&frame) && state.on(frame) > 1 {
            return Err(refused(Errno::ENOMEM));
        }
        state.take_out(domain.id, gfn);
        Ok(())
    }
}
