//! The microbenchmark of the paper (Figure 4): does it pay to run the VMs that share most on one cache?
//!
//! Guests hold data: two of them data A, two data B, as a rule. Each has memory of its own, and a copy of
//! its data that equals no other guest's. The host merges what is equal. Then the arms alternate in
//! blocks: the guests are placed, begin to read at random, a settling time passes, and what they read in
//! a window of time is counted. Placed as recommended, a cache holds one data set that both its guests
//! use; placed the opposite way, or reading what is not merged, it has to hold two.
//!
//! Merging is verified by the frames of the guests before the first window and after every block: a
//! block at whose end it did not hold is invalid and enters no figure, and so is one in which a guest was
//! kept from running at all.

mod measure;
mod sharing;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use huddle_model::matrix::SharingMatrix;
use huddle_model::observation::CountedEvent;
use huddle_model::plan::{Plan, PlanInput};
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;

use huddle_guest::chase::{NODE_WORDS, PAGE_BYTES};
use huddle_model::rng::Rng;

use crate::design::{Arm, orders};
use crate::guest::{Guest, GuestData, GuestError, Pace};
use crate::host::{Host, HostFailure};
use crate::interrupt::{Interrupt, Interrupted};
use crate::spec::{Config, GuestKind, SpecError};

pub(crate) use measure::drawn;
pub use measure::{ArmSample, Block, GuestSample};
pub use sharing::{Expected, NotMerged, rates_by};

/// The streams of chance of one run (see [`Rng::of_part`]).
const DATA: u64 = 1000;
const OWN: u64 = 2000;
const LOTS: u64 = 3000;

/// The base that VMs share counts as merged when it grew by less than this part of itself.
const BASE_GROWTH: f64 = 0.02;

/// How long it must not have grown.
const BASE_STILL: Duration = Duration::from_secs(3);

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The two cache domains that were used.
    pub topology: Topology,
    /// Bytes of a data set.
    pub data_bytes: u64,
    /// How the guests read.
    pub pace: Pace,
    /// What VMs shared once they were up and merged, before they held data; stand-ins have no base.
    pub boot: Option<SharingMatrix>,
    /// Pairs of guests that hold the same data, as positions in the matrix.
    pub expected: Expected,
    /// What the guests shared before the first window.
    pub matrix: SharingMatrix,
    /// How long merging took, in seconds.
    pub merging_s: f64,
    /// Where each arm placed the guests, in the order of the specification; not those placed by lot.
    pub plans: Vec<(Arm, Plan)>,
    /// The event that was counted for each role, or why none was.
    pub events: Vec<CountedEvent>,
    /// What one should know of the choice of events, one sentence each.
    pub event_notes: Vec<String>,
    /// The measured blocks, without the warm-up.
    pub blocks: Vec<Block>,
}

/// Why a run gave no result. The host is undone in every case but the last.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host cannot or does not.
    #[error(transparent)]
    Host(#[from] HostFailure),
    /// A guest.
    #[error(transparent)]
    Guest(GuestError),
    /// KSM did not merge.
    #[error(
        "after {seconds:.0} s KSM had not merged the guests' data: {why}; look at /sys/kernel/mm/ksm, or give it more time with --merge-seconds"
    )]
    NotMerged {
        /// How long was waited, in seconds.
        seconds: f64,
        /// What was wrong at the end.
        why: NotMerged,
    },
    /// The two placements do not differ in what is shared within caches.
    #[error(
        "as recommended {recommended} shared frames lie within the cache domains, placed the opposite way \
         {opposed}: the placements do not differ enough to compare them"
    )]
    SamePlacement {
        /// Frames within domains as recommended.
        recommended: u64,
        /// Frames within domains when opposed.
        opposed: u64,
    },
    /// The settings make no sense.
    #[error(transparent)]
    Settings(#[from] SpecError),
    /// Ctrl-C or SIGTERM.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// What was changed could not be undone.
    #[error("THE HOST IS NOT AS IT WAS: {undo}; run `huddle restore` as root{}", because(.cause))]
    NotUndone {
        /// What failed.
        undo: HostFailure,
        /// What had ended the run before.
        cause: Option<Box<RunError>>,
    },
}

