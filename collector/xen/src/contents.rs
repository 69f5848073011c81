//! The memory of Xen's domains as [`GuestMemory`], and content scans over it. They take some 10 MiB in
//! addition to the scan's limits and to the lists of frame numbers.
//!
//! A space is a domain, and its slots are positions in the list of its frames at the time it was opened: for
//! a PV domain its machine frames in the order of its own page numbers, for others guest frame numbers, some
//! of which may be holes. Each slot counts as a separate page ([`Slot::frame`] is 0): Xen gives a frame to
//! one domain and maps it as that domain's only, and does not report which guest frames share a frame.
//!
//! The list is kept as runs of consecutive numbers, 16 bytes each. Guest frames are a few runs. The runs of
//! machine frames depend on how the domain was built or ballooned: with 2 MiB pieces they take 8 KiB for each
//! GiB, and at worst, with a run per page, 4 MiB for each GiB.

use std::collections::BTreeMap;
use std::time::Instant;

use huddle_model::id::XenDomainId;
use huddle_model::vm::Vm;

use huddle_sharing::content::candidates::{self, HashGroups as SlotGroups};
use huddle_sharing::content::{
    ContentScan, ContentSettings, GuestMemory, Hashed, SketchSettings, Sketches, Slot, Throttle, sketch,
};
use huddle_sharing::{Measurement, SharingError, UnmeasuredVm};

use crate::toolstack::{BATCH_PAGES, DomainRef, ForeignMemory, ListDomains, PAGE_BYTES, XenError};

/// Slots per step; more than a batch, so that samples fill batches, too.
const SLOTS_AT_ONCE: u64 = 16 * BATCH_PAGES as u64;

/// Like [`ContentScan::measure`], but for domains, given by each VM's [`id`](Vm::id). All memory of a domain
/// is measured, whatever [`Vm::memory`] has.
///
/// A domain that ends during the scan is in [`Measurement::unmeasured`], and so is, with the reason, one whose
/// pages cannot be listed or mapped although others' can. A paused domain is measured like any other.
///
/// # Errors
/// Xen does not answer, or no domain's pages can be read; two VMs are the same domain; more equal pages than
/// the limit allows.
pub fn measure_domains(
    scan: &ContentScan,
    memory: &mut dyn ForeignMemory,
    domains: &mut ListDomains<'_>,
    vms: &[Vm],
) -> Result<Measurement, SharingError> {
    let began = Instant::now();
    let mut memory = DomainMemory::open(memory, domains, &wanted(vms)?)?;
    let scanned = scan.scan(&mut memory, vms)?;
    let (unmeasured, notes) = memory.close(|vm| &vms[vm].name)?;
    Ok(scan.report(vms, scanned, unmeasured, notes, began))
}

/// Like [`ContentScan::hash_only`], but for domains; calls `listed` once their pages are listed.
///
/// # Errors
/// As [`measure_domains`].
pub fn hash_domains(
    scan: &ContentScan,
    memory: &mut dyn ForeignMemory,
    domains: &mut ListDomains<'_>,
    vms: &[Vm],
    listed: impl FnOnce(),
) -> Result<Hashed, SharingError> {
    let mut memory = DomainMemory::open(memory, domains, &wanted(vms)?)?;
    listed();
    let hashed = scan.hash_memory(&mut memory, vms.len())?;
    memory.close(|vm| &vms[vm].name)?;
    Ok(hashed)
}

/// Like [`content::sketch_processes`](huddle_sharing::content::sketch_processes), but for domains.
///
/// # Errors
/// As [`measure_domains`].
pub fn sketch_domains(
    settings: &SketchSettings,
    memory: &mut dyn ForeignMemory,
    domains: &mut ListDomains<'_>,
    vms: &[Vm],
) -> Result<Sketches, SharingError> {
    let mut memory = DomainMemory::open(memory, domains, &wanted(vms)?)?;
    let sketches = sketch(&mut memory, vms.len(), settings)?;
    let (unmeasured, notes) = memory.close(|vm| &vms[vm].name)?;
    Ok(Sketches { vms: sketches, unmeasured, notes })
}

/// A page of a domain that may be equal to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its domain, by position in the request.
    pub(crate) domain: usize,
    /// Its number in [`ForeignMemory::frames`].
    pub(crate) frame: u64,
}

/// Groups of pages with equal hashes: at most [`BATCH_PAGES`] in total, or one larger group.
#[derive(Debug, Default)]
pub(crate) struct HashGroups {
    pages: Vec<Candidate>,
    /// One past the last page of each group.
    ends: Vec<usize>,
}

impl HashGroups {
    fn of(slots: &SlotGroups, memory: &DomainMemory<'_>) -> Self {
        let mut alike = Self::default();
        for group in slots.groups() {
            let page = |slot: &candidates::Candidate| Candidate {
                domain: slot.vm,
                frame: memory.frame(slot.space, slot.slot),
            };
            alike.pages.extend(group.iter().map(page));
            alike.ends.push(alike.pages.len());
        }
        alike
    }

