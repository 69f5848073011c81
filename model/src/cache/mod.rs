//! A simulator of last-level caches: which accesses of VMs miss under each of several placements.
//!
//! It stands in for hardware counters where a host has none. A stream of accesses ([`Access`]: vCPU, host-physical
//! address, read, write or fetch) is given to a [`Simulator`] in chunks of any size. It has one cache for each domain,
//! built as a [`CacheModel`] says, and runs all placements over the stream at once. Lines are known by host-physical
//! address, so a frame that two VMs share is cached once where both are in one domain, and twice where not.
//!
//! # Sharing work between placements
//! A cache sees the accesses of its vCPUs and nothing else. So what it holds depends on the set of these vCPUs only, not
//! on the placement or on its number. Such a set is a [group](groups): equal ones are simulated once, mirror images of a
//! placement are free. For four VMs on two sockets there are three even placements, and six groups instead of six
//! caches for each new placement.
//! An access concerns one group of each placement, those with its vCPU. It is decoded, hashed and looked up once for
//! all of them: a line has one entry with a bit for each group that holds it ([`directory`]). What is left for each group
//! are a few bits of its policy ([`policy`]), and on a miss the line that leaves.
//!
//! # Private levels
//! At most one private level is modelled, that above the shared cache, one cache for each vCPU ([`private`]). Its
//! contents do not depend on the placement, but for copies that an inclusive cache takes back. Such a copy is marked,
//! group by group, and keeps its place until it is replaced; real caches fill that place first.
//!
//! # Set sampling
//! [`Sampling`] keeps one of 2, 4, 8, ... sets and all lines that can be in them, in the private level as in the shared
//! one. Misses of the kept sets are exact; those of the whole are estimated by the factor (Puzak, "Analysis of cache
//! replacement algorithms", 1985; Kessler, Hill and Wood, "A comparison of trace-sampling techniques for
//! multi-megabyte caches", IEEE Transactions on Computers 43(6), 1994).
//!
//! # What is not modelled
//! Time, prefetchers, translation (page walks and their caches), coherence (a write does not invalidate copies in other
//! caches: frames that VMs share are never written, so this concerns VMs with vCPUs in several domains), vCPUs that share
//! a core or move, the first-level caches, adaptive replacement (Ivy Bridge and later switch between two policies by
//! duelling sets), partitions of the cache (resctrl), accesses of the host and of devices.

mod access;
mod directory;
mod error;
pub mod estimate;
mod groups;
mod index;
mod model;
mod policy;
mod presets;
mod private;
mod replacement;
mod simulator;
mod synthetic;
#[cfg(test)]
mod tests;

pub use access::{Access, AccessKind, GRANULE_BYTES, MAX_ADDRESS, MAX_VCPU};
pub use error::{CacheError, StreamError};
pub use groups::{DomainPlacement, MAX_GROUPS};
pub use index::{KeptSets, Sampler, Sampling};
pub use model::{CacheDescription, CacheModel, Inclusion, PrivateLevel};
pub use presets::{HostCache, PRESETS};
pub use replacement::{Qlru, Replacement};
pub use simulator::{ByKind, Counts, Simulator};
pub use synthetic::{Pattern, Synthetic};

/// The caches of a set of groups, at one place in each: what policies differ in.
trait SharedSets {
    /// An access to `line` in the caches of the groups `wanted`. A cache that lacks it takes it, and calls `evicted` with
    /// its group and the line that leaves. Returns the groups that lacked it.
    fn access(&mut self, set: usize, line: u64, wanted: u64, evicted: impl FnMut(usize, u64)) -> u64;

    /// Takes `line` out of the caches of the groups `wanted`. Returns those that had it.
    fn take(&mut self, set: usize, line: u64, wanted: u64) -> u64;

    /// Memory in use, in bytes.
    fn bytes(&self) -> usize;
}

/// The numbers of the bits that are set, in ascending order.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let bit = mask.trailing_zeros();
        (mask != 0).then(|| {
            mask &= mask - 1;
            bit as usize
        })
    })
}
