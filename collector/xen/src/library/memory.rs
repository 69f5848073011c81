//! Pages of domains, mapped read-only into this process.

use std::ffi::{c_int, c_ulong, c_void};
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc::PROT_READ;

use super::control::Xen;
use super::layouts::{
    DOMINF_HVM_GUEST, DomainMemory, PFINFO_BROKEN, PFINFO_LTAB_MASK, PFINFO_XALLOC, PFINFO_XTAB,
};
use super::symbols::{Foreign, Guest, SILENT};
use crate::toolstack::{BATCH_PAGES, Domain, DomainRef, ForeignMemory, PAGE_BYTES, XenError};
use huddle_host::HostRoot;

/// Guest frame numbers just below 4 GiB, where domains have special pages outside their kernel's memory, such
/// as the rings of console and xenstore (tools/libs/guest/xg_dom_x86.c, 4.17: `special_pfn`).
const SPECIAL: Range<c_ulong> = 0xf_0000..0x10_0000;

/// An upper bound of their number.
const SPECIAL_PAGES: u64 = 256;

/// This many frame numbers without a page are the end of a domain's memory if only special pages are still
/// missing.
const GAP: c_ulong = 0x4000;

/// Time limit for finding the pages of a domain.
const SEARCH: Duration = Duration::from_secs(30);

/// Maps through libxenforeignmemory; libxenguest and libxenctrl list the pages.
pub struct LibraryMemory {
    xen: Xen,
    guest: Guest,
    mappings: Mappings,
}

impl LibraryMemory {
    /// # Errors
    /// The libraries of the known version are missing, Xen is of another version, or access is denied.
    pub fn open(root: &HostRoot) -> Result<Self, XenError> {
        Ok(Self { xen: Xen::open(root)?, guest: Guest::load()?, mappings: Mappings::open(root)? })
    }

    /// A PV domain's own table of its pages.
    fn frames_of_pv(&self, domain: DomainRef) -> Result<Vec<u64>, XenError> {
        let mut info = DomainMemory {
            pt_levels: 0,
            guest_width: 0,
            pfn_type: std::ptr::null_mut(),
            p2m_table: std::ptr::null_mut(),
            p2m_size: 0,
            p2m_frames: 0,
        };
        let id = u32::from(domain.id);
        // SAFETY: the structure is zeroed, as the call needs it, and of the library's layout.
        let result = unsafe { (self.guest.xc_map_domain_meminfo)(self.xen.handle, id, &raw mut info) };
        let call = || format!("xc_map_domain_meminfo of domain {}", domain.id);
        self.xen.check(result, call).map_err(|error| self.xen.why(domain, error))?;
        let pages = info.p2m_size as usize;
        // SAFETY: both tables have `p2m_size` entries until they are unmapped below: types are `xen_pfn_t`,
        // frames are of the guest's width (xenguest.h; tools/libs/guest/xg_domain.c, 4.17). The guest may
        // write its table concurrently: each entry is read once, and its value is only ever passed to Xen.
        let frames = unsafe {
            let frame = |pfn: usize| match info.guest_width {
                4 => match info.p2m_table.cast::<u32>().add(pfn).read_volatile() {
                    u32::MAX => c_ulong::MAX,
                    frame => c_ulong::from(frame),
                },
                _ => info.p2m_table.add(pfn).read_volatile(),
            };
            let kind = |pfn: usize| *info.pfn_type.add(pfn) & PFINFO_LTAB_MASK;
            let is_page = |pfn: &usize| ![PFINFO_XTAB, PFINFO_XALLOC, PFINFO_BROKEN].contains(&kind(*pfn));
            let there = (0..pages).filter(is_page).map(frame).filter(|frame| *frame != c_ulong::MAX);
            there.collect()
        };
        // SAFETY: it was filled by the previous call and is not used any more.
        unsafe { (self.guest.xc_unmap_domain_meminfo)(self.xen.handle, &raw mut info) };
        Ok(frames)
    }

    /// The guest frame numbers of a domain's pages, ascending, until as many are found as it has. A few of
    /// them are [`SPECIAL`] and far beyond its memory (PVH: up to 0xfefff); the gap before them is skipped.
    fn frames_of_translated(&self, domain: DomainRef, pages: u64) -> Result<Vec<u64>, XenError> {
        let id = u32::from(domain.id);
        let mut highest: c_ulong = 0;
        // SAFETY: the call writes this number.
        let result =
            unsafe { (self.xen.calls.xc_domain_maximum_gpfn)(self.xen.handle, id, &raw mut highest) };
        let call = || format!("xc_domain_maximum_gpfn of domain {}", domain.id);
        self.xen.check(result, call).map_err(|error| self.xen.why(domain, error))?;
        let begun = Instant::now();
        let mut frames = Vec::new();
        let (mut next, mut holes) = (0, 0);
        while next <= highest && (frames.len() as u64) < pages {
            if begun.elapsed() > SEARCH {
                let call = format!("searching the pages of domain {} for {} s", domain.id, SEARCH.as_secs());
                return Err(XenError::Call { call, errno: Errno::ETIMEDOUT });
            }
            let found_before = frames.len();
            let end = (next + BATCH_PAGES as c_ulong).min(highest + 1);
            let mut batch: Vec<c_ulong> = (next..end).collect();
            let count = batch.len() as u32;
            // SAFETY: the array has as many elements as passed.
            let result = unsafe {
                (self.xen.calls.xc_get_pfn_type_batch)(self.xen.handle, id, count, batch.as_mut_ptr())
            };
            let call = || format!("xc_get_pfn_type_batch of domain {}", domain.id);
            self.xen.check(result, call).map_err(|error| self.xen.why(domain, error))?;
            let is_page = |kind: &c_ulong| {
                ![PFINFO_XTAB, PFINFO_XALLOC, PFINFO_BROKEN].contains(&(kind & PFINFO_LTAB_MASK))
            };
            let there = (next..end).zip(batch).filter(|(_, kind)| is_page(kind)).map(|(gfn, _)| gfn);
            frames.extend(there);
            holes = if frames.len() == found_before { holes + end - next } else { 0 };
            next = end;
            let missing = pages - (frames.len() as u64).min(pages);
            if holes >= GAP && missing <= SPECIAL_PAGES && next < SPECIAL.start {
                next = SPECIAL.start;
            }
        }
        Ok(frames)
    }
}

