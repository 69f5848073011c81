//! Expected misses of readers that share a cache, without a stream of accesses.
//!
//! Where neither counters nor a stream of accesses are to be had, a cache can still be reckoned with: from how much data
//! each VM uses, how often it reads, and which of it others read too.
//!
//! # The estimate
//! A line is found again if fewer lines than the set has ways came into its set since it was read last, under LRU
//! (Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 9(2), 1970). How many lines are
//! read within a time `t` is known without order: of `n` lines that are each read at the rate `r`, `n (1 - exp(-r t))`
//! (Fagin, "Asymptotic miss ratios over independent references", Journal of Computer and System Sciences 14(2), 1977;
//! Che, Tung and Wang, "Hierarchical Web caching systems: modeling, design and experimental results", IEEE JSAC 20(7),
//! 2002, for which the time in which that fills the cache is its characteristic time). All lines of a domain together are
//! `D(t)`. They fall into `s` sets at random, as frames are handed out, so the number in one set is that of a Poisson
//! distribution of mean `D(t) / s` (Smith, "A comparative study of set associative memory mapping algorithms and their use
//! for cache and main memory", IEEE Transactions on Software Engineering SE-4(2), 1978, with a binomial one). So a read
//! that comes the time `t` after the one before it hits with the probability that at most `ways - 1` lines came between,
//! and the ratio of hits is its mean over these times. With one set of all lines that is the approximation of Che; with
//! usual sets it has no step where the data is as large as the cache, as caches have none.
//!
//! A line that several VMs of a domain read has the sum of their rates and one place. This is what placing by sharing
//! gains.
//!
//! # Patterns
//! Times between two reads of a line are exponential where a reader chooses lines independently
//! ([`ReadPattern::Independent`]), and all equal where it goes round and round ([`ReadPattern::Cyclic`]): under LRU a ring
//! that does not fit into a set misses there always. Readers in rings are at independent places of them.
//!
//! # What is not in it
//! Other policies than LRU, private levels (all reads reach this cache), prefetchers, writes, frames that follow each
//! other in memory (huge pages spread over the sets evenly, and fit better than frames at random).

mod data;
mod reuse;
mod shape;
#[cfg(test)]
mod tests;

pub use data::{Data, ReadPattern, Reader, Use};
pub use shape::{CacheShape, MISS_OVER_HIT, ReadCost};

use reuse::Reuse;

/// Input that has no estimate.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EstimateError {
    /// No size of a cache.
    #[error("a cache of {0} bytes, expected 1 to {most}", most = shape::MAX_SIZE_BYTES)]
    Size(u64),
    /// No number of ways.
    #[error("a cache of {0} ways, expected 1 to {most}", most = shape::MAX_WAYS)]
    Ways(u32),
    /// No length of a line.
    #[error("lines of {0} bytes, expected a power of two from 16 to 1024")]
    Line(u32),
    /// Less than one set.
    #[error("a cache of {size_bytes} bytes has no room for a set of {ways} lines of {line_bytes} bytes")]
    NoSet {
        /// Size of the cache.
        size_bytes: u64,
        /// Lines in a set.
        ways: u32,
        /// Bytes of a line.
        line_bytes: u32,
    },
    /// No rate.
    #[error("reader {reader} reads at the rate {rate}, expected a finite number above 0")]
    Rate {
        /// Its position.
        reader: usize,
        /// Its rate.
        rate: f64,
    },
    /// No amount of data.
    #[error("data of {0} bytes, expected a finite number of 0 or more")]
    Bytes(f64),
    /// No share of reads.
    #[error("reader {reader} has {share} of its reads in one part of the data, expected 0 to 1")]
    Share {
        /// Its position.
        reader: usize,
        /// The share.
        share: f64,
    },
    /// Data of a reader that there is not.
    #[error("data of reader {found}, there are {readers} (from 0)")]
    Reader {
        /// The position.
        found: usize,
        /// Number of readers.
        readers: usize,
    },
    /// It would take too long.
    #[error("{parts} parts of data with {uses} readers in all are too many for an estimate")]
    TooMuch {
        /// Number of parts.
        parts: usize,
        /// Readers of all of them.
        uses: usize,
    },
}

/// Expected misses for a thousand reads of each reader of one cache; `None` for one that reads none of the data.
///
/// # Errors
/// A rate, an amount or a share that cannot be; more parts of data than are reckoned with in reasonable time.
pub fn misses_per_thousand_reads(
    shape: CacheShape,
    readers: &[Reader],
    data: &[Data],
) -> Result<Vec<Option<f64>>, EstimateError> {
    data::check(readers, data)?;
    let reuse = Reuse::new(shape, readers, data)?;
    let mut hits = vec![0.0; readers.len()];
    let mut reads = vec![0.0; readers.len()];
    for (at, part) in data.iter().enumerate() {
        let mut independent = None;
        for of in part.uses.iter().filter(|of| of.share > 0.0 && part.bytes > 0.0) {
            let found = match readers[of.reader].pattern {
                ReadPattern::Independent => *independent.get_or_insert_with(|| reuse.independent_hits(at)),
                ReadPattern::Cyclic => reuse.cyclic_hits(at, of.reader),
            };
            hits[of.reader] += of.share * found;
            reads[of.reader] += of.share;
        }
    }
    let of = |(hits, reads): (&f64, &f64)| {
        (*reads > 0.0).then(|| (1000.0 * (1.0 - hits / reads)).clamp(0.0, 1000.0))
    };
    Ok(hits.iter().zip(&reads).map(of).collect())
}
