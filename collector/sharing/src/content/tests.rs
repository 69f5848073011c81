//! The scan on fake memory: compared with a naive count, with changes and losses, and its stated error.

use std::collections::{BTreeMap, BTreeSet};

use huddle_model::matrix::{MatrixVm, MemoryUse, SharingMatrix};
use proptest::prelude::*;

use super::memory::{GuestMemory, Slot};
use super::*;

/// Small pages: the tests do not depend on their size.
const PAGE_BYTES: usize = 64;

/// Spaces of pages; each page is a content and a frame, and 0 is zero-filled. Changes are scheduled by the
/// number of pages read so far.
#[derive(Clone, Debug, Default)]
struct Made {
    spaces: Vec<(usize, Vec<Option<Page>>)>,
    reads: u64,
    /// After that many reads, this page of that space has another content, or none.
    change: Option<(u64, usize, usize, Option<u64>)>,
    /// After that many reads, that space is gone.
    gone: Option<(u64, usize)>,
    /// After that many reads, that space has only so many of its first pages.
    shrunk: Option<(u64, usize, usize)>,
}

#[derive(Clone, Copy, Debug)]
struct Page {
    content: u64,
    frame: u64,
}

fn page(content: u64) -> Option<Page> {
    Some(Page { content, frame: 0 })
}

impl Made {
    fn of(vms: &[Vec<Option<Page>>]) -> Self {
        Self { spaces: vms.iter().cloned().enumerate().collect(), ..Self::default() }
    }

    fn is_gone(&self, space: usize) -> bool {
        self.gone.is_some_and(|(from, gone)| self.reads >= from && gone == space)
    }
}

fn bytes_of(content: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = [0; PAGE_BYTES];
    bytes[PAGE_BYTES - 8..].copy_from_slice(&content.to_ne_bytes());
    bytes
}

impl GuestMemory for Made {
    fn spaces(&self) -> Vec<(usize, u64)> {
        self.spaces.iter().map(|(vm, pages)| (*vm, pages.len() as u64)).collect()
    }

    fn page_bytes(&self) -> usize {
        PAGE_BYTES
    }

    fn batch_pages(&self) -> usize {
        64
    }

    fn present(&mut self, space: usize, first: u64, slots: &mut Vec<Slot>) -> Result<u64, SharingError> {
        if self.is_gone(space) {
            return Ok(0);
        }
        // Seven at a time, so that ends and sleeps occur.
        let pages = self.spaces[space].1.iter().zip(0..).skip(first as usize).take(7);
        let looked_at = pages.clone().count() as u64;
        let shrunk = self.shrunk.filter(|(from, of, _)| self.reads >= *from && *of == space);
        let end = shrunk.map_or(u64::MAX, |(_, _, keeps)| keeps as u64);
        let pages = pages.filter(|(_, number)| *number < end);
        slots.extend(pages.filter_map(|(page, number)| Some(Slot { number, frame: (*page)?.frame })));
        Ok(looked_at)
    }

    fn read(&mut self, space: usize, slots: &[Slot], each: &mut dyn FnMut(usize, &[u8])) {
        assert!(slots.len() <= self.batch_pages());
        for (position, slot) in slots.iter().enumerate() {
            self.reads += 1;
            if self.is_gone(space) {
                return;
            }
            let mut content = self.spaces[space].1[slot.number as usize].map(|page| page.content);
            if let Some((from, of, number, now)) = self.change
                && self.reads > from
                && (of, number as u64) == (space, slot.number)
            {
                content = now;
            }
            if let Some(content) = content {
                each(position, &bytes_of(content));
            }
        }
    }
}

fn settings() -> ContentSettings {
    ContentSettings { cpu_share: Share::ALL, ..ContentSettings::default() }
}

fn scanned(made: &Made, vms: usize, settings: &ContentSettings) -> Scanned {
    scan(&mut made.clone(), vms, settings, || unreachable!("few pages")).unwrap()
}

