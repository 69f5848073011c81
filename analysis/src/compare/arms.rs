//! Arms of recordings: the samples of each placement, by block.

use std::collections::BTreeMap;

use clap::ValueEnum;
use huddle_model::schema::Table;
use huddle_model::stats::{BlockSums, Part, SampleFlags, median};
use polars::prelude::*;
use serde::Serialize;

use crate::AnalysisError;
use crate::frame::Answer;
use crate::run::RunDir;
use crate::sums::{counter_sums, sums_of};

use super::Measure;

/// What distinguishes the compared arms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The arms of trials; values are paired by block.
    Arm,
    /// The policy whose placement was in effect; each round is a value, without pairing.
    Policy,
    /// The recordings; each span of windows is a value, without pairing.
    Run,
}

/// The reported quantiles of latency.
pub const LATENCY_QUANTILES: [f64; 6] = [0.5, 0.9, 0.95, 0.99, 0.995, 0.999];

/// What latencies were measured for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LatencyOf {
    /// Single responses, timed by a load generator (table `responses`).
    Responses,
    /// The means reported by workloads, one per VM and window (table `reported`): they do not include the
    /// tail within a window.
    WindowMeans,
}

impl LatencyOf {
    /// Their table.
    pub(crate) fn table(self) -> Table {
        match self {
            Self::Responses => Table::Responses,
            Self::WindowMeans => Table::Reported,
        }
    }

    /// Name of one of them, for headings.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Responses => "responses",
            Self::WindowMeans => "windows",
        }
    }

    /// For titles.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Responses => "of single good responses",
            Self::WindowMeans => {
                "of the means that workloads report each window; the tail within a window is not in them"
            }
        }
    }
}

/// Maximum number of values per recording when recordings are compared.
const MAX_SPANS: u64 = 200;

/// More blocks than a trial has: the stride between positions of trials.
const BLOCKS_OF_A_TRIAL: u64 = 1 << 32;

/// Position of a value: the number of the run, then of the block, round or window.
pub(crate) type Place = (usize, u64);

/// One of the compared arms.
#[derive(Clone, Debug, Default)]
pub(crate) struct ArmData {
    /// Counts, by position.
    pub(crate) blocks: BTreeMap<Place, BlockSums>,
    /// Median latency by position, in microseconds.
    pub(crate) latencies_us: BTreeMap<Place, f64>,
    /// [`LATENCY_QUANTILES`] over all windows of this arm, in microseconds: one set per run that has any.
    pub(crate) quantiles_us: Vec<Vec<f64>>,
    /// Number of latencies.
    pub(crate) latencies: u64,
    /// What they were measured for; `None` if there are none.
    pub(crate) latency_of: Option<LatencyOf>,
    /// Requests without a good response, which have no latency.
    pub(crate) failed: u64,
    /// Further values by position, measured by an experiment.
    pub(crate) figures: BTreeMap<Measure, BTreeMap<Place, f64>>,
}

impl ArmData {
    pub(crate) fn flags(&self) -> SampleFlags {
        let mut all = SampleFlags::default();
        self.blocks.values().for_each(|block| all.merge(&block.samples));
        all
    }

    /// The quantiles over all runs: unchanged for one run, the median over several runs.
    pub(crate) fn latency_quantiles_us(&self) -> Option<Vec<f64>> {
        let of = |i: usize| median(&self.quantiles_us.iter().map(|run| run[i]).collect::<Vec<_>>());
        (0..LATENCY_QUANTILES.len()).map(of).collect()
    }
}

/// The compared arms, in order of name, with their data.
pub(crate) type Arms = BTreeMap<String, ArmData>;

