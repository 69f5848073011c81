//! Comparison of placements: rates, throughput and latency of each arm, and the change between arms.
//!
//! Block values are summed by [`crate::sums`] and compared by [`huddle_model::stats::compare_blocks`], as in
//! the loop's decisions.

mod arms;
mod experiment_arms;
mod show;

use std::collections::BTreeMap;
use std::path::PathBuf;

use huddle_model::availability::Availability;
use huddle_model::stats::{Compared, Estimate, SampleFlags, compare_blocks, compare_samples};
use huddle_model::trial::Objective;
use serde::Serialize;

use crate::AnalysisError;
use crate::experiment::ExperimentDir;
use crate::run::RunDir;
pub(crate) use arms::{ArmData, Arms, Place, latencies};
pub use arms::{By, LATENCY_QUANTILES, LatencyOf};
pub(crate) use show::{change as change_text, estimate as estimate_text};

/// Seed of the bootstrap of unpaired values, so that equal recordings give equal intervals.
const SEED: u64 = 1;

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

/// One arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmSummary {
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
}

/// One arm compared with the baseline, by one measure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The arm.
    pub arm: String,
    /// The measure.
    pub measure: Measure,
    /// The result, or why it is unknown.
    pub compared: Availability<Compared>,
}

/// A comparison of arms.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// `huddle/comparison/1`.
    pub schema: &'static str,
    /// The recordings, or the result of an experiment.
    pub of: Vec<PathBuf>,
    /// What distinguishes the arms.
    pub by: By,
    /// The compared measures.
    pub measures: Vec<Measure>,
    /// The baseline arm; `None` if there are fewer than two arms.
    pub baseline: Option<String>,
    /// The arms, the baseline first.
    pub arms: Vec<ArmSummary>,
    /// Each other arm compared with the baseline.
    pub changes: Vec<Change>,
    /// Warnings, one sentence each.
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
        let mut found = arms::arms(runs, by)?;
        let latency_of = arms::latency_of(runs)?;
        arms::add_latencies(&mut found, runs, by, latency_of, &[])?;
        let paths = runs.iter().map(|run| run.path().to_owned()).collect();
        let mut comparison = Self::between(&found, by, baseline, &Measure::RECORDED, paths)?;
        comparison.warnings.extend(runs.iter().flat_map(lost));
        if latency_of == LatencyOf::Responses {
            let timed = arms::latencies(runs, by, latency_of, &[])?.len();
            if timed < runs.len() {
                comparison.warnings.push(format!(
                    "{} of {} recordings have no single responses, and their window means are not in the latencies",
                    runs.len() - timed,
                    runs.len()
                ));
            }
        }
        Ok(comparison)
    }

    /// Compares the arms of an experiment, paired by block, with `baseline` as the first arm; response times
    /// are those of its recordings.
    ///
    /// # Errors
    /// When its result or a recording of it cannot be read, or the baseline does not exist.
    pub fn of_experiment(dir: &ExperimentDir, baseline: Option<&str>) -> Result<Self, AnalysisError> {
        let summary = dir.summary()?;
        let mut found = experiment_arms::arms(&summary);
        let invalid: Vec<u64> = summary
            .blocks
            .iter()
            .filter(|block| block.invalid.is_some())
            .map(|block| block.number as u64)
            .collect();
        let timed = dir.timed();
        arms::add_latencies(&mut found, &timed, By::Arm, LatencyOf::Responses, &invalid)?;
        let is_measured = |measure: &Measure| found.values().any(|arm| !measure.values(arm).is_empty());
        let mut measures: Vec<Measure> = Measure::OF_EXPERIMENTS.into_iter().filter(is_measured).collect();
        if measures.is_empty() {
            // Kept so that the reason why it is missing is shown.
            measures.push(Measure::Throughput);
        }
        let of = vec![dir.path().to_owned()];
        let mut comparison = Self::between(&found, By::Arm, baseline, &measures, of)?;
        comparison.left_out_blocks = invalid;
        if found.is_empty() {
            comparison.warnings = vec![format!(
                "the result of the experiment {:?} has no valid block, so there is nothing to compare",
                summary.experiment
            )];
        }
        comparison.warnings.extend(timed.iter().flat_map(lost));
        comparison.warnings.extend(summary.invalid_blocks.iter().map(|why| format!("left out: {why}")));
        comparison.warnings.extend(summary.why_no_misses().map(|why| format!("no LLC misses: {why}")));
        Ok(comparison)
    }

    fn between(
        found: &Arms,
        by: By,
        baseline: Option<&str>,
        measures: &[Measure],
        of: Vec<PathBuf>,
    ) -> Result<Self, AnalysisError> {
        let names: Vec<&str> = found.keys().map(String::as_str).collect();
        let first = match baseline {
            Some(name) if !found.contains_key(name) => {
                return Err(AnalysisError::NoBaseline {
                    name: name.to_owned(),
                    known: names.iter().map(|name| (*name).to_owned()).collect(),
                });
            }
            Some(name) => Some(name),
            // Names of arms that are the original state or the control.
            None => ["before", "none", "not pinned", "opposed"]
                .into_iter()
                .find(|name| found.contains_key(*name))
                .or(names.first().copied()),
        };
        let order: Vec<&str> =
            first.into_iter().chain(names.iter().copied().filter(|name| Some(*name) != first)).collect();
        let summaries: Vec<ArmSummary> =
            order.iter().map(|name| summary(name, &found[*name], measures)).collect();
        let changes = match first {
            Some(first) => order[1..]
                .iter()
                .flat_map(|name| {
                    measures.iter().map(|measure| change(by, *measure, &found[first], name, &found[*name]))
                })
                .collect(),
            None => Vec::new(),
        };
        let warnings = warnings(found, &summaries, by);
        Ok(Self {
            schema: "huddle/comparison/1",
            of,
            by,
            measures: measures.to_vec(),
            baseline: first.filter(|_| order.len() > 1).map(str::to_owned),
            arms: summaries,
            changes,
            warnings,
            left_out_blocks: Vec::new(),
        })
    }
}

