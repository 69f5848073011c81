//! The microbenchmark of the paper (Figure 4): does it pay to run the VMs that share most on one cache?
//!
//! Four guests of one vCPU each: two hold data A, two hold data B, and each has memory of its own. The
//! host merges what is equal. Then the arms alternate in blocks: the guests are placed, a settling time
//! passes, and all read at random for a window of time. Placed as recommended, a cache holds one data
//! set that both its guests use; placed the opposite way it has to hold both.
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
use huddle_model::plan::{Plan, PlanInput};
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;

use crate::design::{Arm, orders};
use crate::guest::standin::StandinConfig;
use crate::guest::{Guest, GuestError};
use crate::host::{Host, HostFailure};
use crate::interrupt::{Interrupt, Interrupted};
use huddle_model::rng::Rng;

pub use measure::{ArmSample, Block, GuestSample};
pub use sharing::{Expected, NotMerged};

/// The streams of chance of one run (see [`Rng::of_part`]).
const DATA_A: u64 = 10;
const DATA_B: u64 = 11;
const PRIVATE: u64 = 20;

/// The guests: their names and whether they hold data A (else B), as in the paper's Table 3.
const GUESTS: [(&str, bool); 4] = [("vm1", true), ("vm2", true), ("vm3", false), ("vm4", false)];

