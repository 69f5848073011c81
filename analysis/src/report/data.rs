//! Data of the figures.

use std::collections::{BTreeMap, BTreeSet};

use huddle_model::schema::Table;
use huddle_model::summary::by_order_of_arms;
use huddle_model::trial::Objective;
use polars::prelude::*;

use crate::AnalysisError;
use crate::compare::{Asked, LatencyOf, latencies};
use crate::figure::Histogram;
use crate::frame::Answer;
use crate::run::RunDir;
use crate::sums::{counter_sums, sums_of};

/// Bins of a histogram.
const BINS: usize = 48;

/// CPU time of each VM by domain.
pub(super) struct Residency {
    /// The domains; `None` for CPUs in no domain.
    pub(super) domains: Vec<Option<u64>>,
    /// Nanoseconds in the order of `domains`, by VM; `None` where a part of them is unavailable.
    pub(super) vms: BTreeMap<String, Option<Vec<f64>>>,
}

/// Where VMs ran.
pub(super) fn residency(run: &RunDir) -> Result<Option<Residency>, AnalysisError> {
    ask(run, Table::Residency, |frame| {
        let spent = frame
            .group_by([col("vm"), col("domain")])
            .agg([col("run_ns").sum(), col("run_ns").null_count().cast(DataType::UInt64).alias("unknown")]);
        let answer = Answer::of(spent)?;
        let (vms, domains, spent) = (answer.texts("vm")?, answer.u64s("domain")?, answer.f64s("run_ns")?);
        let unknown = answer.u64s("unknown")?;
        let known: BTreeSet<Option<u64>> = domains.iter().copied().collect();
        let known: Vec<Option<u64>> = known.into_iter().collect();
        let mut by_vm: BTreeMap<String, Option<Vec<f64>>> = BTreeMap::new();
        for row in 0..answer.rows() {
            let vm = by_vm.entry(vms[row].clone().unwrap_or_default());
            let parts = vm.or_insert_with(|| Some(vec![0.0; known.len()]));
            let spent = spent[row].filter(|_| unknown[row] == Some(0));
            match (known.iter().position(|domain| *domain == domains[row]), spent) {
                (Some(place), Some(spent)) => parts.iter_mut().for_each(|parts| parts[place] += spent),
                _ => *parts = None,
            }
        }
        Ok((!by_vm.is_empty()).then_some(Residency { domains: known, vms: by_vm }))
    })
}

/// One round: frames shared within domains, and the MPKI of its windows.
pub(super) struct RoundPoint {
    pub(super) round: u64,
    pub(super) shared_within_frames: f64,
    pub(super) mpki: f64,
}

/// MPKI and shared frames, round by round.
pub(super) fn rounds(run: &RunDir) -> Result<Vec<RoundPoint>, AnalysisError> {
    let shared = ask(run, Table::Decisions, |frame| {
        let answer = Answer::of(frame.select([col("round"), col("shared_within_frames")]))?;
        let pairs = answer.u64s("round")?.into_iter().zip(answer.f64s("shared_within_frames")?);
        Ok(Some(pairs.filter_map(|(round, frames)| Some((round?, frames?))).collect::<BTreeMap<u64, f64>>()))
    })?
    .unwrap_or_default();
    let found = ask(run, Table::Counters, |frame| {
        let answer = Answer::of(frame.group_by([col("round")]).agg(counter_sums()))?;
        let rounds = answer.u64s("round")?;
        let mut points: Vec<RoundPoint> = rounds
            .into_iter()
            .zip(sums_of(&answer)?)
            .filter_map(|(round, sums)| {
                let mpki = *sums.value(Objective::Mpki).value()?;
                Some(RoundPoint { round: round?, shared_within_frames: *shared.get(&round?)?, mpki })
            })
            .collect();
        points.sort_by_key(|point| point.round);
        Ok(Some(points))
    })?;
    Ok(found.unwrap_or_default())
}

/// One decision of a trial.
pub(super) struct Trial {
    pub(super) round: u64,
    pub(super) objective: String,
    pub(super) proposal: String,
    pub(super) expected: Option<f64>,
    pub(super) observed: Option<f64>,
    pub(super) ci95: Option<[f64; 2]>,
    pub(super) blocks: u64,
    pub(super) outcome: String,
    pub(super) reason: String,
}

