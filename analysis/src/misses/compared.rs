//! The figures of arms side by side, and how far the effects of sizes agree.

use std::collections::{BTreeMap, BTreeSet};

use huddle_model::availability::Availability;
use huddle_model::stats::{Estimate, rank_correlation};
use huddle_model::summary::{
    AccessOrigin, ArmFigure, MICROSECONDS, MISSES_PER_READ, MISSES_PER_THOUSAND_READS,
    MISSES_PER_THOUSAND_READS_OF_GUEST, Ratio, Summary, by_order_of_arms,
};
use serde::Serialize;

use super::effect::{NOT_SIMULATED, predicted, untimed};
use super::{ArmMisses, SizeMisses};
use crate::experiment::other_figures;

/// The arms of a result, in their order.
pub(super) fn arms(summary: &Summary) -> Vec<ArmMisses> {
    let prediction = predicted(summary);
    let times = times(summary);
    let no_counts = || Availability::Unavailable("the result has no counted misses".to_owned());
    let counted = summary.llc_misses.as_ref().map_or_else(no_counts, Availability::as_ref);
    let simulated = summary.simulated.as_ref().map(|simulated| &simulated.arms);
    let origin = summary.simulated.as_ref().map(|simulated| simulated.origin);
    let names = [simulated, counted.value().copied(), times.value()];
    let names = names.into_iter().flatten().flat_map(BTreeMap::keys);
    let names = names.chain(prediction.value().into_iter().flat_map(|found| found.arms.keys()));
    let mut names: Vec<&String> = names.collect::<BTreeSet<_>>().into_iter().collect();
    names.sort_by(|one, other| by_order_of_arms(one, other));
    let arm = |name: &String| ArmMisses {
        arm: name.clone(),
        predicted_misses: match &prediction {
            Availability::Available(found) => {
                known(found.arms.get(name).copied(), "the estimate does not have this arm")
            }
            Availability::Unavailable(why) => Availability::Unavailable(why.clone()),
        },
        simulated_misses: match simulated {
            Some(arms) => {
                known(arms.get(name).map(|figure| of_reads(figure, origin)), "this arm is not simulated")
            }
            None => Availability::Unavailable(NOT_SIMULATED.to_owned()),
        },
        counted_misses: of_arm(
            counted.clone().map(|arms| arms.get(name).map(|figure| per_thousand(figure, origin))),
            "counted",
        ),
        time: of_arm(times.as_ref().map(|arms| arms.get(name).map(ArmFigure::shown)), "timed"),
    };
    names.into_iter().map(arm).collect()
}

/// The times of an operation by arm.
fn times(summary: &Summary) -> Availability<BTreeMap<String, ArmFigure>> {
    let of_reads = other_figures(summary).remove("arms_time");
    let of_requests = || {
        let is_time = summary.arms.values().any(|figure| figure.unit == MICROSECONDS);
        is_time.then(|| summary.arms.clone())
    };
    let found = of_reads.or_else(of_requests).filter(|arms| !arms.is_empty());
    let why = || untimed(summary).unwrap_or_else(|| "no valid block has a time".to_owned());
    found.map_or_else(|| Availability::Unavailable(why()), Availability::Available)
}

fn known<T>(value: Option<T>, why: &str) -> Availability<T> {
    value.map_or_else(|| Availability::Unavailable(why.to_owned()), Availability::Available)
}

fn of_arm(figure: Availability<Option<ArmFigure>>, done: &str) -> Availability<ArmFigure> {
    match figure {
        Availability::Available(figure) => known(figure, &format!("this arm was not {done}")),
        Availability::Unavailable(why) => Availability::Unavailable(why),
    }
}

/// Simulated misses, with the reads that they are of named: the emulator records those of the whole guest.
fn of_reads(figure: &ArmFigure, origin: Option<AccessOrigin>) -> ArmFigure {
    match (origin, figure.unit == MISSES_PER_THOUSAND_READS) {
        (Some(AccessOrigin::Emulator), true) => {
            ArmFigure { unit: MISSES_PER_THOUSAND_READS_OF_GUEST.to_owned(), ..figure.clone() }
        }
        _ => figure.clone(),
    }
}

