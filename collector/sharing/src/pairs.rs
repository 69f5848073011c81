//! Counting the frames that each VM maps and, for every pair of VMs, those that both map: exact, and
//! fast both where few VMs share a frame and where nearly all do.
//!
//! A frame is a row of bits, bit `i` set when VM `i` maps it. A frame of `k` VMs adds one to
//! `k * (k + 1) / 2` counts. Four ways to do that are used, whichever is cheapest:
//! - runs of equal rows are counted once for the whole run (equal tenants make long runs);
//! - the first [`MAX_SETS`] different rows are counted as such, which also gives the frames of each set of VMs, and their
//!   pairs are counted at the end;
//! - rows with few bits: every pair of them is incremented;
//! - rows with many bits are collected, [`BATCH`] at a time, and transposed so that each VM has one bit per
//!   frame; a pair's count is then the number of bits in the AND of two VMs, 64 frames per operation.

use huddle_model::matrix::SharedGroup;

/// Frames that are transposed at once; 8 words of bits for each VM.
const BATCH: usize = 512;
const BATCH_WORDS: usize = BATCH / 64;

/// Different rows that are counted as such. When there are more, the rarer half makes room for new ones, and is
/// counted by pairs only.
const MAX_SETS: usize = 4096;

/// Slots of the table of rows: a power of two, at most half of them in use.
const SLOTS: usize = 2 * MAX_SETS;

/// What a scan counted.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// `[i][j]` for `i < j`, on the diagonal the frames of VM `i`; the rest is 0.
    pub(super) frames: Vec<Vec<u64>>,
    /// Frames of sets of two or more VMs.
    pub(super) sets: Vec<SharedGroup>,
    /// Frames of two or more VMs that are in no set.
    pub(super) rest: u64,
}

/// Frames per VM, per pair of VMs and per set of VMs.
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
    /// The set in each slot plus 1, 0 for none.
    slots: Vec<u16>,
    /// Row of each set, one after the other, and its frames.
    sets: Vec<u64>,
    counts: Vec<u64>,
    /// Frames of two or more VMs that were counted by pairs only.
    rest: u64,
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
            slots: vec![0; SLOTS],
            sets: Vec::new(),
            counts: Vec::new(),
            rest: 0,
        }
    }

    /// Counts one frame that the VMs of `row` map; `row` has one bit for each VM.
    #[inline]
    pub(super) fn add(&mut self, row: &[u64]) {
        self.add_frames(row, 1);
    }

    /// The same for at most 64 VMs.
    #[inline]
    pub(super) fn add_word(&mut self, row: u64) {
        // Not as slices, whose comparison is a call.
        if self.last[0] == row {
            self.run += 1;
        } else {
            self.add_frames(&[row], 1);
        }
    }

    /// Counts so many frames, each mapped by the VMs of `row`.
    #[inline]
    pub(super) fn add_frames(&mut self, row: &[u64], frames: u64) {
        debug_assert_eq!(row.len(), self.words);
        if self.last == row {
            self.run += frames;
        } else {
            self.end_run();
            self.last.copy_from_slice(row);
            self.run = frames;
        }
    }

    fn end_run(&mut self) {
        if self.run == 0 || self.last.iter().all(|word| *word == 0) {
            return;
        }
        let mut slot = hash(&self.last) & (SLOTS - 1);
        loop {
            match self.slots[slot] {
                0 => break,
                set => {
                    let at = usize::from(set - 1);
                    if self.sets[at * self.words..][..self.words] == self.last[..] {
                        self.counts[at] += self.run;
                        return;
                    }
                }
            }
            slot = (slot + 1) & (SLOTS - 1);
        }
        if self.counts.len() == MAX_SETS {
            self.make_room();
            slot = self.free_slot(&self.last);
        }
        self.sets.extend_from_slice(&self.last);
        self.counts.push(self.run);
        self.slots[slot] = self.counts.len() as u16;
    }

    fn free_slot(&self, row: &[u64]) -> usize {
        let mut slot = hash(row) & (SLOTS - 1);
        while self.slots[slot] != 0 {
            slot = (slot + 1) & (SLOTS - 1);
        }
        slot
    }

    /// Counts the rarer half of the sets by pairs, and forgets them.
    #[cold]
    fn make_room(&mut self) {
        let (sets, counts) = (std::mem::take(&mut self.sets), std::mem::take(&mut self.counts));
        let mut order: Vec<usize> = (0..counts.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(counts[*at]));
        self.slots.fill(0);
        for (rank, at) in order.into_iter().enumerate() {
            let row = &sets[at * self.words..][..self.words];
            if rank < MAX_SETS / 2 {
                let slot = self.free_slot(row);
                self.sets.extend_from_slice(row);
                self.counts.push(counts[at]);
                self.slots[slot] = self.counts.len() as u16;
            } else {
                let is_shared = row.iter().map(|word| word.count_ones()).sum::<u32>() > 1;
                self.rest += if is_shared { counts[at] } else { 0 };
                self.count_pairs(row, counts[at]);
            }
        }
    }

    /// Adds frames with one row to the counts of their pairs.
    fn count_pairs(&mut self, row: &[u64], frames: u64) {
        let bits: usize = row.iter().map(|word| word.count_ones() as usize).sum();
        // A batched row is one frame; many are cheaper as one addition of their number.
        if bits < self.dense_from || frames >= 8 {
            self.find_members(row);
            for (at, i) in self.members.iter().enumerate() {
                let row = &mut self.frames[i * self.vms..][..self.vms];
                for j in &self.members[at..] {
                    row[*j] += frames;
                }
            }
        } else {
            for _ in 0..frames {
                let at = self.batched * self.words;
                self.batch[at..at + self.words].copy_from_slice(row);
                self.batched += 1;
                if self.batched == BATCH {
                    self.end_batch();
                }
            }
        }
    }

    fn find_members(&mut self, row: &[u64]) {
        self.members.clear();
        for (position, word) in row.iter().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                self.members.push(position * 64 + rest.trailing_zeros() as usize);
                rest &= rest - 1;
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

    /// What was counted.
    pub(super) fn finish(mut self) -> Counts {
        self.end_run();
        let (rows, counts) = (std::mem::take(&mut self.sets), std::mem::take(&mut self.counts));
        let mut sets = Vec::new();
        for (row, frames) in rows.chunks(self.words.max(1)).zip(counts) {
            self.count_pairs(row, frames);
            self.find_members(row);
            if self.members.len() > 1 {
                sets.push(SharedGroup { vms: self.members.iter().map(|vm| *vm as u32).collect(), frames });
            }
        }
        self.end_batch();
        let frames = self.frames.chunks(self.vms.max(1)).map(<[u64]>::to_vec).collect();
        Counts { frames, sets, rest: self.rest }
    }
}