/// The decisions of a run.
pub(super) fn trials(run: &RunDir) -> Result<Vec<Trial>, AnalysisError> {
    let found = ask(run, Table::Trials, |frame| {
        let answer = Answer::of(frame)?;
        let texts = |name: &str| -> PolarsResult<Vec<String>> {
            Ok(answer.texts(name)?.into_iter().map(Option::unwrap_or_default).collect())
        };
        let (rounds, blocks) = (answer.u64s("round")?, answer.u64s("blocks")?);
        let (expected, observed) = (answer.f64s("expected_change")?, answer.f64s("observed_change")?);
        let (low, high) = (answer.f64s("observed_low")?, answer.f64s("observed_high")?);
        let (objectives, proposals) = (texts("objective")?, texts("proposal")?);
        let (outcomes, reasons) = (texts("outcome")?, texts("reason")?);
        let trial = |row: usize| Trial {
            round: rounds[row].unwrap_or_default(),
            objective: objectives[row].clone(),
            proposal: proposals[row].clone(),
            expected: expected[row],
            observed: observed[row],
            ci95: low[row].zip(high[row]).map(|(low, high)| [low, high]),
            blocks: blocks[row].unwrap_or_default(),
            outcome: outcomes[row].clone(),
            reason: reasons[row].clone(),
        };
        Ok(Some((0..answer.rows()).map(trial).collect()))
    })?;
    Ok(found.unwrap_or_default())
}

/// Distributions of the latencies of each arm, over one common axis: from the smallest value to the largest
/// 99.9th percentile of the arms; larger values are in the last bin.
pub(super) fn histograms(asked: Asked<'_>, of: LatencyOf) -> Result<Vec<Histogram>, AnalysisError> {
    let frames: Vec<LazyFrame> = latencies(asked, of)?.into_iter().map(|(_, frame)| frame).collect();
    let Some(first) = asked.runs.first().filter(|_| !frames.is_empty()) else { return Ok(Vec::new()) };
    let error = AnalysisError::table(first.path(), of.table());
    let all = concat(frames, UnionArgs::default()).map_err(&error)?;
    binned(&all).map_err(&error)
}

fn binned(all: &LazyFrame) -> PolarsResult<Vec<Histogram>> {
    let ends = Answer::of(all.clone().group_by([col("label")]).agg([
        col("latency_us").min().alias("low"),
        col("latency_us").quantile(lit(0.999), QuantileMethod::Linear).alias("high"),
    ]))?;
    let least = ends.f64s("low")?.into_iter().flatten().reduce(f64::min);
    let greatest = ends.f64s("high")?.into_iter().flatten().reduce(f64::max);
    let (Some(low), Some(high)) = (least, greatest) else { return Ok(Vec::new()) };
    let width = if high > low { (high - low) / BINS as f64 } else { (low.abs() / BINS as f64).max(1e-3) };
    let bin = ((col("latency_us") - lit(low)) / lit(width)).cast(DataType::Int64).alias("bin");
    let counted = all
        .clone()
        .with_columns([bin])
        .group_by([col("label"), col("bin")])
        .agg([len().cast(DataType::UInt64).alias("count")]);
    let answer = Answer::of(counted)?;
    let (labels, bins, counts) = (answer.texts("label")?, answer.i64s("bin")?, answer.u64s("count")?);
    let mut arms: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for ((label, bin), count) in labels.into_iter().zip(bins).zip(counts) {
        let (Some(label), Some(bin)) = (label, bin) else { continue };
        let place = usize::try_from(bin).unwrap_or(0).min(BINS - 1);
        arms.entry(label).or_insert_with(|| vec![0; BINS])[place] += count.unwrap_or_default();
    }
    let mut found: Vec<Histogram> =
        arms.into_iter().map(|(name, counts)| Histogram { name, colour: 0, low, width, counts }).collect();
    found.sort_by(|one, other| by_order_of_arms(&one.name, &other.name));
    (0..).zip(&mut found).for_each(|(number, arm)| arm.colour = number);
    Ok(found)
}

fn ask<T>(
    run: &RunDir,
    table: Table,
    query: impl FnOnce(LazyFrame) -> PolarsResult<Option<T>>,
) -> Result<Option<T>, AnalysisError> {
    match run.scan(table)? {
        Some(frame) => query(frame).map_err(AnalysisError::table(run.path(), table)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use huddle_model::availability::Availability;
    use huddle_model::view::View;
    use huddle_record::{Recorder, RecorderLimits};
    use huddle_testing::sample;
    use huddle_testing::sample_observed::observed;

    use super::*;
    use crate::sources::Sources;

    #[test]
    fn cpu_time_of_a_vm_is_unavailable_where_a_part_of_it_is() {
        let mut views: Vec<View> = (1..=2).map(|round| observed(round, 2)).collect();
        let mut window = views[1].observation.value().map(|window| (**window).clone()).unwrap();
        if let Availability::Available(cpus) = &mut window.vcpus[1].residency {
            cpus[0].run_ns = None;
        }
        views[1].observation = Availability::Available(Arc::new(window));
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::start(dir.path(), sample::manifest(), RecorderLimits::default()).unwrap();
        sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
        recorder.finish().unwrap();
        let found = residency(&Sources::find(dir.path()).unwrap().runs[0]).unwrap().unwrap();
        assert_eq!(found.domains, [Some(0), Some(1)]);
        let known = Some(vec![1_100_000_000.0, 200_000_000.0]);
        assert_eq!(found.vms, BTreeMap::from([("vm0".to_owned(), known), ("vm1".to_owned(), None)]));
    }
}
