//! What hosts save, counted content by content: moves are chosen by families, and each is then told by what it really
//! brings.

use std::collections::{BTreeMap, HashMap};

use huddle_model::fleet::Move;
use polars::prelude::*;

/// A move with what it really brings at its turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brought {
    pub(super) one: Move,
    /// Kept contents whose memory it saves or costs: [`Move::saved_kept`] is the difference of both.
    pub(super) changed: u64,
}

/// Moves as they were counted again.
#[derive(Clone, Debug, Default)]
pub(super) struct Recounted {
    pub(super) moves: Vec<Brought>,
    /// For each kept content how often all moves together save it, squared, and added up. Contents are sampled
    /// independently of one another, and one that is saved nine times is one observation: so this is the variance of the sum
    /// (Cochran, "Sampling Techniques", for totals of a Poisson sample), but for the part that is seen completely.
    pub(super) squares: u64,
}

/// What each VM holds that others hold, too.
pub(super) struct Exact {
    /// Where the hashes of each VM begin, and after the last one where they end.
    starts: Vec<usize>,
    hashes: Vec<i64>,
}

impl Exact {
    /// From rows of a VM's number (from 1) and a hash.
    pub(super) fn of(vms: usize, shared: &DataFrame) -> PolarsResult<Self> {
        let keys = shared.column("vm_key")?.cast(&DataType::Int64)?;
        let hashes = shared.column("hash")?.cast(&DataType::Int64)?;
        let (keys, hashes) = (keys.i64()?, hashes.i64()?);
        let rows = || {
            let row = |(key, hash): (Option<i64>, Option<i64>)| {
                let vm = usize::try_from(key?.checked_sub(1)?).ok().filter(|vm| *vm < vms)?;
                Some((vm, hash?))
            };
            keys.iter().zip(hashes.iter()).filter_map(row)
        };
        let mut starts = vec![0; vms + 1];
        rows().for_each(|(vm, _)| starts[vm + 1] += 1);
        for vm in 0..vms {
            starts[vm + 1] += starts[vm];
        }
        let mut next = starts.clone();
        let mut sorted = vec![0; starts[vms]];
        for (vm, hash) in rows() {
            sorted[next[vm]] = hash;
            next[vm] += 1;
        }
        Ok(Self { starts, hashes: sorted })
    }

    fn of_vm(&self, vm: usize) -> &[i64] {
        &self.hashes[self.starts[vm]..self.starts[vm + 1]]
    }

    /// Kept contents that need no memory of their own today, with the VMs of each host.
    pub(super) fn saved(&self, vms_of: &[Vec<usize>]) -> u64 {
        let of_host = |vms: &Vec<usize>| {
            let mut all: Vec<i64> = vms.iter().flat_map(|vm| self.of_vm(*vm)).copied().collect();
            let held = all.len();
            all.sort_unstable();
            all.dedup();
            (held - all.len()) as u64
        };
        vms_of.iter().map(of_host).sum()
    }

    /// The moves with what each really saves at its turn, without those after which nothing more is saved.
    pub(super) fn recounted(&self, vms_of: &[Vec<usize>], moves: &[Move]) -> Recounted {
        let mut held: BTreeMap<usize, HashMap<i64, u32>> = BTreeMap::new();
        let mut totals: HashMap<i64, i64> = HashMap::new();
        let mut found = Recounted::default();
        let (mut saved, mut squares, mut best) = (0, 0, (0, 0, 0));
        for one in moves {
            for host in [one.from, one.to] {
                held.entry(host).or_insert_with(|| {
                    let mut counts = HashMap::new();
                    for hash in vms_of[host].iter().flat_map(|vm| self.of_vm(*vm)) {
                        *counts.entry(*hash).or_default() += 1;
                    }
                    counts
                });
            }
            // How often each content is saved more.
            let mut changes = vec![0_i64; self.of_vm(one.vm).len()];
            if let Some(from) = held.get_mut(&one.from) {
                for (hash, change) in self.of_vm(one.vm).iter().zip(&mut changes) {
                    let count = from.entry(*hash).or_default();
                    *count = count.saturating_sub(1);
                    *change -= i64::from(*count > 0);
                }
            }
            if let Some(to) = held.get_mut(&one.to) {
                for (hash, change) in self.of_vm(one.vm).iter().zip(&mut changes) {
                    let count = to.entry(*hash).or_default();
                    *change += i64::from(*count > 0);
                    *count += 1;
                }
            }
            let saved_kept: i64 = changes.iter().sum();
            for (hash, change) in self.of_vm(one.vm).iter().zip(&changes).filter(|(_, change)| **change != 0)
            {
                let total = totals.entry(*hash).or_default();
                squares -= total.unsigned_abs().pow(2);
                *total += change;
                squares += total.unsigned_abs().pow(2);
            }
            saved += saved_kept;
            let changed = changes.iter().map(|change| change.unsigned_abs()).sum();
            found.moves.push(Brought { one: Move { saved_kept, ..*one }, changed });
            if saved > best.0 {
                best = (saved, found.moves.len(), squares);
            }
        }
        found.moves.truncate(best.1);
        found.squares = best.2;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_move_is_told_by_what_it_brings_at_its_turn() {
        // VMs 0 and 1 hold 1 to 3 and 2 to 4, VM 2 holds 3.
        let shared = df!(
            "vm_key" => [1, 1, 1, 2, 2, 2, 3],
            "hash" => [1_i64, 2, 3, 2, 3, 4, 3],
        )
        .unwrap();
        let exact = Exact::of(3, &shared).unwrap();
        let vms_of = [vec![0, 2], vec![1]];
        assert_eq!(exact.saved(&vms_of), 1);
        let to = |vm, from, to| Move { vm, from, to, saved_kept: 0 };
        let found = exact.recounted(&vms_of, &[to(0, 0, 1), to(2, 0, 1)]);
        // The first move gains 2 and 3 and loses 3, the second gains 3.
        let each: Vec<(i64, u64)> = found.moves.iter().map(|of| (of.one.saved_kept, of.changed)).collect();
        assert_eq!((each, found.squares), (vec![(1, 1), (1, 1)], 2));
        // What only loses is not proposed.
        assert_eq!(exact.recounted(&vms_of, &[to(0, 0, 1), to(0, 1, 0)]).moves.len(), 1);
    }

    #[test]
    fn what_many_moves_save_of_one_content_is_one_observation() {
        // Ten VMs on hosts of their own hold the same two contents.
        let keys: Vec<i32> = (1..=10).flat_map(|vm| [vm, vm]).collect();
        let hashes: Vec<i64> = (1..=10).flat_map(|_| [7, 8]).collect();
        let exact = Exact::of(10, &df!("vm_key" => keys, "hash" => hashes).unwrap()).unwrap();
        let vms_of: Vec<Vec<usize>> = (0..10).map(|vm| vec![vm]).collect();
        let moves: Vec<Move> = (1..10).map(|vm| Move { vm, from: vm, to: 0, saved_kept: 0 }).collect();
        let found = exact.recounted(&vms_of, &moves);
        assert!(found.moves.iter().all(|of| (of.one.saved_kept, of.changed) == (2, 2)));
        // 18 contents are saved, with a variance of two times nine squared.
        assert_eq!(found.squares, 2 * 81);
    }
}
