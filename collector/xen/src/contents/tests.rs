//! The scan on domains of a fake Xen.

use std::collections::BTreeSet;

use huddle_model::cpuset::CpuSet;
use huddle_model::vm::{TaskId, VmmKind};
use nix::errno::Errno;
use proptest::prelude::*;

use huddle_host::HostRoot;
use huddle_sharing::content::Share;

use super::*;
use crate::fake_memory::{FakeXen, domain_ref};
use crate::toolstack::{BATCH_PAGES, DomainKind};

fn vm(id: u16) -> Vm {
    Vm {
        name: format!("vm{id}"),
        id: domain_ref(id).xen_id().into(),
        uuid: None,
        vmid: None,
        owner: None,
        vmm: VmmKind::XenPv,
        vcpus: Vec::new(),
        memory: Vec::new(),
        allowed_cpus: CpuSet::default(),
        left_out: Vec::new(),
        cannot_merge: Vec::new(),
    }
}

fn vms(count: u16) -> Vec<Vm> {
    (1..=count).map(vm).collect()
}

fn settings() -> ContentSettings {
    ContentSettings { cpu_share: Share::ALL, ..ContentSettings::default() }
}

fn measured_with(xen: &FakeXen, vms: &[Vm], settings: ContentSettings) -> Result<Measurement, SharingError> {
    let scan = ContentScan::new(HostRoot::real(), settings);
    measure_domains(&scan, &mut xen.clone(), &mut xen.list(), vms)
}

fn measured(xen: &FakeXen, count: u16) -> Measurement {
    measured_with(xen, &vms(count), settings()).unwrap()
}

fn pages(from: u64, to: u64) -> Vec<Option<u64>> {
    (from..to).map(Some).collect()
}

#[test]
fn a_domain_has_a_number_and_no_pid() {
    let xen = FakeXen::of(DomainKind::Pv, &[pages(0, 40), pages(30, 50)]);
    let found = measured(&xen, 2);
    let second = &found.matrix.vms()[1];
    assert_eq!((second.name.as_str(), second.id), ("vm2", Some(domain_ref(2).xen_id().into())));
    assert_eq!(found.matrix.shared_frames(0, 1), Some(10));
    assert_eq!(found.matrix.vms()[0].memory.unwrap().pages_zero, 1);
    assert!(found.unmeasured.is_empty() && found.notes.is_empty(), "{:?}", found.notes);
}

#[test]
fn batches_are_as_large_as_allowed() {
    let count = 3 * BATCH_PAGES as u64;
    let xen = FakeXen::of(DomainKind::Pv, &[pages(1, count + 1), pages(1, count + 1)]);
    assert_eq!(measured(&xen, 2).matrix.shared_frames(0, 1), Some(count));
    // Hashed and compared, three batches of each domain, and none smaller.
    assert_eq!(xen.lock().batches, [BATCH_PAGES; 12]);
    let scan = ContentScan::new(HostRoot::real(), settings());
    let hashed = hash_domains(&scan, &mut xen.clone(), &mut xen.list(), &vms(2), || ()).unwrap();
    assert_eq!((hashed.pages, hashed.zero), (2 * count, 0));
    assert_eq!(xen.lock().batches.len(), 18);
}

