use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

const GIB: u64 = 1 << 30;

/// Groups of VMs that hold the same, spread over hosts at random; the best grouping is to put each group on one host.
struct Planted {
    fleet: Fleet,
    /// Kept contents that are saved with each group together.
    best: u64,
}

/// `hosts` hosts of `per_host` VMs each, in groups of `group`; every VM holds `own` contents of its group and one of
/// three systems' contents. `spare` more VMs have room on each host.
fn planted(seed: u64, hosts: usize, per_host: usize, group: usize, spare: usize) -> Planted {
    const APPLICATION: u64 = 300;
    const SYSTEM: u64 = 200;
    let mut rng = Rng::new(seed);
    let count = hosts * per_host;
    let mut places: Vec<usize> = (0..count).collect();
    rng.shuffle(&mut places);
    let mut hashes: Vec<Vec<u64>> = vec![Vec::new(); count];
    for (vm, own) in hashes.iter_mut().enumerate() {
        let (application, system) = ((vm / group) as u64, (vm / group % 3) as u64);
        own.extend((0..APPLICATION).map(|n| 1_000_000 + application * 1000 + n));
        own.extend((0..SYSTEM).map(|n| system * 1000 + n));
        own.extend((0..100).map(|n| 1_000_000_000 + vm as u64 * 1000 + n));
    }
    let vms = places.iter().enumerate().map(|(vm, place)| FleetVm {
        name: format!("vm{vm}"),
        host: place / per_host,
        memory_bytes: 4 * GIB,
        vcpus: 2,
        is_movable: true,
    });
    let host = |n| FleetHost {
        name: format!("host{n}"),
        memory_bytes: (per_host + spare) as u64 * 4 * GIB,
        vcpus: (per_host + spare) as u64 * 2,
    };
    let contents = FleetContents::of_sketches(hashes.iter().map(Vec::as_slice));
    let fleet = Fleet::new((0..hosts).map(host).collect(), vms.collect(), contents, &[]).unwrap();
    // Groups in the order of their system: hosts are filled with groups of one system, but for the borders.
    let mut best = Placement::empty(&fleet);
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|vm| (vm / group % 3, vm / group));
    for (position, vm) in order.into_iter().enumerate() {
        best.add(vm, position / per_host);
    }
    let best = best.saved();
    Planted { fleet, best }
}

/// Replays moves, and fails if one has no room, or brings together what is to be apart.
fn check(fleet: &Fleet, proposal: &Proposal) {
    let mut now = Placement::of_today(fleet);
    assert_eq!(now.saved(), proposal.saved_today_kept);
    for one in &proposal.moves {
        assert_eq!(now.host_of(one.vm), Some(one.from));
        assert!(now.fits(one.vm, one.to), "{one:?} has no room");
        assert!(fleet.vms[one.vm].is_movable);
        now.shift(one.vm, one.to);
        let vms = now.vms_of(one.to);
        assert!(
            vms.iter().map(|vm| fleet.vms[*vm].memory_bytes).sum::<u64>() <= fleet.hosts[one.to].memory_bytes
        );
        assert!(
            vms.iter().map(|vm| u64::from(fleet.vms[*vm].vcpus)).sum::<u64>() <= fleet.hosts[one.to].vcpus
        );
        for group in fleet.apart_of(one.vm) {
            assert_eq!(vms.iter().filter(|vm| fleet.apart_of(**vm).contains(group)).count(), 1, "{one:?}");
        }
    }
    assert_eq!(now.saved(), proposal.saved_kept);
    assert!(proposal.saved_kept >= proposal.saved_today_kept);
}

#[test]
fn planted_groups_are_brought_together() {
    for (hosts, per_host, group, spare) in
        [(10, 12, 6, 1), (20, 20, 5, 1), (20, 20, 20, 2), (30, 10, 3, 1), (16, 50, 25, 1), (12, 16, 7, 1)]
    {
        let Planted { fleet, best } = planted(3, hosts, per_host, group, spare);
        let proposal = propose(&fleet, MoveLimits { moves: usize::MAX });
        check(&fleet, &proposal);
        let part = proposal.saved_kept as f64 / best as f64;
        println!(
            "{hosts} hosts of {per_host} VMs in groups of {group}: {:.3} today, {part:.3} after {} moves",
            proposal.saved_today_kept as f64 / best as f64,
            proposal.moves.len()
        );
        assert!(part >= 0.9, "{part} of the best with {hosts} hosts of {per_host} VMs in groups of {group}");
    }
}