/// What distinguishes the arms of these runs by default: trials if there are any, policies if there are
/// several, else the runs.
pub(crate) fn choose(runs: &[RunDir]) -> Result<By, AnalysisError> {
    let mut policies = std::collections::BTreeSet::new();
    for run in runs {
        for table in [Table::Counters, Table::Reported, Table::Responses] {
            let Some(frame) = run.scan(table)? else { continue };
            let arms = frame.select([col("arm").n_unique().alias("n"), col("arm").count().alias("set")]);
            let found = Answer::of(arms).map_err(AnalysisError::table(run.path(), table))?;
            if found.u64s("set").map_err(AnalysisError::table(run.path(), table))?.first() > Some(&Some(0)) {
                return Ok(By::Arm);
            }
        }
        if let Some(frame) = policies_of(run)? {
            let error = AnalysisError::table(run.path(), Table::Decisions);
            let found = Answer::of(frame.group_by([col("label")]).agg([len()])).map_err(&error)?;
            policies.extend(found.texts("label").map_err(&error)?.into_iter().flatten());
        }
    }
    Ok(if policies.len() > 1 || runs.len() < 2 { By::Policy } else { By::Run })
}

/// What the latencies of these runs were measured for: single responses if there are any.
pub(crate) fn latency_of(runs: &[RunDir]) -> Result<LatencyOf, AnalysisError> {
    for run in runs {
        if run.scan(Table::Responses)?.is_some() {
            return Ok(LatencyOf::Responses);
        }
    }
    Ok(LatencyOf::WindowMeans)
}

/// The latencies of these runs with the columns `label`, `place` and `latency_us`, one frame per run with its
/// number; without unknown ones, and without those of the places `without`.
pub(crate) fn latencies(
    runs: &[RunDir],
    by: By,
    of: LatencyOf,
    without: &[u64],
) -> Result<Vec<(usize, LazyFrame)>, AnalysisError> {
    let good = if of == LatencyOf::Responses { is_good() } else { lit(true) };
    let known = col("latency_us").is_not_null().and(col("latency_us").is_finite()).and(good);
    let mut frames = Vec::new();
    for (number, run) in runs.iter().enumerate() {
        if let Some(frame) = labelled(run, of.table(), by)? {
            let frame =
                without.iter().fold(frame, |frame, place| frame.filter(col("place").neq(lit(*place))));
            frames.push((
                number,
                frame.filter(known.clone()).select(["label", "place", "latency_us"].map(col)),
            ));
        }
    }
    Ok(frames)
}

fn left_out(frame: LazyFrame, places: &[u64]) -> LazyFrame {
    places.iter().fold(frame, |frame, place| frame.filter(col("place").neq(lit(*place))))
}

/// A response is good if it has no failure. Its status is not used: `failure` covers that, too, and
/// experiments write it in 16 bits, a type that this build of Polars lacks.
fn is_good() -> Expr {
    col("failure").is_null()
}

/// Adds the latencies of `runs` to the arms.
pub(crate) fn add_latencies(
    arms: &mut Arms,
    runs: &[RunDir],
    by: By,
    of: LatencyOf,
    without: &[u64],
) -> Result<(), AnalysisError> {
    for (number, frame) in latencies(runs, by, of, without)? {
        let error = AnalysisError::table(runs[number].path(), of.table());
        add_latencies_of(arms, number, frame, of).map_err(error)?;
    }
    if of == LatencyOf::Responses {
        for run in runs {
            let Some(frame) = labelled(run, of.table(), by)? else { continue };
            add_failed(arms, left_out(frame, without))
                .map_err(AnalysisError::table(run.path(), of.table()))?;
        }
    }
    Ok(())
}

/// Reads the arms of `runs`, without latencies.
pub(crate) fn arms(runs: &[RunDir], by: By) -> Result<Arms, AnalysisError> {
    let mut arms = Arms::new();
    for (number, run) in runs.iter().enumerate() {
        if let Some(frame) = labelled(run, Table::Counters, by)? {
            add_counters(&mut arms, number, frame)
                .map_err(AnalysisError::table(run.path(), Table::Counters))?;
        }
        if let Some(frame) = labelled(run, Table::Reported, by)? {
            add_reports(&mut arms, number, frame)
                .map_err(AnalysisError::table(run.path(), Table::Reported))?;
        }
    }
    Ok(arms)
}