fn matrix(scanned: Scanned) -> SharingMatrix {
    let coverage = scanned.tally.coverage();
    let figures = scanned.tally.figures();
    let rows = figures.memory.iter().enumerate().map(|(position, memory)| MatrixVm {
        name: position.to_string(),
        id: None,
        uuid: None,
        owner: None,
        vcpus: 1,
        memory: Some(*memory),
    });
    let matrix = SharingMatrix::measured(Method::Content, rows.collect(), &figures.shared, 0.0, coverage);
    let all: Vec<usize> = (0..matrix.len()).collect();
    match figures.sampled {
        Some(sampled) => sampled.estimate(matrix, &all),
        None => matrix,
    }
}

/// The expected figures, computed with sets.
fn plain(made: &Made, vms: usize) -> (Vec<MemoryUse>, Vec<BTreeSet<u64>>) {
    let mut memory = vec![MemoryUse::default(); vms];
    let mut times = vec![BTreeMap::<u64, u64>::new(); vms];
    for (vm, pages) in &made.spaces {
        for page in pages.iter().flatten() {
            memory[*vm].pages_resident += 1;
            match page.content {
                0 => memory[*vm].pages_zero += 1,
                content => *times[*vm].entry(content).or_default() += 1,
            }
        }
    }
    for (memory, times) in memory.iter_mut().zip(&times) {
        memory.pages_used = times.values().sum();
        memory.frames_used = times.len() as u64;
        memory.self_shared_pages = times.values().filter(|times| **times > 1).sum();
    }
    (memory, times.into_iter().map(|times| times.into_keys().collect()).collect())
}

fn assert_is_plain(matrix: &SharingMatrix, made: &Made, vms: usize) {
    let (memory, contents) = plain(made, vms);
    for i in 0..vms {
        assert_eq!(matrix.vms()[i].memory, Some(memory[i]), "VM {i}");
        for j in (0..vms).filter(|j| *j != i) {
            let both = contents[i].intersection(&contents[j]).count() as u64;
            assert_eq!(matrix.shared_frames(i, j), Some(both), "{i} {j}");
        }
    }
}