#[test]
fn fewer_moves_bring_less_and_the_first_ones_most() {
    let Planted { fleet, .. } = planted(5, 10, 12, 6, 1);
    let saved = [0, 5, 20, 60, 1000].map(|moves| {
        let proposal = propose(&fleet, MoveLimits { moves });
        check(&fleet, &proposal);
        assert!(proposal.moves.len() <= moves);
        proposal.saved_kept
    });
    assert!(saved.is_sorted(), "{saved:?}");
    assert!(saved[0] < saved[1] && saved[1] < saved[2], "{saved:?}");
}

#[test]
fn what_does_not_move_stays() {
    let Planted { mut fleet, .. } = planted(6, 6, 8, 4, 1);
    for vm in &mut fleet.vms {
        vm.is_movable = false;
    }
    let proposal = propose(&fleet, MoveLimits { moves: usize::MAX });
    assert_eq!(proposal.moves, []);
}

#[test]
fn facts_that_contradict_each_other_are_refused() {
    let vm = FleetVm { name: "a".into(), host: 1, memory_bytes: 1, vcpus: 1, is_movable: true };
    let host = FleetHost { name: "h".into(), memory_bytes: 1, vcpus: 1 };
    let contents = FleetContents::of_holders(1, []);
    let found = Fleet::new(vec![host.clone()], vec![vm.clone()], contents.clone(), &[]);
    assert_eq!(found.unwrap_err(), InvalidFleet::NoHost { vm: "a".into(), host: 1, hosts: 1 });
    let vm = FleetVm { host: 0, ..vm };
    let found = Fleet::new(vec![host.clone()], vec![vm.clone()], contents, &[vec![0, 7]]);
    assert_eq!(found.unwrap_err(), InvalidFleet::NoVm { vm: 7, vms: 1 });
    let found = Fleet::new(vec![host], vec![vm], FleetContents::of_holders(2, []), &[]);
    assert_eq!(found.unwrap_err(), InvalidFleet::Contents { contents: 2, vms: 1 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Hosts that hold too much today, VMs of any size, groups apart that are together today.
    #[test]
    fn no_move_breaks_a_limit(
        seed in any::<u64>(),
        hosts in 1_usize..6,
        count in 0_usize..25,
        moves in 0_usize..40,
        room in 1_u64..30,
    ) {
        let mut rng = Rng::new(seed);
        let vms: Vec<FleetVm> = (0..count).map(|vm| FleetVm {
            name: format!("vm{vm}"),
            host: rng.below(hosts),
            memory_bytes: 1 + rng.below(8) as u64,
            vcpus: rng.below(4) as u32,
            is_movable: rng.below(5) > 0,
        }).collect();
        let host_facts = (0..hosts).map(|n| FleetHost {
            name: format!("h{n}"),
            memory_bytes: room + rng.below(20) as u64,
            vcpus: room,
        }).collect();
        let hashes: Vec<Vec<u64>> =
            (0..count).map(|_| (0..rng.below(20)).map(|_| rng.below(30) as u64).collect()).collect();
        let apart: Vec<Vec<usize>> = match count {
            0 => Vec::new(),
            _ => (0..rng.below(4)).map(|_| (0..3).map(|_| rng.below(count)).collect()).collect(),
        };
        let contents = FleetContents::of_sketches(hashes.iter().map(Vec::as_slice));
        let fleet = Fleet::new(host_facts, vms, contents, &apart).unwrap();
        let proposal = propose(&fleet, MoveLimits { moves });
        prop_assert!(proposal.moves.len() <= moves);
        check(&fleet, &proposal);
    }
}
