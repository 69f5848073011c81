//! The data of a guest and the way it is read: a pointer chase.
//!
//! The data is a ring of nodes of one cache line each. The first word of a node is the position (in
//! words) of the next one, the other seven are noise, so that no two pages are equal by chance. The
//! ring visits every node once before it comes back (Sattolo's algorithm draws such a ring, each one
//! equally likely), so every line is used equally often, each read depends on the one before it, and
//! no prefetcher can guess the next. Positions are relative: equal seeds give equal bytes at any
//! address, which is what lets KSM merge the data of two guests.

use huddle_model::rng::Rng;

/// Words of eight bytes in a node; 64 bytes, the cache line of x86-64 and of most arm64 cores.
pub const NODE_WORDS: usize = 8;

/// Size of a page in bytes; KSM merges whole pages of this size.
pub const PAGE_BYTES: usize = 4096;

/// Words of eight bytes in a page.
pub const PAGE_WORDS: usize = PAGE_BYTES / 8;

/// Writes the ring of `seed` over all whole nodes of `data`.
pub fn fill(data: &mut [u64], seed: u64) {
    let mut rng = Rng::new(seed);
    let nodes = data.len() / NODE_WORDS;
    let mut next: Vec<usize> = (0..nodes).collect();
    for last in (1..nodes).rev() {
        // Sattolo: never swapping an element with itself is what makes it one ring.
        next.swap(last, rng.below(last));
    }
    for (node, next) in data.chunks_exact_mut(NODE_WORDS).zip(next) {
        node[0] = (next * NODE_WORDS) as u64;
        node[1..].fill_with(|| rng.next_u64());
    }
}

/// Changes the noise of a ring, by `seed`, and not the ring itself: the same sequence of reads on pages that no
/// other guest has.
pub fn set_apart(data: &mut [u64], seed: u64) {
    let mut rng = Rng::new(seed);
    for node in data.chunks_exact_mut(NODE_WORDS) {
        node[NODE_WORDS - 1] = rng.next_u64();
    }
}

/// Fills `words` with the noise of `seed`: memory that no other guest has.
pub fn fill_noise(words: &mut [u64], seed: u64) {
    let mut rng = Rng::new(seed);
    words.fill_with(|| rng.next_u64());
}

/// Makes `reads` reads along the ring from `position` and returns the position reached, in words.
///
/// # Panics
/// If `data` was not made by [`fill`]: a position outside of it is refused, never read.
#[inline(never)]
pub fn walk(data: &[u64], position: usize, reads: u64) -> usize {
    let mut position = position;
    for _ in 0..reads {
        position = data[position] as usize;
    }
    position
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(words: usize, seed: u64) -> Vec<u64> {
        let mut data = vec![0; words];
        fill(&mut data, seed);
        data
    }

    #[test]
    fn the_chase_is_one_ring_over_all_nodes() {
        for (nodes, seed) in [(1, 0), (2, 1), (3, 2), (64, 3), (1000, 4), (24_576, 5)] {
            let data = filled(nodes * NODE_WORDS, seed);
            let mut seen = vec![false; nodes];
            let mut position = 0;
            for _ in 0..nodes {
                assert_eq!(position % NODE_WORDS, 0);
                assert!(
                    !std::mem::replace(&mut seen[position / NODE_WORDS], true),
                    "visited twice: {position}"
                );
                position = walk(&data, position, 1);
            }
            assert_eq!(position, 0, "the ring of {nodes} nodes closes");
            assert_eq!(walk(&data, 0, nodes as u64), 0);
        }
    }

    #[test]
    fn equal_seeds_give_equal_bytes_and_others_share_no_page() {
        let words = 16 * PAGE_WORDS;
        assert_eq!(filled(words, 9), filled(words, 9));
        let (a, b) = (filled(words, 9), filled(words, 10));
        let pages = |data: &[u64]| -> std::collections::BTreeSet<Vec<u64>> {
            data.chunks(PAGE_WORDS).map(<[u64]>::to_vec).collect()
        };
        assert_eq!(pages(&a).len(), 16, "no page repeats within the data");
        assert!(pages(&a).is_disjoint(&pages(&b)));
    }

    #[test]
    fn data_set_apart_is_read_alike_and_equals_no_page_of_the_first() {
        let data = filled(4 * PAGE_WORDS, 9);
        let mut own = data.clone();
        set_apart(&mut own, 1);
        for reads in [1, 5, 100] {
            assert_eq!(walk(&data, 0, reads), walk(&own, 0, reads));
        }
        assert!(data.chunks(PAGE_WORDS).zip(own.chunks(PAGE_WORDS)).all(|(a, b)| a != b));
    }

    #[test]
    fn the_ring_is_random_enough_to_defeat_prefetching() {
        let data = filled(4096 * NODE_WORDS, 11);
        let near = (0..4096)
            .filter(|node| {
                let next = data[node * NODE_WORDS] as usize / NODE_WORDS;
                next.abs_diff(*node) <= 2
            })
            .count();
        assert!(near < 20, "{near} of 4096 nodes are followed by a neighbour");
    }
}