impl From<GuestError> for RunError {
    fn from(error: GuestError) -> Self {
        match error {
            // Not the guest's fault.
            GuestError::Interrupted(interrupted) => Self::Interrupted(interrupted),
            error => Self::Guest(error),
        }
    }
}

fn because(cause: &Option<Box<RunError>>) -> String {
    cause.as_ref().map(|cause| format!(" (the run had ended with: {cause})")).unwrap_or_default()
}

/// What is being done.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// In words.
    pub text: &'a str,
    /// Blocks done, those that warm up among them.
    pub done: usize,
    /// Blocks in all.
    pub of: usize,
    /// About how long the blocks that are left take: as long as those before them, or, before the first,
    /// as their arms take; `None` while guests start and merge, which nobody can foretell.
    pub left: Option<Duration>,
}

/// Starts the guests of a specification, in its order; all of them ready.
pub type StartGuests<'a> = &'a mut dyn FnMut(&Config) -> Result<Vec<Box<dyn Guest>>, GuestError>;

/// Runs the microbenchmark and leaves the host as it was. Of several data sizes the first is taken.
///
/// # Errors
/// Nothing was measured; see [`RunError`].
pub fn run(
    config: &Config,
    host: &mut dyn Host,
    start_guests: StartGuests<'_>,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Outcome, RunError> {
    let mut guests = Vec::new();
    let mut result =
        Run { config, host: &mut *host, interrupt, progress }.measure_all(start_guests, &mut guests);
    // A guest that has died is first missed by whoever looks into its process.
    if let Err(RunError::Host(HostFailure::Failed(_))) = &result
        && let Some(ended) = guests.iter_mut().find_map(|guest| guest.check().err())
    {
        result = Err(ended.into());
    }
    // First the affinities and KSM's settings, while the guests still are there to be set back.
    let undone = host.undo();
    drop(guests);
    match (result, undone) {
        (result, Ok(())) => result,
        (result, Err(undo)) => Err(RunError::NotUndone { undo, cause: result.err().map(Box::new) }),
    }
}

struct Run<'a> {
    config: &'a Config,
    host: &'a mut dyn Host,
    interrupt: &'a Interrupt,
    progress: &'a mut dyn FnMut(Step<'_>),
}

