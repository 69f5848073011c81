//! Measuring blocks: every arm once, each in a placement of its own.

use std::time::{Duration, Instant};

use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;
use huddle_model::summary::{Arm, Block, Sample};
use huddle_model::topology::Topology;
use huddle_model::vm::Vm;

use super::course::{RunError, Step};
use super::expected::Expected;
use super::placement::{drawn, plan_of};
use super::{Verify, Workload};
use crate::guest::{Guest, GuestData, GuestError, Pace, Reading};
use crate::host::Host;
use crate::interrupt::Interrupt;

/// The guests of a run, as a workload measures them.
pub struct Window<'a, G: ?Sized> {
    /// The host.
    pub host: &'a mut dyn Host,
    /// The guests, in the order of the matrix.
    pub guests: &'a mut [Box<G>],
    /// The VMs that they are.
    pub vms: &'a [Vm],
    /// How they read.
    pub pace: Pace,
    /// What ends every waiting.
    pub interrupt: &'a Interrupt,
}

impl<G: Guest + ?Sized> Window<'_, G> {
    /// Has all guests begin: on the common data, or on what each has for itself.
    ///
    /// # Errors
    /// A guest does not.
    pub fn start(&mut self, own: bool) -> Result<(), GuestError> {
        let pace = self.pace;
        self.guests.iter_mut().try_for_each(|guest| guest.start(pace, own))
    }

    /// What each vCPU of each guest has done since the start.
    ///
    /// # Errors
    /// A guest does not tell.
    pub fn read(&mut self) -> Result<Vec<Vec<Reading>>, GuestError> {
        self.guests.iter_mut().map(|guest| guest.read()).collect()
    }

    /// Has all guests stop.
    ///
    /// # Errors
    /// A guest does not.
    pub fn stop(&mut self) -> Result<(), GuestError> {
        self.guests.iter_mut().try_for_each(|guest| guest.stop().map(drop))
    }
}

/// What blocks are measured with.
pub(super) struct Bench<'a, W: Workload> {
    pub(super) workload: &'a W,
    pub(super) window: Window<'a, W::Guest>,
    /// What each VM holds, as far as it is verified.
    pub(super) data: &'a [GuestData],
    pub(super) plans: &'a [(Arm, Plan)],
    pub(super) topology: &'a Topology,
    /// What plans are made from.
    pub(super) basis: &'a SharingMatrix,
    pub(super) expected: &'a Expected,
}

impl<W: Workload> Bench<'_, W> {
    /// Measures one block after the other; those that warm up are not among what is returned.
    pub(super) fn blocks(
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

    /// Every arm once; a block at whose end what was to be merged is not is invalid.
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
        let drawn = arm.is_drawn().then(|| drawn(self.basis, self.topology, seed, block));
        let plan = plan_of(arm, drawn.as_ref(), self.plans)?;
        self.window.host.place(self.window.vms, plan)?;
        let sample = self.workload.measure(&mut self.window, arm, plan)?;
        Ok(sample.map(|sample| Sample { plan: drawn, ..sample }))
    }
}

/// The blocks that are left take as long each as those before them, or, before the first, as `first`.
fn time_left(first: Option<Duration>, elapsed: Duration, done: usize, of: usize) -> Option<Duration> {
    let a_block = if done > 0 { Some(elapsed.div_f64(done as f64)) } else { first };
    a_block.map(|one| one.mul_f64((of - done) as f64))
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
