//! What a matrix and a placement make together: the pairs to export, and the cache that is saved. It takes longer than
//! all the rest, and only changes with a round, so it is kept until then.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use huddle_model::assignment::Assignment;
use huddle_model::matrix::{CountedBy, SharingMatrix};
use huddle_model::topology::DomainId;
use huddle_model::view::View;

use super::MetricsSettings;

/// A pair of VMs with metrics of its own, by position in the matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pair {
    pub(crate) one: usize,
    pub(crate) other: usize,
    /// The higher of its two rates.
    pub(crate) rate: f64,
}

/// The pairs to export, and how many there are besides.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pairs {
    /// Those with the highest rates first.
    pub(crate) chosen: Vec<Pair>,
    pub(crate) below_threshold: u64,
    pub(crate) beyond_most: u64,
    /// Of a VM that has no metrics of its own.
    pub(crate) beyond_vms: u64,
}

/// A pair in the order of rates, the lowest first; of equal rates the last pair first. The bits of positive floating-point
/// numbers are in the order of the numbers.
type Rank = Reverse<(u64, Reverse<(usize, usize)>)>;

/// VMs whose pairs are looked at together: a pair has one rate in its row and one in its column, and so their rows stay in
/// the processor's cache.
const TILE: usize = 64;

/// The pairs of `vms` VMs, tile by tile.
fn tiled(vms: usize) -> impl Iterator<Item = (usize, usize)> {
    let tiles = move || (0..vms).step_by(TILE);
    tiles()
        .flat_map(move |rows| {
            tiles().filter(move |columns| *columns >= rows).map(move |columns| (rows, columns))
        })
        .flat_map(move |(rows, columns)| {
            (rows..vms.min(rows + TILE)).flat_map(move |one| {
                (columns.max(one + 1)..vms.min(columns + TILE)).map(move |other| (one, other))
            })
        })
}

impl Pairs {
    /// The pairs, and the highest rate of each VM. `is_shown` says of each VM of the matrix whether it has metrics of its own.
    fn of(matrix: &SharingMatrix, is_shown: &[bool], settings: &MetricsSettings) -> (Self, Vec<Option<f64>>) {
        let (mut pairs, mut highest_of_vms) = (Self::default(), vec![None; matrix.len()]);
        let mut raise = |vm: usize, rate: f64| {
            let highest: &mut Option<f64> = &mut highest_of_vms[vm];
            *highest = Some(highest.map_or(rate, |highest| highest.max(rate)));
        };
        // The lowest of the highest rates is on top. Equal input gives equal output.
        let mut highest: BinaryHeap<Rank> = BinaryHeap::new();
        for (one, other) in tiled(matrix.len()) {
            let (of_one, of_other) = (matrix.rate(one, other), matrix.rate(other, one));
            raise(one, of_one);
            raise(other, of_other);
            if !(is_shown[one] && is_shown[other]) {
                pairs.beyond_vms += 1;
                continue;
            }
            let rate = of_one.max(of_other);
            if rate < settings.pair_threshold || rate <= 0.0 {
                pairs.below_threshold += 1;
                continue;
            }
            highest.push(Reverse((rate.to_bits(), Reverse((one, other)))));
            if highest.len() > settings.max_pairs {
                highest.pop();
                pairs.beyond_most += 1;
            }
        }
        let sorted = highest.into_sorted_vec().into_iter();
        pairs.chosen = sorted
            .map(|Reverse((bits, Reverse((one, other))))| Pair { one, other, rate: f64::from_bits(bits) })
            .collect();
        (pairs, highest_of_vms)
    }
}

/// Cache that a placement saves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CacheSaved {
    pub(crate) bytes: u64,
    pub(crate) counted_by: CountedBy,
}

impl CacheSaved {
    /// By the vCPUs that are bound; others are nowhere. `None` without frames, and where none is bound.
    fn of(matrix: &SharingMatrix, in_force: &Assignment) -> Option<Self> {
        let domains: BTreeSet<DomainId> = in_force.iter().map(|(_, _, domain)| domain).collect();
        if domains.is_empty() {
            return None;
        }
        let column: BTreeMap<DomainId, usize> =
            domains.iter().enumerate().map(|(at, domain)| (*domain, at)).collect();
        let presence: Vec<Vec<f64>> = matrix
            .vms()
            .iter()
            .map(|vm| {
                let mut parts = vec![0.0; domains.len()];
                for domain in in_force.domains_of(&vm.name) {
                    parts[column[&domain]] += 1.0 / f64::from(vm.vcpus.max(1));
                }
                parts.into_iter().map(|part| part.min(1.0)).collect()
            })
            .collect();
        let saved = matrix.saved_frames(&presence)?;
        let bytes = matrix.page_size().bytes_of(saved.frames.round() as u64);
        Some(Self { bytes, counted_by: saved.counted_by })
    }
}

/// Per VM of the matrix.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct VmSharing {
    /// Frames that at least one other VM maps; `None` if groups were not counted completely.
    pub(crate) shared_frames: Option<u64>,
    /// The highest rate with one other VM; `None` for a VM alone.
    pub(crate) highest_rate: Option<f64>,
}