/// The expected figures, computed with sets.
fn assert_is_plain(found: &Measurement, domains: &[Vec<Option<u64>>]) -> Result<(), TestCaseError> {
    for (i, own) in domains.iter().enumerate() {
        let used = |pages: &Vec<Option<u64>>| -> BTreeSet<u64> {
            pages.iter().flatten().copied().filter(|content| *content != 0).collect()
        };
        let memory = found.matrix.vms()[i].memory.unwrap();
        prop_assert_eq!(memory.frames_used, used(own).len() as u64);
        prop_assert_eq!(memory.pages_resident, own.iter().flatten().count() as u64);
        for (j, other) in domains.iter().enumerate().filter(|(j, _)| *j != i) {
            let both = used(own).intersection(&used(other)).count() as u64;
            prop_assert_eq!(found.matrix.shared_frames(i, j), Some(both));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn the_result_equals_that_of_sets(
        domains in proptest::collection::vec(
            proptest::collection::vec(proptest::option::weighted(0.8, 0u64..60), 0..120), 1..5),
        is_pv: bool,
    ) {
        let kind = if is_pv { DomainKind::Pv } else { DomainKind::Pvh };
        let found = measured(&FakeXen::of(kind, &domains), domains.len() as u16);
        prop_assert!(found.unmeasured.is_empty() && found.notes.is_empty(), "{:?}", found.notes);
        assert_is_plain(&found, &domains)?;
    }

    /// Whatever is written, given back or ended during the scan: an unchanged pair is measured correctly.
    #[test]
    fn changes_of_one_domain_do_not_affect_the_others(call in 0u64..500, what in 0u8..4, gfn in 0u64..50) {
        let own = pages(1, 101);
        let xen = FakeXen::of(DomainKind::Hvm, &[own.clone(), own.clone(), own]);
        xen.at(call, move |state| match what {
            0 => state.end(2),
            1 => state.write(2, gfn, 7_000),
            2 => state.give_back(2, gfn),
            _ => state.domain(2).is_ending = true,
        });
        let found = measured(&xen, 3);
        let others = found.matrix.len() - 1;
        prop_assert_eq!(found.matrix.shared_frames(0, others), Some(100));
        prop_assert!(others == 2 || found.unmeasured[0].vm == "vm2");
    }
}

#[test]
fn holes_are_not_pages_and_are_not_missed() {
    let mut holey = pages(1, 41);
    holey.splice(10..10, [None; 500]);
    let xen = FakeXen::of(DomainKind::Pvh, &[holey, pages(1, 41)]);
    let found = measured(&xen, 2);
    assert_eq!(found.matrix.vms()[0].memory.unwrap().pages_resident, 40);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(40));
    assert!(found.notes.is_empty(), "{:?}", found.notes);
}

#[test]
fn a_page_that_goes_between_the_halves_is_not_shared() {
    let xen = FakeXen::of(DomainKind::Pv, &[pages(1, 41), pages(1, 41)]);
    // Two lists and 80 pages are hashed by then.
    xen.at(83, |state| state.give_back(2, 5));
    let found = measured(&xen, 2);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(39));
    assert!(found.notes[0].contains("had 40 pages in memory when it was read and 39"), "{:?}", found.notes);
    assert!(found.notes[1].contains("1 page changed while"), "{:?}", found.notes);
}

#[test]
fn pages_that_go_before_they_are_hashed_are_counted_as_missing() {
    let xen = FakeXen::of(DomainKind::Pv, &[pages(1, 101), pages(1, 101)]);
    xen.at(103, |state| (90..100).for_each(|gfn| state.give_back(2, gfn)));
    let found = measured(&xen, 2);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(90));
    assert!(found.notes[0].contains("10 pages of \"vm2\" could not be read"), "{:?}", found.notes);
}

#[test]
fn a_domain_that_ends_during_the_scan_is_reported() {
    for call in [0, 1, 2, 3, 30, 50, 90, 120, 160] {
        let xen = FakeXen::of(DomainKind::Pv, &[pages(1, 41), pages(1, 41), pages(21, 61)]);
        xen.at(call, |state| state.end(2));
        if call == 0 {
            xen.lock().end(2);
        }
        let found = measured(&xen, 3);
        assert_eq!((found.unmeasured[0].vm.as_str(), found.unmeasured[0].is_gone), ("vm2", true), "{call}");
        assert_eq!(found.matrix.len(), 2);
        assert_eq!(found.matrix.shared_frames(0, 1), Some(20), "{call}");
    }
}

#[test]
fn a_new_domain_with_the_same_number_is_different() {
    let xen = FakeXen::of(DomainKind::Pv, &[pages(1, 41), pages(1, 41)]);
    xen.lock().domain(2).domain.uuid = [9; 16];
    let found = measured(&xen, 2);
    assert_eq!((found.unmeasured.len(), found.matrix.len()), (1, 1));
}

#[test]
fn a_paused_domain_is_measured_and_a_dying_one_is_not() {
    let xen = FakeXen::of(DomainKind::Pv, &[pages(1, 41), pages(1, 41), pages(1, 41)]);
    xen.lock().domain(1).is_paused = true;
    xen.lock().domain(3).is_ending = true;
    let found = measured(&xen, 3);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(40));
    assert_eq!((found.matrix.len(), found.unmeasured[0].vm.as_str()), (2, "vm3"));
    assert!(xen.lock().read.iter().all(|(id, _)| *id != 3));
}

