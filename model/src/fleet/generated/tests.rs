use super::*;
use crate::fleet::{Containment, Sketch};

fn small() -> FleetShape {
    FleetShape {
        hosts: 4,
        vms_per_host: 6,
        application_vms: 3,
        systems: 2,
        contents: 2_000,
        system_contents: 600,
        application_contents: 800,
        ..FleetShape::default()
    }
}

#[test]
fn with_all_contents_kept_sketches_have_exactly_what_is_common() {
    let shape = FleetShape { scale: Scale::new(1).unwrap(), ..small() };
    let fleet = GeneratedFleet::new(shape).unwrap();
    let sketches: Vec<Vec<u64>> = (0..fleet.vms()).map(|vm| fleet.sketch(vm)).collect();
    for (a, of_a) in (0..).zip(&sketches) {
        assert_eq!(of_a.len(), 2_000);
        for (b, of_b) in (0..).zip(&sketches) {
            let common = of_a.iter().filter(|hash| of_b.binary_search(hash).is_ok()).count() as u64;
            assert_eq!(common, fleet.common(a, b), "{a} {b}");
        }
    }
    let of_kind = |a, b| (fleet.system(a) == fleet.system(b), fleet.application(a) == fleet.application(b));
    assert_eq!((of_kind(0, 2), of_kind(0, 3), of_kind(0, 12)), ((true, true), (true, false), (false, false)));
    assert_eq!(fleet.common(0, 12), 0);
    // Without drift the first have 1,400; a VM has up to a fifth of that replaced.
    assert!((896..1400).contains(&fleet.common(0, 2)), "{}", fleet.common(0, 2));
    assert!((384..600).contains(&fleet.common(0, 3)), "{}", fleet.common(0, 3));
}

#[test]
fn equal_seeds_give_equal_fleets_and_others_nothing_in_common() {
    let of_seed = |seed| GeneratedFleet::new(FleetShape { seed, ..FleetShape::default() }).unwrap();
    let (one, same, other) = (of_seed(1), of_seed(1), of_seed(2));
    assert_eq!((one.sketch(7), one.on_host(3)), (same.sketch(7), same.on_host(3)));
    assert!(one.sketch(7).iter().all(|hash| other.sketch(7).binary_search(hash).is_err()));
    assert_ne!(one.on_host(3), other.on_host(3));
    assert_ne!(one.number(1), one.number(2));
}

#[test]
fn hashes_are_evenly_distributed_below_the_limit_of_the_sketch() {
    let fleet = GeneratedFleet::new(FleetShape::default()).unwrap();
    let limit = u64::MAX / 1024;
    let (mut kept, mut tenths) = (0, [0_u32; 10]);
    for vm in 0..100 {
        let hashes = fleet.sketch(vm);
        assert!(hashes.is_sorted_by(|a, b| a < b));
        kept += hashes.len();
        for hash in hashes {
            assert!(hash <= limit, "{hash}");
            tenths[(u128::from(hash) * 10 / (u128::from(limit) + 1)) as usize] += 1;
        }
    }
    // 1,000 of each are expected. Applications are ten VMs that have the same, so the deviation is some 800 for all.
    assert!((96_000..104_000).contains(&kept), "{kept}");
    assert!(tenths.iter().all(|count| (9_000..11_000).contains(count)), "{tenths:?}");
}

#[test]
fn every_vm_is_placed_once_today_and_in_the_planted_grouping() {
    for hosts in [1, 2, 5] {
        let fleet = GeneratedFleet::new(FleetShape { hosts, ..small() }).unwrap();
        let today: Vec<Vec<u32>> = (0..hosts).map(|host| fleet.on_host(host).to_vec()).collect();
        for grouping in [&today, &fleet.planted()] {
            let mut all: Vec<u32> = grouping.iter().flatten().copied().collect();
            all.sort_unstable();
            assert_eq!(all, (0..fleet.vms()).collect::<Vec<_>>());
            assert!(grouping.iter().all(|vms| vms.len() == 6), "{grouping:?}");
        }
        assert!(fleet.on_host(hosts).is_empty());
    }
}

