//! Misses that an estimate expects, under every placement of an experiment.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::simulated::{SIMULATED_RATIOS, time};
use crate::cache::estimate::MISS_OVER_HIT;

/// In which order an estimate takes guests to read the lines of their data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PredictedReads {
    /// Each read is of any line, whatever was read before.
    Independent,
    /// Every line once in each round, in the same order.
    Cyclic,
}

/// The caches that an estimate is for, all alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PredictedCaches {
    /// How they are called.
    pub name: String,
    /// Size of each in bytes.
    pub size_bytes: u64,
    /// Lines in a set.
    pub ways: u32,
    /// Bytes of a line.
    pub line_bytes: u32,
}

/// Expected misses. They follow from the sizes of caches and data: nothing was run, and there is no interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictedMisses {
    /// The caches.
    pub caches: PredictedCaches,
    /// The order of reads.
    pub reads: PredictedReads,
    /// Reads that miss, of a thousand, by arm; over all vCPUs.
    pub arms: BTreeMap<String, f64>,
    /// The same of each VM, in the order of the matrix.
    pub vms: Vec<PredictedVm>,
    /// Ratios of misses; null where an arm is expected to have none.
    pub ratios: BTreeMap<String, Option<f64>>,
    /// The same as ratios of time, if a miss takes [`Self::miss_over_hit`] times a hit and nothing else takes time.
    pub time_ratios: BTreeMap<String, Option<f64>>,
    /// How many hits a miss takes in `time_ratios`.
    pub miss_over_hit: f64,
}

/// One VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PredictedVm {
    /// Its name.
    pub vm: String,
    /// Reads that miss, of a thousand, by arm.
    pub arms: BTreeMap<String, f64>,
}

impl PredictedMisses {
    /// The figures of arms and VMs, in reads that miss of a thousand, with the ratios that a simulation has.
    pub fn of(
        caches: PredictedCaches,
        reads: PredictedReads,
        arms: BTreeMap<String, f64>,
        vms: Vec<PredictedVm>,
    ) -> Self {
        let ratios = |of: &dyn Fn(f64) -> f64| {
            let both = SIMULATED_RATIOS.iter().filter_map(|(name, over, under)| {
                let [over, under] = [over, under].map(|arm| arms.get(arm.name()).copied().map(of));
                Some(((*name).to_owned(), quotient(over?, under?)))
            });
            both.collect::<BTreeMap<_, _>>()
        };
        let (ratios, time_ratios) = (ratios(&|misses| misses), ratios(&time));
        Self { caches, reads, arms, vms, ratios, time_ratios, miss_over_hit: MISS_OVER_HIT }
    }

    /// A ratio of misses, if available.
    pub fn ratio(&self, name: &str) -> Option<f64> {
        self.ratios.get(name).copied().flatten()
    }

    /// A ratio of times, if available.
    pub fn time_ratio(&self, name: &str) -> Option<f64> {
        self.time_ratios.get(name).copied().flatten()
    }
}

/// `None` where one of both is none: as in a simulation, there is no ratio to nothing.
fn quotient(over: f64, under: f64) -> Option<f64> {
    (over > 0.0 && under > 0.0).then(|| over / under)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(arms: &[(&str, f64)]) -> PredictedMisses {
        let caches =
            PredictedCaches { name: "two caches".into(), size_bytes: 20 << 20, ways: 20, line_bytes: 64 };
        let arms = arms.iter().map(|(arm, misses)| ((*arm).to_owned(), *misses));
        PredictedMisses::of(caches, PredictedReads::Cyclic, arms.collect(), Vec::new())
    }

    #[test]
    fn ratios_are_those_of_a_simulation_without_intervals() {
        let found = of(&[("recommended", 100.0), ("opposed", 200.0), ("random", 0.0)]);
        assert_eq!(found.ratio("opposed_over_recommended"), Some(2.0));
        // 1 + 5 times 0.2 over 1 + 5 times 0.1.
        assert!((found.time_ratio("opposed_over_recommended").unwrap() - 2.0 / 1.5).abs() < 1e-12);
        assert_eq!(found.ratio("random_over_recommended"), None, "none misses nothing");
        assert!(found.ratios.contains_key("random_over_recommended"), "null, as it was estimated");
        assert!(found.time_ratio("random_over_recommended").unwrap() < 1.0);
        assert!(!found.ratios.contains_key("not_merged_over_opposed"), "it was not estimated");
    }

    #[test]
    fn what_is_written_is_read() {
        let found = of(&[("recommended", 100.0), ("opposed", 0.0)]);
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<PredictedMisses>(&text).unwrap(), found);
        assert!(text.contains("\"reads\":\"cyclic\"") && text.contains("\"opposed_over_recommended\":null"));
    }
}
