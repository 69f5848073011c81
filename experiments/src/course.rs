//! The course of an experiment: what all of them do around what they measure. The host is undone at any end,
//! merging is waited for, and blocks follow each other with their progress told.

use std::time::{Duration, Instant};

use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;

use crate::design::Arm;
use crate::guest::{Guest, GuestData, GuestError};
use crate::host::{Host, HostFailure};
use crate::interrupt::{Interrupt, Interrupted};
use crate::microbench::{Expected, NotMerged};
use crate::spec::SpecError;

/// How long what VMs share must not have grown.
const STILL: Duration = Duration::from_secs(3);

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

/// Measures with guests that `measure` starts, and leaves the host as it was, whatever came of it.
pub(crate) fn undone_after<G: Guest + ?Sized, T>(
    host: &mut dyn Host,
    measure: impl FnOnce(&mut dyn Host, &mut Vec<Box<G>>) -> Result<T, RunError>,
) -> Result<T, RunError> {
    let mut guests = Vec::new();
    let mut result = measure(&mut *host, &mut guests);
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

/// Waiting for what the host merges.
pub(crate) struct Merging<'a> {
    pub(crate) host: &'a mut dyn Host,
    pub(crate) interrupt: &'a Interrupt,
}

impl Merging<'_> {
    /// Waits until what the VMs share has grown by no more than the part `growth` of itself for a while, and
    /// tells it; as it is after `most_seconds`.
    pub(crate) fn wait_until_still(
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
    pub(crate) fn wait_until_merged(
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

/// Measures one block after the other, each with the order of its arms and its number from 1, the first
/// `warm_up` of them without a number and for nothing. `first` is about how long the first takes.
pub(crate) fn blocks<B>(
    orders: &[Vec<Arm>],
    warm_up: usize,
    first: Option<Duration>,
    progress: &mut dyn FnMut(Step<'_>),
    mut measure: impl FnMut(usize, &[Arm]) -> Result<B, RunError>,
) -> Result<Vec<B>, RunError> {
    let of = orders.len();
    let begun = Instant::now();
    let mut blocks = Vec::new();
    for (done, order) in orders.iter().enumerate() {
        let number = (done + 1).saturating_sub(warm_up);
        let names: Vec<&str> = order.iter().map(|arm| arm.name()).collect();
        let text = match number {
            0 => "warming up".to_owned(),
            number => format!("block {number} of {}: {}", of - warm_up, names.join(", ")),
        };
        let left = time_left(first, begun.elapsed(), done, of);
        progress(Step { text: &text, done, of, left });
        let block = measure(number, order)?;
        if number > 0 {
            blocks.push(block);
        }
    }
    Ok(blocks)
}

/// The blocks that are left take as long each as those before them, or, before the first, as `first`.
fn time_left(first: Option<Duration>, elapsed: Duration, done: usize, of: usize) -> Option<Duration> {
    let a_block = if done > 0 { Some(elapsed.div_f64(done as f64)) } else { first };
    a_block.map(|one| one.mul_f64((of - done) as f64))
}

/// The plan of an arm: the one drawn for this block, or that of the whole run.
///
/// # Errors
/// When there is none.
pub(crate) fn plan_of<'a>(
    arm: Arm,
    drawn: Option<&'a Plan>,
    plans: &'a [(Arm, Plan)],
) -> Result<&'a Plan, RunError> {
    let planned = || plans.iter().find(|(planned, _)| *planned == arm).map(|(_, plan)| plan);
    drawn
        .or_else(planned)
        .ok_or_else(|| HostFailure::Failed(format!("there is no plan for the arm {arm}")).into())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_goes_by_the_blocks_so_far() {
        let (s, first) = (Duration::from_secs, Some(Duration::from_secs(4)));
        assert_eq!(time_left(first, Duration::ZERO, 0, 10), Some(s(40)));
        assert_eq!(time_left(first, s(30), 5, 10), Some(s(30)));
        assert_eq!(time_left(first, s(30), 10, 10), Some(Duration::ZERO));
        assert_eq!(time_left(None, Duration::ZERO, 0, 10), None);
    }
}
