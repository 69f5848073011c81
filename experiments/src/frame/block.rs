//! Measuring blocks: every arm once, each in a placement of its own.

use std::time::{Duration, Instant};

use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::summary::{Arm, Block, Sample};
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;

use super::expected::Expected;
use super::placement::{plan_of, random_plan};
use super::run::{RunError, Step};
use super::{Verify, Workload};
use crate::guest::{Guest, GuestData, GuestError, Pace, Reader, Reading};
use crate::host::Host;
use crate::interrupt::Interrupt;

/// The guests of a run, as a workload measures them.
pub struct Window<'a, G: ?Sized> {
    /// The host.
    pub host: &'a mut dyn Host,
    /// The guests, in the order of the matrix.
    pub guests: &'a mut [Box<G>],
    /// Their VMs.
    pub vms: &'a [Vm],
    /// How they read.
    pub pace: Pace,
    /// Ends every wait.
    pub interrupt: &'a Interrupt,
}

impl<G: Guest + ?Sized> Window<'_, G> {
    /// Starts all guests: on the common data, or on their own copies.
    ///
    /// # Errors
    /// A guest does not.
    pub fn start(&mut self, own: bool) -> Result<(), GuestError> {
        let pace = self.pace;
        self.guests.iter_mut().try_for_each(|guest| guest.start(pace, own))
    }

    /// Stops all guests.
    ///
    /// # Errors
    /// A guest does not.
    pub fn stop(&mut self) -> Result<(), GuestError> {
        self.guests.iter_mut().try_for_each(|guest| guest.stop())
    }
}

impl Window<'_, dyn Reader> {
    /// What each vCPU of each guest has done since the start.
    ///
    /// # Errors
    /// A guest does not answer.
    pub fn read(&mut self) -> Result<Vec<Vec<Reading>>, GuestError> {
        self.guests.iter_mut().map(|guest| guest.read()).collect()
    }
}

/// Measures blocks.
pub(super) struct BlockRunner<'a, W: Workload> {
    pub(super) workload: &'a W,
    pub(super) window: Window<'a, W::Guest>,
    /// The data of each VM, as far as it is verified.
    pub(super) data: &'a [GuestData],
    pub(super) plans: &'a [(Arm, Plan)],
    pub(super) topology: &'a Topology,
    /// The sharing that plans are made from.
    pub(super) basis: &'a SharingMatrix,
    pub(super) expected: &'a Expected,
}

impl<W: Workload> BlockRunner<'_, W> {
    /// Measures one block after the other, and returns those after the warm-up.
    pub(super) fn run(
        mut self,
        orders: &[Vec<Arm>],
        progress: &mut dyn FnMut(Step<'_>),
    ) -> Result<Vec<Block>, RunError> {
        let (warm_up, first) = (self.workload.spec().warm_up_blocks, self.workload.first_block());
        let (of, begun) = (orders.len(), Instant::now());
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
            let block = self.block(number, order)?;
            if number > 0 {
                blocks.push(block);
            }
        }
        Ok(blocks)
    }

    /// Measures every arm once. The block is invalid if merging does not hold at its end.
    fn block(&mut self, number: usize, order: &[Arm]) -> Result<Block, RunError> {
        let mut samples = Vec::new();
        let mut invalid = None;
        for arm in order {
            match self.sample(*arm, number)? {
                Ok(sample) => samples.push(sample),
                Err(why) => invalid = Some(why),
            }
        }
        if self.workload.verify() != Verify::Nothing
            && let Err(why) = self.expected.verify(&self.window.host.data_shared(self.window.vms, self.data)?)
        {
            invalid = Some(format!("at the end of the block {why}"));
        }
        Ok(Block { number, samples, invalid })
    }

    fn sample(&mut self, arm: Arm, block: usize) -> Result<Result<Sample, String>, RunError> {
        let seed = self.workload.spec().seed;
        let random = arm.is_drawn().then(|| random_plan(self.basis, self.topology, seed, block));
        let plan = plan_of(arm, random.as_ref(), self.plans)?;
        self.window.host.place(self.window.vms, plan)?;
        let sample = self.workload.measure(&mut self.window, arm, plan)?;
        Ok(sample.map(|sample| Sample { plan: random, ..sample }))
    }
}

/// About how long the remaining blocks take: each as long as those before, or, before the first, as `first`.
fn time_left(first: Option<Duration>, elapsed: Duration, done: usize, of: usize) -> Option<Duration> {
    let one = if done > 0 { Some(elapsed.div_f64(done as f64)) } else { first };
    one.map(|one| one.mul_f64((of - done) as f64))
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
