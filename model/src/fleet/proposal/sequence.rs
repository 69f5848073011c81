//! An order of moves from one placement to another in which every step has room.

use super::placement::Placement;
use super::{Fleet, Move};

/// Up to `limit` moves from today towards `target`, each to a host that has room at that moment, cut after the one that
/// brings the most together. Hosts are completed one after the other, those first that gain most for each move.
///
/// A cycle of full hosts is left as it is: to get around it a VM would have to move twice.
pub(super) fn towards(fleet: &Fleet, target: &Placement<'_>, limit: usize) -> Vec<Move> {
    let mut now = Placement::of_today(fleet);
    let mut moves = Moves { done: Vec::new(), limit, best: (now.saved(), 0) };
    for host in hosts_by_gain(fleet, target) {
        let arriving: Vec<usize> =
            target.vms_of(host).iter().copied().filter(|vm| now.host_of(*vm) != Some(host)).collect();
        for vm in arriving {
            make_room(fleet, target, &mut now, &mut moves, (vm, host));
            moves.to(&mut now, vm, host);
        }
    }
    // What had no room before may have some now.
    loop {
        let before = moves.done.len();
        for vm in 0..fleet.vms.len() {
            if let Some(host) = target.host_of(vm).filter(|host| now.host_of(vm) != Some(*host)) {
                moves.to(&mut now, vm, host);
            }
        }
        if moves.done.len() == before {
            break;
        }
    }
    moves.done.truncate(moves.best.1);
    moves.done
}

/// The hosts that get VMs, by what each saves more than today for each VM that arrives.
fn hosts_by_gain(fleet: &Fleet, target: &Placement<'_>) -> Vec<usize> {
    let saved = |vms: &[usize]| -> u64 {
        let mut numbers: Vec<u32> = vms.iter().flat_map(|vm| fleet.contents.of_vm(*vm)).copied().collect();
        numbers.sort_unstable();
        numbers
            .chunk_by(|a, b| a == b)
            .map(|same| (same.len() as u64 - 1) * fleet.contents.kept(same[0]))
            .sum()
    };
    let today = Placement::of_today(fleet);
    let mut hosts: Vec<(f64, usize)> = (0..fleet.hosts.len())
        .filter_map(|host| {
            let arriving = target.vms_of(host).iter().filter(|vm| today.host_of(**vm) != Some(host)).count();
            let more = saved(target.vms_of(host)) as f64 - saved(today.vms_of(host)) as f64;
            (arriving > 0).then(|| (more / arriving as f64, host))
        })
        .collect();
    hosts.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    hosts.into_iter().map(|(_, host)| host).collect()
}

/// Moves VMs that are to leave a host, until one that is to come has room.
fn make_room(
    fleet: &Fleet,
    target: &Placement<'_>,
    now: &mut Placement<'_>,
    moves: &mut Moves,
    (vm, host): (usize, usize),
) {
    let leaving: Vec<usize> =
        now.vms_of(host).iter().copied().filter(|other| target.host_of(*other) != Some(host)).collect();
    for other in leaving {
        if now.fits(vm, host) {
            return;
        }
        // Where it is to be in the end; else where it does least harm, which costs no more moves than there.
        let home = target.host_of(other).filter(|home| now.fits(other, *home));
        let anywhere = || {
            (0..fleet.hosts.len())
                .filter(|place| *place != host && now.fits(other, *place))
                .max_by_key(|place| (now.gain(other, *place), std::cmp::Reverse(*place)))
        };
        if let Some(place) = home.or_else(anywhere) {
            moves.to(now, other, place);
        }
    }
}

struct Moves {
    done: Vec<Move>,
    limit: usize,
    /// Most kept contents that were ever saved, and after how many moves.
    best: (u64, usize),
}

impl Moves {
    fn to(&mut self, now: &mut Placement<'_>, vm: usize, host: usize) {
        let Some(from) = now.host_of(vm).filter(|from| *from != host) else { return };
        if self.done.len() == self.limit || !now.fits(vm, host) {
            return;
        }
        let before = now.saved();
        now.shift(vm, host);
        let saved_kept = now.saved() as i64 - before as i64;
        self.done.push(Move { vm, from, to: host, saved_kept });
        if now.saved() > self.best.0 {
            self.best = (now.saved(), self.done.len());
        }
    }
}
