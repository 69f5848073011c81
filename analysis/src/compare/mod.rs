//! Comparison of placements: rates, throughput and latency of each arm, and the change between arms.
//!
//! Block values are summed by [`crate::sums`] and compared by [`huddle_model::stats::compare_trial`], as in
//! the loop's decisions (older recordings and experiments by [`huddle_model::stats::compare_blocks`]). Each trial is
//! compared by itself. Rounds and spans of windows have no partners; they are compared
//! by [`huddle_model::stats::compare_series`].

mod arms;
mod caveats;
mod experiment_arms;
mod show;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use huddle_model::availability::Availability;
use huddle_model::stats::{
    self, Estimate, SampleFlags, SeriesCompared, TrialCompared, compare_blocks, compare_series, compare_trial,
};
use huddle_model::summary::by_order_of_arms;
use huddle_model::trial::Objective;
use serde::Serialize;

use crate::AnalysisError;
use crate::experiment::ExperimentDir;
use crate::run::RunDir;
use arms::Group;
pub(crate) use arms::{ArmData, Arms, Asked, Groups, Place, latencies};
pub use arms::{By, LATENCY_QUANTILES, LatencyOf};
pub(crate) use show::{change as change_text, estimate as estimate_text};

/// Seed of the bootstrap of unpaired values, so that equal recordings give equal intervals.
const SEED: u64 = 1;

/// The first schema version whose trials draw the order of each block; before, it alternated.
const ORDER_DRAWN_SINCE: u32 = 6;

/// A compared measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// LLC misses per 1000 instructions.
    Mpki,
    /// LLC misses per LLC reference.
    MissRatio,
    /// Instructions per cycle.
    Ipc,
    /// Operations per second reported by workloads; in an experiment reads of all guests together.
    Throughput,
    /// CPU time per operation in nanoseconds, by the clocks of an experiment's guests.
    CpuTimeNs,
    /// CPU time per operation in nanoseconds, by the clock of an experiment's host.
    HostCpuTimeNs,
    /// LLC misses per operation of an experiment.
    MissesPerOperation,
    /// Median of latencies in microseconds, see [`LatencyOf`].
    LatencyUs,
}

impl Measure {
    /// Measures of recordings.
    pub const RECORDED: [Self; 5] =
        [Self::Mpki, Self::MissRatio, Self::Ipc, Self::Throughput, Self::LatencyUs];

    /// Possible measures of experiments.
    pub const OF_EXPERIMENTS: [Self; 8] = [
        Self::Throughput,
        Self::CpuTimeNs,
        Self::HostCpuTimeNs,
        Self::LatencyUs,
        Self::MissesPerOperation,
        Self::Mpki,
        Self::MissRatio,
        Self::Ipc,
    ];

