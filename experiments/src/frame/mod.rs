//! What experiments have in common.
//!
//! An experiment is a [`Workload`]: guests that hold data, a way to measure them in one placement, and
//! figures of its own. The rest is here, once: the [`spec`] (guests, data, arms, blocks, seeds), the
//! [`run`](run::run) (start, merge, verify, plan, measure in blocks, undo), the [`summary`], the [`report`] and
//! the [`command`] line.

mod block;
mod cold;
pub mod command;
pub mod disturbance;
pub mod environment;
pub mod expected;
mod order;
mod placement;
pub mod report;
pub mod run;
pub mod simulate;
mod simulated_report;
pub mod spec;
pub mod summary;
#[cfg(test)]
mod tests;

use std::time::Duration;

use huddle_model::availability::Availability;
use huddle_model::cache::estimate::ReadPattern;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::CountedEvent;
use huddle_model::plan::Plan;
use huddle_model::rng::Rng;
use huddle_model::summary::{Arm, Block, BootFigures, PredictedMisses, Sample, SimulatedMisses};
use huddle_model::topology::Topology;
use serde::Serialize;

use crate::guest::{Guest, GuestData, Pace};
pub use block::Window;
pub use cold::Cold;
use expected::Expected;
use run::RunError;
use simulate::AccessSource;
use spec::{Settings, Spec};

/// A figure of a sample; `None` where it is not available.
pub type Metric = fn(&Sample) -> Option<f64>;

/// What is verified before the first window and after every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// The data of VMs with the same data is merged.
    Merged,
    /// It is not: a placebo, in which nothing is merged.
    Unmerged,
    /// Nothing, since merging cannot be observed: plans are made from the data that VMs are known to hold.
    Nothing,
}

/// One experiment.
pub trait Workload {
    /// Its name in summaries, on the command line and of directories.
    const NAME: &'static str;
    /// Keys of its own in the specification.
    type Settings: Settings;
    /// Its VMs or their stand-ins.
    type Guest: Guest + ?Sized;
    /// Figures of its own in the summary.
    type Figures: Serialize;

    /// What is run.
    fn spec(&self) -> &Spec<Self::Settings>;

    // Preparation.

    /// What its guests are, for sentences: `4 web servers`.
    fn guests(&self) -> String;

    /// How many vCPUs they have in all.
    fn vcpus(&self) -> usize;

    /// How guests read data of so many bytes.
    fn pace(&self, data_bytes: u64) -> Pace;

    /// What is verified.
    fn verify(&self) -> Verify {
        Verify::Merged
    }

    /// For each VM, a name of the data that it can share: equal names, equal data.
    fn data_names(&self) -> Vec<String> {
        self.spec().data.clone()
    }

    /// The part of `data`, which a VM was given, that can be shared.
    fn shareable_data(&self, _guest: usize, data: GuestData) -> GuestData {
        data
    }

    /// What VMs hold besides and never read, where a data set has so many bytes; `None` where none does.
    fn cold(&self, _data_bytes: u64) -> Option<Cold> {
        None
    }

    /// Whether to measure what VMs share before they hold data.
    fn measures_boot(&self) -> bool {
        false
    }

    /// The relative growth of what VMs share below which all of their memory counts as merged; `None` where only
    /// their data is waited for.
    fn settling_growth(&self) -> Option<f64> {
        None
    }

    /// Called when guests are merged and merging is paused, before their sharing is measured.
    ///
    /// # Errors
    /// A guest did not do it.
    fn after_merging(&self, _window: &mut Window<'_, Self::Guest>) -> Result<(), RunError> {
        Ok(())
    }

    // Measurement.

    /// Measures one window of the guests, which are placed already by `plan`; or why it has no result: a guest
    /// that other programs kept from running must not end a long run.
    ///
    /// # Errors
    /// The run cannot go on.
    fn measure(
        &self,
        window: &mut Window<'_, Self::Guest>,
        arm: Arm,
        plan: &Plan,
    ) -> Result<Result<Sample, String>, RunError>;

    /// About how long the first block takes, if known.
    fn first_block(&self) -> Option<Duration> {
        None
    }

    // Simulation.