fn made() -> impl Strategy<Value = (Made, usize)> {
    (1usize..5, 1u64..400, any::<bool>()).prop_flat_map(|(vms, contents, merged)| {
        // Content 0 is zero-filled; merged pages of one content are on one frame, some of them.
        let page = (0..contents, 0u8..4).prop_map(move |(content, luck)| match luck {
            0 => None,
            1 if merged => Some(Page { content, frame: content + 1 }),
            _ => page(content),
        });
        let space = (0..vms, proptest::collection::vec(page, 0..300));
        let spaces = proptest::collection::vec(space, 0..6);
        (spaces.prop_map(|spaces| Made { spaces, ..Made::default() }), Just(vms))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn the_result_equals_that_of_sets((made, vms) in made()) {
        let scanned = scanned(&made, vms, &settings());
        prop_assert_eq!((scanned.readings, scanned.differing), (1, 0));
        assert_is_plain(&matrix(scanned), &made, vms);
    }
}

#[test]
fn little_memory_takes_more_readings_with_the_same_result() {
    // 70,000 contents of 18 bytes each are more than 1 MiB holds.
    let pages = |from: u64| (from..from + 70_000).map(page).collect::<Vec<_>>();
    let made = Made::of(&[pages(1), pages(20_001), vec![page(5); 100]]);
    let scanned = scanned(&made, 3, &ContentSettings { memory_mib: 1, ..settings() });
    assert!((3..=8).contains(&scanned.readings), "{}", scanned.readings);
    let matrix = matrix(scanned);
    assert_eq!(matrix.shared_frames(0, 1), Some(50_000));
    assert_is_plain(&matrix, &made, 3);
}

#[test]
fn more_equal_pages_than_there_is_room_for_is_an_error() {
    let mut made = Made::of(&[vec![page(5); 70_000]]);
    let little = ContentSettings { memory_mib: 1, ..settings() };
    let Err(error) = scan(&mut made, 1, &little, || unreachable!()) else { panic!("it had room") };
    assert!(matches!(error, SharingError::TooManyAlike { memory_mib: 1, .. }), "{error}");
}

#[test]
fn large_groups_are_counted_too() {
    let mut one = vec![page(9); 500];
    one.extend(vec![Some(Page { content: 9, frame: 77 }); 300]);
    let made = Made::of(&[one, vec![page(9); 2], vec![Some(Page { content: 9, frame: 77 })]]);
    assert_is_plain(&matrix(scanned(&made, 3, &settings())), &made, 3);
}

/// Pages on one frame are one page: they are read once each to be hashed, and never again.
#[test]
fn pages_on_one_frame_are_not_read_twice() {
    let merged = |content| Some(Page { content, frame: content + 100 });
    let pages =
        |merge: bool| (1..50).map(|content| if merge { merged(content) } else { page(content) }).collect();
    for (merge, reads) in [(true, 98), (false, 196)] {
        let mut made = Made::of(&[pages(merge), pages(merge)]);
        scan(&mut made, 2, &settings(), || unreachable!()).unwrap();
        assert_eq!(made.reads, reads, "merged: {merge}");
    }
}

#[test]
fn a_page_that_changes_before_its_comparison_is_not_shared() {
    for group in [2, 3, 100] {
        for now in [Some(1_000), None] {
            let mut made = Made::of(&vec![vec![page(5), page(6)]; group]);
            // All were hashed by then: 2 pages each.
            made.change = Some((2 * group as u64, 1, 0, now));
            let scanned = scanned(&made, group, &settings());
            assert_eq!(scanned.differing, 1, "{group} {now:?}");
            let matrix = matrix(scanned);
            assert_eq!(matrix.shared_frames(0, 1), Some(1), "{group} {now:?}");
            assert_eq!(matrix.vms()[1].memory.unwrap().frames_used, 2);
            if group > 2 {
                assert_eq!(matrix.shared_frames(0, 2), Some(2));
            }
        }
    }
}

#[test]
fn a_page_that_goes_before_it_is_hashed_is_lost() {
    let mut made = Made::of(&[vec![page(5), page(6)], vec![page(5), page(6)]]);
    made.change = Some((0, 1, 0, None));
    let scanned = scanned(&made, 2, &settings());
    assert_eq!(scanned.tally.vms()[1].lost, 1);
    let matrix = matrix(scanned);
    assert_eq!(matrix.shared_frames(0, 1), Some(1));
    assert_eq!(matrix.vms()[1].memory.unwrap().pages_resident, 1);
}

#[test]
fn a_space_that_shrinks_after_it_was_read_is_noticed() {
    let pages: Vec<_> = (1..41).map(page).collect();
    let mut made = Made::of(&[pages.clone(), pages]);
    assert_eq!(scanned(&made, 2, &settings()).resident_after, [40, 40]);
    made.shrunk = Some((80, 1, 10));
    let scanned = scanned(&made, 2, &settings());
    assert_eq!(scanned.tally.vms()[1].resident, 40);
    assert_eq!(scanned.resident_after, [40, 10]);
}

/// Whenever a space goes, the others are counted correctly.
#[test]
fn a_space_that_goes_does_not_affect_the_others() {
    let pages: Vec<_> = (1..40).map(page).collect();
    for at in 0..200 {
        let mut made = Made::of(&[pages.clone(), pages.clone(), pages.clone()]);
        made.gone = Some((at, 1));
        let matrix = matrix(scanned(&made, 3, &settings()));
        assert_eq!(matrix.shared_frames(0, 2), Some(39), "gone after {at} pages");
        assert!(matrix.shared_frames(0, 1).unwrap() <= 39);
    }
}

/// Whatever repeats within a VM, the mean of many samples is the full result, and the intervals have it in 95 of 100.
#[test]
fn samples_estimate_the_full_result_whatever_repeats() {
    const SEEDS: u64 = 300;
    // 3,000 of 7,000 (42.86 %) and of 4,000 in common.
    let contents = |from: u64, to: u64, times: usize| {
        (from..to).flat_map(move |content| std::iter::repeat_n(page(content), times))
    };
    let vm = |own_from: u64, own: u64, times_common: usize, times_own: usize| {
        let zeros = std::iter::repeat_n(page(0), 600);
        let common = contents(2, 3_002, times_common);
        common.chain(contents(own_from, own_from + own, times_own)).chain(zeros).collect::<Vec<_>>()
    };
    for (first, second) in
        [((1, 1), (1, 1)), ((2, 2), (2, 2)), ((3, 3), (3, 3)), ((1, 3), (1, 2)), ((3, 1), (1, 1))]
    {
        let mut made =
            Made::of(&[vm(10_000, 4_000, first.0, first.1), vm(20_000, 1_000, second.0, second.1)]);
        // One content that a VM has very often.
        made.spaces[0].1.extend(contents(2, 3, 2_000));
        let full = matrix(scanned(&made, 2, &settings()));
        assert_is_plain(&full, &made, 2);
        assert!(full.rate_error(0, 1).is_none() && full.rate_ci95(0, 1).is_none());
        let share = 0.1;
        let draws: Vec<SharingMatrix> = (0..SEEDS)
            .map(|seed| {
                let sample = Some(Share::try_from(share).unwrap());
                matrix(scanned(&made, 2, &ContentSettings { sample, seed, ..settings() }))
            })
            .collect();
        let mean = |of: &dyn Fn(&SharingMatrix) -> f64| draws.iter().map(of).sum::<f64>() / SEEDS as f64;
        for (i, j) in [(0, 1), (1, 0)] {
            let truth = full.rate(i, j);
            let average = mean(&|matrix| matrix.rate(i, j));
            let spread = mean(&|matrix| (matrix.rate(i, j) - average).powi(2)).sqrt();
            let stated = mean(&|matrix| matrix.rate_error(i, j).unwrap());
            // Within 4 standard errors of the mean.
            let off = (average - truth).abs();
            assert!(off < 4.0 * spread / (SEEDS as f64).sqrt(), "{first:?} {second:?}: {average} {truth}");
            // A standard deviation of 300 is itself known to 4 %.
            assert!((0.85..1.15).contains(&(spread / stated)), "{first:?} {second:?}: {spread} {stated}");
            let covers = |matrix: &&SharingMatrix| {
                let [low, high] = matrix.rate_ci95(i, j).unwrap();
                low <= truth && truth <= high
            };
            let covered = draws.iter().filter(covers).count() as u64;
            assert!(covered * 100 >= SEEDS * 94, "{first:?} {second:?}: {covered} of {SEEDS}");
        }
        let frames = mean(&|matrix| matrix.vms()[0].memory.unwrap().frames_used as f64);
        assert!((frames / 7_000.0 - 1.0).abs() < 0.01, "{frames}");
        for matrix in &draws {
            let (sampled, all) = (matrix.vms()[0].memory.unwrap(), full.vms()[0].memory.unwrap());
            let exact = |memory: MemoryUse| {
                (memory.pages_resident, memory.pages_used, memory.pages_zero, memory.pages_file)
            };
            assert_eq!(exact(sampled), exact(all), "pages are counted, not estimated");
            assert_eq!(matrix.coverage(), Some(share));
        }
    }
}

/// A sample holds its share of the records, so guests that are read several times otherwise are read once.
#[test]
fn a_sample_saves_readings() {
    let made = Made::of(&[(1..=70_000).map(page).collect(), (35_000..=105_000).map(page).collect()]);
    let little = ContentSettings { memory_mib: 1, ..settings() };
    assert!(scanned(&made, 2, &little).readings >= 3);
    let sample = Some(Share::try_from(0.25).unwrap());
    let found = scanned(&made, 2, &ContentSettings { sample, ..little });
    assert_eq!(found.readings, 1);
    let [low, high] = matrix(found).rate_ci95(0, 1).unwrap();
    assert!(low < 0.5 && 0.5 < high && high - low < 0.02, "{low} {high}");
}

/// Two VMs of which nothing was drawn: nothing is known of them, unless they have no pages.
#[test]
fn nothing_drawn_is_not_nothing_shared() {
    let made = Made::of(&[vec![page(5)], vec![page(5)], vec![page(0)]]);
    let sample = Some(Share::try_from(1e-9).unwrap());
    let matrix = matrix(scanned(&made, 3, &ContentSettings { sample, ..settings() }));
    assert_eq!((matrix.rate(0, 1), matrix.rate_ci95(0, 1)), (0.0, Some([0.0, 1.0])));
    assert_eq!((matrix.rate(0, 2), matrix.rate_ci95(0, 2)), (0.0, Some([0.0, 0.0])));
    assert_eq!(matrix.rate_error(2, 0), Some(0.0));
}