#[test]
fn the_planted_grouping_keeps_apart_what_has_to_be_and_saves_more_than_today() {
    let fleet = GeneratedFleet::new(FleetShape { hosts: 8, ..FleetShape::default() }).unwrap();
    let planted = fleet.planted();
    let mut apart = 0;
    for vms in &planted {
        for vm in vms {
            let Some([first, second]) = fleet.apart(*vm) else { continue };
            assert!(!(vms.contains(&first) && vms.contains(&second)), "{first} and {second}");
            assert_eq!(fleet.apart(if *vm == first { second } else { first }), Some([first, second]));
            apart += 1;
        }
        assert!(vms.iter().all(|vm| fleet.system(*vm) == fleet.system(vms[0])));
    }
    assert_eq!(apart, 16);
    let saved = |hosts: &[Vec<u32>]| hosts.iter().map(|vms| fleet.saved_kept(vms)).sum::<u64>();
    let today: Vec<Vec<u32>> = (0..8).map(|host| fleet.on_host(host).to_vec()).collect();
    assert!(2 * saved(&planted) > 3 * saved(&today), "{} {}", saved(&planted), saved(&today));
}

#[test]
fn shapes_of_nothing_are_refused() {
    let made = |shape| GeneratedFleet::new(shape).map(|_| ()).unwrap_err();
    assert_eq!(made(FleetShape { hosts: 0, ..small() }), InvalidShape::Empty);
    assert_eq!(
        made(FleetShape { hosts: u32::MAX, ..small() }),
        InvalidShape::TooMany { hosts: u32::MAX, vms_per_host: 6 }
    );
    assert!(matches!(made(FleetShape { application_vms: 4, ..small() }), InvalidShape::Groups { .. }));
    assert!(matches!(made(FleetShape { contents: 1_399, ..small() }), InvalidShape::Parts { .. }));
    assert!(matches!(made(FleetShape { drift: f64::NAN, ..small() }), InvalidShape::Drift(_)));
}

/// VMs of 4 GiB whose contents are known: how often the truth is where the estimate says. Pairs share nothing but the shape,
/// since pairs of one fleet hang together.
#[test]
fn estimates_are_as_near_to_the_truth_as_they_say() {
    // Of system and application together, by drift.
    let shapes =
        [(0.0, 0.0), (0.01, 0.0), (0.02, 0.5), (0.05, 0.0), (0.3, 0.2), (0.6, 0.3), (1.0, 0.4), (1.0, 0.0)];
    const PAIRS: u64 = 400;
    let (mut all, mut inside_all, mut within_all) = (0, 0, 0);
    for (shared, drift) in shapes {
        let (mut inside, mut within, mut told_from_0) = (0, 0, 0);
        let mut rates = 0.0;
        for seed in 0..PAIRS {
            let part = (1_024_000.0 * shared / 2.0) as u32;
            let shape = FleetShape {
                seed,
                hosts: 1,
                vms_per_host: 2,
                application_vms: 2,
                system_contents: part,
                application_contents: part,
                drift,
                ..FleetShape::default()
            };
            let fleet = GeneratedFleet::new(shape).unwrap();
            let truth = fleet.containment(0, 1);
            let [a, b] = [0, 1].map(|vm| Sketch::of_hashes(Scale::DEFAULT, fleet.sketch(vm)));
            let found: Containment = a.containment_in(&b).unwrap();
            rates += truth;
            inside += u64::from(found.ci95[0] <= truth && truth <= found.ci95[1]);
            within += u64::from((found.rate - truth).abs() <= 1.96 * found.standard_error);
            told_from_0 += u64::from(found.ci95[0] > 0.0);
        }
        let rate = rates / PAIRS as f64;
        // 380 are expected; fewer than 364 happen by chance in less than one of 3,000 tests.
        assert!(inside >= 364, "{inside} of {PAIRS} intervals hold the truth at {rate}");
        match rate {
            0.0 => assert_eq!(told_from_0, 0),
            0.009.. => assert_eq!(told_from_0, PAIRS, "{rate}"),
            _ => {}
        }
        all += PAIRS;
        inside_all += inside;
        within_all += within;
    }
    assert!(inside_all * 100 >= all * 95, "{inside_all} of {all} intervals hold the truth");
    assert!(within_all * 100 >= all * 94, "{within_all} of {all} are within 1.96 standard errors");
}
