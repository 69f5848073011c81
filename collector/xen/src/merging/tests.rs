//! Merging on a fake Xen: equal pages share a frame, no guest sees foreign content, and nothing stays behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;

use super::*;
use crate::fake_memory::{FakeXen, domain_ref};
use crate::toolstack::BATCH_PAGES;
use huddle_model::selection::VmPattern;
use huddle_sharing::content::Share;

fn settings() -> MergeSettings {
    let content = ContentSettings { cpu_share: Share::ALL, ..ContentSettings::default() };
    MergeSettings { content, ..MergeSettings::default() }
}

fn parts(xen: &FakeXen) -> Xen {
    Xen { sharing: Box::new(xen.clone()), memory: Box::new(xen.clone()), list: Box::new(xen.list()) }
}

fn merger_with(xen: &FakeXen, settings: MergeSettings) -> Merger {
    Merger::new(parts(xen), settings, Box::new(|_| Ok(())))
}

fn merger(xen: &FakeXen) -> Merger {
    merger_with(xen, settings())
}

fn merged(merger: &mut Merger) -> Merged {
    merger.merge(&Stop::default()).unwrap().value().unwrap().clone()
}

fn unavailable(xen: &FakeXen) -> String {
    merger(xen).merge(&Stop::default()).unwrap().reason().unwrap().to_owned()
}

fn pages(from: u64, to: u64) -> Vec<Option<u64>> {
    (from..to).map(Some).collect()
}

fn hvm(domains: &[Vec<Option<u64>>]) -> FakeXen {
    FakeXen::of(DomainKind::Hvm, domains)
}

#[test]
fn equal_pages_share_a_frame_and_are_unshared_on_request() {
    // Zeros, a page that one domain has twice, and unique pages.
    let (mut one, mut two) = (pages(1, 41), pages(21, 61));
    one.extend([Some(0), Some(30), Some(900), Some(900)]);
    two.extend([None, Some(0)]);
    let xen = hvm(&[one, two]);
    let frames = xen.lock().frames();
    let mut merger = merger(&xen);
    let found = merged(&mut merger);
    assert_eq!(found.domains, [("vm1".to_owned(), 21), ("vm2".to_owned(), 20)]);
    assert_eq!((found.pages_shared, found.frames_freed), (41, 21));
    assert_eq!((found.refused, found.unpaired, found.reasons.len()), (0, 0, 0), "{:?}", found.reasons);
    {
        let state = xen.lock();
        assert_eq!(state.frames(), frames - 21);
        assert_eq!(state.nominated_alone(), 0);
        assert!((20..40).all(|gfn| state.frame(1, gfn) == state.frame(2, gfn - 20)));
        assert_ne!(state.frame(1, 40), state.frame(2, 41), "zeros are left alone");
        assert_ne!(state.frame(1, 42), state.frame(1, 43), "and so are repeated pages of one domain");
    }
    let undone = merger.undo();
    assert_eq!(undone, UndoneAll { undone: vec![domain_ref(1), domain_ref(2)], failures: Vec::new() });
    assert!(xen.lock().is_untouched());
    assert_eq!(xen.lock().frames(), frames);
    assert_eq!(merger.undo(), UndoneAll::default(), "once is enough");
    // After a viewer's restore merging may be resumed.
    let again = merged(&mut merger);
    assert_eq!((again.pages_shared, again.frames_freed), (found.pages_shared, found.frames_freed));
    assert_eq!(merger.undo(), undone);
    assert!(xen.lock().is_untouched());
}

#[test]
fn dropping_undoes_and_keeping_does_not() {
    let xen = hvm(&[pages(1, 41), pages(1, 41)]);
    merged(&mut merger(&xen));
    assert!(xen.lock().is_untouched());
    let mut kept = merger(&xen);
    merged(&mut kept);
    kept.keep();
    assert_eq!(xen.lock().frames(), 40);
    // A later run takes over the domains in the journal; others with shared pages it does not touch.
    let reason = unavailable(&xen);
    assert!(reason.contains("40 pages of \"vm1\" are shared by another program"), "{reason}");
    let mut later = merger(&xen);
    (1..=2).for_each(|id| later.adopt(domain_ref(id), format!("vm{id}")));
    let found = merged(&mut later);
    assert_eq!((found.pages_shared, found.frames_freed, found.refused), (80, 0, 0));
    drop(later);
    assert!(xen.lock().is_untouched());
}

