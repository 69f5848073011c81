//! The effect of placement: the opposed placement over the recommended one.

use huddle_model::availability::Availability;
use huddle_model::summary::{OPPOSED_OVER_RECOMMENDED as RATIO, PredictedMisses, Ratio, Size, Summary};
use serde::Serialize;

/// Why there is nothing simulated.
pub(super) const NOT_SIMULATED: &str = "no cache was simulated (`--simulate`)";

/// Why there is nothing predicted.
const NOT_PREDICTED: &str = "the result has no estimate of misses";

const NO_MISSES: &str = "one of the arms has no misses, and there is no ratio to nothing";

/// Ratios, opposed over recommended: above 1 the recommended placement is better.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// Of the misses that an estimate expects.
    pub predicted_misses: Availability<f64>,
    /// Of simulated misses.
    pub simulated_misses: Availability<Ratio>,
    /// Of the times of a read that an estimate expects, if a miss costs as much as it says.
    pub predicted_time: Availability<f64>,
    /// Of the times of a read by simulated misses, if a miss costs as much as the simulation says.
    pub simulated_time: Availability<Ratio>,
    /// Of the measured times.
    pub measured_time: Availability<Ratio>,
}

/// The ratios of a result; of simulated and predicted ones outside whether there is a simulation or an estimate.
struct Found {
    measured_time: Option<Ratio>,
    simulated_misses: Option<Option<Ratio>>,
    simulated_time: Option<Option<Ratio>>,
    predicted_misses: Availability<Option<f64>>,
    predicted_time: Availability<Option<f64>>,
}

impl Effect {
    /// That of an experiment of one size.
    pub(super) fn of(summary: &Summary) -> Self {
        let simulated = summary.simulated.as_ref();
        let predicted = predicted(summary);
        let found = Found {
            measured_time: summary.ratio(RATIO),
            simulated_misses: simulated.map(|simulated| simulated.ratio(RATIO)),
            simulated_time: simulated.map(|simulated| simulated.time_ratio(RATIO)),
            predicted_misses: predicted.as_ref().map(|predicted| predicted.ratio(RATIO)),
            predicted_time: predicted.map(|predicted| predicted.time_ratio(RATIO)),
        };
        Self::of_found(found, untimed(summary))
    }

    /// That of a size of a scan, with its own result, if that can be read.
    pub(super) fn of_size(scan: &Summary, size: &Size, result: Option<&Summary>) -> Self {
        let why = result.and_then(|result| predicted(result).reason().map(str::to_owned));
        let of_estimate = |found: Option<Option<f64>>| {
            let why = || why.clone().unwrap_or_else(|| NOT_PREDICTED.to_owned());
            found.map_or_else(|| Availability::Unavailable(why()), Availability::Available)
        };
        let found = Found {
            measured_time: scan.ratio(&format!("{RATIO}_{}_kib", size.data_kib)),
            simulated_misses: size.simulated_misses,
            simulated_time: size.simulated_time,
            predicted_misses: of_estimate(size.predicted_misses),
            predicted_time: of_estimate(size.predicted_time),
        };
        Self::of_found(found, result.and_then(untimed))
    }

    fn of_found(found: Found, untimed: Option<String>) -> Self {
        let simulated = |ratio: Option<Option<Ratio>>, none: &str| match ratio {
            None => Availability::Unavailable(NOT_SIMULATED.to_owned()),
            Some(None) => Availability::Unavailable(none.to_owned()),
            Some(Some(ratio)) => finite(ratio),
        };
        let predicted = |ratio: Availability<Option<f64>>, none: &str| match ratio {
            Availability::Available(Some(value)) if value.is_finite() => Availability::Available(value),
            Availability::Available(_) => Availability::Unavailable(none.to_owned()),
            Availability::Unavailable(why) => Availability::Unavailable(why),
        };
        let both = "opposed and recommended are not both";
        let untimed = untimed.unwrap_or_else(|| format!("{both} measured in a valid block"));
        Self {
            measured_time: found.measured_time.map_or(Availability::Unavailable(untimed), finite),
            simulated_misses: simulated(found.simulated_misses, NO_MISSES),
            simulated_time: simulated(found.simulated_time, &format!("{both} simulated in each block")),
            predicted_misses: predicted(found.predicted_misses, NO_MISSES),
            predicted_time: predicted(found.predicted_time, &format!("{both} in the estimate")),
        }
    }

    /// Whether there is a simulated or a predicted ratio.
    pub(super) fn has_model(&self) -> bool {
        let simulated = [&self.simulated_misses, &self.simulated_time];
        let predicted = [&self.predicted_misses, &self.predicted_time];
        simulated.iter().any(|ratio| ratio.value().is_some())
            || predicted.iter().any(|ratio| ratio.value().is_some())
    }
}

fn finite(ratio: Ratio) -> Availability<Ratio> {
    match ratio.value.is_finite() {
        true => Availability::Available(ratio),
        false => Availability::Unavailable("the ratio is not finite".to_owned()),
    }
}

/// The estimate of a result, or why it has none.
pub(super) fn predicted(summary: &Summary) -> Availability<&PredictedMisses> {
    match &summary.predicted {
        Some(found) => found.as_ref(),
        None => Availability::Unavailable(NOT_PREDICTED.to_owned()),
    }
}

/// Why nothing was timed, if that is so.
pub(super) fn untimed(summary: &Summary) -> Option<String> {
    summary.untimed.as_ref().map(|why| format!("nothing was timed: {why}"))
}