    /// Its name for people.
    pub fn title(self) -> &'static str {
        match self {
            Self::Mpki => "MPKI",
            Self::MissRatio => "LLC miss ratio",
            Self::Ipc => "IPC",
            Self::Throughput => "operations/s",
            Self::CpuTimeNs => "CPU ns/operation",
            Self::HostCpuTimeNs => "host CPU ns/operation",
            Self::MissesPerOperation => "LLC misses/operation",
            Self::LatencyUs => "median latency in us",
        }
    }

    /// Its name in files.
    pub(crate) fn id(self) -> &'static str {
        match self {
            Self::Mpki => "mpki",
            Self::MissRatio => "miss-ratio",
            Self::Ipc => "ipc",
            Self::Throughput => "throughput",
            Self::CpuTimeNs => "cpu-time",
            Self::HostCpuTimeNs => "host-cpu-time",
            Self::MissesPerOperation => "misses",
            Self::LatencyUs => "latency",
        }
    }

    /// Whether a higher value is the better one.
    pub fn more_is_better(self) -> bool {
        self.objective().is_some_and(Objective::more_is_better)
    }

    /// The loop's name of it; `None` for measures that the loop does not use.
    fn objective(self) -> Option<Objective> {
        match self {
            Self::Mpki => Some(Objective::Mpki),
            Self::MissRatio => Some(Objective::MissRatio),
            Self::Ipc => Some(Objective::Ipc),
            Self::Throughput => Some(Objective::Reported),
            Self::CpuTimeNs | Self::HostCpuTimeNs | Self::MissesPerOperation | Self::LatencyUs => None,
        }
    }

    fn values(self, arm: &ArmData) -> BTreeMap<Place, f64> {
        if let Some(figures) = arm.figures.get(&self) {
            return figures.clone();
        }
        match self.objective() {
            None if self == Self::LatencyUs => arm.latencies_us.clone(),
            None => BTreeMap::new(),
            Some(objective) => arm
                .blocks
                .iter()
                .filter_map(|(place, block)| Some((*place, *block.value(objective).value()?)))
                .collect(),
        }
    }

    /// Why there is no value, as part of a sentence.
    fn missing(self, arm: &ArmData) -> String {
        let block = arm.blocks.values().next();
        match (self.objective(), block) {
            (None, _) if self == Self::LatencyUs => "no workload reported a latency".to_owned(),
            (None, _) => "no block has it".to_owned(),
            (Some(_), None) => "nothing was recorded".to_owned(),
            (Some(objective), Some(block)) => {
                block.value(objective).reason().unwrap_or("no block has a value").to_owned()
            }
        }
    }
}

/// The trial that an arm belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrialOf {
    /// Its number within the recording; `None` for experiments, for arms of other kinds, and in recordings before version 4.
    pub trial: Option<u64>,
    /// Its recording, where there are several.
    pub run: Option<String>,
}

impl TrialOf {
    /// For a column of a table; `None` where there is nothing to tell.
    pub(crate) fn text(&self) -> Option<String> {
        match (self.trial, &self.run) {
            (None, None) => None,
            (Some(trial), None) => Some(trial.to_string()),
            (None, Some(run)) => Some(format!("of {run}")),
            (Some(trial), Some(run)) => Some(format!("{trial} of {run}")),
        }
    }

    /// An arm with its trial, in one word as far as possible.
    pub(crate) fn name(&self, arm: &str) -> String {
        self.text().map_or_else(|| arm.to_owned(), |trial| format!("{arm} (trial {trial})"))
    }
}

/// One arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmSummary {
    /// The trial.
    #[serde(flatten)]
    pub of: TrialOf,
    /// Its name.
    pub name: String,
    /// Number of nonempty blocks, rounds or windows.
    pub places: usize,
    /// Each measure over them, or why it is missing.
    pub values: BTreeMap<Measure, Availability<Estimate>>,
    /// Latency in microseconds at [`LATENCY_QUANTILES`], over all of them; `None` if none was reported.
    pub latency_quantiles_us: Option<Vec<f64>>,
    /// Number of latencies.
    pub latencies: u64,
    /// What they were measured for: the quantiles of means are not those of single responses.
    pub latency_of: Option<LatencyOf>,
    /// Requests without a good response, which have no latency; 0 if none are recorded.
    pub failed: u64,
    /// Number of samples (a vCPU in a window), and of those with a flaw. All are counted.
    pub samples: SampleFlags,
    /// The values of each measure by block; empty where values are not paired.
    #[serde(skip)]
    pub(crate) by_block: BTreeMap<Measure, BTreeMap<Place, f64>>,
}

/// One arm compared with the baseline, by one measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The trial.
    #[serde(flatten)]
    pub of: TrialOf,
    /// The arm.
    pub arm: String,
    /// The measure.
    pub measure: Measure,
    /// The result, or why it is unknown.
    pub compared: Availability<Compared>,
}

/// How an arm and the baseline were compared, with the result.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "method", rename_all = "snake_case")]
pub enum Compared {
    /// Block by block: the median of the changes within blocks, and Wilcoxon's signed-rank test.
    SignedRank(stats::Compared),
    /// Block by block, of a trial that ended when its result was clear: the median of the changes within blocks, its
    /// confidence sequence, and the evidence of the random order.
    Evidence(TrialCompared),
    /// Two series without partners: the change of the medians, with the block bootstrap.
    BlockBootstrap(SeriesCompared),
}