/// Undo after a killed run: the announced domains are enough.
#[test]
fn announced_domains_are_enough_to_undo() {
    let xen = hvm(&[pages(1, 3_001), pages(1, 3_001), pages(9_000, 9_010)]);
    let journal = Arc::new(Mutex::new(Vec::new()));
    let (log, host) = (journal.clone(), xen.clone());
    let announce = move |domain: &Domain| {
        assert!(!host.lock().controlled.contains(&domain.domain.id), "before it is switched on");
        log.lock().unwrap().push(domain.domain);
        Ok(())
    };
    let mut killed = Merger::new(parts(&xen), settings(), Box::new(announce));
    merged(&mut killed);
    merged(&mut killed);
    killed.keep();
    assert_eq!(xen.lock().frames(), 3_010);
    // One page was nominated when it was killed, and one domain has ended since.
    xen.clone().nominate(domain_ref(3), 4).unwrap();
    let announced = journal.lock().unwrap().clone();
    assert_eq!(announced, [domain_ref(1), domain_ref(2), domain_ref(3)], "once each");
    xen.lock().end(2);
    let undone = |id| undo_all(domain_ref(id), &mut xen.clone(), &mut xen.clone(), &mut xen.list()).unwrap();
    assert_eq!([undone(1), undone(2), undone(3)], [Undone::Off, Undone::Gone, Undone::Off]);
    assert!(xen.lock().is_untouched());
    assert_eq!(undone(1), Undone::Off, "repeating it is harmless");
}

#[test]
fn failed_undos_are_reported_and_tried_again() {
    let xen = hvm(&[pages(1, 41), pages(1, 41)]);
    let mut merger = merger(&xen);
    merged(&mut merger);
    xen.lock().is_full = true;
    let undone = merger.undo();
    assert!(undone.undone.is_empty() && undone.failures[0].contains("40 pages of \"vm1\" are still shared"));
    assert!(xen.lock().controlled.contains(&1), "with sharing disabled it could not unshare them");
    xen.lock().is_full = false;
    assert_eq!(merger.undo().undone.len(), 2);
    assert!(xen.lock().is_untouched());
}

#[test]
fn a_host_without_sharing_is_reported() {
    let xen = hvm(&[pages(1, 41), pages(1, 41)]);
    xen.lock().refusals.insert(None, Errno::ENOSYS);
    let reason = unavailable(&xen);
    assert!(reason.starts_with("this Xen was built without memory sharing (ENOSYS)"), "{reason}");
    assert!(xen.lock().read.is_empty(), "no page is read unnecessarily");
    // Unnecessary announcements do no harm.
    let undone = undo_all(domain_ref(1), &mut xen.clone(), &mut xen.clone(), &mut xen.list());
    assert_eq!(undone.unwrap(), Undone::Off);
}

#[test]
fn domains_that_cannot_share_are_left_out_with_a_reason() {
    let xen = hvm(&vec![pages(1, 41); 6]);
    {
        let mut state = xen.lock();
        state.domain(1).kind = Some(DomainKind::Pv);
        state.refusals.insert(Some(2), Errno::ENODEV);
        state.refusals.insert(Some(3), Errno::EOPNOTSUPP);
        state.refusals.insert(Some(4), Errno::EXDEV);
    }
    let found = merged(&mut merger(&xen));
    assert_eq!(found.domains, [("vm5".to_owned(), 40), ("vm6".to_owned(), 40)]);
    for (reason, words) in
        found.reasons.iter().zip(["\"vm1\" is paravirtualised", "(ENODEV)", "(EOPNOTSUPP)", "(EXDEV)"])
    {
        assert!(reason.contains(words), "{reason}");
    }
    xen.lock().refusals.insert(Some(6), Errno::EOPNOTSUPP);
    let reason = unavailable(&xen);
    assert!(reason.starts_with("there are no two domains whose pages Xen can share; \"vm1\""), "{reason}");
    assert!(xen.lock().is_untouched());
    // Other failures are errors.
    xen.lock().refusals.insert(Some(5), Errno::EPERM);
    assert!(
        matches!(merger(&xen).merge(&Stop::default()), Err(MergeError::Xen(error)) if error.errno() == Some(Errno::EPERM))
    );
}

