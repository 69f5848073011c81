//! Misses of an experiment side by side: what an estimate predicts, what simulated caches have, and what was measured.
//!
//! Figures of arms are reads that miss, of a thousand, and the time of a read; the effect of placement is the ratio of
//! the opposed placement over the recommended one. An estimate has no interval: it follows from sizes. A simulated figure
//! is never a count of a processor, and is called simulated wherever it is shown.
//!
//! A scan ([`ScanSummary`](huddle_model::summary::ScanSummary)) has its effects in its own result, and the figures of arms
//! in the result of each size.

mod compared;
mod effect;
mod gaps;
mod rows;
mod show;

use std::path::PathBuf;

use huddle_model::availability::Availability;
use huddle_model::cache::CacheModel;
use huddle_model::summary::{
    AccessOrigin, ArmFigure, PredictedCaches, PredictedReads, SimulatedMisses, Size, Summary,
};
use serde::Serialize;

use crate::AnalysisError;
use crate::experiment::ExperimentDir;

pub use compared::{Greatest, RankCorrelations};
pub use effect::Effect;
pub use rows::write_csv;
pub(crate) use show::{Columns, about};

/// An experiment's misses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Misses {
    /// Its directory.
    pub of: PathBuf,
    /// Its name.
    pub experiment: String,
    /// What was simulated, or why nothing was. Of a scan the caches and the origin are those of the first size with a
    /// simulation, and what is counted is of all sizes together.
    pub simulation: Availability<Simulation>,
    /// What the estimate is for, or why there is none; of a scan, in the first size with an estimate.
    pub prediction: Availability<Prediction>,
    /// Each size of data: of a scan in its order, otherwise one.
    pub sizes: Vec<SizeMisses>,
    /// The size with the greatest effect; `None` for an experiment of one size.
    pub greatest: Option<Greatest>,
    /// How well the effects of the sizes are in the same order; `None` for an experiment of one size.
    pub rank_correlations: Option<RankCorrelations>,
}

/// What was simulated.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Simulation {
    /// The caches.
    pub model: CacheModel,
    /// One of how many sets was simulated.
    pub fold: u32,
    /// Where the accesses come from.
    pub origin: AccessOrigin,
    /// Number of blocks, of a scan in all sizes.
    pub blocks: usize,
    /// Accesses that were lost on their way, of a scan in all sizes.
    pub lost: u64,
    /// Accesses to pages whose frame was not known, of a scan in all sizes.
    pub without_frame: u64,
    /// How many hits a miss takes where misses are told as time.
    pub miss_over_hit: f64,
}

/// What the estimate is for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The caches.
    pub caches: PredictedCaches,
    /// The order of reads.
    pub reads: PredictedReads,
    /// How many hits a miss takes where misses are told as time.
    pub miss_over_hit: f64,
}

/// One size of data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SizeMisses {
    /// KiB of a data set; `None` where the experiment does not say.
    pub data_kib: Option<u64>,
    /// Whether every block is valid.
    pub valid: bool,
    /// The arms, in the order of [`by_order_of_arms`](huddle_model::summary::by_order_of_arms), or why the result of the
    /// size cannot be read.
    pub arms: Availability<Vec<ArmMisses>>,
    /// Opposed over recommended.
    pub effect: Effect,
}

/// One arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmMisses {
    /// Its name.
    pub arm: String,
    /// Reads that an estimate expects to miss, of a thousand.
    pub predicted_misses: Availability<f64>,
    /// Simulated misses, in the unit that it names.
    pub simulated_misses: Availability<ArmFigure>,
    /// Counted misses of the last-level cache, in the unit that it names.
    pub counted_misses: Availability<ArmFigure>,
    /// Measured time of an operation, in the unit that it names.
    pub time: Availability<ArmFigure>,
}

impl Misses {
    /// The misses of an experiment.
    ///
    /// # Errors
    /// When its result cannot be read. Of a scan the results of sizes may be missing: their figures are unavailable then.
    pub fn of(dir: &ExperimentDir) -> Result<Self, AnalysisError> {
        Self::of_summary(dir, &dir.summary()?)
    }

