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
    /// The arms of each trial, or of an experiment; values are paired by block.
    #[value(alias = "arm")]
    Trial,
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

/// The arms that are compared with each other, in order of name, with their data.
pub(crate) type Arms = BTreeMap<String, ArmData>;

/// What arms have in common that are compared with each other. Blocks of two trials were measured at different times with
/// different proposals, so trials are never pooled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    /// Position of the recording of the trial; `None` where arms are not those of trials.
    pub(crate) run: Option<usize>,
    /// Number of the trial; `None` also for recordings before version 4, which do not have it.
    pub(crate) trial: Option<u64>,
}

/// All compared arms, by group.
pub(crate) type Groups = BTreeMap<Group, Arms>;

/// Which recordings are asked, and how their rows belong to arms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) runs: &'a [RunDir],
    pub(crate) by: By,
    /// Numbers of blocks that are left out.
    pub(crate) without: &'a [u64],
    /// Whether each trial is a group of its own; not in an experiment, whose recordings are parts of one.
    pub(crate) has_trials: bool,
}

impl<'a> Asked<'a> {
    pub(crate) fn recordings(runs: &'a [RunDir], by: By) -> Self {
        Self { runs, by, without: &[], has_trials: by == By::Trial }
    }

    fn group(&self, run: usize, trial: Option<u64>) -> Group {
        if self.has_trials { Group { run: Some(run), trial } } else { Group::default() }
    }
}

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
                return Ok(By::Trial);
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