#[test]
fn dom0_and_excluded_domains_are_never_touched() {
    let xen = hvm(&vec![pages(1, 41); 3]);
    xen.lock().add(0, DomainKind::Pvh, &pages(1, 41));
    let exclude = vec![VmPattern::of_text("vm2").unwrap()];
    let selection = Selection { exclude, ..Selection::default() };
    let only = Some(["vm1", "vm2"].map(str::to_owned).into());
    let reason = merger_with(&xen, MergeSettings { selection: selection.clone(), only, ..settings() })
        .merge(&Stop::default())
        .unwrap();
    assert!(reason.reason().is_some(), "one of the two is excluded: {reason:?}");
    let found = merged(&mut merger_with(&xen, MergeSettings { selection, ..settings() }));
    assert_eq!(found.domains, [("vm1".to_owned(), 40), ("vm3".to_owned(), 40)]);
    assert!(xen.lock().read.iter().all(|(id, _)| [1, 3].contains(id)));
}

#[test]
fn pages_that_xen_refuses_are_counted_and_skipped() {
    let xen = hvm(&[pages(1, 41), pages(1, 41), pages(1, 41)]);
    xen.lock().fixed.extend([(1, 3), (2, 3), (2, 9)]);
    let mut merger = merger(&xen);
    let found = merged(&mut merger);
    assert_eq!((found.refused, found.unpaired, found.frames_freed), (3, 1, 77));
    assert_eq!(found.domains.iter().map(|(_, pages)| *pages).collect::<Vec<_>>(), [39, 38, 39]);
    assert!(found.reasons[0].starts_with("3 pages could not be nominated: "), "{:?}", found.reasons);
    assert_eq!(xen.lock().nominated_alone(), 0);
}

#[test]
fn one_content_on_very_many_pages_is_one_frame() {
    let many = 2 * BATCH_PAGES + 1;
    let xen = hvm(&[vec![Some(7); many], vec![Some(7); 3]]);
    let mut merger = merger(&xen);
    let found = merged(&mut merger);
    assert_eq!((found.pages_shared, found.frames_freed), (many as u64 + 3, many as u64 + 2));
    assert_eq!(xen.lock().frames(), 1);
}

#[test]
fn little_memory_merges_the_same() {
    let xen = hvm(&[pages(1, 40_001), pages(20_001, 60_001)]);
    let mut little = settings();
    little.content.memory_mib = 1;
    let mut merger = merger_with(&xen, little);
    assert_eq!(merged(&mut merger).frames_freed, 20_000);
    merger.keep();
}

/// The first page of a group was written since it was hashed: the others still find each other.
#[test]
fn a_lead_that_changed_is_replaced() {
    let xen = hvm(&[pages(1, 11), pages(1, 11), pages(1, 11)]);
    // After three control calls, three lists of frames and thirty pages.
    xen.at(38, |state| state.write(1, 4, 8_000));
    let mut merger = merger(&xen);
    let found = merged(&mut merger);
    assert_eq!((found.pages_shared, found.frames_freed, found.unpaired), (29, 19, 1));
    let state = xen.lock();
    assert_eq!(state.frame(2, 4), state.frame(3, 4));
    assert_eq!(state.nominated_alone(), 0);
    drop(state);
}

#[test]
fn an_error_leaves_nothing_nominated() {
    let xen = hvm(&[pages(1, 2_001), pages(1, 2_001)]);
    let mut parts = parts(&xen);
    let (mut list, mut calls) = (xen.list(), 0);
    parts.list = Box::new(move || {
        calls += 1;
        if calls == 3 { Err(XenError::Xenstore("no".into())) } else { list() }
    });
    let mut merger = Merger::new(parts, settings(), Box::new(|_| Ok(())));
    assert!(matches!(merger.merge(&Stop::default()), Err(MergeError::Sharing(_))));
    assert_eq!(xen.lock().nominated_alone(), 0);
    drop(merger);
    assert!(xen.lock().is_untouched());
}