/// What is run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes of a data set, whole pages; `None` for three quarters of the smaller of the two caches, the
    /// paper's part (15 MB of 20 MB).
    pub data_bytes: Option<usize>,
    /// Bytes of memory of each guest that no other holds, whole pages.
    pub private_bytes: usize,
    /// Reads of a guest between two yields of its CPU; `None` for a quarter more than the data has lines,
    /// so that each turn uses all of the data and pays for what the turn before it displaced. With
    /// longer turns the guests alternate less and the effect is smaller: three times as long, about 1.5
    /// where this gives 2.1.
    pub burst_reads: Option<u64>,
    /// How long one arm is measured.
    pub window: Duration,
    /// How long the guests run in a new placement before they are measured.
    pub settle: Duration,
    /// Blocks that are measured.
    pub repetitions: usize,
    /// Blocks before them that are not.
    pub warm_up_blocks: usize,
    /// Cache level of the domains; `None` for the highest that parts the CPUs.
    pub cache_level: Option<u8>,
    /// Seed of data, orders and intervals.
    pub seed: u64,
    /// How long merging may take.
    pub merge_limit: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_bytes: None,
            private_bytes: 256 * 1024,
            burst_reads: None,
            window: Duration::from_millis(750),
            settle: Duration::from_millis(100),
            repetitions: 30,
            warm_up_blocks: 1,
            cache_level: None,
            seed: 1,
            merge_limit: Duration::from_secs(60),
        }
    }
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The two cache domains that were used.
    pub topology: Topology,
    /// Bytes of a data set.
    pub data_bytes: usize,
    /// Reads of a guest between two yields of its CPU.
    pub burst_reads: u64,
    /// Pairs of guests that hold the same data, as positions in the matrix.
    pub expected: Expected,
    /// What the guests shared before the first window.
    pub matrix: SharingMatrix,
    /// How long merging took, in seconds.
    pub merging_s: f64,
    /// Where each arm placed the guests, in the order of [`Arm::ALL`].
    pub plans: Vec<(Arm, Plan)>,
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
    Guest(#[from] GuestError),
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
    #[error("{0}")]
    Settings(String),
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

fn because(cause: &Option<Box<RunError>>) -> String {
    cause.as_ref().map(|cause| format!(" (the run had ended with: {cause})")).unwrap_or_default()
}

/// Starts the guests, by name and in their order; all of them ready.
pub type StartGuests<'a> =
    &'a mut dyn FnMut(&[(String, StandinConfig)]) -> Result<Vec<Box<dyn Guest>>, GuestError>;

/// Runs the microbenchmark and leaves the host as it was.
///
/// `progress` is told what is being done, a line at a time.
pub fn run(
    config: &Config,
    host: &mut dyn Host,
    start_guests: StartGuests<'_>,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(&str),
) -> Result<Outcome, RunError> {
    let mut guests = Vec::new();
    let result = measure_all(config, host, start_guests, interrupt, progress, &mut guests);
    // First the affinities and KSM's settings, while the guests still are there to be set back.
    let undone = host.undo();
    drop(guests);
    match (result, undone) {
        (result, Ok(())) => result,
        (result, Err(undo)) => Err(RunError::NotUndone { undo, cause: result.err().map(Box::new) }),
    }
}

fn measure_all(
    config: &Config,
    host: &mut dyn Host,
    start_guests: StartGuests<'_>,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(&str),
    guests: &mut Vec<Box<dyn Guest>>,
) -> Result<Outcome, RunError> {
    let topology = two_domains(&host.topology(config.cache_level)?)?;
    let data_bytes = match config.data_bytes {
        Some(bytes) => bytes,
        None => default_data_bytes(&topology)?,
    };
    let burst_reads = config.burst_reads.unwrap_or_else(|| default_burst_reads(data_bytes));
    check_settings(config, data_bytes, burst_reads)?;

    progress(&format!(
        "starting {} stand-in VMs: {} KiB of data and {} KiB of their own each; {burst_reads} reads a turn",
        GUESTS.len(),
        data_bytes / 1024,
        config.private_bytes / 1024
    ));
    *guests = start_guests(&guest_configs(config, data_bytes, burst_reads))?;
    interrupt.check()?;
    let processes: Vec<(String, i32)> =
        guests.iter().map(|guest| (guest.name().to_owned(), guest.pid())).collect();
    let vms = host.find(&processes)?;

    progress("letting KSM merge what is equal");
    let expected = Expected::new(&GUESTS.map(|(_, holds_a)| holds_a), data_bytes);
    let begun = Instant::now();
    host.merge()?;
    wait_until_merged(config, host, &vms, &expected, interrupt)?;
    let merging_s = begun.elapsed().as_secs_f64();
    host.pause_merging()?;
    // Once more with the scan paused: this is what the plans are made from.
    let matrix = host.measure(&vms)?;
    expected.verify(&matrix).map_err(|why| RunError::NotMerged { seconds: merging_s, why })?;
    let plans = plans(&matrix, &topology)?;

    let all = orders(&Arm::ALL, config.warm_up_blocks + config.repetitions, config.seed);
    let mut bench = measure::Bench { config, host, guests, vms: &vms, plans: &plans, interrupt };
    bench.start()?;
    let mut blocks = Vec::new();
    for (number, order) in all.iter().enumerate() {
        let measured = number.checked_sub(config.warm_up_blocks).map(|number| number + 1);
        match measured {
            Some(number) => progress(&format!("block {number} of {}: {}", config.repetitions, names(order))),
            None => progress("warming up"),
        }
        let block = bench.block(measured.unwrap_or(0), order, &expected)?;
        if measured.is_some() {
            blocks.push(block);
        }
    }
    bench.stop()?;
    Ok(Outcome { topology, data_bytes, burst_reads, expected, matrix, merging_s, plans, blocks })
}

fn names(order: &[Arm]) -> String {
    order.iter().map(|arm| arm.name()).collect::<Vec<_>>().join(", ")
}

/// The first two domains. The experiment is about two caches; with more of them than the guests need,
/// each guest would have one to itself.
fn two_domains(topology: &Topology) -> Result<Topology, RunError> {
    if let [first, second, ..] = topology.domains() {
        return Topology::new(topology.level(), vec![first.clone(), second.clone()])
            .map_err(|error| HostFailure::Failed(error.to_string()).into());
    }
    Err(HostFailure::Cannot(
        topology.single_domain_note().unwrap_or_else(|| "the host has no two cache domains".into()),
    )
    .into())
}

fn default_data_bytes(topology: &Topology) -> Result<usize, RunError> {
    let smallest = topology.domains().iter().map(|domain| domain.size_bytes).min().flatten();
    let Some(bytes) = smallest else {
        return Err(RunError::Settings(
            "the host does not tell how large its caches are; give --data-kib, about three quarters of one"
                .into(),
        ));
    };
    let pages = bytes as usize / 4 * 3 / crate::chase::PAGE_BYTES;
    Ok(pages.max(1) * crate::chase::PAGE_BYTES)
}

fn default_burst_reads(data_bytes: usize) -> u64 {
    (data_bytes / (crate::chase::NODE_WORDS * size_of::<u64>())) as u64 * 5 / 4
}

fn check_settings(config: &Config, data_bytes: usize, burst_reads: u64) -> Result<(), RunError> {
    let refuse = |text: &str| Err(RunError::Settings(text.to_owned()));
    let page = crate::chase::PAGE_BYTES;
    if data_bytes == 0 || !data_bytes.is_multiple_of(page) {
        return refuse("--data-kib must be a multiple of 4 and not 0: KSM merges whole pages");
    }
    if config.private_bytes == 0 || !config.private_bytes.is_multiple_of(page) {
        return refuse("--private-kib must be a multiple of 4 and not 0");
    }
    if burst_reads == 0 || config.window.is_zero() || config.repetitions == 0 {
        return refuse("--burst-reads, --seconds-per-arm and --repetitions must be more than 0");
    }
    Ok(())
}

fn guest_configs(config: &Config, data_bytes: usize, burst_reads: u64) -> Vec<(String, StandinConfig)> {
    let seed = |part| Rng::of_part(config.seed, part).next_u64();
    GUESTS
        .iter()
        .zip(PRIVATE..)
        .map(|((name, holds_a), private)| {
            let config = StandinConfig {
                data_bytes,
                data_seed: seed(if *holds_a { DATA_A } else { DATA_B }),
                private_bytes: config.private_bytes,
                private_seed: seed(private),
                burst_reads,
            };
            ((*name).to_owned(), config)
        })
        .collect()
}

fn wait_until_merged(
    config: &Config,
    host: &mut dyn Host,
    vms: &[Vm],
    expected: &Expected,
    interrupt: &Interrupt,
) -> Result<(), RunError> {
    let begun = Instant::now();
    loop {
        let Err(why) = expected.verify(&host.measure(vms)?) else { return Ok(()) };
        if begun.elapsed() >= config.merge_limit {
            return Err(RunError::NotMerged { seconds: begun.elapsed().as_secs_f64(), why });
        }
        interrupt.sleep(Duration::from_millis(100).min(config.merge_limit))?;
    }
}

fn plans(matrix: &SharingMatrix, topology: &Topology) -> Result<Vec<(Arm, Plan)>, RunError> {
    let input = PlanInput::new(matrix, topology, &[]);
    let plans: Vec<(Arm, Plan)> = Arm::ALL.into_iter().map(|arm| (arm, arm.policy().plan(&input))).collect();
    let within = |wanted| {
        let plan = plans.iter().find(|(arm, _)| *arm == wanted);
        plan.and_then(|(_, plan)| plan.shared_within).unwrap_or(0)
    };
    let (recommended, opposed) = (within(Arm::Recommended), within(Arm::Opposed));
    // Half of what is shared is far from chance and far from what the two placements should give.
    if recommended < opposed.saturating_mul(2).max(1) {
        return Err(RunError::SamePlacement { recommended, opposed });
    }
    Ok(plans)
}