    /// What its guests read, for simulated caches. They hold their data, and are merged if they are to be.
    ///
    /// # Errors
    /// It is not known.
    fn accesses<'a>(
        &'a self,
        window: Window<'a, Self::Guest>,
        data: &'a [GuestData],
    ) -> Result<Box<dyn AccessSource + 'a>, RunError>;

    /// The order in which its guests read all of their data and nothing else; `None` where that is not known.
    fn read_pattern(&self) -> Option<ReadPattern> {
        None
    }

    // Figures.

    /// The main figure, which the summary has for each arm.
    const MAIN: Figure;
    /// The time of an operation, which ratios compare.
    const TIME: Metric;
    /// LLC misses of an operation.
    const MISSES: Figure;
    /// Ratios of its own, that of opposed over recommended among them. Those of other arms follow them.
    const RATIOS: &'static [RatioSpec];

    /// The figures of its own, from the valid blocks.
    fn figures(&self, valid: &[&Block], outcome: &Outcome) -> Self::Figures;

    /// What its VMs shared after boot, or why that is not known; `None` where the workload has no such figure.
    fn boot(&self, _matrix: Option<&SharingMatrix>) -> Option<Availability<BootFigures>> {
        None
    }

    /// The result in words: placed the opposite way an operation takes `ratio` times as long, above 1 or below.
    fn effect(ratio: f64) -> String;
}

/// A figure that the summary has for each arm.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// Its name, for sentences.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Its value in a sample.
    pub of: Metric,
}

/// A ratio of two arms.
#[derive(Clone, Copy, Debug)]
pub struct RatioSpec {
    /// Its name in the summary.
    pub name: &'static str,
    /// Its name in the report.
    pub text: &'static str,
    /// The arm of the numerator.
    pub over: Arm,
    /// The arm of the denominator.
    pub under: Arm,
    /// The figure that is compared.
    pub of: Metric,
}

/// What a run measured.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The two cache domains that were used.
    pub topology: Topology,
    /// Bytes of a data set.
    pub data_bytes: u64,
    /// What VMs held besides and never read.
    pub cold: Option<Cold>,
    /// How the guests read.
    pub pace: Pace,
    /// What VMs shared once they were up and merged, before they held data; `None` where it is not measured.
    pub boot: Option<SharingMatrix>,
    /// Which VMs hold the same data.
    pub expected: Expected,
    /// What the VMs shared before the first window, and what of it they read if an arm goes by that.
    pub matrix: SharingMatrix,
    /// Pages of the data that each pair had merged then.
    pub data_shared: Vec<Vec<u64>>,
    /// How long merging took, in seconds; `None` where nothing was merged.
    pub merging_s: Option<f64>,
    /// Where each arm placed the VMs, in the order of the specification; not random placements.
    pub plans: Vec<(Arm, Plan)>,
    /// The event that was counted for each role, or why none was.
    pub events: Vec<CountedEvent>,
    /// Remarks on the choice of events, one sentence each.
    pub event_notes: Vec<String>,
    /// The measured blocks, without the warm-up.
    pub blocks: Vec<Block>,
    /// Misses that an estimate expects, or why there is none; `None` without a simulation.
    pub predicted: Option<Availability<PredictedMisses>>,
    /// Misses that a simulated cache has had, if one was simulated.
    pub simulated: Option<SimulatedMisses>,
    /// Why nothing was timed, if that was asked for or the host cannot.
    pub untimed: Option<String>,
}

/// The data of a VM.
pub(crate) fn guest_data<S: Settings>(
    spec: &Spec<S>,
    guest: usize,
    bytes: u64,
    cold: Option<&Cold>,
) -> GuestData {
    /// The random streams of data (see [`Rng::of_part`]).
    const DATA: u64 = 1000;
    const OWN: u64 = 2000;
    // The first guest that holds the same gives the data its number.
    let data = spec.data.iter().position(|name| *name == spec.data[guest]).unwrap_or(guest);
    GuestData {
        seed: Rng::of_part(spec.seed, DATA + data as u64).next_u64(),
        own_seed: Rng::of_part(spec.seed, OWN + guest as u64).next_u64(),
        kib: bytes / 1024,
        cold: cold.and_then(|cold| cold.of_guest(spec.seed, guest)),
    }
}
