//! The order of the heatmap's rows, which puts VMs that share most next to each other.
//!
//! Units: rates from 0 to 1. Problem: order the rows of the matrix so that groups show as blocks on the
//! diagonal. Approach: agglomerative clustering with average linkage (UPGMA) over the pair rate (the higher
//! of the two directions, as policies rank pairs), found by nearest-neighbour chains in time quadratic in the
//! number of VMs (Murtagh, The Computer Journal 26(4), 1983). The order is that of the leaves of the tree. Of
//! two groups the one with the lowest row of the matrix comes first, so that small changes of the rates move
//! little. Groups are the clusters above the greatest fall of the rates at which clusters became one.

use huddle_model::matrix::SharingMatrix;

/// An order of the VMs of a matrix, and their groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Clusters {
    /// Positions in the matrix, in the order of display.
    pub(crate) order: Vec<usize>,
    /// The group of each VM of the matrix, as the lowest position in it. VMs of one group follow one another in `order`.
    pub(crate) group_of: Vec<usize>,
}

/// The least ratio of rates within groups to rates between them for groups to be told apart.
const LEAST_CONTRAST: f32 = 1.5;
/// Added to both rates of a ratio, so that the least rates make no contrast: half a per cent.
const FLOOR: f32 = 0.005;

/// Orders the VMs of a matrix and finds their groups.
pub(crate) fn clusters(matrix: &SharingMatrix) -> Clusters {
    let n = matrix.len();
    let mut similarity = Similarity::of(matrix);
    let mut leaves: Vec<Vec<usize>> = (0..n).map(|vm| vec![vm]).collect();
    let mut active: Vec<usize> = (0..n).collect();
    let mut chain: Vec<usize> = Vec::with_capacity(n);
    let mut merges: Vec<Merge> = Vec::with_capacity(n.saturating_sub(1));
    while active.len() > 1 {
        if chain.is_empty() {
            chain.push(active[0]);
        }
        let tip = chain[chain.len() - 1];
        let before = chain.len().checked_sub(2).map(|index| chain[index]);
        let nearest = similarity.nearest(tip, before);
        if Some(nearest) != before {
            chain.push(nearest);
            continue;
        }
        chain.truncate(chain.len() - 2);
        let (keep, gone) = (tip.min(nearest), tip.max(nearest));
        merges.push(Merge { keep, gone, similarity: similarity.get(keep, gone) });
        let (keep_size, gone_size) = (leaves[keep].len() as f32, leaves[gone].len() as f32);
        for other in active.iter().copied().filter(|other| *other != keep && *other != gone) {
            let mean = (keep_size * similarity.get(keep, other) + gone_size * similarity.get(gone, other))
                / (keep_size + gone_size);
            similarity.set(keep, other, mean);
        }
        active.retain(|cluster| *cluster != gone);
        similarity.remove(gone);
        // Clusters are identified by their lowest leaf, so `keep` is the one that comes first.
        let moved = std::mem::take(&mut leaves[gone]);
        leaves[keep].extend(moved);
    }
    let order = active.first().map(|root| std::mem::take(&mut leaves[*root])).unwrap_or_default();
    Clusters { order, group_of: groups(n, merges) }
}

/// Two clusters that became one, by their lowest VMs; `keep` is the lower one.
struct Merge {
    keep: usize,
    gone: usize,
    similarity: f32,
}

/// The groups: the tree is cut where the rates of merges fall by the greatest ratio. Without such a fall all VMs are one
/// group, and none if nothing is shared.
fn groups(n: usize, mut merges: Vec<Merge>) -> Vec<usize> {
    // With average linkage no merge is of a higher rate than those below it, so a cut by rate is a cut of the tree.
    merges.sort_by(|a, b| b.similarity.total_cmp(&a.similarity));
    let rate = |at: usize| merges.get(at).map_or(0.0, |merge: &Merge| merge.similarity.max(0.0));
    let contrast = |at: usize| (rate(at - 1) + FLOOR) / (rate(at) + FLOOR);
    let cut = (1..merges.len()).max_by(|a, b| contrast(*a).total_cmp(&contrast(*b)));
    let kept = match cut.filter(|cut| contrast(*cut) >= LEAST_CONTRAST) {
        Some(cut) => cut,
        None if rate(0) > 0.0 => merges.len(),
        None => 0,
    };
    let mut group_of: Vec<usize> = (0..n).collect();
    // From the root of the tree down, so that each VM finds the group of the one it was merged with.
    for merge in &merges[..kept] {
        group_of[merge.gone] = merge.keep;
    }
    for vm in 0..n {
        // A VM points to a lower one, whose group is known by now.
        group_of[vm] = group_of[group_of[vm]];
    }
    group_of
}

/// Similarities of clusters, in rows; [`NEVER`] on the diagonal and for merged clusters, so that a row can be
/// searched without a list of live clusters.
struct Similarity {
    n: usize,
    /// Cells from one row to the next: more than `n`, and not a power of two, so that a column is spread over
    /// the processor's cache.
    stride: usize,
    cells: Vec<f32>,
}

/// Less than any rate.
const NEVER: f32 = -1.0;