    /// The same of a result that was read.
    ///
    /// # Errors
    /// When it is a scan whose sizes cannot be used.
    pub(crate) fn of_summary(dir: &ExperimentDir, summary: &Summary) -> Result<Self, AnalysisError> {
        let Some(sizes) = dir.sizes(summary)? else {
            return Ok(Self {
                of: dir.path().to_owned(),
                experiment: summary.experiment.clone(),
                simulation: simulation(summary),
                prediction: prediction(summary),
                sizes: vec![SizeMisses {
                    data_kib: data_kib(summary),
                    valid: summary.valid,
                    arms: Availability::Available(compared::arms(summary)),
                    effect: Effect::of(summary),
                }],
                greatest: None,
                rank_correlations: None,
            });
        };
        Ok(Self::of_scan(dir, summary, &sizes))
    }

    fn of_scan(dir: &ExperimentDir, scan: &Summary, of: &[Size]) -> Self {
        let none = || "the scan has no size".to_owned();
        let mut simulation: Availability<Simulation> = Availability::Unavailable(none());
        let mut prediction: Availability<Prediction> = Availability::Unavailable(none());
        let mut as_timed = true;
        let mut sizes = Vec::new();
        for size in of {
            // One result at a time: each may be as large as a result can be.
            let result: Availability<Summary> = dir.summary_below(&size.directory).into();
            let simulated = told(&result, self::simulation);
            let random = |simulation: &Simulation| simulation.origin == AccessOrigin::RandomReads;
            as_timed &= !simulated.value().is_some_and(random);
            simulation = match (simulation, simulated) {
                (Availability::Available(all), Availability::Available(one)) => {
                    Availability::Available(all.with_blocks_of(&one))
                }
                (all, one) => first(all, one, sizes.is_empty()),
            };
            prediction = first(prediction, told(&result, self::prediction), sizes.is_empty());
            sizes.push(SizeMisses {
                data_kib: Some(size.data_kib),
                valid: size.valid,
                arms: result.as_ref().map(compared::arms),
                effect: Effect::of_size(scan, size, result.value()),
            });
        }
        Self {
            of: dir.path().to_owned(),
            experiment: scan.experiment.clone(),
            simulation,
            prediction,
            greatest: Some(Greatest::of(&sizes)),
            rank_correlations: Some(RankCorrelations::of(&sizes, as_timed)),
            sizes,
        }
    }

    /// Whether anything was simulated or predicted.
    pub(crate) fn has_model(&self) -> bool {
        let of_sizes = self.sizes.iter().any(|size| size.effect.has_model());
        self.simulation.value().is_some() || self.prediction.value().is_some() || of_sizes
    }
}

impl Simulation {
    /// With the blocks of another size, and the accesses that these lack.
    fn with_blocks_of(self, other: &Self) -> Self {
        Self {
            blocks: self.blocks.saturating_add(other.blocks),
            lost: self.lost.saturating_add(other.lost),
            without_frame: self.without_frame.saturating_add(other.without_frame),
            ..self
        }
    }
}

/// What a result tells, or why it cannot be read.
fn told<T>(result: &Availability<Summary>, of: fn(&Summary) -> Availability<T>) -> Availability<T> {
    match result {
        Availability::Available(summary) => of(summary),
        Availability::Unavailable(why) => Availability::Unavailable(why.clone()),
    }
}

/// What is known first; where nothing is, the reason of the first size.
fn first<T>(known: Availability<T>, next: Availability<T>, is_first: bool) -> Availability<T> {
    match (known, next) {
        (Availability::Available(known), _) => Availability::Available(known),
        (Availability::Unavailable(why), Availability::Unavailable(_)) if !is_first => {
            Availability::Unavailable(why)
        }
        (_, next) => next,
    }
}

/// The size that the microbenchmark had, from its settings.
fn data_kib(summary: &Summary) -> Option<u64> {
    summary.own.get("config")?.get("data_kib")?.as_u64()
}

fn simulation(summary: &Summary) -> Availability<Simulation> {
    let Some(SimulatedMisses { model, fold, origin, blocks, miss_over_hit, .. }) = &summary.simulated else {
        return Availability::Unavailable(effect::NOT_SIMULATED.to_owned());
    };
    let (lost, without_frame) = summary.simulated.as_ref().map_or((0, 0), SimulatedMisses::not_counted);
    Availability::Available(Simulation {
        model: model.clone(),
        fold: *fold,
        origin: *origin,
        blocks: blocks.len(),
        lost,
        without_frame,
        miss_over_hit: *miss_over_hit,
    })
}

fn prediction(summary: &Summary) -> Availability<Prediction> {
    effect::predicted(summary).map(|found| Prediction {
        caches: found.caches.clone(),
        reads: found.reads,
        miss_over_hit: found.miss_over_hit,
    })
}