/// Counted misses of a read of the guest's loop in the unit of simulated ones, where these are of the same reads. What is
/// counted for a request, or beside simulated reads of a whole guest, stays as it is.
fn per_thousand(figure: &ArmFigure, origin: Option<AccessOrigin>) -> ArmFigure {
    if figure.unit != MISSES_PER_READ || origin == Some(AccessOrigin::Emulator) {
        return figure.clone();
    }
    let Estimate { n, median, ci95 } = figure.estimate;
    let estimate = Estimate { n, median: median * 1e3, ci95: ci95.map(|ends| ends.map(|end| end * 1e3)) };
    ArmFigure { estimate, unit: MISSES_PER_THOUSAND_READS.to_owned() }
}

/// The size, in KiB of data, with the greatest ratio of times, opposed over recommended; the first of equal ones.
/// `None` where no size has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Greatest {
    /// By the estimate.
    pub predicted_kib: Option<u64>,
    /// By simulated misses.
    pub simulated_kib: Option<u64>,
    /// As measured.
    pub measured_kib: Option<u64>,
}

impl Greatest {
    pub(super) fn of(sizes: &[SizeMisses]) -> Self {
        let greatest = |of: &dyn Fn(&SizeMisses) -> Option<f64>| {
            let mut best: Option<(f64, u64)> = None;
            for size in sizes {
                let Some((value, kib)) = of(size).zip(size.data_kib) else { continue };
                if best.is_none_or(|(most, _)| value > most) {
                    best = Some((value, kib));
                }
            }
            best.map(|(_, kib)| kib)
        };
        Self {
            predicted_kib: greatest(&predicted_time),
            simulated_kib: greatest(&simulated_time),
            measured_kib: greatest(&measured_time),
        }
    }
}

/// Why simulated and measured times are not compared.
const NOT_AS_TIMED: &str = "reads at random were simulated, and what was timed read a ring";

/// Spearman's rank correlations of two of the ratios of times, opposed over recommended, over the sizes that have both
/// (-1 to 1), or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RankCorrelations {
    /// Of what an estimate expects and what was measured.
    pub predicted_and_measured: Availability<f64>,
    /// Of what was simulated and what was measured.
    pub simulated_and_measured: Availability<f64>,
    /// Of what an estimate expects and what was simulated.
    pub predicted_and_simulated: Availability<f64>,
}

impl RankCorrelations {
    /// `simulated_as_timed`: whether no size has simulated reads that nobody made.
    pub(super) fn of(sizes: &[SizeMisses], simulated_as_timed: bool) -> Self {
        let of = |one: &dyn Fn(&SizeMisses) -> Option<f64>, other: &dyn Fn(&SizeMisses) -> Option<f64>| {
            let pairs: Vec<(f64, f64)> = sizes.iter().filter_map(|size| one(size).zip(other(size))).collect();
            rank_correlation(&pairs).map_or_else(
                || {
                    Availability::Unavailable(match pairs.len() {
                        0..3 => {
                            format!("{} of {} sizes have both, and 3 are needed", pairs.len(), sizes.len())
                        }
                        _ => "all values of one of the two are equal".to_owned(),
                    })
                },
                Availability::Available,
            )
        };
        Self {
            predicted_and_measured: of(&predicted_time, &measured_time),
            simulated_and_measured: match simulated_as_timed {
                true => of(&simulated_time, &measured_time),
                false => Availability::Unavailable(NOT_AS_TIMED.to_owned()),
            },
            predicted_and_simulated: of(&predicted_time, &simulated_time),
        }
    }
}

fn predicted_time(size: &SizeMisses) -> Option<f64> {
    size.effect.predicted_time.value().copied()
}

fn simulated_time(size: &SizeMisses) -> Option<f64> {
    size.effect.simulated_time.value().map(|Ratio { value, .. }| *value)
}

fn measured_time(size: &SizeMisses) -> Option<f64> {
    size.effect.measured_time.value().map(|Ratio { value, .. }| *value)
}