/// The latencies of these runs with the columns `trial`, `label`, `place` and `latency_us`, one frame per run with its
/// number; without unknown ones.
pub(crate) fn latencies(asked: Asked<'_>, of: LatencyOf) -> Result<Vec<(usize, LazyFrame)>, AnalysisError> {
    let good = if of == LatencyOf::Responses { is_good() } else { lit(true) };
    let known = col("latency_us").is_not_null().and(col("latency_us").is_finite()).and(good);
    let mut frames = Vec::new();
    for (number, run) in asked.runs.iter().enumerate() {
        if let Some(frame) = labelled(run, of.table(), asked.by)? {
            let frame = left_out(frame, asked.without).filter(known.clone());
            frames.push((number, frame.select(["trial", "label", "place", "latency_us"].map(col))));
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

/// Adds the latencies of the recordings to the arms.
pub(crate) fn add_latencies(
    groups: &mut Groups,
    asked: Asked<'_>,
    of: LatencyOf,
) -> Result<(), AnalysisError> {
    for (number, frame) in latencies(asked, of)? {
        let error = AnalysisError::table(asked.runs[number].path(), of.table());
        Adding { groups: &mut *groups, asked, run: number }.latencies(frame, of).map_err(error)?;
    }
    if of == LatencyOf::Responses {
        for (number, run) in asked.runs.iter().enumerate() {
            let Some(frame) = labelled(run, of.table(), asked.by)? else { continue };
            Adding { groups: &mut *groups, asked, run: number }
                .failed(left_out(frame, asked.without))
                .map_err(AnalysisError::table(run.path(), of.table()))?;
        }
    }
    Ok(())
}

/// Reads the arms of the recordings, without latencies.
pub(crate) fn groups(asked: Asked<'_>) -> Result<Groups, AnalysisError> {
    let mut groups = Groups::new();
    for (number, run) in asked.runs.iter().enumerate() {
        let mut adding = Adding { groups: &mut groups, asked, run: number };
        if let Some(frame) = labelled(run, Table::Counters, asked.by)? {
            adding.counters(frame).map_err(AnalysisError::table(run.path(), Table::Counters))?;
        }
        if let Some(frame) = labelled(run, Table::Reported, asked.by)? {
            adding.reports(frame).map_err(AnalysisError::table(run.path(), Table::Reported))?;
        }
    }
    Ok(groups)
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

/// A table with the columns `trial`, `label` and `place`; rows without an arm are left out. Trials have no numbers in
/// recordings before version 4 and in the responses of experiments.
pub(crate) fn labelled(run: &RunDir, table: Table, by: By) -> Result<Option<LazyFrame>, AnalysisError> {
    let Some(frame) = run.scan(table)? else { return Ok(None) };
    let place = |column: &str| col(column).cast(DataType::UInt64).alias("place");
    let no_trial = || lit(NULL).cast(DataType::UInt64).alias("trial");
    Ok(match by {
        By::Trial => {
            let trial = col("trial").cast(DataType::UInt64);
            let frame = frame.filter(col("arm").is_not_null());
            Some(frame.with_columns([col("arm").alias("label"), trial, place("block")]))
        }
        By::Run => {
            let span = windows_a_span(run)?;
            let place = (col("window").cast(DataType::Float64) / lit(span as f64)).cast(DataType::UInt64);
            let label = lit(run_name(run)?).alias("label");
            Some(frame.with_columns([label, no_trial(), place.alias("place")]))
        }
        By::Policy => policies_of(run)?.map(|policies| {
            // A round is recorded twice only by a fault, and must not double its windows then.
            let policies = policies.group_by([col("round")]).agg([col("label").last()]);
            frame
                .join(policies, [col("round")], [col("round")], JoinArgs::new(JoinType::Inner))
                .with_columns([no_trial(), place("round")])
        }),
    })
}

/// Adding the rows of one recording to the arms.
struct Adding<'a> {
    groups: &'a mut Groups,
    asked: Asked<'a>,
    run: usize,
}

/// To what a row of an aggregate belongs.
struct Key {
    trial: Option<u64>,
    label: String,
    /// 0 for an aggregate over all places.
    place: u64,
}

/// The keys of an aggregate, row by row; `None` for a row without one.
fn keys(answer: &Answer, has_places: bool) -> PolarsResult<Vec<Option<Key>>> {
    let (trials, labels) = (answer.u64s("trial")?, answer.texts("label")?);
    let places = if has_places { answer.u64s("place")? } else { vec![Some(0); answer.rows()] };
    let rows = trials.into_iter().zip(labels).zip(places);
    Ok(rows.map(|((trial, label), place)| Some(Key { trial, label: label?, place: place? })).collect())
}

const BY_PLACE: [&str; 3] = ["trial", "label", "place"];
const BY_ARM: [&str; 2] = ["trial", "label"];

impl Adding<'_> {
    fn arm(&mut self, key: &Key) -> &mut ArmData {
        let group = self.asked.group(self.run, key.trial);
        self.groups.entry(group).or_default().entry(key.label.clone()).or_default()
    }

    fn counters(&mut self, frame: LazyFrame) -> PolarsResult<()> {
        let answer = Answer::of(frame.group_by(BY_PLACE.map(col)).agg(counter_sums()))?;
        for (key, sums) in keys(&answer, true)?.into_iter().zip(sums_of(&answer)?) {
            let Some(key) = key else { continue };
            let place = (self.run, key.place);
            let block = self.arm(&key).blocks.entry(place).or_default();
            *block = BlockSums { reported: block.reported, ..sums };
        }
        Ok(())
    }

    fn reports(&mut self, frame: LazyFrame) -> PolarsResult<()> {
        // The seconds of a window count once, however many VMs reported in it.
        let windows = frame
            .group_by(["trial", "label", "place", "window"].map(col))
            .agg([
                col("operations").sum(),
                (col("end_us").first() - col("begin_us").first()).alias("window_us"),
            ])
            .group_by(BY_PLACE.map(col))
            .agg([col("operations").sum(), col("window_us").sum()]);
        let answer = Answer::of(windows)?;
        let (operations, lengths) = (answer.f64s("operations")?, answer.f64s("window_us")?);
        for ((key, operations), length) in keys(&answer, true)?.into_iter().zip(operations).zip(lengths) {
            let Some(key) = key else { continue };
            let place = (self.run, key.place);
            self.arm(&key).blocks.entry(place).or_default().reported =
                Part { above: operations.unwrap_or_default(), below: length.unwrap_or_default() / 1e6 };
        }
        Ok(())
    }

    fn latencies(&mut self, latencies: LazyFrame, of: LatencyOf) -> PolarsResult<()> {
        let medians = latencies.clone().group_by(BY_PLACE.map(col)).agg([col("latency_us").median()]);
        let answer = Answer::of(medians)?;
        for (key, middle) in keys(&answer, true)?.into_iter().zip(answer.f64s("latency_us")?) {
            let (Some(key), Some(middle)) = (key, middle) else { continue };
            let place = (self.run, key.place);
            let arm = self.arm(&key);
            arm.latencies_us.insert(place, middle);
            arm.latency_of = Some(of);
            // A position with only responses counts, too.
            arm.blocks.entry(place).or_default();
        }

        let mut asked: Vec<Expr> = LATENCY_QUANTILES
            .iter()
            .map(|q| col("latency_us").quantile(lit(*q), QuantileMethod::Linear).alias(format!("q{q}")))
            .collect();
        asked.push(len().cast(DataType::UInt64).alias("count"));
        let answer = Answer::of(latencies.group_by(BY_ARM.map(col)).agg(asked))?;
        let counts = answer.u64s("count")?;
        let columns: Vec<Vec<Option<f64>>> =
            LATENCY_QUANTILES.iter().map(|q| answer.f64s(&format!("q{q}"))).collect::<PolarsResult<_>>()?;
        for (row, (key, count)) in keys(&answer, false)?.into_iter().zip(counts).enumerate() {
            let (Some(key), Some(found)) = (key, columns.iter().map(|column| column[row]).collect()) else {
                continue;
            };
            let arm = self.arm(&key);
            arm.quantiles_us.push(found);
            arm.latencies += count.unwrap_or_default();
        }
        Ok(())
    }

    fn failed(&mut self, frame: LazyFrame) -> PolarsResult<()> {
        let failed = col("latency_us").is_null().or(is_good().not());
        let failed = crate::frame::count_where(failed).alias("failed");
        let answer = Answer::of(frame.group_by(BY_ARM.map(col)).agg([failed]))?;
        for (key, failed) in keys(&answer, false)?.into_iter().zip(answer.u64s("failed")?) {
            let (Some(key), Some(failed)) = (key, failed) else { continue };
            self.arm(&key).failed += failed;
        }
        Ok(())
    }
}
