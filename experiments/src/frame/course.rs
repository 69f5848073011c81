//! The course of an experiment: start guests, merge, verify, plan, measure in blocks. The host is undone at
//! any end.

use std::time::{Duration, Instant};

use huddle_model::matrix::SharingMatrix;
use huddle_model::vm::Vm;

use super::block::{Bench, Window};
use super::expected::{Expected, NotMerged};
use super::order::orders;
use super::placement::{plans, two_domains};
use super::spec::SpecError;
use super::{Outcome, Verify, Workload, guest_data};
use crate::guest::{Guest, GuestData, GuestError, Holder};
use crate::host::{Host, HostFailure};
use crate::interrupt::{Interrupt, Interrupted};

/// How long what VMs share must not have grown.
const STILL: Duration = Duration::from_secs(3);

/// The base that VMs share after boot counts as merged when it grew by less than this part of itself.
const BASE_GROWTH: f64 = 0.02;

/// Why a run gave no result. The host is undone in every case but the last.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host cannot or does not.
    #[error(transparent)]
    Host(#[from] HostFailure),
    /// A guest.
    #[error(transparent)]
    Guest(GuestError),
    /// The host did not merge, or merged what it should not.
    #[error(
        "after {seconds:.0} s the guests' data was not merged as it should be: {why}; look at /sys/kernel/mm/ksm (on \
         Xen at `xl info`), or give it more time with --merge-seconds"
    )]
    NotMerged {
        /// How long was waited, in seconds.
        seconds: f64,
        /// What was wrong at the end.
        why: NotMerged,
    },
    /// The two placements do not differ in what data is shared within caches.
    #[error(
        "as recommended {recommended} pairs of guests with the same data are on one cache, placed the opposite way \
         {opposed}: the placements do not differ in what is to be compared; more data (--data-kib) tells the \
         guests better apart"
    )]
    SamePlacement {
        /// Pairs on one cache as recommended.
        recommended: u64,
        /// Pairs on one cache when opposed.
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
pub type StartGuests<'a, G> = &'a mut dyn FnMut() -> Result<Vec<Box<G>>, GuestError>;

/// Runs an experiment and leaves the host as it was, whatever came of it. Of several data sizes the first is
/// taken.
///
/// # Errors
/// Nothing was measured; see [`RunError`].
pub fn run<W: Workload>(
    workload: &W,
    host: &mut dyn Host,
    start_guests: StartGuests<'_, W::Guest>,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(Step<'_>),
) -> Result<Outcome, RunError> {
    let mut guests = Vec::new();
    let mut course = Course { workload, host: &mut *host, interrupt, progress };
    let mut result = course.measure(start_guests, &mut guests);
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

struct Course<'a, W> {
    workload: &'a W,
    host: &'a mut dyn Host,
    interrupt: &'a Interrupt,
    progress: &'a mut dyn FnMut(Step<'_>),
}

