//! The first half of a content scan for those who merge: pages of Xen's domains that are equal by their hash
//! to pages of another domain. Whether they are equal is left to who merges them.

use huddle_model::id::XenDomainId;

use super::super::SharingError;
use super::domains::DomainMemory;
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
use crate::xen::toolstack::{BATCH_PAGES, ForeignMemory, ListDomains};

/// A page that may be equal to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its domain, by position among those that were asked for.
    pub(crate) domain: usize,
    /// Its number, as [`ForeignMemory::frames`] has it.
    pub(crate) frame: u64,
}

/// Groups of pages of one hash: together no more than [`BATCH_PAGES`], or one group that is larger.
#[derive(Debug, Default)]
pub(crate) struct Alike {
    pages: Vec<Candidate>,
    /// One past the last page of each group.
    ends: Vec<usize>,
}

impl Alike {
    /// The groups; pages in the order of their domains.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Candidate]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.pages[start..*end])
    }
}

/// What takes the groups: with what reads pages meanwhile, and what is to rest by.
pub(crate) type TakeAlike<'t> = dyn FnMut(&mut dyn ForeignMemory, &Alike, &mut Throttle) + 't;

/// What a search found besides groups.
#[derive(Debug)]
pub(crate) struct Searched {
    /// Domains that could not be read or not to the end, by position, with the reason.
    pub(crate) left_out: Vec<(usize, String)>,
    /// What is to be said of others.
    pub(crate) notes: Vec<String>,
}

/// Reads all pages of domains and gives groups of equal hash that have pages of two domains or more. Zero-filled
/// pages are not among them, as they count as shared with nobody. All pages are looked at, whatever
/// `settings` say of samples.
///
/// # Errors
/// As [`super::ContentScan::measure_domains`].
pub(crate) fn search(
    memory: &mut dyn ForeignMemory,
    list: &mut ListDomains<'_>,
    domains: &[(XenDomainId, &str)],
    settings: &ContentSettings,
    take: &mut TakeAlike<'_>,
) -> Result<Searched, SharingError> {
    let wanted: Vec<_> = domains.iter().map(|(domain, _)| Some(*domain)).collect();
    let mut memory = DomainMemory::open(memory, list, &wanted)?;
    let (spaces, pages) = Spaces::new(&memory.spaces());
    check_pages(pages, || domains.first().map_or_else(String::new, |(_, name)| (*name).to_owned()))?;
    let draw = Draw::new(None, settings.seed);
    let mut throttle = Throttle::new(settings.cpu_share);
    let mut records = Records::within(bytes(settings));
    let mut next = Some(Slice::ALL);
    while let Some(slice) = next {
        records.begin(slice);
        let mut desk = Reading { memory: &mut memory, spaces: &spaces, draw, throttle: &mut throttle };
        // Nobody asks for the counts here.
        hash_slice(&mut desk, &mut records, &mut Tally::new(domains.len(), draw), false)
            .map_err(|stopped| stopped.error(&records, settings))?;
        let sorted = records.sorted();
        throttle.rest();
        // A group is in the order of its pages, and so of spaces.
        let of_two = |group: &[Record]| match group {
            [first, .., last] => spaces.space(first.page()) != spaces.space(last.page()),
            _ => false,
        };
        let groups = keep_groups(sorted, &mut throttle, of_two);
        hand_out(&mut memory, &spaces, sorted, &groups, &mut throttle, take);
        next = records.next_slice();
    }
    memory.look_again()?;
    let (left_out, notes) = memory.close(|domain| domains[domain].1)?;
    Ok(Searched { left_out, notes })
}

fn hand_out(
    memory: &mut DomainMemory<'_>,
    spaces: &Spaces,
    records: &[Record],
    groups: &[u32],
    throttle: &mut Throttle,
    take: &mut TakeAlike<'_>,
) {
    let mut alike = Alike::default();
    for start in groups {
        let group = group_at(records, *start);
        if !alike.pages.is_empty() && alike.pages.len() + group.len() > BATCH_PAGES {
            take(memory.foreign(), &alike, throttle);
            alike.pages.clear();
            alike.ends.clear();
        }
        alike.pages.extend(group.iter().map(|record| {
            let space = spaces.space(record.page());
            let frame = memory.frame(space, record.page() - spaces.first(space));
            Candidate { domain: spaces.vm(record.page()), frame }
        }));
        alike.ends.push(alike.pages.len());
    }
    if !alike.pages.is_empty() {
        take(memory.foreign(), &alike, throttle);
    }
}
