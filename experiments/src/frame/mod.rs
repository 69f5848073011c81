//! The frame of an experiment: what every one of them does around what it measures.
//!
//! An experiment is a [`Workload`]: guests that hold data, a way to measure them in one placement, and
//! figures of its own. The frame has the rest, once: the [`spec`] (guests, data, arms, blocks, seeds), the
//! [`course`] (start, merge, verify, plan, measure in blocks, undo), the [`summary`], the [`report`] and the
//! [`command`] line.

mod block;
pub mod command;
pub mod course;
pub mod environment;
pub mod expected;
mod order;
mod placement;
pub mod report;
pub mod spec;
pub mod summary;

use std::time::Duration;

use comfy_table::Table;
use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::CountedEvent;
use huddle_model::plan::Plan;
use huddle_model::summary::{Arm, Block, BootFigures, Sample, Summary};
use huddle_model::topology::Topology;
use serde::Serialize;

use crate::guest::{Guest, GuestData, Pace};
pub use block::Window;
use course::RunError;
use expected::Expected;
use spec::{Settings, Spec};

/// A figure of a sample; `None` where it cannot be had.
pub type Metric = fn(&Sample) -> Option<f64>;

/// What is made sure of before the first window and after every block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// VMs with the same data have it on common frames.
    Merged,
    /// They have not: a placebo, in which nothing is merged.
    Unmerged,
    /// Nothing: it cannot be told, and what VMs are known to hold stands for what they share.
    Nothing,
}

/// One experiment.
pub trait Workload {
    /// Its name in summaries, on the command line and of directories.
    const NAME: &'static str;
    /// Keys of its own in the specification.
    type Settings: Settings;
    /// What stands for its VMs.
    type Guest: Guest + ?Sized;
    /// Figures of its own in the summary.
    type Figures: Serialize;

    /// What is run.
    fn spec(&self) -> &Spec<Self::Settings>;

    // What it needs.

    /// What its guests are, for sentences: `4 web servers`.
    fn guests(&self) -> String;

    /// How guests read data of so many bytes.
    fn pace(&self, data_bytes: u64) -> Pace;

    /// What is made sure of.
    fn verify(&self) -> Verify {
        Verify::Merged
    }

    /// What each VM holds as far as it can be shared.
    fn holds(&self) -> Vec<String> {
        self.spec().data.clone()
    }

    /// What is looked for in the memory of a VM that was given `data`.
    fn looked_for(&self, _guest: usize, data: GuestData) -> GuestData {
        data
    }

    /// Whether it is measured what VMs share before they hold data.
    fn looks_after_boot(&self) -> bool {
        false
    }

    /// How much of itself what VMs share may still grow when it counts as merged; `None` where only their
    /// data is waited for.
    fn growth(&self) -> Option<f64> {
        None
    }

    /// Called once guests are merged and merging is paused, before it is measured what they share.
    ///
    /// # Errors
    /// A guest did not do it.
    fn after_merging(&self, _window: &mut Window<'_, Self::Guest>) -> Result<(), RunError> {
        Ok(())
    }

    // Measuring.

    /// What the guests do in one window, placed already as `plan` says, or why it cannot be told: a guest
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

    /// About how long the first block takes, where that is known.
    fn first_block(&self) -> Option<Duration> {
        None
    }

    // Its figures.

    /// The main figure, which the summary has for each arm.
    const MAIN: Figure;
    /// The time that an operation takes, of which ratios are.
    const TIME: Metric;
    /// LLC misses of an operation.
    const MISSES: Figure;
    /// Ratios of its own, that of opposed over recommended among them. Those of other arms follow them.
    const RATIOS: &'static [RatioSpec];

    /// The figures of its own, from the valid blocks.
    fn figures(&self, valid: &[&Block], outcome: &Outcome) -> Self::Figures;

    /// What its VMs shared after boot, or why that is not known; `None` where it is no figure of the workload.
    fn boot(&self, _matrix: Option<&SharingMatrix>) -> Option<Availability<BootFigures>> {
        None
    }

    /// What it means that placed the opposite way an operation takes `ratio` times as long, above 1 or below.
    fn effect(ratio: f64) -> String;

    // Its report.

    /// KiB of a data set.
    fn data_kib(figures: &Self::Figures) -> u64;

    /// What is to be said after a part of the report, a line each.
    fn remarks(&self, part: Part, summary: &Summary<Self::Figures>) -> Vec<String>;

    /// Tables of its figures, each with its title.
    fn tables(&self, summary: &Summary<Self::Figures>) -> Vec<(String, Table)>;

    /// The paper's figures beside those of the run: what, the paper's, ours.
    fn paper(&self, summary: &Summary<Self::Figures>) -> Vec<[String; 3]>;
}

/// A figure that the summary has for each arm.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// What it is, for sentences.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Of one sample.
    pub of: Metric,
}

/// A ratio of two arms.
#[derive(Clone, Copy, Debug)]
pub struct RatioSpec {
    /// Its name in the summary.
    pub name: &'static str,
    /// What it is, for people.
    pub text: &'static str,
    /// The arm above the line.
    pub over: Arm,
    /// The arm below it.
    pub under: Arm,
    /// What is compared.
    pub of: Metric,
}

/// A part of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What VMs share.
    Sharing,
    /// The ratios of the arms.
    Ratios,
    /// The paper's figures.
    Paper,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The two cache domains that were used.
    pub topology: Topology,
    /// Bytes of a data set.
    pub data_bytes: u64,
    /// How the guests read.
    pub pace: Pace,
    /// What VMs shared once they were up and merged, before they held data; `None` where it is not looked for.
    pub boot: Option<SharingMatrix>,
    /// Which VMs hold the same data.
    pub expected: Expected,
    /// What the VMs shared before the first window.
    pub matrix: SharingMatrix,
    /// Pages of the data that each pair had merged then.
    pub data_shared: Vec<Vec<u64>>,
    /// How long merging took, in seconds; `None` where nothing was merged.
    pub merging_s: Option<f64>,
    /// Where each arm placed the VMs, in the order of the specification; not those placed by lot.
    pub plans: Vec<(Arm, Plan)>,
    /// The event that was counted for each role, or why none was.
    pub events: Vec<CountedEvent>,
    /// What one should know of the choice of events, one sentence each.
    pub event_notes: Vec<String>,
    /// The measured blocks, without the warm-up.
    pub blocks: Vec<Block>,
}

/// What each VM of a run is given.
pub(crate) fn guest_data<S: Settings>(spec: &Spec<S>, guest: usize, bytes: u64) -> GuestData {
    use huddle_model::rng::Rng;
    /// The streams of chance that draw data (see [`Rng::of_part`]).
    const DATA: u64 = 1000;
    const OWN: u64 = 2000;
    // The first guest that holds the same gives the data its number.
    let data = spec.data.iter().position(|name| *name == spec.data[guest]).unwrap_or(guest);
    GuestData {
        seed: Rng::of_part(spec.seed, DATA + data as u64).next_u64(),
        own_seed: Rng::of_part(spec.seed, OWN + guest as u64).next_u64(),
        kib: bytes / 1024,
    }
}
