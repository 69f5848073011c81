//! The first half of a content scan for mergers: pages whose hash equals that of a page of another VM. The
//! merger compares them itself.

use super::super::SharingError;
use super::draw::Draw;
use super::groups::{group_at, keep_groups};
use super::hashing::{Reading, hash_slice};
use super::memory::GuestMemory;
use super::records::{Record, Records, Slice};
use super::settings::ContentSettings;
use super::tally::Tally;
use super::throttle::Throttle;
use super::verify::Spaces;
use super::{bytes, check_pages};

/// A page that may be equal to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its VM, by position.
    pub vm: usize,
    /// Its space (see [`GuestMemory`]).
    pub space: usize,
    /// Its position in the space.
    pub slot: u64,
}

/// Groups of pages with equal hashes: at most [`GuestMemory::batch_pages`], or one larger group.
#[derive(Debug, Default)]
pub struct HashGroups {
    pages: Vec<Candidate>,
    /// One past the last page of each group.
    ends: Vec<usize>,
}

impl HashGroups {
    /// The groups; pages in the order of their spaces.
    pub fn groups(&self) -> impl Iterator<Item = &[Candidate]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.pages[start..*end])
    }
}

/// Receiver of the groups, with the memory for reading pages and the CPU limiter.
pub type TakeGroups<'t, M> = dyn FnMut(&mut M, &HashGroups, &mut Throttle) + 't;

/// Reads all pages and passes on groups of equal hashes with pages of two or more spaces. Zero-filled pages
/// are left out, as they count as not shared. All pages are read, whatever `settings` has for samples; `vms`
/// is the number of VMs that the spaces belong to, and `largest` the VM to name in an error about size.
///
/// # Errors
/// As [`super::ContentScan::measure`].
pub fn search<M: GuestMemory>(
    memory: &mut M,
    vms: usize,
    largest: impl FnOnce() -> String,
    settings: &ContentSettings,
    take: &mut TakeGroups<'_, M>,
) -> Result<(), SharingError> {
    let (spaces, pages) = Spaces::new(&memory.spaces());
    check_pages(pages, largest)?;
    let draw = Draw::new(None, settings.seed);
    let mut throttle = Throttle::new(settings.cpu_share);
    let mut records = Records::within(bytes(settings));
    let mut next = Some(Slice::ALL);
    while let Some(slice) = next {
        records.begin(slice);
        let mut reading = Reading { memory, spaces: &spaces, draw, throttle: &mut throttle };
        // The counts are not needed here.
        hash_slice(&mut reading, &mut records, &mut Tally::new(vms, draw), false)
            .map_err(|stopped| stopped.error(&records, settings))?;
        let sorted = records.sorted();
        throttle.rest();
        // A group is in the order of its pages, and so of spaces.
        let of_two = |group: &[Record]| match group {
            [first, .., last] => spaces.space(first.page()) != spaces.space(last.page()),
            _ => false,
        };
        let groups = keep_groups(sorted, &mut throttle, of_two);
        hand_out(memory, &spaces, sorted, &groups, &mut throttle, take);
        next = records.next_slice();
    }
    memory.look_again()
}

fn hand_out<M: GuestMemory>(
    memory: &mut M,
    spaces: &Spaces,
    records: &[Record],
    groups: &[u32],
    throttle: &mut Throttle,
    take: &mut TakeGroups<'_, M>,
) {
    let most = memory.batch_pages();
    let mut alike = HashGroups::default();
    for start in groups {
        let group = group_at(records, *start);
        if !alike.pages.is_empty() && alike.pages.len() + group.len() > most {
            take(memory, &alike, throttle);
            alike.pages.clear();
            alike.ends.clear();
        }
        alike.pages.extend(group.iter().map(|record| {
            let space = spaces.space(record.page());
            let slot = record.page() - spaces.first(space);
            Candidate { vm: spaces.vm(record.page()), space, slot }
        }));
        alike.ends.push(alike.pages.len());
    }
    if !alike.pages.is_empty() {
        take(memory, &alike, throttle);
    }
}