fn of_vms(matrix: &SharingMatrix, highest: Vec<Option<f64>>) -> Vec<VmSharing> {
    let groups = matrix.shared_groups().filter(|groups| groups.is_complete());
    let mut shared = groups.map(|_| vec![0_u64; matrix.len()]);
    if let (Some(groups), Some(shared)) = (groups, &mut shared) {
        for group in groups.groups() {
            for vm in &group.vms {
                shared[*vm as usize] += group.frames;
            }
        }
    }
    let of_vm = |(vm, highest_rate)| VmSharing {
        shared_frames: shared.as_ref().map(|shared| shared[vm]),
        highest_rate,
    };
    highest.into_iter().enumerate().map(of_vm).collect()
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Derived {
    matrix: Option<Arc<SharingMatrix>>,
    in_force: Arc<Assignment>,
    is_shown: Vec<bool>,
    pub(crate) pairs: Option<Pairs>,
    pub(crate) vms: Vec<VmSharing>,
    pub(crate) saved: Option<CacheSaved>,
}

impl Derived {
    /// That of a view; what `before` has of the same matrix and placement is not computed again.
    pub(crate) fn of(
        view: &View,
        is_shown: impl Fn(&str) -> bool,
        settings: &MetricsSettings,
        before: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let matrix = view.round.matrix.value();
        let in_force = &view.in_force;
        let is_shown: Vec<bool> =
            matrix.map_or(&[][..], |matrix| matrix.vms()).iter().map(|vm| is_shown(&vm.name)).collect();
        let is_same = |before: &&Arc<Self>| {
            let same_matrix = match (&before.matrix, matrix) {
                (Some(before), Some(matrix)) => Arc::ptr_eq(before, matrix),
                (None, None) => true,
                _ => false,
            };
            same_matrix && Arc::ptr_eq(&before.in_force, in_force) && before.is_shown == is_shown
        };
        if let Some(before) = before.filter(is_same) {
            return Arc::clone(before);
        }
        let sharing = matrix.map(|matrix| {
            let (pairs, highest) = Pairs::of(matrix, &is_shown, settings);
            (pairs, of_vms(matrix, highest))
        });
        let (pairs, vms) = sharing.unzip();
        Arc::new(Self {
            pairs,
            vms: vms.unwrap_or_default(),
            saved: matrix.and_then(|matrix| CacheSaved::of(matrix, in_force)),
            matrix: matrix.cloned(),
            in_force: Arc::clone(in_force),
            is_shown,
        })
    }
}

#[cfg(test)]
mod tests {
    use huddle_model::matrix::{MatrixVm, MemoryUse, Method, SharedGroup, SharedGroups};

    use super::*;

    /// Four VMs of 1,000 frames: a and b share 600, a and c 300, c and d 10.
    fn matrix() -> SharingMatrix {
        let memory = Some(MemoryUse { frames_used: 1000, ..MemoryUse::default() });
        let vms = ["a", "b", "c", "d"].map(|name| MatrixVm { memory, ..MatrixVm::named(name) });
        let shared = [vec![0, 600, 300, 0], vec![0; 4], vec![0, 0, 0, 10], vec![0; 4]];
        let groups = SharedGroups::of(
            [(vec![0, 1], 600), (vec![0, 2], 300), (vec![2, 3], 10)]
                .map(|(vms, frames)| SharedGroup { vms, frames }),
            0,
        );
        SharingMatrix::measured(Method::Merged, vms.into(), &shared, 1.0, 1.0).with_groups(groups)
    }

    #[test]
    fn what_is_left_out_of_the_pairs_is_counted() {
        let pairs = |pair_threshold, max_pairs, shown: [bool; 4]| {
            let settings = MetricsSettings { pair_threshold, max_pairs, ..MetricsSettings::default() };
            let (pairs, _) = Pairs::of(&matrix(), &shown, &settings);
            let chosen: Vec<_> = pairs.chosen.iter().map(|pair| (pair.one, pair.other)).collect();
            (chosen, pairs.below_threshold, pairs.beyond_most, pairs.beyond_vms)
        };
        assert_eq!(pairs(0.05, 9, [true; 4]), (vec![(0, 1), (0, 2)], 4, 0, 0));
        assert_eq!(pairs(0.0, 9, [true; 4]), (vec![(0, 1), (0, 2), (2, 3)], 3, 0, 0), "none shares nothing");
        assert_eq!(pairs(0.05, 1, [true; 4]), (vec![(0, 1)], 4, 1, 0));
        assert_eq!(pairs(0.05, 0, [true; 4]), (vec![], 4, 2, 0));
        assert_eq!(pairs(0.05, 9, [false, true, true, true]), (vec![], 3, 0, 3));
    }

    #[test]
    fn each_pair_is_in_one_tile() {
        for vms in [0, 1, 2, TILE - 1, TILE, TILE + 1, 3 * TILE + 7] {
            let mut pairs: Vec<_> = tiled(vms).collect();
            pairs.sort();
            let all: Vec<_> =
                (0..vms).flat_map(|one| (one + 1..vms).map(move |other| (one, other))).collect();
            assert_eq!(pairs, all, "{vms} VMs");
        }
    }

    #[test]
    fn frames_of_a_vm_are_counted_once_and_cache_is_saved_where_vms_meet() {
        let (_, highest) = Pairs::of(&matrix(), &[true; 4], &MetricsSettings::default());
        let vms = of_vms(&matrix(), highest);
        assert_eq!(vms[0], VmSharing { shared_frames: Some(900), highest_rate: Some(0.6) });
        assert_eq!(vms[3], VmSharing { shared_frames: Some(10), highest_rate: Some(0.01) });
        let in_force = |entries: &[(&str, u32)]| -> Assignment {
            entries.iter().map(|(vm, domain)| (((*vm).to_owned(), 0), DomainId(*domain))).collect()
        };
        let saved = |entries| CacheSaved::of(&matrix(), &in_force(entries)).map(|saved| saved.bytes);
        assert_eq!(saved(&[("a", 0), ("b", 0), ("c", 1)]), Some(600 * 4096));
        assert_eq!(saved(&[("a", 0), ("b", 1), ("c", 0)]), Some(300 * 4096));
        assert_eq!(saved(&[("a", 0), ("b", 1)]), Some(0));
        assert_eq!(saved(&[]), None, "nothing is bound: that is not zero");
    }
}