    /// The groups; pages in the order of their domains.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Candidate]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.pages[start..*end])
    }
}

/// Receiver of the groups, with the reader of pages and the CPU limiter.
pub(crate) type TakeGroups<'t> = dyn FnMut(&mut dyn ForeignMemory, &HashGroups, &mut Throttle) + 't;

/// Results of a search other than groups.
#[derive(Debug)]
pub(crate) struct Searched {
    /// Domains that could not be read.
    pub(crate) unmeasured: Vec<UnmeasuredVm>,
    /// Notes about other domains.
    pub(crate) notes: Vec<String>,
}

/// [`candidates::search`] on domains, given with their names.
///
/// # Errors
/// As [`measure_domains`].
pub(crate) fn search(
    memory: &mut dyn ForeignMemory,
    list: &mut ListDomains<'_>,
    domains: &[(XenDomainId, &str)],
    settings: &ContentSettings,
    take: &mut TakeGroups<'_>,
) -> Result<Searched, SharingError> {
    let wanted: Vec<_> = domains.iter().map(|(domain, _)| Some(*domain)).collect();
    let mut memory = DomainMemory::open(memory, list, &wanted)?;
    let first = || domains.first().map_or_else(String::new, |(_, name)| (*name).to_owned());
    candidates::search(&mut memory, domains.len(), first, settings, &mut |memory, slots, throttle| {
        let alike = HashGroups::of(slots, memory);
        take(memory.memory, &alike, throttle);
    })?;
    let (unmeasured, notes) = memory.close(|domain| domains[domain].1)?;
    Ok(Searched { unmeasured, notes })
}

/// The domain of each VM; `None` for a VM that is not a domain.
fn wanted(vms: &[Vm]) -> Result<Vec<Option<XenDomainId>>, SharingError> {
    let mut first = BTreeMap::new();
    for (vm, id) in vms.iter().filter_map(|vm| Some((vm, vm.id.xen_domain()?))) {
        if let Some(other) = first.insert(id, vm) {
            let domain = u16::try_from(id.domid).unwrap_or(u16::MAX);
            let (first, second) = (other.name.clone(), vm.name.clone());
            return Err(XenError::SameDomain { first, second, domain }.into());
        }
    }
    Ok(vms.iter().map(|vm| vm.id.xen_domain()).collect())
}

/// The memory of domains.
struct DomainMemory<'a> {
    memory: &'a mut dyn ForeignMemory,
    domains: &'a mut ListDomains<'a>,
    spaces: Vec<Space>,
    /// VMs that are not read.
    unmeasured: Vec<UnmeasuredVm>,
    /// The frames of one batch.
    batch: Vec<u64>,
}

/// VMs that were not measured, and notes about others.
type Closed = (Vec<UnmeasuredVm>, Vec<String>);

struct Space {
    vm: usize,
    domain: DomainRef,
    frames: Frames,
    /// Pages it had when the domains were last listed.
    pages: u64,
    is_gone: bool,
    is_mapped: bool,
    /// The error of the first batch that could not be mapped although the domain existed.
    failed: Option<XenError>,
}

impl<'a> DomainMemory<'a> {
    /// Opens the domains of `wanted`, whose positions are those of VMs.
    ///
    /// # Errors
    /// When Xen does not answer, or the pages of no domain can be listed.
    fn open(
        memory: &'a mut dyn ForeignMemory,
        domains: &'a mut ListDomains<'_>,
        wanted: &[Option<XenDomainId>],
    ) -> Result<Self, SharingError> {
        let listed = domains()?;
        let mut opened =
            DomainMemory { memory, domains, spaces: Vec::new(), unmeasured: Vec::new(), batch: Vec::new() };
        let mut refused = None;
        for (vm, id) in wanted.iter().enumerate() {
            let Some(id) = id else {
                let reason = "it is not a Xen domain".to_owned();
                opened.unmeasured.push(UnmeasuredVm::unreadable(vm, reason));
                continue;
            };
            let domain = listed.iter().find(|domain| domain.domain.xen_id() == *id && !domain.is_ending);
            let Some(domain) = domain else {
                opened.unmeasured.push(UnmeasuredVm::ended(vm));
                continue;
            };
            match opened.memory.frames(domain) {
                Ok(frames) => opened.spaces.push(Space {
                    vm,
                    domain: domain.domain,
                    frames: Frames::new(&frames),
                    pages: domain.pages,
                    is_gone: false,
                    is_mapped: false,
                    failed: None,
                }),
                Err(error) if error.is_gone() => opened.unmeasured.push(UnmeasuredVm::ended(vm)),
                Err(error) => {
                    let reason = format!("its pages cannot be listed: {error}");
                    opened.unmeasured.push(UnmeasuredVm::unreadable(vm, reason));
                    refused.get_or_insert(error);
                }
            }
        }
        match refused {
            Some(error) if opened.spaces.is_empty() => Err(error.into()),
            _ => Ok(opened),
        }
    }