impl Run<'_> {
    fn say(&mut self, text: &str) {
        let of = self.config.warm_up_blocks + self.config.repetitions;
        (self.progress)(Step { text, done: 0, of, left: None });
    }

    fn measure_all(
        &mut self,
        start_guests: StartGuests<'_>,
        guests: &mut Vec<Box<dyn Guest>>,
    ) -> Result<Outcome, RunError> {
        let config = self.config;
        config.check()?;
        let topology = two_domains(&self.host.topology(config.cache_level)?)?;
        let data_bytes = data_bytes(config, &topology)?;
        let pace = pace(config, data_bytes);

        self.say(&format!(
            "starting {} guests ({}): {} KiB of data each, {} reads a turn, {} us of rest",
            config.guests(),
            config.guest.name(),
            data_bytes / 1024,
            pace.burst_reads,
            pace.idle_us
        ));
        *guests = start_guests(config)?;
        self.interrupt.check()?;
        let processes: Vec<(String, i32)> =
            guests.iter().map(|guest| (guest.name().to_owned(), guest.pid())).collect();

        let begun = Instant::now();
        let boot = match config.guest {
            // What they hold before their data is their own.
            GuestKind::Process => None,
            GuestKind::Qemu => {
                self.say("letting KSM merge what the VMs share after boot");
                let vms = self.host.find(&processes)?;
                self.host.merge()?;
                Some(self.wait_for_base(&vms)?)
            }
        };

        self.say("loading the data, letting KSM merge it");
        let data: Vec<GuestData> =
            (0..config.guests()).map(|guest| guest_data(config, guest, data_bytes)).collect();
        guests.iter_mut().zip(&data).try_for_each(|(guest, data)| guest.load(*data))?;
        // Only now: the memory of stand-ins was not there before.
        let vms = self.host.find(&processes)?;
        let expected = Expected::new(&config.data, data_bytes);
        self.host.merge()?;
        self.wait_until_merged(&vms, &data, &expected)?;
        let merging_s = begun.elapsed().as_secs_f64();
        self.host.pause_merging()?;
        // Once more with the scan paused: this is what the plans are made from.
        let matrix = self.host.measure(&vms)?;
        let shared = self.host.data_shared(&vms, &data)?;
        expected.verify(&shared).map_err(|why| RunError::NotMerged { seconds: merging_s, why })?;
        let plans = plans(config, &matrix, &topology)?;

        let blocks = if config.is_timed() {
            let bench = measure::Bench {
                config,
                host: &mut *self.host,
                guests,
                vms: &vms,
                data: &data,
                plans: &plans,
                topology: &topology,
                matrix: &matrix,
                pace,
                interrupt: self.interrupt,
            };
            measure_blocks(bench, &expected, self.progress)?
        } else {
            Vec::new()
        };
        let (events, event_notes) = self.host.counted();
        Ok(Outcome {
            topology,
            data_bytes,
            pace,
            boot,
            expected,
            matrix,
            merging_s,
            plans,
            events,
            event_notes,
            blocks,
        })
    }

    /// Waits until what the VMs share no longer grows, and tells it.
    fn wait_for_base(&mut self, vms: &[Vm]) -> Result<SharingMatrix, RunError> {
        let begun = Instant::now();
        let total = |matrix: &SharingMatrix| -> u64 {
            matrix.pairs().filter_map(|(i, j)| matrix.shared_frames(i, j)).sum()
        };
        let (mut still_since, mut largest) = (Instant::now(), 0);
        loop {
            let matrix = self.host.measure(vms)?;
            let shared = total(&matrix);
            if shared as f64 > largest as f64 * (1.0 + BASE_GROWTH) {
                (still_since, largest) = (Instant::now(), shared);
            }
            let still = largest > 0 && still_since.elapsed() >= BASE_STILL;
            if still || begun.elapsed().as_secs_f64() >= self.config.merge_seconds / 2.0 {
                return Ok(matrix);
            }
            self.interrupt.sleep(Duration::from_millis(250))?;
        }
    }

    fn wait_until_merged(
        &mut self,
        vms: &[Vm],
        data: &[GuestData],
        expected: &Expected,
    ) -> Result<(), RunError> {
        let begun = Instant::now();
        let limit = Duration::from_secs_f64(self.config.merge_seconds);
        loop {
            let Err(why) = expected.verify(&self.host.data_shared(vms, data)?) else { return Ok(()) };
            if begun.elapsed() >= limit {
                return Err(RunError::NotMerged { seconds: begun.elapsed().as_secs_f64(), why });
            }
            self.interrupt.sleep(Duration::from_millis(100).min(limit))?;
        }
    }
}