impl Similarity {
    fn of(matrix: &SharingMatrix) -> Self {
        let n = matrix.len();
        let stride = n.next_multiple_of(16) + 8;
        let mut cells = vec![NEVER; n * stride];
        // Row by row, because reading the matrix by columns would miss the cache.
        for i in 0..n {
            for j in (0..n).filter(|j| *j != i) {
                cells[i * stride + j] = matrix.rate(i, j) as f32;
            }
        }
        let mut similarity = Self { n, stride, cells };
        for i in 0..n {
            for j in i + 1..n {
                similarity.set(i, j, similarity.get(i, j).max(similarity.get(j, i)));
            }
        }
        similarity
    }

    fn get(&self, a: usize, b: usize) -> f32 {
        self.cells[a * self.stride + b]
    }

    fn set(&mut self, a: usize, b: usize, value: f32) {
        self.cells[a * self.stride + b] = value;
        self.cells[b * self.stride + a] = value;
    }

    fn remove(&mut self, gone: usize) {
        for other in 0..self.n {
            self.set(gone, other, NEVER);
        }
    }

    /// The cluster most similar to `tip`. Ties go to `before`, so that chains end, then to the lowest. There
    /// must be another cluster than `tip`.
    fn nearest(&self, tip: usize, before: Option<usize>) -> usize {
        let row = &self.cells[tip * self.stride..][..self.n];
        // Eight maxima at once, which the compiler keeps in one vector register.
        let mut lanes = [NEVER; 8];
        let mut chunks = row.chunks_exact(8);
        for chunk in &mut chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = if *value > *lane { *value } else { *lane };
            }
        }
        let highest = lanes.into_iter().chain(chunks.remainder().iter().copied()).fold(NEVER, f32::max);
        match before.filter(|before| row[*before] >= highest) {
            Some(before) => before,
            None => row.iter().position(|value| *value >= highest).unwrap_or(tip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(rates: &[&[u32]]) -> SharingMatrix {
        let names: Vec<String> = (0..rates.len()).map(|vm| format!("v{vm}")).collect();
        let mut csv = format!(",{}\n", names.join(","));
        for (i, (name, row)) in names.iter().zip(rates).enumerate() {
            let cell = |(j, rate): (usize, &u32)| if i == j { "-".to_owned() } else { rate.to_string() };
            let row: Vec<String> = row.iter().enumerate().map(cell).collect();
            csv += &format!("{name},{}\n", row.join(","));
        }
        SharingMatrix::from_file_text(&csv).unwrap()
    }

    #[test]
    fn groups_stand_together() {
        // 0, 2 and 4 share much, 1 and 3 too, little across the groups.
        let rates: [&[u32]; 5] = [
            &[0, 1, 60, 2, 50],
            &[1, 0, 1, 40, 2],
            &[60, 1, 0, 1, 55],
            &[2, 40, 1, 0, 1],
            &[50, 2, 55, 1, 0],
        ];
        let found = clusters(&matrix(&rates));
        assert_eq!(found.order, [0, 2, 4, 1, 3]);
        assert_eq!(found.group_of, [0, 1, 0, 1, 0]);
    }

    #[test]
    fn vms_that_share_nothing_keep_their_order() {
        let zero: [&[u32]; 4] = [&[0; 4]; 4];
        let found = clusters(&matrix(&zero));
        assert_eq!((found.order, found.group_of), (vec![0, 1, 2, 3], vec![0, 1, 2, 3]));
    }

    #[test]
    fn vms_that_share_alike_are_one_group() {
        let alike: [&[u32]; 4] = [&[0, 30, 31, 33], &[30, 0, 29, 30], &[31, 29, 0, 32], &[33, 30, 32, 0]];
        assert_eq!(clusters(&matrix(&alike)).group_of, [0; 4]);
    }

    /// Groups of different rates, of 30 to 65 %, with 2 to 6 % between them.
    #[test]
    fn groups_of_different_rates_are_told_apart() {
        let rates: Vec<Vec<u32>> = (0..48usize)
            .map(|i| {
                let rate = |j: usize| match (i % 12 == j % 12, i % 12) {
                    (true, group) => 30 + 3 * group as u32,
                    (false, _) => 2 + ((i + j) % 5) as u32,
                };
                (0..48).map(rate).collect()
            })
            .collect();
        let rows: Vec<&[u32]> = rates.iter().map(Vec::as_slice).collect();
        let found = clusters(&matrix(&rows));
        assert_eq!(found.group_of, (0..48).map(|vm| vm % 12).collect::<Vec<_>>());
        assert!(found.order.chunks(4).all(|four| four.iter().all(|vm| vm % 12 == four[0] % 12)));
    }

    proptest::proptest! {
        #[test]
        fn every_vm_is_in_the_order_once(
            n in 1usize..30,
            cells in proptest::collection::vec(0u32..=100, 900),
        ) {
            let rows: Vec<Vec<u32>> =
                (0..n).map(|i| (0..n).map(|j| if i == j { 0 } else { cells[i * 30 + j] }).collect()).collect();
            let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
            let Clusters { mut order, group_of } = clusters(&matrix(&rows));
            // Groups are whole in the order, and named by their lowest VM.
            let mut runs: Vec<usize> = order.iter().map(|vm| group_of[*vm]).collect();
            runs.dedup();
            let mut distinct = group_of.clone();
            distinct.sort_unstable();
            distinct.dedup();
            proptest::prop_assert_eq!(runs.len(), distinct.len());
            proptest::prop_assert!((0..n).all(|vm| group_of[vm] <= vm));
            order.sort_unstable();
            proptest::prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }
    }
}
