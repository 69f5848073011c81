//! Counters summed by Polars in the same way as the loop does for its windows
//! ([`huddle_model::stats::BlockSums`]), so that both have the same rates.

use huddle_model::stats::{BlockSums, Part, SampleFlags};
use polars::prelude::*;

use crate::frame::{Answer, count_where, sum_with};

/// Numerators and denominators, in the order of [`BlockSums`].
const PARTS: [(&str, &str, &str); 3] = [
    ("mpki", "llc_misses", "instructions"),
    ("miss_ratio", "llc_misses", "llc_references"),
    ("ipc", "instructions", "cycles"),
];

/// What to aggregate over the rows of the table `counters`.
pub(crate) fn counter_sums() -> Vec<Expr> {
    let mut asked = Vec::new();
    for (name, above, below) in PARTS {
        asked.push(sum_with(above, below).alias(format!("{name}_above")));
        asked.push(sum_with(below, above).alias(format!("{name}_below")));
    }
    // Moves within a domain keep the cache; if domains are unknown any move counts.
    let moves = || col("domain_migrations").fill_null(col("migrations"));
    asked.extend([
        len().cast(DataType::UInt64).alias("samples"),
        count_where(col("llc_misses").is_null()).alias("without_misses"),
        count_where(col("time_running_ns").lt(col("time_enabled_ns"))).alias("multiplexed"),
        count_where(moves().gt(lit(0))).alias("migrated"),
        count_where(moves().is_null()).alias("without_moves"),
        count_where(col("pages_broken").gt(lit(0))).alias("broken"),
        count_where(col("pages_broken").is_null()).alias("without_breaks"),
    ]);
    asked
}

/// The sums of each row of a result of [`counter_sums`].
pub(crate) fn sums_of(answer: &Answer) -> PolarsResult<Vec<BlockSums>> {
    let part = |name: &str| -> PolarsResult<Vec<Part>> {
        let (above, below) = (answer.f64s(&format!("{name}_above"))?, answer.f64s(&format!("{name}_below"))?);
        let parts = above.into_iter().zip(below);
        Ok(parts
            .map(|(above, below)| Part { above: above.unwrap_or_default(), below: below.unwrap_or_default() })
            .collect())
    };
    let [mpki, miss_ratio, ipc] = [part("mpki")?, part("miss_ratio")?, part("ipc")?];
    let flag = |name: &str| -> PolarsResult<Vec<u64>> {
        Ok(answer.u64s(name)?.into_iter().map(Option::unwrap_or_default).collect())
    };
    let (samples, without, multiplexed) = (flag("samples")?, flag("without_misses")?, flag("multiplexed")?);
    let (migrated, without_moves) = (flag("migrated")?, flag("without_moves")?);
    let (broken, without_breaks) = (flag("broken")?, flag("without_breaks")?);
    let row = |i: usize| BlockSums {
        mpki: mpki[i],
        miss_ratio: miss_ratio[i],
        ipc: ipc[i],
        reported: Part::default(),
        samples: SampleFlags {
            samples: samples[i],
            without_misses: without[i],
            multiplexed: multiplexed[i],
            migrated: migrated[i],
            without_moves: without_moves[i],
            broken: broken[i],
            without_breaks: without_breaks[i],
        },
    };
    Ok((0..answer.rows()).map(row).collect())
}