/// A name for the run that distinguishes it from the others: its id, with the host.
pub(crate) fn run_name(run: &RunDir) -> Result<String, AnalysisError> {
    let manifest = run.manifest()?;
    Ok(format!("{} on {}", manifest.run, manifest.host))
}

/// Rounds with the policy in effect; rounds that pinned nothing have a separate label.
fn policies_of(run: &RunDir) -> Result<Option<LazyFrame>, AnalysisError> {
    let Some(frame) = run.scan(Table::Decisions)? else { return Ok(None) };
    let label = when(col("pin_unavailable").is_not_null())
        .then(lit("not pinned"))
        .otherwise(col("policy").fill_null(lit("no plan")));
    Ok(Some(frame.select([col("round"), label.alias("label")])))
}

/// Number of windows per value when recordings are compared: neighbouring windows are correlated, so a day of
/// them is only some hundred values.
fn windows_a_span(run: &RunDir) -> Result<u64, AnalysisError> {
    let mut last = 0;
    for table in [Table::Counters, Table::Reported, Table::Responses] {
        let Some(frame) = run.scan(table)? else { continue };
        let found = Answer::of(frame.select([col("window").max()])).and_then(|answer| answer.u64s("window"));
        let found = found.map_err(AnalysisError::table(run.path(), table))?;
        last = last.max(found.into_iter().flatten().max().unwrap_or_default());
    }
    Ok(last.div_ceil(MAX_SPANS).max(1))
}

/// A table with the columns `label` and `place`; rows without an arm are left out.
pub(crate) fn labelled(run: &RunDir, table: Table, by: By) -> Result<Option<LazyFrame>, AnalysisError> {
    let Some(frame) = run.scan(table)? else { return Ok(None) };
    let place = |column: &str| col(column).cast(DataType::UInt64).alias("place");
    Ok(match by {
        By::Arm => {
            let block = block_of_trial(run, table, frame.clone())?;
            Some(frame.filter(col("arm").is_not_null()).with_columns([col("arm").alias("label"), block]))
        }
        By::Run => {
            let span = windows_a_span(run)?;
            let place = (col("window").cast(DataType::Float64) / lit(span as f64)).cast(DataType::UInt64);
            Some(frame.with_columns([lit(run_name(run)?).alias("label"), place.alias("place")]))
        }
        By::Policy => policies_of(run)?.map(|policies| {
            // A round is recorded twice only by a fault, and must not double its windows then.
            let policies = policies.group_by([col("round")]).agg([col("label").last()]);
            frame
                .join(policies, [col("round")], [col("round")], JoinArgs::new(JoinType::Inner))
                .with_columns([place("round")])
        }),
    })
}

/// The position of a row by trial and block, so that block 0 of one trial differs from that of the next. If
/// trials have no numbers (recordings before version 4, the responses of experiments) it is the block.
fn block_of_trial(run: &RunDir, table: Table, mut frame: LazyFrame) -> Result<Expr, AnalysisError> {
    let block = col("block").cast(DataType::UInt64);
    let columns = frame.collect_schema().map_err(AnalysisError::table(run.path(), table))?;
    let place = match columns.contains("trial") {
        true => col("trial").fill_null(lit(0)).cast(DataType::UInt64) * lit(BLOCKS_OF_A_TRIAL) + block,
        false => block,
    };
    Ok(place.alias("place"))
}