impl Compared {
    /// Relative change, positive is better.
    pub fn change(&self) -> &Estimate {
        match self {
            Self::SignedRank(found) => &found.change,
            Self::Evidence(found) => &found.change,
            Self::BlockBootstrap(found) => &found.change,
        }
    }

    /// The two-sided p value of no change; `None` where there is none that is valid.
    pub fn p_value(&self) -> Option<f64> {
        match self {
            Self::SignedRank(found) => found.test.map(|test| test.p_value),
            Self::Evidence(found) => Some(found.p_value()),
            Self::BlockBootstrap(found) => found.p_value,
        }
    }

    /// The effect size (-1 to 1) with the sign that makes positive better.
    pub fn effect_size(&self, more_is_better: bool) -> Option<f64> {
        match self {
            Self::SignedRank(found) => found.effect_size(more_is_better),
            Self::Evidence(_) => None,
            Self::BlockBootstrap(found) => Some(found.effect_size(more_is_better)),
        }
    }

    /// For a column of a table.
    pub fn method(&self) -> &'static str {
        match self {
            Self::SignedRank(_) => "signed rank",
            Self::Evidence(_) => "evidence",
            Self::BlockBootstrap(_) => "block bootstrap",
        }
    }
}

/// A comparison of arms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// `huddle/comparison/2`.
    pub schema: &'static str,
    /// The recordings, or the result of an experiment.
    pub of: Vec<PathBuf>,
    /// What distinguishes the arms.
    pub by: By,
    /// The compared measures.
    pub measures: Vec<Measure>,
    /// The baseline arm, of each trial; `None` if there are fewer than two arms.
    pub baseline: Option<String>,
    /// The arms, trial by trial, in the order of [`by_order_of_arms`].
    pub arms: Vec<ArmSummary>,
    /// Each other arm compared with the baseline of its trial.
    pub changes: Vec<Change>,
    /// Warnings, one sentence for each kind, the most important first.
    pub warnings: Vec<String>,
    /// Numbers of an experiment's blocks that are left out.
    #[serde(skip)]
    pub(crate) left_out_blocks: Vec<u64>,
}

impl Comparison {
    /// Compares the recordings `runs`, grouped by `by`, with `baseline` as the first arm.
    ///
    /// # Errors
    /// When a recording cannot be read, or the baseline does not exist.
    pub fn of(runs: &[RunDir], by: Option<By>, baseline: Option<&str>) -> Result<Self, AnalysisError> {
        let by = by.map_or_else(|| arms::choose(runs), Ok)?;
        let asked = Asked::recordings(runs, by);
        let mut found = arms::groups(asked)?;
        let latency_of = arms::latency_of(runs)?;
        arms::add_latencies(&mut found, asked, latency_of)?;
        let paths = runs.iter().map(|run| run.path().to_owned()).collect();
        let mut names = Vec::new();
        if by == By::Trial && runs.len() > 1 {
            names = runs.iter().map(arms::run_name).collect::<Result<_, _>>()?;
        }
        let drawn: Vec<bool> = runs
            .iter()
            .map(|run| run.manifest().is_ok_and(|manifest| manifest.schema_version >= ORDER_DRAWN_SINCE))
            .collect();
        let mut comparison =
            Self::between(&found, by, baseline, &Measure::RECORDED, paths, (&names, &drawn))?;
        let mut before: Vec<String> = runs.iter().flat_map(lost).collect();
        if latency_of == LatencyOf::Responses {
            let timed = arms::latencies(asked, latency_of)?.len();
            if timed < runs.len() {
                before.push(format!(
                    "{} of {} recordings have no single responses, and their window means are not in the latencies",
                    runs.len() - timed,
                    runs.len()
                ));
            }
        }
        comparison.warnings.splice(0..0, before);
        Ok(comparison)
    }