#[test]
fn a_domain_that_grows_during_the_scan_is_noticed() {
    let xen = FakeXen::of(DomainKind::Hvm, &[pages(1, 41), pages(1, 41)]);
    xen.at(60, |state| (0..30).for_each(|gfn| state.write(1, 100 + gfn, 5_000 + gfn)));
    let found = measured(&xen, 2);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(40));
    assert!(found.notes[0].contains("had 40 pages in memory when it was read and 70"), "{:?}", found.notes);
}

#[test]
fn little_memory_takes_more_readings_with_the_same_result() {
    let domains = [pages(1, 70_001), pages(20_001, 90_001), vec![Some(5); 100]];
    let xen = FakeXen::of(DomainKind::Hvm, &domains);
    let found = measured_with(&xen, &vms(3), ContentSettings { memory_mib: 1, ..settings() }).unwrap();
    assert!(found.notes[0].contains("memory was read") && found.notes.len() == 1, "{:?}", found.notes);
    assert_is_plain(&found, &domains).unwrap();
}

#[test]
fn a_sample_is_an_estimate_with_its_error() {
    let xen = FakeXen::of(DomainKind::Hvm, &[pages(1, 20_001), pages(10_001, 30_001)]);
    let sample = Some(Share::try_from(0.25).unwrap());
    let found = measured_with(&xen, &vms(2), ContentSettings { sample, ..settings() }).unwrap();
    assert!(found.notes.is_empty(), "{:?}", found.notes);
    let (rate, error) = (found.matrix.rate(0, 1), found.matrix.rate_error(0, 1).unwrap());
    assert!(error > 0.0 && (rate - 0.5).abs() < 5.0 * error, "{rate} {error}");
    let [low, high] = found.matrix.rate_ci95(0, 1).unwrap();
    assert!(low < rate && rate < high && high - low < 5.0 * error, "{low} {high}");
    assert_eq!(found.matrix.vms()[0].memory.unwrap().pages_resident, 20_000);
    assert_eq!(found.matrix.coverage(), Some(0.25));
}

#[test]
fn unreadable_domains_are_left_out_and_no_readable_one_is_an_error() {
    let xen = FakeXen::of(DomainKind::Pv, &[pages(1, 41), pages(1, 41), pages(1, 41), pages(1, 41)]);
    xen.lock().unmappable.insert(1);
    xen.lock().unlistable.insert(3);
    let found = measured(&xen, 4);
    assert_eq!(found.matrix.shared_frames(0, 1), Some(40));
    let reasons: Vec<String> = found.unmeasured.iter().map(|vm| vm.reason.clone()).collect();
    assert!(found.unmeasured.iter().all(|vm| !vm.is_gone), "they run");
    assert!(reasons[0].contains("none of its pages can be mapped: "), "{reasons:?}");
    assert!(reasons[1].contains("its pages cannot be listed: "), "{reasons:?}");
    for (only, errno) in [(1, Errno::EPERM), (3, Errno::EFAULT)] {
        let error = measured_with(&xen, &[vm(only)], settings()).unwrap_err();
        let SharingError::Hypervisor(error) = error else { panic!("{error}") };
        let refused = error.downcast_ref::<XenError>().and_then(XenError::errno);
        assert_eq!(refused, Some(errno), "{error}");
    }
}

#[test]
fn one_domain_is_one_vm() {
    let xen = FakeXen::of(DomainKind::Pv, &[pages(1, 41)]);
    let twice = [vm(1), Vm { name: "again".into(), ..vm(1) }];
    let error = measured_with(&xen, &twice, settings()).unwrap_err().to_string();
    assert!(error.contains("\"vm1\" and \"again\" both claim domain 1"), "{error}");
    let process = [vm(1), Vm { id: TaskId { id: 2, start_ticks: 1 }.into(), vmm: VmmKind::Process, ..vm(2) }];
    assert_eq!(
        measured_with(&xen, &process, settings()).unwrap().unmeasured[0].reason,
        "it is not a Xen domain"
    );
}
