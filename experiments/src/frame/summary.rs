//! The summary of a run.
//!
//! Figures are of valid blocks only. An interval for which there are too few blocks is null, and so is a
//! figure that is not available; neither is ever 0.

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::stats::{MIN_VALUES, relative_drift};
use huddle_model::summary::{
    Arm, ArmFigure, Block, BootFigures, Environment, Ratio, SUMMARY_SCHEMA, Sample, Summary, figures,
};
use std::collections::BTreeMap;

use super::disturbance::{Disturbance, Kind, sentences};
use super::expected::rates_by;
use super::placement::compared;
use super::{Metric, Outcome, RatioSpec, Verify, Workload};

/// A larger relative drift than this is reported as a disturbance.
const MAX_DRIFT: f64 = 0.1;

/// What a summary has beside the measurement.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The machine.
    pub environment: Environment,
    /// Possible disturbances of the run.
    pub disturbances: Vec<Disturbance>,
    /// What ran the instructions of VMs.
    pub accelerator: Option<String>,
    /// When it began, UTC, RFC 3339.
    pub started_utc: String,
    /// How long it took, in seconds.
    pub duration_s: f64,
}

/// Reduces a run to its figures.
pub fn summary<W: Workload>(workload: &W, outcome: Outcome, about: About) -> Summary<W::Figures> {
    let spec = workload.spec();
    let valid: Vec<&Block> = outcome.blocks.iter().filter(|block| block.invalid.is_none()).collect();
    let invalid = |block: &Block| Some(format!("block {}: {}", block.number, block.invalid.as_ref()?));
    let ratios: BTreeMap<String, Option<Ratio>> = all_ratios::<W>()
        .map(|ratio| (ratio.name.to_owned(), Ratio::of(&valid, ratio.over, ratio.under, ratio.of)))
        .collect();
    let mut disturbances = about.disturbances;
    let drift = relative_drift(&values_of_arm(&valid, Arm::Recommended, W::MAIN.of));
    if let Some(drift) = drift.filter(|drift| drift.abs() > MAX_DRIFT) {
        let what = format!(
            "the recommended arm's {} moved by {:+.0} % from the first block to the last",
            W::MAIN.name,
            drift * 100.0
        );
        disturbances.push(Disturbance::new(Kind::Drift, what));
    }
    let notes = outcome.event_notes.iter();
    disturbances.extend(notes.map(|note| Disturbance::new(Kind::Counters, note.clone())));
    let (sharing_rate, sharing_rate_across) = outcome.expected.rates(&outcome.matrix);
    let [over, under] = compared(&spec.arms);
    let ratio = ratios.get(&format!("{over}_over_{under}")).copied().flatten();
    let effect = if under == Arm::ByReads { effect_of_reads } else { W::effect };
    let verdict = match spec.arms.contains(&over) {
        _ if outcome.untimed.is_some() => {
            format!("nothing was timed: {}", outcome.untimed.as_deref().unwrap_or_default())
        }
        true => verdict(ratio, [under, over], effect),
        false => format!("the arms to compare, {under} and {over}, were not both measured"),
    };
    let placebo = if workload.verify() == Verify::Unmerged { "PLACEBO, nothing was merged: " } else { "" };
    let own = workload.figures(&valid, &outcome);
    Summary {
        schema: SUMMARY_SCHEMA.to_owned(),
        experiment: W::NAME.to_owned(),
        guest: spec.guest.name().to_owned(),
        accelerator: about.accelerator,
        started_utc: Some(about.started_utc),
        duration_s: Some(about.duration_s),
        valid: valid.len() == outcome.blocks.len(),
        invalid_blocks: outcome.blocks.iter().filter_map(invalid).collect(),
        arms: figures(&valid, W::MAIN.unit, W::MAIN.of),
        llc_misses: Some(misses(figures(&valid, W::MISSES.unit, W::MISSES.of), &valid)),
        predicted: outcome.predicted,
        simulated: outcome.simulated,
        untimed: outcome.untimed,
        ratios,
        verdict: Some(format!("{placebo}{verdict}")),
        drift,
        sharing_rate,
        sharing_rate_across,
        boot: workload.boot(outcome.boot.as_ref()),
        spec: spec.to_json(),
        own,
        topology: Some(outcome.topology),
        matrix: Some(outcome.matrix),
        plans: outcome.plans.into_iter().map(|(arm, plan)| (arm.name().to_owned(), plan)).collect(),
        blocks: outcome.blocks,
        environment: Some(about.environment),
        disturbances: sentences(disturbances),
    }
}