/// Losses that affect every answer from this run.
fn lost(run: &RunDir) -> impl Iterator<Item = String> {
    run.losses().iter().map(|loss| format!("left out: {loss}"))
}

fn summary(name: &str, arm: &ArmData, measures: &[Measure]) -> ArmSummary {
    let estimate = |measure: Measure| {
        let values: Vec<f64> = measure.values(arm).into_values().collect();
        let estimate = Estimate::of_median(&values);
        estimate.map_or_else(|| Availability::Unavailable(measure.missing(arm)), Availability::Available)
    };
    ArmSummary {
        name: name.to_owned(),
        places: arm.blocks.len(),
        values: measures.iter().map(|measure| (*measure, estimate(*measure))).collect(),
        latency_quantiles_us: arm.latency_quantiles_us(),
        latencies: arm.latencies,
        latency_of: arm.latency_of,
        failed: arm.failed,
        samples: arm.flags(),
    }
}

fn change(by: By, measure: Measure, before: &ArmData, name: &str, after: &ArmData) -> Change {
    let (first, second) = (measure.values(before), measure.values(after));
    let more = measure.more_is_better();
    let compared = match (first.is_empty(), second.is_empty()) {
        (true, _) => Availability::Unavailable(measure.missing(before)),
        (_, true) => Availability::Unavailable(measure.missing(after)),
        _ if by == By::Arm => {
            let pairs: Vec<(f64, f64)> =
                first.iter().filter_map(|(place, value)| Some((*value, *second.get(place)?))).collect();
            compare_blocks(&pairs, more).into()
        }
        _ => {
            let (first, second): (Vec<f64>, Vec<f64>) =
                (first.into_values().collect(), second.into_values().collect());
            compare_samples(&first, &second, more, SEED).into()
        }
    };
    Change { arm: name.to_owned(), measure, compared }
}

fn warnings(arms: &Arms, summaries: &[ArmSummary], by: By) -> Vec<String> {
    let mut warnings = Vec::new();
    match summaries.len() {
        0 => warnings.push(match by {
            By::Arm => "no window belongs to an arm of a trial: record a run that tries placements, or compare by policy or run".to_owned(),
            By::Policy | By::Run => {
                "no counters and no reports were recorded: there is nothing to compare".to_owned()
            }
        }),
        1 => warnings.push(format!(
            "there is only one arm ({}), so nothing is compared: name a second recording, or record a trial",
            summaries[0].name
        )),
        _ => {}
    }
    let mut flawed: Vec<(String, Vec<&str>)> = Vec::new();
    for arm in summaries {
        if arm.failed > 0 {
            warnings.push(format!(
                "{}: {} requests had no good response, and have no latency: check the server before using the figures",
                arm.name, arm.failed
            ));
        }
        let flags = arm.samples;
        let flaws = [
            (flags.without_misses, "have no LLC misses: see `doctor` for why the counters are missing"),
            (
                flags.multiplexed,
                "are scaled estimates because the counters shared the PMU: count fewer events, or stop other users of perf",
            ),
            (flags.migrated, "moved between caches within the window: pin, or use longer windows"),
            (
                flags.broken,
                "had shared pages broken by writes within the window: they share less than the matrix shows",
            ),
        ];
        for (count, words) in flaws.into_iter().filter(|(count, _)| *count > 0) {
            // A warning that applies to several arms is shown once.
            let text = format!("{count} of {} samples {words}", flags.samples);
            match flawed.iter_mut().find(|(known, _)| *known == text) {
                Some((_, names)) => names.push(&arm.name),
                None => flawed.push((text, vec![&arm.name])),
            }
        }
    }
    warnings.extend(flawed.into_iter().map(|(text, names)| format!("{}: {text}", names.join(", "))));
    if by == By::Arm && summaries.len() > 1 {
        let all: std::collections::BTreeSet<Place> =
            arms.values().flat_map(|arm| arm.blocks.keys().copied()).collect();
        let unpaired =
            all.iter().filter(|place| arms.values().any(|arm| !arm.blocks.contains_key(place))).count();
        if unpaired > 0 {
            warnings.push(format!(
                "{unpaired} of {} blocks lack one of the arms and are in no pair: the trial ended early there",
                all.len()
            ));
        }
    }
    warnings
}
