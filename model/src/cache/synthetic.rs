//! Streams of accesses from a seed, for benchmarks, tests and comparisons with other simulators.

use super::{Access, AccessKind};
use crate::rng::Rng;

/// What the vCPUs of a synthetic stream do. Two neighbours, 0 and 1, 2 and 3, ..., share their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// The microbenchmark of Ito and Kono: each vCPU reads 15 MB at random, the same as its neighbour.
    Shared,
    /// Each reads 24 MiB from start to end, again and again, at a place of its own. More than an LRU cache of 20 MiB
    /// can use.
    Scan,
    /// Few lines are used often and many seldom (log-uniform), half of them common to neighbours; a quarter of the
    /// accesses to lines of its own are writes.
    Skewed,
    /// Bursts with strides of 64 bytes to 1 MiB, most of them powers of two, which put much into few sets.
    Strided,
    /// Six of ten fetch from code in loops, three read and one writes; most data is used again soon.
    Mixed,
}

impl Pattern {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Shared, Self::Scan, Self::Skewed, Self::Strided, Self::Mixed];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Scan => "scan",
            Self::Skewed => "skewed",
            Self::Strided => "strided",
            Self::Mixed => "mixed",
        }
    }
}

const LINE: u64 = 64;
const FRAME: u64 = 4096;

/// Frames of the host, a power of two: 64 GiB.
const FRAMES: u64 = 1 << 24;

/// Pages of a region; regions of vCPUs and pairs follow each other.
const REGION_PAGES: u64 = 1 << 14;

/// An endless stream of accesses; equal seeds give equal streams.
#[derive(Clone, Debug)]
pub struct Synthetic {
    pattern: Pattern,
    rng: Rng,
    vcpus: Vec<Vcpu>,
}

#[derive(Clone, Debug, Default)]
struct Vcpu {
    /// Where it is in a scan, a burst or code, in bytes of its region.
    at: u64,
    /// Bytes from one access of a burst to the next.
    stride: u64,
    /// Accesses left of a burst or a loop.
    left: u64,
    /// Data it used last.
    recent: [u64; 16],
}

impl Synthetic {
    /// A stream of `vcpus` vCPUs, which take turns at random.
    pub fn new(pattern: Pattern, vcpus: u16, seed: u64) -> Self {
        let scan = |vcpu: u16| u64::from(vcpu) * (5 << 20) % SCAN_BYTES;
        let vcpus = (0..vcpus).map(|vcpu| Vcpu { at: scan(vcpu), ..Vcpu::default() }).collect();
        Self { pattern, rng: Rng::of_part(seed, pattern as u64), vcpus }
    }

    /// The access of a vCPU: number, kind, whether to data of the pair, and the byte in that region.
    fn access(&mut self) -> (u16, AccessKind, bool, u64) {
        let number = self.rng.below(self.vcpus.len()) as u16;
        let Self { pattern, rng, vcpus } = self;
        let vcpu = &mut vcpus[usize::from(number)];
        match pattern {
            Pattern::Shared => (number, AccessKind::Read, true, rng.below(15_000_000) as u64),
            Pattern::Scan => {
                vcpu.at = (vcpu.at + LINE) % SCAN_BYTES;
                (number, AccessKind::Read, true, vcpu.at)
            }
            Pattern::Skewed => {
                let most = 1 << rng.below(20);
                let line = (rng.below(most) as u64).wrapping_mul(0x9E37_79B1) % (1 << 19);
                let is_common = rng.coin();
                let writes = !is_common && rng.below(4) == 0;
                let kind = if writes { AccessKind::Write } else { AccessKind::Read };
                (number, kind, is_common, line * LINE)
            }
            Pattern::Strided => {
                if vcpu.left == 0 {
                    vcpu.left = 1 + rng.below(200) as u64;
                    vcpu.at = (rng.below(1 << 8) as u64) << 16;
                    vcpu.stride = LINE << rng.below(15);
                    if rng.below(4) == 0 {
                        vcpu.stride += LINE;
                    }
                }
                vcpu.left -= 1;
                vcpu.at = (vcpu.at + vcpu.stride) % (REGION_PAGES * FRAME);
                (number, AccessKind::Read, rng.coin(), vcpu.at)
            }
            Pattern::Mixed => mixed(number, vcpu, rng),
        }
    }
}

const SCAN_BYTES: u64 = 24 << 20;

fn mixed(number: u16, vcpu: &mut Vcpu, rng: &mut Rng) -> (u16, AccessKind, bool, u64) {
    let kind = match rng.below(10) {
        0..6 => AccessKind::Fetch,
        6..9 => AccessKind::Read,
        _ => AccessKind::Write,
    };
    if kind == AccessKind::Fetch {
        if vcpu.left == 0 {
            // A loop of up to 8 KiB in 2 MiB of code.
            vcpu.left = 50 + rng.below(2000) as u64;
            vcpu.stride = (rng.below(1 << 15) as u64) * LINE;
        }
        vcpu.left -= 1;
        vcpu.at = (vcpu.at + 16) % (8 << 10);
        return (number, kind, true, vcpu.stride % (2 << 20) + vcpu.at);
    }
    let slot = rng.below(vcpu.recent.len());
    if rng.below(8) == 0 {
        vcpu.recent[slot] = (REGION_PAGES / 2 * FRAME) + rng.below(24 << 20) as u64;
    }
    (number, kind, kind == AccessKind::Read && slot < 8, vcpu.recent[slot])
}

impl Iterator for Synthetic {
    type Item = Access;

    fn next(&mut self) -> Option<Access> {
        let (vcpu, kind, is_common, byte) = self.access();
        let region = if is_common { u64::from(vcpu / 2) } else { self.vcpus.len() as u64 + u64::from(vcpu) };
        let page = region * REGION_PAGES + byte / FRAME;
        // An odd factor only changes the order of the frames, as a host hands them out.
        let frame = page.wrapping_mul(0x9E37_79B1) % FRAMES;
        Access::new(vcpu, frame * FRAME + byte % FRAME, kind)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Lines by the vCPUs that use them.
    fn users(pattern: Pattern) -> BTreeMap<u64, Vec<u16>> {
        let mut users: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
        for access in Synthetic::new(pattern, 4, 1).take(400_000) {
            let of = users.entry(access.address() / LINE).or_default();
            if !of.contains(&access.vcpu()) {
                of.push(access.vcpu());
            }
        }
        users
    }

    #[test]
    fn only_neighbours_share_lines() {
        for pattern in Pattern::ALL {
            let users = users(pattern);
            assert!(users.values().all(|of| of.iter().all(|vcpu| vcpu / 2 == of[0] / 2)), "{pattern:?}");
            assert!(users.values().any(|of| of.len() == 2), "{pattern:?}");
        }
    }

    #[test]
    fn equal_seeds_give_equal_streams() {
        for pattern in Pattern::ALL {
            let of = |seed| Synthetic::new(pattern, 4, seed).take(1000).collect::<Vec<_>>();
            assert_eq!(of(3), of(3));
            assert!(of(3) != of(4));
        }
    }
}