fn measure_blocks(
    mut bench: measure::Bench<'_>,
    expected: &Expected,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Vec<Block>, RunError> {
    let config = bench.config;
    let all = orders(&config.arms, config.warm_up_blocks + config.repetitions, config.seed);
    bench.host.watch(bench.vms, bench.topology);
    let mut blocks = Vec::new();
    let begun = Instant::now();
    for (done, order) in all.iter().enumerate() {
        let measured = done.checked_sub(config.warm_up_blocks).map(|number| number + 1);
        let text = match measured {
            Some(number) => format!("block {number} of {}: {}", config.repetitions, names(order)),
            None => "warming up".to_owned(),
        };
        let left = Some(time_left(config, begun.elapsed(), done, all.len()));
        progress(Step { text: &text, done, of: all.len(), left });
        let block = bench.block(measured.unwrap_or(0), order, expected)?;
        if measured.is_some() {
            blocks.push(block);
        }
    }
    Ok(blocks)
}

fn time_left(config: &Config, elapsed: Duration, done: usize, of: usize) -> Duration {
    let an_arm = config.settle_seconds + config.seconds_per_arm;
    let a_block = match done {
        0 => an_arm * config.arms.len() as f64,
        done => elapsed.as_secs_f64() / done as f64,
    };
    Duration::from_secs_f64(a_block * (of - done) as f64)
}

pub(crate) fn names(order: &[Arm]) -> String {
    order.iter().map(|arm| arm.name()).collect::<Vec<_>>().join(", ")
}

/// The first two domains. The experiment is about two caches; with more of them than the guests need,
/// each guest would have one to itself.
pub(crate) fn two_domains(topology: &Topology) -> Result<Topology, RunError> {
    if let [first, second, ..] = topology.domains() {
        return Topology::new(topology.level(), vec![first.clone(), second.clone()])
            .map_err(|error| HostFailure::Failed(error.to_string()).into());
    }
    Err(HostFailure::Cannot(
        topology.single_domain_note().unwrap_or_else(|| "the host has no two cache domains".into()),
    )
    .into())
}

pub(crate) fn data_bytes(config: &Config, topology: &Topology) -> Result<u64, RunError> {
    if let Some(kib) = config.data_kib.first() {
        return Ok(kib * 1024);
    }
    let smallest = topology.domains().iter().map(|domain| domain.size_bytes).min().flatten();
    let Some(bytes) = smallest else {
        let text =
            "the host does not tell how large its caches are; give --data-kib, about three quarters of one";
        return Err(SpecError::Settings(text.into()).into());
    };
    let part = config.data_cache_fraction.unwrap_or(match config.guest {
        GuestKind::Process => 0.75,
        GuestKind::Qemu => 0.5,
    });
    let pages = (bytes as f64 * part) as u64 / PAGE_BYTES as u64;
    Ok(pages.max(1) * PAGE_BYTES as u64)
}

fn pace(config: &Config, data_bytes: u64) -> Pace {
    let lines = data_bytes / (NODE_WORDS * size_of::<u64>()) as u64;
    // A turn reads all of the data, and whoever else runs on the CPU then has time for a turn of his own.
    let idle_us = match config.guest {
        GuestKind::Process => 0,
        GuestKind::Qemu => 400,
    };
    Pace {
        burst_reads: config.burst_reads.unwrap_or(lines * 5 / 4),
        idle_us: config.idle_us.unwrap_or(idle_us),
    }
}

pub(crate) fn guest_data(config: &Config, guest: usize, bytes: u64) -> GuestData {
    // The first guest that holds the same gives the data its number.
    let data = config.data.iter().position(|name| *name == config.data[guest]).unwrap_or(guest);
    GuestData {
        seed: Rng::of_part(config.seed, DATA + data as u64).next_u64(),
        own_seed: Rng::of_part(config.seed, OWN + guest as u64).next_u64(),
        kib: bytes / 1024,
    }
}

fn plans(config: &Config, matrix: &SharingMatrix, topology: &Topology) -> Result<Vec<(Arm, Plan)>, RunError> {
    let input = PlanInput::new(matrix, topology, &[]);
    let planned = config.arms.iter().filter(|arm| !arm.is_drawn());
    let plans: Vec<(Arm, Plan)> = planned.map(|arm| (*arm, arm.policy().plan(&input))).collect();
    let within = |wanted| {
        let plan = plans.iter().find(|(arm, _)| *arm == wanted)?;
        plan.1.shared_within
    };
    // Half of what is shared is far from chance and far from what the two placements should give.
    match (within(Arm::Recommended), within(Arm::Opposed)) {
        (Some(recommended), Some(opposed)) if recommended < opposed.saturating_mul(2).max(1) => {
            Err(RunError::SamePlacement { recommended, opposed })
        }
        _ => Ok(plans),
    }
}
