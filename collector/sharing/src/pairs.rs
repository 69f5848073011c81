//! Counting the frames that each VM maps and, for every pair of VMs, those that both map: exact, and
//! fast both where few VMs share a frame and where nearly all do.
//!
//! A frame is a row of bits, bit `i` set when VM `i` maps it. A frame of `k` VMs adds one to
//! `k * (k + 1) / 2` counts. Three ways to do that are used, whichever is cheapest:
//! - runs of equal rows are counted once for the whole run (equal tenants make long runs);
//! - rows with few bits: every pair of them is incremented;
//! - rows with many bits are collected, [`BATCH`] at a time, and transposed so that each VM has one bit per
//!   frame; a pair's count is then the number of bits in the AND of two VMs, 64 frames per operation.

/// Frames that are transposed at once; 8 words of bits for each VM.
const BATCH: usize = 512;
const BATCH_WORDS: usize = BATCH / 64;

/// Frames per VM and per pair of VMs.
#[derive(Debug)]
pub(super) struct Pairs {
    vms: usize,
    words: usize,
    /// Row-major, only `i <= j` is used; the diagonal counts the frames of one VM.
    frames: Vec<u64>,
    last: Vec<u64>,
    run: u64,
    batch: Vec<u64>,
    batched: usize,
    /// From how many VMs on a frame goes into the batch.
    dense_from: usize,
    members: Vec<usize>,
}

impl Pairs {
    /// Counts for VMs numbered from 0 to `vms - 1`.
    pub(super) fn new(vms: usize) -> Self {
        let words = vms.div_ceil(64);
        Self {
            vms,
            words,
            frames: vec![0; vms * vms],
            last: vec![0; words],
            run: 0,
            batch: vec![0; words * BATCH],
            batched: 0,
            // A batched frame costs about vms^2 / 2 * BATCH_WORDS / BATCH operations, and a direct one
            // k^2 / 2 increments: equal at k = vms / 8. Below 6 bits the direct way is always cheaper.
            dense_from: (vms / 8).max(6),
            members: Vec::with_capacity(vms),
        }
    }

    /// Counts one frame that the VMs of `row` map; `row` has one bit for each VM.
    #[inline]
    pub(super) fn add(&mut self, row: &[u64]) {
        debug_assert_eq!(row.len(), self.words);
        if self.last == row {
            self.run += 1;
        } else {
            self.end_run();
            self.last.copy_from_slice(row);
            self.run = 1;
        }
    }

    fn end_run(&mut self) {
        let bits: usize = self.last.iter().map(|word| word.count_ones() as usize).sum();
        if self.run == 0 || bits == 0 {
            return;
        }
        // A batched row is one frame; a long run is cheaper as one addition of its length.
        if bits < self.dense_from || self.run >= 8 {
            self.members.clear();
            for (position, word) in self.last.iter().enumerate() {
                let mut rest = *word;
                while rest != 0 {
                    self.members.push(position * 64 + rest.trailing_zeros() as usize);
                    rest &= rest - 1;
                }
            }
            for (at, i) in self.members.iter().enumerate() {
                let row = &mut self.frames[i * self.vms..][..self.vms];
                for j in &self.members[at..] {
                    row[*j] += self.run;
                }
            }
        } else {
            for _ in 0..self.run {
                let at = self.batched * self.words;
                self.batch[at..at + self.words].copy_from_slice(&self.last);
                self.batched += 1;
                if self.batched == BATCH {
                    self.end_batch();
                }
            }
        }
    }