fn add_counters(arms: &mut Arms, run: usize, frame: LazyFrame) -> PolarsResult<()> {
    let answer = Answer::of(frame.group_by([col("label"), col("place")]).agg(counter_sums()))?;
    let (labels, places) = (answer.texts("label")?, answer.u64s("place")?);
    for ((label, place), sums) in labels.into_iter().zip(places).zip(sums_of(&answer)?) {
        let (Some(label), Some(place)) = (label, place) else { continue };
        let block = arms.entry(label).or_default().blocks.entry((run, place)).or_default();
        *block = BlockSums { reported: block.reported, ..sums };
    }
    Ok(())
}

fn add_reports(arms: &mut Arms, run: usize, frame: LazyFrame) -> PolarsResult<()> {
    // The seconds of a window count once, however many VMs reported in it.
    let windows = frame
        .clone()
        .group_by([col("label"), col("place"), col("window")])
        .agg([col("operations").sum(), (col("end_us").first() - col("begin_us").first()).alias("window_us")])
        .group_by([col("label"), col("place")])
        .agg([col("operations").sum(), col("window_us").sum()]);
    let answer = Answer::of(windows)?;
    let (labels, places) = (answer.texts("label")?, answer.u64s("place")?);
    let (operations, lengths) = (answer.f64s("operations")?, answer.f64s("window_us")?);
    for (((label, place), operations), length) in labels.into_iter().zip(places).zip(operations).zip(lengths)
    {
        let (Some(label), Some(place)) = (label, place) else { continue };
        arms.entry(label).or_default().blocks.entry((run, place)).or_default().reported =
            Part { above: operations.unwrap_or_default(), below: length.unwrap_or_default() / 1e6 };
    }
    Ok(())
}

fn add_latencies_of(arms: &mut Arms, run: usize, latencies: LazyFrame, of: LatencyOf) -> PolarsResult<()> {
    let medians = latencies.clone().group_by([col("label"), col("place")]).agg([col("latency_us").median()]);
    let answer = Answer::of(medians)?;
    let (labels, places) = (answer.texts("label")?, answer.u64s("place")?);
    for ((label, place), middle) in labels.into_iter().zip(places).zip(answer.f64s("latency_us")?) {
        let (Some(label), Some(place), Some(middle)) = (label, place, middle) else { continue };
        let arm = arms.entry(label).or_default();
        arm.latencies_us.insert((run, place), middle);
        arm.latency_of = Some(of);
        // A position with only responses counts, too.
        arm.blocks.entry((run, place)).or_default();
    }

    let mut asked: Vec<Expr> = LATENCY_QUANTILES
        .iter()
        .map(|q| col("latency_us").quantile(lit(*q), QuantileMethod::Linear).alias(format!("q{q}")))
        .collect();
    asked.push(len().cast(DataType::UInt64).alias("count"));
    let answer = Answer::of(latencies.group_by([col("label")]).agg(asked))?;
    let (labels, counts) = (answer.texts("label")?, answer.u64s("count")?);
    let columns: Vec<Vec<Option<f64>>> =
        LATENCY_QUANTILES.iter().map(|q| answer.f64s(&format!("q{q}"))).collect::<PolarsResult<_>>()?;
    for (row, (label, count)) in labels.into_iter().zip(counts).enumerate() {
        let (Some(label), Some(found)) = (label, columns.iter().map(|column| column[row]).collect()) else {
            continue;
        };
        let arm = arms.entry(label).or_default();
        arm.quantiles_us.push(found);
        arm.latencies += count.unwrap_or_default();
    }
    Ok(())
}

fn add_failed(arms: &mut Arms, frame: LazyFrame) -> PolarsResult<()> {
    let failed = col("latency_us").is_null().or(is_good().not());
    let counted = frame.group_by([col("label")]).agg([crate::frame::count_where(failed).alias("failed")]);
    let answer = Answer::of(counted)?;
    for (label, failed) in answer.texts("label")?.into_iter().zip(answer.u64s("failed")?) {
        let (Some(label), Some(failed)) = (label, failed) else { continue };
        arms.entry(label).or_default().failed += failed;
    }
    Ok(())
}
