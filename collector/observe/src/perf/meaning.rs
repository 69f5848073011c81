//! What an event of the last-level cache counts, in words: without them a rate of one processor is compared with that
//! of another which counts something else.

use std::fmt;

/// What an event counts, by the document that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventMeaning {
    /// The cache whose look-ups are counted.
    pub cache: CountedCache,
    /// Which look-ups.
    pub requests: Requests,
    /// Where it is documented.
    pub source: &'static str,
}

/// The cache whose look-ups an event counts. All are counted for one core or thread, never for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CountedCache {
    /// The cache that is the last one on the die, whichever that is.
    Last,
    /// The L3, all of its slices.
    L3,
    /// The L3 where the core has one, else the L2.
    L3OrL2,
    /// The L2, which is the last cache of these cores.
    L2AsLast,
    /// The L2 of the core, beyond which there may be an L3.
    L2,
    /// The first-level data cache.
    L1Data,
    /// The L3 of the core's complex of cores (CCX).
    L3OfComplex,
    /// Likewise, where a fill from another complex on the same die counts as one from within.
    L3OfComplexOrDie,
    /// The L3 of the core's cluster.
    L3OfCluster,
    /// ARM's last-level cache: the system-level cache if the firmware set CPUECTLR.EXTLLC, else the last one of the
    /// cluster.
    SystemOrCluster,
    /// Whatever ARM's implementer calls the last-level cache.
    LastOfArm,
}

/// The look-ups that an event counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// Those of the core, with the prefetches of its first-level cache; perhaps without those of others.
    CoreWithL1Prefetches,
    /// Demand reads of data and code, reads for ownership, and prefetches of the first-level cache.
    DemandWithL1Prefetches,
    /// Reads of data and code and reads for ownership, with prefetches of L1 and L2.
    WithL1AndL2Prefetches,
    /// Demand fills of the data cache: loads and stores.
    DemandDataFills,
    /// Read transactions that leave the core or its cluster.
    Reads,
    /// Reads, and writes of lines that leave the core.
    ReadsAndWrites,
}

impl CountedCache {
    fn words(self) -> &'static str {
        match self {
            Self::Last => "the last cache on the die",
            Self::L3 => "the L3",
            Self::L3OrL2 => "the L3, or the L2 where these cores have no L3",
            Self::L2AsLast => "the L2, the last cache of these cores",
            Self::L2 => "the L2 of the core, not the last-level cache",
            Self::L1Data => "the first-level data cache, not the last-level cache",
            Self::L3OfComplex => "the L3 of the core complex",
            Self::L3OfComplexOrDie => {
                "the L3 of the core complex; what another complex of the die gave counts as found there"
            }
            Self::L3OfCluster => "the L3 of the cluster of cores",
            Self::SystemOrCluster => {
                "the system-level cache if the firmware declared one (CPUECTLR.EXTLLC), else the last cache of the \
                 cluster"
            }
            Self::LastOfArm => "what the processor's maker calls the last-level cache",
        }
    }
}

impl Requests {
    fn words(self) -> &'static str {
        match self {
            Self::CoreWithL1Prefetches => {
                "requests of the core, speculation and prefetches of the L1 included, other prefetches perhaps not"
            }
            Self::DemandWithL1Prefetches => {
                "reads of data and code and reads for ownership, prefetches of the L1 included"
            }
            Self::WithL1AndL2Prefetches => {
                "reads of data and code and reads for ownership, prefetches of L1 and L2 included"
            }
            Self::DemandDataFills => {
                "demand fills of the data cache for loads and stores, without prefetches and instruction fetches"
            }
            Self::Reads => "reads only",
            Self::ReadsAndWrites => "reads, and writes of lines that left the core",
        }
    }
}

impl fmt::Display for EventMeaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.cache.words(), self.requests.words())
    }
}