    /// Compares the arms of an experiment, paired by block, with `baseline` as the first arm; response times
    /// are those of its recordings.
    ///
    /// # Errors
    /// When its result or a recording of it cannot be read, or the baseline does not exist.
    pub fn of_experiment(dir: &ExperimentDir, baseline: Option<&str>) -> Result<Self, AnalysisError> {
        let summary = dir.summary()?;
        let mut found = Groups::from([(Group::default(), experiment_arms::arms(&summary))]);
        let invalid: Vec<u64> = summary
            .blocks
            .iter()
            .filter(|block| block.invalid.is_some())
            .map(|block| block.number as u64)
            .collect();
        let timed = dir.timed();
        let asked = Asked { runs: &timed, by: By::Trial, without: &invalid, has_trials: false };
        arms::add_latencies(&mut found, asked, LatencyOf::Responses)?;
        let all = found.values().flat_map(Arms::values);
        let is_measured = |measure: &Measure| all.clone().any(|arm| !measure.values(arm).is_empty());
        let mut measures: Vec<Measure> = Measure::OF_EXPERIMENTS.into_iter().filter(is_measured).collect();
        if measures.is_empty() {
            // Kept so that the reason why it is missing is shown.
            measures.push(Measure::Throughput);
        }
        let of = vec![dir.path().to_owned()];
        let mut comparison = Self::between(&found, By::Trial, baseline, &measures, of, (&[], &[]))?;
        comparison.left_out_blocks = invalid;
        if found.values().all(Arms::is_empty) {
            comparison.warnings = vec![format!(
                "the result of the experiment {:?} has no valid block, so there is nothing to compare",
                summary.experiment
            )];
        }
        let lost = timed.iter().flat_map(lost);
        let invalid = summary.left_out();
        let invalid = invalid.iter().map(|why| format!("left out: {why}"));
        let no_misses = summary.why_no_misses().map(|why| format!("no LLC misses: {why}"));
        let before: Vec<String> = lost.chain(invalid).chain(no_misses).collect();
        // That there is nothing to compare comes first.
        let at = usize::from(comparison.arms.is_empty());
        comparison.warnings.splice(at..at, before);
        Ok(comparison)
    }

    /// The question for the rows of these recordings that the comparison is of.
    pub(crate) fn asked<'a>(&'a self, runs: &'a [RunDir]) -> Asked<'a> {
        Asked { without: &self.left_out_blocks, ..Asked::recordings(runs, self.by) }
    }

    fn between(
        groups: &Groups,
        by: By,
        baseline: Option<&str>,
        measures: &[Measure],
        of: Vec<PathBuf>,
        (run_names, are_drawn): (&[String], &[bool]),
    ) -> Result<Self, AnalysisError> {
        let first = baseline_of(groups, baseline)?;
        let mut comparison = Self {
            schema: "huddle/comparison/2",
            of,
            by,
            measures: measures.to_vec(),
            baseline: None,
            arms: Vec::new(),
            changes: Vec::new(),
            warnings: Vec::new(),
            left_out_blocks: Vec::new(),
        };
        for (group, arms) in groups {
            let run = group.run.and_then(|run| run_names.get(run)).cloned();
            let is_drawn = group.run.and_then(|run| are_drawn.get(run)).copied().unwrap_or(false);
            comparison.add(&TrialOf { trial: group.trial, run }, arms, first.as_deref(), is_drawn);
        }
        let is_compared = groups.values().any(|arms| arms.len() > 1);
        comparison.baseline = first.filter(|_| is_compared);
        comparison.warnings = caveats::of(&comparison, groups);
        Ok(comparison)
    }