    /// The frame of a slot.
    fn frame(&self, space: usize, slot: u64) -> u64 {
        self.spaces[space].frames.frame(slot)
    }

    /// The outcome of reading.
    ///
    /// # Errors
    /// When no page of any remaining domain could be mapped.
    fn close<'n>(self, name_of: impl Fn(usize) -> &'n str) -> Result<Closed, SharingError> {
        let (mut unmeasured, mut notes, mut refused) = (self.unmeasured, Vec::new(), None);
        let mut is_any_mapped = false;
        for space in self.spaces {
            is_any_mapped |= space.is_mapped;
            match space.failed {
                _ if space.is_gone => unmeasured.push(UnmeasuredVm::ended(space.vm)),
                Some(error) if space.is_mapped => {
                    notes.push(format!("some pages of {:?} could not be mapped: {error}", name_of(space.vm)));
                }
                Some(error) => {
                    let reason = format!("none of its pages can be mapped: {error}");
                    unmeasured.push(UnmeasuredVm::unreadable(space.vm, reason));
                    refused.get_or_insert(error);
                }
                None => {}
            }
        }
        unmeasured.sort_by_key(|left_out| left_out.vm);
        match refused {
            Some(error) if !is_any_mapped => Err(error.into()),
            _ => Ok((unmeasured, notes)),
        }
    }
}

impl GuestMemory for DomainMemory<'_> {
    fn spaces(&self) -> Vec<(usize, u64)> {
        self.spaces.iter().map(|space| (space.vm, space.frames.slots)).collect()
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
        let end = space.frames.slots.min(first + SLOTS_AT_ONCE);
        slots.extend((first..end).map(|number| Slot { number, frame: 0 }));
        Ok(end - first)
    }

    fn reported_pages(&self, space: usize) -> Option<u64> {
        Some(self.spaces[space].pages)
    }

    fn look_again(&mut self) -> Result<(), SharingError> {
        let listed = (self.domains)().map_err(SharingError::from)?;
        for space in &mut self.spaces {
            match listed.iter().find(|domain| domain.domain == space.domain && !domain.is_ending) {
                Some(domain) => space.pages = domain.pages,
                None => space.is_gone = true,
            }
        }
        Ok(())
    }

    fn read(&mut self, space: usize, slots: &[Slot], each: &mut dyn FnMut(usize, &[u8])) {
        let space = &mut self.spaces[space];
        if space.is_gone {
            return;
        }
        self.batch.clear();
        self.batch.extend(slots.iter().map(|slot| space.frames.frame(slot.number)));
        let mut is_mapped = false;
        let mapped = self.memory.map(space.domain, &self.batch, &mut |position, page| {
            is_mapped = true;
            each(position, page);
        });
        space.is_mapped |= is_mapped;
        match mapped {
            Ok(()) => {}
            Err(error) if error.is_gone() => space.is_gone = true,
            Err(error) => _ = space.failed.get_or_insert(error),
        }
    }
}

/// A list of frames, as runs of consecutive numbers.
#[derive(Debug)]
struct Frames {
    /// The first slot of each run, ascending, and its frame.
    runs: Vec<(u64, u64)>,
    slots: u64,
}

impl Frames {
    fn new(frames: &[u64]) -> Self {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (slot, frame) in (0..).zip(frames) {
            let follows =
                runs.last().is_some_and(|(first, start)| start.checked_add(slot - first) == Some(*frame));
            if !follows {
                runs.push((slot, *frame));
            }
        }
        runs.shrink_to_fit();
        Self { runs, slots: frames.len() as u64 }
    }

    fn frame(&self, slot: u64) -> u64 {
        let (first, frame) = self.runs[self.runs.partition_point(|(first, _)| *first <= slot) - 1];
        frame + (slot - first)
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod frames_tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn consecutive_frames_are_one_run() {
        assert_eq!(
            Frames::new(&[7, 8, 9, 100, 101, 5, u64::MAX]).runs,
            [(0, 7), (3, 100), (5, 5), (6, u64::MAX)]
        );
        assert_eq!(Frames::new(&[]).slots, 0);
    }

    proptest! {
        #[test]
        fn runs_are_the_list(frames in proptest::collection::vec(0u64..40, 0..200)) {
            let runs = Frames::new(&frames);
            let read: Vec<u64> = (0..runs.slots).map(|slot| runs.frame(slot)).collect();
            prop_assert_eq!(read, frames);
        }
    }
}
