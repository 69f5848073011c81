//! The microbenchmark of the paper (Figure 4): does it pay to run the VMs that share most on one cache?
//!
//! Guests hold data: two of them data A, two data B, as a rule. Each has memory of its own, and a copy of
//! its data that equals no other guest's. The host merges what is equal, or, in a placebo, nothing. Then the arms alternate in
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

use huddle_guest::chase::{NODE_WORDS, PAGE_BYTES};
use huddle_model::rng::Rng;

use crate::course::{Merging, RunError, Step, blocks, two_domains, undone_after};
use crate::design::{Arm, orders};
use crate::guest::{Guest, GuestData, GuestError, Holder, Pace};
use crate::host::Host;
use crate::interrupt::Interrupt;
use crate::spec::{Config, GuestKind, SpecError};

pub(crate) use measure::drawn;
pub use measure::{ArmSample, Block, GuestSample};
pub use sharing::{Expected, NotMerged, rates_by};

/// The streams of chance of one run (see [`Rng::of_part`]).
const DATA: u64 = 1000;
const OWN: u64 = 2000;
const LOTS: u64 = 3000;

/// The part of a cache that a data set fills: the paper's 15 MB of 20 MB.
const USUAL_PART: f64 = 0.75;

/// The base that VMs share counts as merged when it grew by less than this part of itself.
const BASE_GROWTH: f64 = 0.02;

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
    /// How long merging took, in seconds; `None` where nothing was merged.
    pub merging_s: Option<f64>,
    /// Where each arm placed the guests, in the order of the specification; not those placed by lot.
    pub plans: Vec<(Arm, Plan)>,
    /// The event that was counted for each role, or why none was.
    pub events: Vec<CountedEvent>,
    /// What one should know of the choice of events, one sentence each.
    pub event_notes: Vec<String>,
    /// The measured blocks, without the warm-up.
    pub blocks: Vec<Block>,
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
    undone_after(host, |host, guests| {
        Run { config, host, interrupt, progress }.measure_all(start_guests, guests)
    })
}

struct Run<'a> {
    config: &'a Config,
    host: &'a mut dyn Host,
    interrupt: &'a Interrupt,
    progress: &'a mut dyn FnMut(Step<'_>),
}

impl Run<'_> {
    fn merging(&mut self) -> Merging<'_> {
        Merging { host: &mut *self.host, interrupt: self.interrupt }
    }

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
        if !config.merge {
            // Before there is anything to merge: what is merged stays so.
            self.host.pause_merging()?;
        }
        *guests = start_guests(config)?;
        self.interrupt.check()?;
        let holders: Vec<(String, Holder)> =
            guests.iter().map(|guest| (guest.name().to_owned(), guest.holder())).collect();

        let begun = Instant::now();
        let boot = match config.guest {
            // What they hold before their data is their own.
            GuestKind::Process => None,
            GuestKind::Qemu | GuestKind::Xen => {
                let vms = self.host.find(&holders)?;
                Some(match config.merge {
                    true => {
                        self.say("merging what the VMs share after boot");
                        self.host.merge()?;
                        self.merging().wait_until_still(&vms, BASE_GROWTH, config.merge_seconds / 2.0)?
                    }
                    false => {
                        self.say("measuring what the VMs could share after boot");
                        self.host.measure(&vms)?
                    }
                })
            }
        };

        self.say(if config.merge { "loading the data, merging it" } else { "loading the data" });
        let data: Vec<GuestData> =
            (0..config.guests()).map(|guest| guest_data(config, guest, data_bytes)).collect();
        guests.iter_mut().zip(&data).try_for_each(|(guest, data)| guest.load(*data))?;
        // Only now: the memory of stand-ins was not there before.
        let vms = self.host.find(&holders)?;
        let expected = Expected::new(&config.data, data_bytes, config.merge);
        let mut merging_s = None;
        if config.merge {
            self.host.merge()?;
            self.merging().wait_until_merged(&vms, &data, &expected, config.merge_seconds)?;
            merging_s = Some(begun.elapsed().as_secs_f64());
            self.host.pause_merging()?;
        }
        // Once more with the scan paused: this is what the plans are made from.
        let matrix = self.host.measure(&vms)?;
        let shared = self.host.data_shared(&vms, &data)?;
        let seconds = begun.elapsed().as_secs_f64();
        expected.verify(&shared).map_err(|why| RunError::NotMerged { seconds, why })?;
        let plans = plans(&config.arms, &matrix, &topology, &expected)?;

        let blocks = if config.is_timed() {
            let mut bench = measure::Bench {
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
            bench.host.watch(bench.vms, bench.topology);
            let an_arm = Duration::from_secs_f64(config.settle_seconds + config.seconds_per_arm);
            let first = an_arm * config.arms.len() as u32;
            let orders = orders(&config.arms, config.warm_up_blocks + config.repetitions, config.seed);
            blocks(&orders, config.warm_up_blocks, Some(first), self.progress, |number, order| {
                bench.block(number, order, &expected)
            })?
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
    let part = config.data_cache_fraction.unwrap_or(USUAL_PART);
    let pages = (bytes as f64 * part) as u64 / PAGE_BYTES as u64;
    Ok(pages.max(1) * PAGE_BYTES as u64)
}

fn pace(config: &Config, data_bytes: u64) -> Pace {
    let lines = data_bytes / (NODE_WORDS * size_of::<u64>()) as u64;
    // A turn reads all of the data, and whoever else runs on the CPU then has time for a turn of his own.
    let idle_us = match config.guest {
        GuestKind::Process => 0,
        GuestKind::Qemu | GuestKind::Xen => 50,
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

/// Where each arm places the guests; not those that are placed by lot.
///
/// # Errors
/// The placements to compare do not differ in what data is together.
pub(crate) fn plans(
    arms: &[Arm],
    matrix: &SharingMatrix,
    topology: &Topology,
    expected: &Expected,
) -> Result<Vec<(Arm, Plan)>, RunError> {
    let input = PlanInput::new(matrix, topology, &[]);
    let planned = arms.iter().filter(|arm| !arm.is_drawn());
    let plans: Vec<(Arm, Plan)> = planned.map(|arm| (*arm, arm.policy().plan(&input))).collect();
    let together = |wanted| {
        let (_, plan) = plans.iter().find(|(arm, _)| *arm == wanted)?;
        Some(expected.pairs_together(plan, matrix))
    };
    // Not by what is shared: of that, guests of one system have most in common wherever they are.
    match (together(Arm::Recommended), together(Arm::Opposed)) {
        (Some(recommended), Some(opposed)) if recommended <= opposed => {
            Err(RunError::SamePlacement { recommended, opposed })
        }
        _ => Ok(plans),
    }
}