/// The ratios of a workload: its own, and those of the other arms.
pub(super) fn all_ratios<W: Workload>() -> impl Iterator<Item = RatioSpec> {
    let of_time = |(name, text, over, under)| RatioSpec { name, text, over, under, of: W::TIME };
    let others = [
        ("not_merged_over_opposed", "not merged over opposed", Arm::NotMerged, Arm::Opposed),
        ("not_merged_over_recommended", "not merged over recommended", Arm::NotMerged, Arm::Recommended),
        ("kernel_over_recommended", "left to the kernel over recommended", Arm::Kernel, Arm::Recommended),
        ("random_over_recommended", "placed at random over recommended", Arm::Random, Arm::Recommended),
        ("control_over_recommended", "recommended again over recommended", Arm::Control, Arm::Recommended),
    ];
    W::RATIOS.iter().copied().chain(others.map(of_time))
}

/// The values of a figure in one arm, in the blocks that have it.
pub(crate) fn values_of_arm(blocks: &[&Block], arm: Arm, figure: Metric) -> Vec<f64> {
    blocks.iter().filter_map(|block| figure(block.sample(arm)?)).collect()
}

/// The figures, or the first reason that a vCPU has none.
pub(crate) fn misses(
    figures: BTreeMap<String, ArmFigure>,
    blocks: &[&Block],
) -> Availability<BTreeMap<String, ArmFigure>> {
    if !figures.is_empty() {
        return Availability::Available(figures);
    }
    let probes = blocks.iter().flat_map(|block| &block.samples).flat_map(Sample::probes);
    let reason = probes.filter_map(|(_, host)| host?.why_no_misses()).next();
    Availability::Unavailable(reason.unwrap_or("no valid block has them").to_owned())
}

/// What VMs shared after boot, those that are `alike` and the others.
pub(crate) fn boot_figures(matrix: &SharingMatrix, alike: impl Fn(usize, usize) -> bool) -> BootFigures {
    let (rate_within, rate_across) = rates_by(matrix, alike);
    BootFigures { matrix: matrix.clone(), rate_within, rate_across }
}

/// What it means that placed by all that is shared an operation takes `ratio` times as long as placed by what is read.
fn effect_of_reads(ratio: f64) -> String {
    match ratio > 1.0 {
        true => format!(
            "placed by what they read the guests are {ratio:.2} times as fast as placed by all that they share"
        ),
        false => format!(
            "placed by what they read the guests are SLOWER than placed by all that they share: {ratio:.2} times as fast"
        ),
    }
}

/// The result in words, from a ratio of times of the second of two arms over the first: `effect` of it only where its
/// interval does not include 1.
pub fn verdict(ratio: Option<Ratio>, arms: [Arm; 2], effect: impl Fn(f64) -> String) -> String {
    let Some(Ratio { value, n, ci95, .. }) = ratio else {
        let [one, other] = arms;
        return format!("no result: {one} and {other} were not both measured in a valid block");
    };
    match ci95 {
        None => format!(
            "{n} block(s) are too few to say: the ratio of {value:.2} has no interval; at least {MIN_VALUES} are \
             needed"
        ),
        Some([low, high]) if low > 1.0 || high < 1.0 => {
            format!("{} (95 % interval {low:.2} to {high:.2}, {n} blocks)", effect(value))
        }
        Some([low, high]) => format!(
            "no effect shown: the 95 % interval of the ratio, {low:.2} to {high:.2}, includes 1 ({n} blocks)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_say_no_more_than_the_interval() {
        let effect = |ratio: f64| format!("an effect of {ratio:.2}");
        let arms = [Arm::Recommended, Arm::Opposed];
        let of = |value, ci95| verdict(Some(Ratio { value, ci95, n: 9, test: None }), arms, effect);
        assert!(of(1.8, Some([1.7, 1.9])).starts_with("an effect of 1.80 (95 % interval 1.70 to 1.90"));
        assert!(of(0.8, Some([0.7, 0.9])).starts_with("an effect of 0.80"));
        assert!(of(1.2, Some([0.9, 1.5])).starts_with("no effect shown"));
        assert!(of(1.2, Some([1.0, 1.5])).starts_with("no effect shown"));
        assert!(of(1.8, None).contains("too few"));
        assert!(verdict(None, arms, effect).starts_with("no result: recommended and opposed"));
    }
}