impl ForeignMemory for LibraryMemory {
    fn frames(&mut self, domain: &Domain) -> Result<Vec<u64>, XenError> {
        let domain = domain.domain;
        let info = self.xen.domain(domain)?;
        match info.flags & DOMINF_HVM_GUEST {
            0 => self.frames_of_pv(domain),
            _ => self.frames_of_translated(domain, info.tot_pages),
        }
    }

    fn map(
        &mut self,
        domain: DomainRef,
        frames: &[u64],
        each: &mut dyn FnMut(usize, &[u8; PAGE_BYTES]),
    ) -> Result<(), XenError> {
        let mapped = self.mappings.map(domain, PROT_READ, frames);
        let mapped = mapped.map_err(|error| self.xen.why(domain, error))?;
        // Checked only now: a mapping stays with the domain that had the number then, and only this domain
        // may be read.
        self.xen.domain(domain)?;
        for position in 0..mapped.pages {
            if let Some(page) = mapped.page(position) {
                each(position, page);
            }
        }
        Ok(())
    }
}

/// The device for mapping pages.
pub(super) struct Mappings {
    calls: Foreign,
    handle: *mut c_void,
}

// SAFETY: the handle is a file of this process that any thread may use, and there is no shared access.
unsafe impl Send for Mappings {}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, and closed once, after all mappings, which borrow from it.
        unsafe { (self.calls.xenforeignmemory_close)(self.handle) };
    }
}

impl Mappings {
    pub(super) fn open(root: &HostRoot) -> Result<Self, XenError> {
        let calls = Foreign::load()?;
        Errno::clear();
        // SAFETY: the logger lives as long as the program and has the layout of `xentoollog_logger`.
        let handle = unsafe { (calls.xenforeignmemory_open)(SILENT.pointer(), 0) };
        if handle.is_null() {
            return Err(XenError::NoAccess { path: root.dev("xen/privcmd"), errno: Errno::last() });
        }
        Ok(Self { calls, handle })
    }

    pub(super) fn map(
        &self,
        domain: DomainRef,
        protection: c_int,
        frames: &[u64],
    ) -> Result<Mapped<'_>, XenError> {
        let mut errors = vec![0; frames.len()];
        Errno::clear();
        // SAFETY: both arrays have as many elements as passed; `u64` is `xen_pfn_t` on x86-64.
        let address = unsafe {
            (self.calls.xenforeignmemory_map)(
                self.handle,
                u32::from(domain.id),
                protection,
                frames.len(),
                frames.as_ptr().cast(),
                errors.as_mut_ptr(),
            )
        };
        if address.is_null() {
            let call = format!("mapping {} pages of domain {}", frames.len(), domain.id);
            return Err(XenError::Call { call, errno: Errno::last() });
        }
        Ok(Mapped { mappings: self, address, pages: frames.len(), errors })
    }
}

/// Pages that stay mapped until this is dropped.
pub(super) struct Mapped<'a> {
    mappings: &'a Mappings,
    address: *mut c_void,
    pub(super) pages: usize,
    /// An error number per page; 0 for mapped pages.
    pub(super) errors: Vec<c_int>,
}

impl Mapped<'_> {
    /// The content of a page; `None` where it could not be mapped. The domain may be writing it.
    fn page(&self, position: usize) -> Option<&[u8; PAGE_BYTES]> {
        if self.errors[position] != 0 {
            return None;
        }
        // SAFETY: the page at this position is mapped, readable, until this is dropped. A running domain may
        // change its bytes concurrently; they are plain bytes of which any value is valid, only ever hashed,
        // compared and copied, and every decision based on them is confirmed by a later reading.
        unsafe { self.address.cast::<u8>().add(position * PAGE_BYTES).cast::<[u8; PAGE_BYTES]>().as_ref() }
    }
}

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        // SAFETY: mapped by the same handle with the same length, and no reference outlives this.
        let result = unsafe {
            (self.mappings.calls.xenforeignmemory_unmap)(self.mappings.handle, self.address, self.pages)
        };
        if result != 0 {
            tracing::error!("{} pages of a domain stay mapped: {}", self.pages, Errno::last());
        }
    }
}
