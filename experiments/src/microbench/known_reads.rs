//! What stand-ins read, without looking at them: their loop is known to the read, and the frames of their data are read
//! from the kernel.

use std::collections::BTreeMap;

use huddle_guest::chase::{self, NODE_WORDS, PAGE_BYTES};
use huddle_model::cache::{Access, AccessKind, Sampler};
use huddle_model::rng::Rng;
use huddle_model::summary::AccessOrigin;

use super::ReadOrder;
use crate::frame::Window;
use crate::frame::run::RunError;
use crate::frame::simulate::{AccessSource, Feed, NotFed, Phase, Wanted};
use crate::guest::{GuestData, Reader};
use crate::host::HostFailure;

/// How often all of the data is read before anything is counted, and while it is.
const PASSES: [(Phase, u64); 2] = [(Phase::WarmUp, 4), (Phase::Counted, 8)];

/// Accesses that are fed at once.
const CHUNK: usize = 1 << 16;

/// One of how many sets is simulated.
const FOLD: u32 = 8;

/// The random streams of blocks (see [`Rng::of_part`]).
const BLOCKS: u64 = 5000;

/// Reads of stand-ins.
pub(super) struct KnownReads<'a> {
    window: Window<'a, dyn Reader>,
    data: &'a [GuestData],
    seed: u64,
    order: ReadOrder,
    /// Offsets within the data in the order of the ring, by seed and size of the data.
    rings: BTreeMap<(u64, u64), Vec<u32>>,
}

impl<'a> KnownReads<'a> {
    /// Of guests that hold `data`, one entry for each.
    pub(super) fn new(
        window: Window<'a, dyn Reader>,
        data: &'a [GuestData],
        seed: u64,
        order: ReadOrder,
    ) -> Self {
        let mut rings = BTreeMap::new();
        for data in data {
            rings.entry((data.seed, data.kib)).or_insert_with(|| ring(data));
        }
        Self { window, data, seed, order, rings }
    }

    /// The kept reads of each vCPU in the order of the ring, each from another place.
    fn reads(&mut self, wanted: &Wanted<'_>, rng: &mut Rng) -> Result<Vec<Vec<Access>>, RunError> {
        let frames = self.window.host.data_frames(self.window.vms, self.data, wanted.own)?;
        let mut all = Vec::new();
        for ((vm, data), frames) in self.window.vms.iter().zip(self.data).zip(&frames) {
            let ring = &self.rings[&(data.seed, data.kib)];
            let begin = rng.below(ring.len());
            for number in 0..vm.vcpus.len() {
                // The vCPUs of a guest begin at equal distances.
                let begin = (begin + ring.len() * number / vm.vcpus.len()) % ring.len();
                let (before, from) = ring.split_at(begin);
                let vcpu = all.len() as u16;
                all.push(kept(from.iter().chain(before), frames, vcpu, wanted.sampler)?);
            }
        }
        Ok(all)
    }
}

impl AccessSource for KnownReads<'_> {
    fn origin(&self) -> AccessOrigin {
        match self.order {
            ReadOrder::Ring => AccessOrigin::KnownReads,
            ReadOrder::Random => AccessOrigin::RandomReads,
        }
    }

    fn usual_fold(&self) -> u32 {
        FOLD
    }

    fn feed(&mut self, wanted: Wanted<'_>, feed: &mut Feed<'_>) -> Result<NotFed, RunError> {
        // The same places and the same order whether they read common data or their own.
        let mut rng = Rng::of_part(self.seed, BLOCKS + wanted.block as u64);
        let reads = self.reads(&wanted, &mut rng)?;
        let pass: usize = reads.iter().map(Vec::len).sum();
        let burst = self.window.pace.burst_reads / u64::from(wanted.sampler.fold());
        let turn = if wanted.turns { burst.max(1) as usize } else { 1 };
        let mut next = vec![0; reads.len()];
        let mut chunk = Vec::with_capacity(CHUNK + turn);
        let (mut order, mut at): (Vec<usize>, usize) = ((0..reads.len()).collect(), 0);
        for (phase, passes) in PASSES {
            let mut left = passes as usize * pass;
            while left > 0 {
                self.window.interrupt.check()?;
                while chunk.len() < CHUNK.min(left) {
                    // Every vCPU has its turn, in another order each time.
                    if at == 0 {
                        rng.shuffle(&mut order);
                    }
                    let vcpu = order[at];
                    at = (at + 1) % order.len();
                    let (ring, next) = (&reads[vcpu], &mut next[vcpu]);
                    for _ in 0..turn.min(left) {
                        if self.order == ReadOrder::Random && !ring.is_empty() {
                            *next = rng.below(ring.len());
                        }
                        if let Some(access) = ring.get(*next) {
                            chunk.push(*access);
                            *next = (*next + 1) % ring.len();
                        }
                    }
                }
                feed(phase, &chunk)?;
                left = left.saturating_sub(chunk.len());
                chunk.clear();
            }
        }
        Ok(NotFed::default())
    }
}

/// Offsets of the nodes within the data, in the order in which the ring visits them.
fn ring(data: &GuestData) -> Vec<u32> {
    let mut words = vec![0; data.kib as usize * 1024 / size_of::<u64>()];
    chase::fill(&mut words, data.seed);
    let nodes = words.len() / NODE_WORDS;
    let mut position = 0;
    let mut visit = || {
        let offset = position * size_of::<u64>();
        position = chase::walk(&words, position, 1);
        offset as u32
    };
    (0..nodes).map(|_| visit()).collect()
}

/// The accesses of one pass that are kept. `frames`: of each page of the data.
fn kept<'r>(
    ring: impl Iterator<Item = &'r u32>,
    frames: &[u64],
    vcpu: u16,
    sampler: &Sampler,
) -> Result<Vec<Access>, RunError> {
    let mut found = Vec::new();
    for offset in ring {
        let (page, within) = (*offset as usize / PAGE_BYTES, *offset as usize % PAGE_BYTES);
        let address = frames.get(page).map(|frame| frame * PAGE_BYTES as u64 + within as u64);
        let access = address.and_then(|address| Access::new(vcpu, address, AccessKind::Read));
        let access = access.ok_or_else(|| {
            HostFailure::Failed(format!(
                "page {page} of the data of vCPU {vcpu} has no address that can be simulated"
            ))
        })?;
        if sampler.is_kept(access.address()) {
            found.push(access);
        }
    }
    Ok(found)
}