/// Rows need spreading over the slots, not protection from attackers: a multiplication for each word (Knuth, The Art of
/// Computer Programming 3, 6.4).
#[inline]
fn hash(row: &[u64]) -> usize {
    let mix = |hash: u64, word: &u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (row.iter().fold(0, mix) >> 40) as usize
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
    use std::collections::BTreeMap;

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

    fn counted(vms: usize, rows: &[Vec<usize>]) -> Counts {
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

    fn fast(vms: usize, rows: &[Vec<usize>]) -> Vec<Vec<u64>> {
        counted(vms, rows).frames
    }

    /// The frames of each set of two or more VMs.
    fn naive_sets(rows: &[Vec<usize>]) -> BTreeMap<Vec<u32>, u64> {
        let mut sets = BTreeMap::new();
        for row in rows.iter().filter(|row| row.len() > 1) {
            *sets.entry(row.iter().map(|vm| *vm as u32).collect()).or_default() += 1;
        }
        sets
    }

    #[test]
    fn more_sets_than_are_counted_leave_a_rest_that_is_in_the_pairs() {
        // Pairs of 200 VMs: 19,900 sets once each, and one set 5,000 times in between.
        let mut rows = Vec::new();
        for i in 0..200usize {
            rows.extend((i + 1..200).map(|j| vec![i, j]));
            rows.extend(std::iter::repeat_n(vec![0, 7, 150], 25));
        }
        let found = counted(200, &rows);
        assert_eq!(found.frames, naive(200, &rows));
        let frequent = found.sets.iter().find(|set| set.vms == [0, 7, 150]).unwrap();
        assert_eq!(frequent.frames, 5000);
        let listed: u64 = found.sets.iter().map(|set| set.frames).sum();
        assert_eq!(listed + found.rest, rows.len() as u64);
        assert!(found.sets.len() <= MAX_SETS && found.rest > 0);
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
            let found = counted(vms, &rows);
            prop_assert_eq!(found.frames, naive(vms, &rows));
            let sets = found.sets.into_iter().map(|set| (set.vms, set.frames));
            prop_assert_eq!((sets.collect::<BTreeMap<_, _>>(), found.rest), (naive_sets(&rows), 0));
        }
    }
}