    /// Adds the arms of one trial, each compared with the baseline, if the trial has it. `is_drawn` tells that the order of
    /// arms was drawn in each block of a trial.
    fn add(&mut self, of: &TrialOf, arms: &Arms, first: Option<&str>, is_drawn: bool) {
        let before = first.and_then(|first| arms.get(first));
        let mut ordered: Vec<(&str, &ArmData)> =
            arms.iter().map(|(name, arm)| (name.as_str(), arm)).collect();
        ordered.sort_by(|(one, _), (other, _)| by_order_of_arms(one, other));
        for (name, arm) in &ordered {
            self.arms.push(summary(self.by, of, name, arm, &self.measures));
        }
        let Some(before) = before else { return };
        for (name, arm) in ordered.into_iter().filter(|(name, _)| Some(*name) != first) {
            let changes =
                self.measures.iter().map(|measure| change(self.by, *measure, before, arm, is_drawn));
            let changes: Vec<_> = self.measures.iter().copied().zip(changes).collect();
            self.changes.extend(changes.into_iter().map(|(measure, compared)| Change {
                of: of.clone(),
                arm: name.to_owned(),
                measure,
                compared,
            }));
        }
    }
}

/// The arm that the others are compared with, the same in all groups; `None` if there are no arms.
fn baseline_of(groups: &Groups, asked: Option<&str>) -> Result<Option<String>, AnalysisError> {
    let names: BTreeSet<&String> = groups.values().flat_map(Arms::keys).collect();
    let is_there = |name: &&str| names.iter().any(|known| known == name);
    match asked {
        Some(name) if !is_there(&name) => Err(AnalysisError::NoBaseline {
            name: name.to_owned(),
            known: names.into_iter().cloned().collect(),
        }),
        Some(name) => Ok(Some(name.to_owned())),
        None => {
            // Names of arms that are the original state or the control.
            let usual = ["before", "none", "not pinned", "opposed"].into_iter().find(is_there);
            Ok(usual.or(names.first().map(|name| name.as_str())).map(str::to_owned))
        }
    }
}

/// Losses that affect every answer from this run.
fn lost(run: &RunDir) -> impl Iterator<Item = String> {
    run.losses().iter().map(|loss| format!("left out: {loss}"))
}

fn summary(by: By, of: &TrialOf, name: &str, arm: &ArmData, measures: &[Measure]) -> ArmSummary {
    let paired = measures.iter().copied().filter(|_| by == By::Trial);
    let estimate = |measure: Measure| {
        let values: Vec<f64> = measure.values(arm).into_values().collect();
        // Values of rounds and spans depend on their neighbours, so the interval of a median is not theirs.
        let estimate = Estimate::of_median(&values)
            .map(|estimate| Estimate { ci95: estimate.ci95.filter(|_| by == By::Trial), ..estimate });
        estimate.map_or_else(|| Availability::Unavailable(measure.missing(arm)), Availability::Available)
    };
    ArmSummary {
        of: of.clone(),
        name: name.to_owned(),
        places: arm.blocks.len(),
        values: measures.iter().map(|measure| (*measure, estimate(*measure))).collect(),
        latency_quantiles_us: arm.latency_quantiles_us(),
        latencies: arm.latencies,
        latency_of: arm.latency_of,
        failed: arm.failed,
        samples: arm.flags(),
        by_block: paired.map(|measure| (measure, measure.values(arm))).collect(),
    }
}

fn change(
    by: By,
    measure: Measure,
    before: &ArmData,
    after: &ArmData,
    is_drawn: bool,
) -> Availability<Compared> {
    let (first, second) = (measure.values(before), measure.values(after));
    let more = measure.more_is_better();
    match (first.is_empty(), second.is_empty()) {
        (true, _) => Availability::Unavailable(measure.missing(before)),
        (_, true) => Availability::Unavailable(measure.missing(after)),
        _ if by == By::Trial => {
            let pairs: Vec<(f64, f64)> =
                first.iter().filter_map(|(place, value)| Some((*value, *second.get(place)?))).collect();
            if is_drawn {
                Availability::from(compare_trial(&pairs, more)).map(Compared::Evidence)
            } else {
                Availability::from(compare_blocks(&pairs, more)).map(Compared::SignedRank)
            }
        }
        _ => {
            let (first, second): (Vec<f64>, Vec<f64>) =
                (first.into_values().collect(), second.into_values().collect());
            match compare_series(&first, &second, more, SEED) {
                Some(found) => Availability::Available(Compared::BlockBootstrap(found)),
                None => Availability::Unavailable("one of the two has no value above 0".to_owned()),
            }
        }
    }
}