#[test]
fn a_stop_ends_merging_and_what_was_nominated_is_let_go() {
    // While pages are hashed, and while they are merged.
    for calls in [100, 500] {
        let xen = hvm(&[pages(1, 201), pages(1, 201)]);
        let stop = Stop::default();
        let told = stop.clone();
        xen.at(calls, move |_| told.set());
        let mut merger = merger(&xen);
        let merged = merger.merge(&stop);
        assert!(stop.is_set(), "{calls}");
        let shared =
            merged.as_ref().ok().and_then(|merged| merged.value()).map_or(0, |merged| merged.pages_shared);
        assert!(shared < 400, "{calls}: {merged:?}");
        assert_eq!(xen.lock().nominated_alone(), 0);
        drop(merger);
        assert!(xen.lock().is_untouched());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Without concurrent changes each content that two domains have is on one frame, and all others are
    /// unchanged.
    #[test]
    fn frames_equal_those_computed_with_sets(domains in proptest::collection::vec(
        proptest::collection::vec(proptest::option::weighted(0.9, 0u64..40), 0..60), 2..5,
    )) {
        let xen = hvm(&domains);
        let mut merger = merger(&xen);
        let found = merged(&mut merger);
        let mut having: BTreeMap<u64, (BTreeSet<usize>, u64)> = BTreeMap::new();
        for (domain, own) in domains.iter().enumerate() {
            for content in own.iter().flatten().filter(|content| **content != 0) {
                let (domains, pages) = having.entry(*content).or_default();
                domains.insert(domain);
                *pages += 1;
            }
        }
        let shared = || having.values().filter(|(domains, _)| domains.len() > 1);
        prop_assert_eq!(found.pages_shared, shared().map(|(_, pages)| pages).sum::<u64>());
        prop_assert_eq!(found.frames_freed, shared().map(|(_, pages)| pages - 1).sum::<u64>());
        prop_assert_eq!(xen.lock().nominated_alone(), 0);
        // A second pass finds nothing to do.
        let again = merged(&mut merger);
        prop_assert_eq!((again.domains, again.frames_freed, again.refused), (found.domains, 0, 0));
    }

    /// Whatever is written, given back or ended at any moment: every guest sees what it wrote, and nothing is
    /// left after the undo.
    #[test]
    fn no_guest_sees_foreign_content(
        events in proptest::collection::vec((1u64..400, 1u16..4, 0u64..30, proptest::option::of(0u64..10), 0u8..20), 0..40),
    ) {
        let own: Vec<Option<u64>> = (0..30).map(|page| Some(1 + page % 8)).collect();
        let xen = hvm(&[own.clone(), own.clone(), own]);
        let truth: BTreeMap<(u16, u64), u64> =
            (1..4).flat_map(|id| (0..30).map(move |gfn| ((id, gfn), 1 + gfn % 8))).collect();
        let truth = Arc::new(Mutex::new(truth));
        for (call, id, gfn, content, luck) in events {
            let truth = truth.clone();
            xen.at(call, move |state| {
                let mut truth = truth.lock().unwrap();
                match content {
                    _ if luck == 0 => {
                        state.end(id);
                        truth.retain(|(of, _), _| *of != id);
                    }
                    Some(content) if truth.contains_key(&(id, gfn)) => {
                        state.write(id, gfn, content);
                        truth.insert((id, gfn), content);
                    }
                    None => {
                        state.give_back(id, gfn);
                        truth.remove(&(id, gfn));
                    }
                    _ => {}
                }
            });
        }
        let seen = |xen: &FakeXen| -> Vec<_> {
            let state = xen.lock();
            let own = |id| (0..30).map(move |gfn| (id, gfn));
            (1..4).flat_map(own).filter_map(|page| Some((page, state.content(page.0, page.1)?))).collect()
        };
        let is_true = |xen: &FakeXen| seen(xen) == truth.lock().unwrap().clone().into_iter().collect::<Vec<_>>();
        let mut merger = merger(&xen);
        for _ in 0..2 {
            // Fewer than two domains may be left.
            drop(merger.merge(&Stop::default()).unwrap());
            prop_assert!(is_true(&xen));
        }
        prop_assert_eq!(merger.undo().failures, Vec::<String>::new());
        prop_assert!(is_true(&xen));
        prop_assert!(xen.lock().is_untouched());
    }
}