    fn end_batch(&mut self) {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("popcnt") {
            // SAFETY: the processor was just checked for the instruction that the function uses.
            return unsafe { self.end_batch_popcnt() };
        }
        self.end_batch_any();
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "popcnt")]
    fn end_batch_popcnt(&mut self) {
        self.end_batch_any();
    }

    #[inline(always)]
    fn end_batch_any(&mut self) {
        let mut turned = vec![[0u64; BATCH_WORDS]; self.words * 64];
        let mut block = [0u64; 64];
        for word in 0..self.words {
            for group in 0..BATCH_WORDS {
                for (at, bits) in block.iter_mut().enumerate() {
                    let frame = group * 64 + at;
                    *bits = if frame < self.batched { self.batch[frame * self.words + word] } else { 0 };
                }
                transpose(&mut block);
                for (vm, bits) in turned[word * 64..].iter_mut().zip(&block) {
                    vm[group] = *bits;
                }
            }
        }
        for i in 0..self.vms {
            let left = turned[i];
            if left == [0; BATCH_WORDS] {
                continue;
            }
            let row = &mut self.frames[i * self.vms..][..self.vms];
            for (count, right) in row[i..].iter_mut().zip(&turned[i..self.vms]) {
                *count += left.iter().zip(right).map(|(a, b)| u64::from((a & b).count_ones())).sum::<u64>();
            }
        }
        self.batched = 0;
    }

    /// The counts, `[i][j]` for `i < j`, on the diagonal the frames of VM `i`; the rest is 0.
    pub(super) fn finish(mut self) -> Vec<Vec<u64>> {
        self.end_run();
        self.end_batch();
        self.frames.chunks(self.vms.max(1)).map(<[u64]>::to_vec).collect()
    }
}

/// Transposes a square of 64 times 64 bits: bit `j` of word `i` becomes bit `i` of word `j` (Warren,
/// Hacker's Delight, 7-3).
#[inline(always)]
fn transpose(block: &mut [u64; 64]) {
    let mut width = 32;
    let mut mask = 0x0000_0000_ffff_ffff_u64;
    while width != 0 {
        let mut low = 0;
        while low < 64 {
            let swap = ((block[low] >> width) ^ block[low + width]) & mask;
            block[low] ^= swap << width;
            block[low + width] ^= swap;
            low = (low + width + 1) & !width;
        }
        width >>= 1;
        mask ^= mask << width;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn naive(vms: usize, rows: &[Vec<usize>]) -> Vec<Vec<u64>> {
        let mut counts = vec![vec![0; vms]; vms];
        for row in rows {
            for i in row {
                for j in row {
                    if i <= j {
                        counts[*i][*j] += 1;
                    }
                }
            }
        }
        counts
    }

    fn fast(vms: usize, rows: &[Vec<usize>]) -> Vec<Vec<u64>> {
        let mut pairs = Pairs::new(vms);
        for members in rows {
            let mut row = vec![0; vms.div_ceil(64)];
            for vm in members {
                row[vm / 64] |= 1 << (vm % 64);
            }
            pairs.add(&row);
        }
        pairs.finish()
    }

    #[test]
    fn a_square_is_transposed() {
        let mut block = [0u64; 64];
        block[3] = 1 << 60 | 1;
        block[63] = 1 << 2;
        transpose(&mut block);
        assert_eq!((block[60], block[0], block[2]), (1 << 3, 1 << 3, 1 << 63));
    }

    #[test]
    fn no_vm_and_one_vm_share_nothing() {
        assert!(fast(0, &[]).is_empty());
        assert_eq!(fast(1, &[vec![0]]), vec![vec![1]]);
    }

    #[test]
    fn full_batches_and_long_runs_agree_with_the_naive_count() {
        // 2,000 different dense rows, then a long run of one.
        let mut rows: Vec<Vec<usize>> = (0..2000usize)
            .map(|frame| (0..70).filter(|vm| (frame * 31 + vm * 17) % 5 < 3).collect())
            .collect();
        rows.extend(std::iter::repeat_n((0..70).collect::<Vec<_>>(), 700));
        assert_eq!(fast(70, &rows), naive(70, &rows));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn pairs_agree_with_the_naive_count(
            (vms, rows) in (1usize..200).prop_flat_map(|vms| {
                let row = prop_oneof![
                    proptest::collection::btree_set(0..vms, 0..=vms.min(5)),
                    proptest::collection::btree_set(0..vms, 0..=vms),
                ];
                let repeated = (row, 1usize..12);
                (Just(vms), proptest::collection::vec(repeated, 0..120))
            })
        ) {
            let rows: Vec<Vec<usize>> = rows.into_iter()
                .flat_map(|(row, times)| std::iter::repeat_n(row.into_iter().collect::<Vec<_>>(), times))
                .collect();
            prop_assert_eq!(fast(vms, &rows), naive(vms, &rows));
        }
    }
}
