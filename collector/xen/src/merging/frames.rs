//! Which pages share a frame, as reported by Xen.

use std::collections::BTreeMap;

use crate::toolstack::{DomainRef, ListDomains, MemorySharing, XenError};

/// Xen's handle of each page's frame: pages with the same number share a frame. `None` for a page that has
/// its own frame or cannot be shared.
///
/// Nominating a shared page once more returns its frame's handle (xen/arch/x86/mm/mem_sharing.c, Xen 4.17:
/// `nominate_page`). A page that is not shared becomes nominated by that and is released again. So may a page
/// be whose partners are all outside of `pages`.
///
/// # Errors
/// When a domain has ended, or Xen does not answer.
pub fn shared_frames(
    pages: &[(DomainRef, u64)],
    sharing: &mut dyn MemorySharing,
    list: &mut ListDomains<'_>,
) -> Result<Vec<Option<u64>>, XenError> {
    let before = shared_pages(pages, list)?;
    let mut handles = Vec::with_capacity(pages.len());
    let mut failed = None;
    for (domain, gfn) in pages {
        handles.push(match sharing.nominate(*domain, *gfn) {
            Ok(handle) => Some(handle),
            Err(error) if error.errno().is_some() => None,
            Err(error) => {
                failed = Some(error);
                break;
            }
        });
    }
    let mut times = BTreeMap::<u64, u32>::new();
    for handle in handles.iter().flatten() {
        *times.entry(*handle).or_default() += 1;
    }
    let after = shared_pages(pages, list).unwrap_or_else(|error| {
        failed.get_or_insert(error);
        None
    });
    // If the domains have as many shared pages as before, none became nominated.
    let is_any_new = failed.is_some() || after.is_none() || after != before;
    for ((domain, gfn), handle) in pages.iter().zip(&mut handles) {
        let Some(alone) = handle.filter(|handle| times.get(handle) == Some(&1)) else { continue };
        if is_any_new {
            match sharing.unshare(*domain, *gfn) {
                Err(error) if error.errno().is_none() => _ = failed.get_or_insert(error),
                _ => {}
            }
        }
        *handle = handle.filter(|handle| *handle != alone);
    }
    failed.map_or(Ok(handles), Err)
}

/// Number of shared or nominated pages of these domains; `None` if unknown.
fn shared_pages(pages: &[(DomainRef, u64)], list: &mut ListDomains<'_>) -> Result<Option<u64>, XenError> {
    let listed = list()?;
    let mut domains: Vec<DomainRef> = pages.iter().map(|(domain, _)| *domain).collect();
    domains.sort_unstable();
    domains.dedup();
    let of = |domain: &DomainRef| {
        let found = listed.iter().find(|found| found.domain == *domain && !found.is_ending);
        found.map(|found| found.shared_pages).ok_or(XenError::Gone(domain.id))
    };
    Ok(domains.iter().map(of).collect::<Result<Vec<_>, _>>()?.into_iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_memory::{FakeXen, domain_ref};
    use crate::toolstack::DomainKind;

    /// Two domains: pages 0 to 2 are on one frame each, page 3 differs, page 4 is equal but not shared, 5 is
    /// a hole.
    fn made() -> FakeXen {
        let xen = FakeXen::of(
            DomainKind::Pvh,
            &[[1, 2, 3, 4, 5].map(Some).to_vec(), [1, 2, 3, 9, 5].map(Some).to_vec()],
        );
        let mut sharing = xen.clone();
        let [first, second] = [1, 2].map(domain_ref);
        for domain in [first, second] {
            sharing.control(domain, true).unwrap();
        }
        for gfn in 0..3 {
            let (one, other) =
                (sharing.nominate(first, gfn).unwrap(), sharing.nominate(second, gfn).unwrap());
            sharing.share((first, gfn, one), (second, gfn, other)).unwrap();
        }
        xen
    }

    #[test]
    fn pages_on_one_frame_have_one_number_and_nothing_stays_nominated() {
        let xen = made();
        let pages: Vec<(DomainRef, u64)> =
            [1, 2].into_iter().flat_map(|id| (0..6).map(move |gfn| (domain_ref(id), gfn))).collect();
        for _ in 0..2 {
            let frames = shared_frames(&pages, &mut xen.clone(), &mut xen.list()).unwrap();
            let (first, second) = frames.split_at(6);
            assert!(first[..3].iter().all(Option::is_some) && first[..3] == second[..3], "{frames:?}");
            assert!(first[0] != first[1] && first[1] != first[2]);
            assert!(first[3..].iter().chain(&second[3..]).all(Option::is_none), "{frames:?}");
            let state = xen.lock();
            assert_eq!((state.nominated_alone(), state.frames()), (0, 7));
        }
        // One of the two is written to.
        xen.lock().write(2, 1, 70);
        let frames = shared_frames(&pages, &mut xen.clone(), &mut xen.list()).unwrap();
        assert!(frames[1].is_none() && frames[7].is_none() && frames[2] == frames[8], "{frames:?}");
        let state = xen.lock();
        assert_eq!(state.frame(1, 2), state.frame(2, 2));
    }

    #[test]
    fn a_domain_that_ends_meanwhile_is_an_error_and_leaves_nothing_nominated() {
        let pages: Vec<(DomainRef, u64)> =
            [1, 2].into_iter().flat_map(|id| (0..5).map(move |gfn| (domain_ref(id), gfn))).collect();
        for call in 1..=10 {
            let xen = made();
            // After the calls that made it.
            xen.at(11 + call, |state| state.end(2));
            let found = shared_frames(&pages, &mut xen.clone(), &mut xen.list());
            assert!(found.as_ref().is_err_and(XenError::is_gone), "{call} {found:?}");
            // Shared pages may still be marked as shared, without a partner; others are not.
            let state = xen.lock();
            assert!((3..5).all(|gfn| !state.is_nominated(1, gfn)), "{call}");
        }
    }
}