impl<W: Workload> Course<'_, W> {
    fn say(&mut self, text: &str) {
        (self.progress)(Step { text, done: 0, of: self.workload.spec().blocks(), left: None });
    }

    fn measure(
        &mut self,
        start_guests: StartGuests<'_, W::Guest>,
        guests: &mut Vec<Box<W::Guest>>,
    ) -> Result<Outcome, RunError> {
        let (workload, spec, verify) = (self.workload, self.workload.spec(), self.workload.verify());
        spec.check()?;
        let topology = two_domains(&self.host.topology(spec.cache_level)?)?;
        let data_bytes = spec.data_bytes(&topology)?;
        let pace = workload.pace(data_bytes);
        self.say(&format!(
            "starting {} ({}): {} KiB of data each, {} reads a turn, {} us of rest",
            workload.guests(),
            spec.guest.name(),
            data_bytes / 1024,
            pace.burst_reads,
            pace.idle_us
        ));
        if verify == Verify::Unmerged {
            // Before there is anything to merge: what is merged stays so.
            self.host.pause_merging()?;
        }
        *guests = start_guests()?;
        self.interrupt.check()?;
        let holders: Vec<(String, Holder)> =
            guests.iter().map(|guest| (guest.name().to_owned(), guest.holder())).collect();

        let begun = Instant::now();
        let boot = workload.looks_after_boot().then(|| self.boot(&holders)).transpose()?;
        self.say(if verify == Verify::Unmerged {
            "loading the data"
        } else {
            "loading the data, merging it"
        });
        let loaded: Vec<GuestData> = (0..spec.guests()).map(|i| guest_data(spec, i, data_bytes)).collect();
        guests.iter_mut().zip(&loaded).try_for_each(|(guest, data)| guest.load(*data))?;
        // Only now: the memory of processes was not there before.
        let vms = self.host.find(&holders)?;
        let data: Vec<GuestData> =
            (0..).zip(loaded).map(|(guest, data)| workload.looked_for(guest, data)).collect();
        let expected = Expected::new(&workload.holds(), data_bytes, verify != Verify::Unmerged);
        let mut merging_s = None;
        if verify != Verify::Unmerged {
            self.host.merge()?;
            if verify == Verify::Merged {
                self.wait_until_merged(&vms, &data, &expected, spec.merge_seconds)?;
            }
            if let Some(growth) = workload.growth() {
                self.wait_until_still(&vms, growth, spec.merge_seconds)?;
            }
            merging_s = Some(begun.elapsed().as_secs_f64());
            self.host.pause_merging()?;
        }
        let interrupt = self.interrupt;
        workload.after_merging(&mut Window { host: &mut *self.host, guests, vms: &vms, pace, interrupt })?;
        // Once more with the scan paused: this is what the plans are made from.
        let matrix = self.host.measure(&vms)?;
        let data_shared = match verify {
            Verify::Nothing => vec![vec![0; vms.len()]; vms.len()],
            Verify::Merged | Verify::Unmerged => self.host.data_shared(&vms, &data)?,
        };
        if verify != Verify::Nothing {
            let seconds = begun.elapsed().as_secs_f64();
            expected.verify(&data_shared).map_err(|why| RunError::NotMerged { seconds, why })?;
        }
        let known = (verify == Verify::Nothing).then(|| expected.in_common(&matrix));
        let basis = known.as_ref().unwrap_or(&matrix);
        let plans = plans(&spec.arms, basis, &topology, &expected)?;

        let mut blocks = Vec::new();
        if spec.is_timed() {
            self.host.watch(&vms, &topology);
            let orders = orders(&spec.arms, spec.blocks(), spec.seed);
            let window = Window { host: &mut *self.host, guests, vms: &vms, pace, interrupt };
            let bench = Bench {
                workload,
                window,
                data: &data,
                plans: &plans,
                topology: &topology,
                basis,
                expected: &expected,
            };
            blocks = bench.blocks(&orders, self.progress)?;
        }
        let (events, event_notes) = self.host.counted();
        Ok(Outcome {
            topology,
            data_bytes,
            pace,
            boot,
            expected,
            matrix,
            data_shared,
            merging_s,
            plans,
            events,
            event_notes,
            blocks,
        })
    }

    /// What VMs share once they are up.
    fn boot(&mut self, holders: &[(String, Holder)]) -> Result<SharingMatrix, RunError> {
        let vms = self.host.find(holders)?;
        if self.workload.verify() == Verify::Unmerged {
            self.say("measuring what the VMs could share after boot");
            return Ok(self.host.measure(&vms)?);
        }
        self.say("merging what the VMs share after boot");
        self.host.merge()?;
        self.wait_until_still(&vms, BASE_GROWTH, self.workload.spec().merge_seconds / 2.0)
    }

    /// Waits until what the VMs share has grown by no more than the part `growth` of itself for a while, and
    /// tells it; as it is after `most_seconds`.
    fn wait_until_still(
        &mut self,
        vms: &[Vm],
        growth: f64,
        most_seconds: f64,
    ) -> Result<SharingMatrix, RunError> {
        let (begun, mut still_since, mut largest) = (Instant::now(), Instant::now(), 0);
        loop {
            let matrix = self.host.measure(vms)?;
            let shared: u64 = matrix.pairs().filter_map(|(i, j)| matrix.shared_frames(i, j)).sum();
            if shared as f64 > largest as f64 * (1.0 + growth) {
                (still_since, largest) = (Instant::now(), shared);
            }
            let is_still = largest > 0 && still_since.elapsed() >= STILL;
            if is_still || begun.elapsed().as_secs_f64() >= most_seconds {
                return Ok(matrix);
            }
            self.interrupt.sleep(Duration::from_millis(250))?;
        }
    }

    /// Waits until those that hold the same data share it.
    fn wait_until_merged(
        &mut self,
        vms: &[Vm],
        data: &[GuestData],
        expected: &Expected,
        most_seconds: f64,
    ) -> Result<(), RunError> {
        let begun = Instant::now();
        let limit = Duration::from_secs_f64(most_seconds);
        loop {
            let Err(why) = expected.verify(&self.host.data_shared(vms, data)?) else { return Ok(()) };
            if begun.elapsed() >= limit {
                return Err(RunError::NotMerged { seconds: begun.elapsed().as_secs_f64(), why });
            }
            self.interrupt.sleep(Duration::from_millis(100).min(limit))?;
            self.host.go_on_merging()?;
        }
    }
}
