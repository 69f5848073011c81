//! Measuring one block: place, settle, read all counters, wait, read them again.

use huddle_model::plan::Plan;
use huddle_model::vm::Vm;
use serde::Serialize;

use super::sharing::Expected;
use super::{Config, RunError};
use crate::design::Arm;
use crate::guest::{Guest, GuestError, Reading};
use crate::host::{Host, HostFailure};
use crate::interrupt::Interrupt;

/// What one guest did in one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GuestSample {
    /// Name of its VM.
    pub vm: String,
    /// Dependent reads.
    pub reads: u64,
    /// From the end of the burst before the window to the end of the last burst in it, in nanoseconds.
    pub elapsed_ns: u64,
    /// CPU time of its vCPU in that time, in nanoseconds.
    pub busy_ns: u64,
}

impl GuestSample {
    /// Reads per second.
    pub fn reads_per_s(&self) -> f64 {
        self.reads as f64 * 1e9 / self.elapsed_ns as f64
    }

    /// CPU time per read in nanoseconds.
    pub fn busy_ns_per_read(&self) -> f64 {
        self.busy_ns as f64 / self.reads as f64
    }
}

/// What all guests did in one window of one arm.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmSample {
    /// The arm.
    pub arm: Arm,
    /// Each guest, in the order of the matrix.
    pub guests: Vec<GuestSample>,
    /// CPU time the guests got, as a part (0 to 1) of what the CPUs they were placed on could give to
    /// as many threads: what is missing went to other programs.
    pub cpu_share: f64,
}

impl ArmSample {
    /// Reads per second of all guests together.
    pub fn reads_per_s(&self) -> f64 {
        self.guests.iter().map(GuestSample::reads_per_s).sum()
    }

    /// CPU time per read over all guests, in nanoseconds.
    pub fn busy_ns_per_read(&self) -> f64 {
        let busy: u64 = self.guests.iter().map(|guest| guest.busy_ns).sum();
        let reads: u64 = self.guests.iter().map(|guest| guest.reads).sum();
        busy as f64 / reads as f64
    }
}

/// One block: every arm once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Block {
    /// Counted from 1.
    pub number: usize,
    /// The arms, in the order they were measured; in an invalid block one may be missing.
    pub samples: Vec<ArmSample>,
    /// Why it must enter no figure; `None` when it is valid.
    pub invalid: Option<String>,
}

impl Block {
    /// The sample of one arm.
    pub fn sample(&self, arm: Arm) -> Option<&ArmSample> {
        self.samples.iter().find(|sample| sample.arm == arm)
    }
}

pub(super) struct Bench<'a> {
    pub(super) config: &'a Config,
    pub(super) host: &'a mut dyn Host,
    pub(super) guests: &'a mut Vec<Box<dyn Guest>>,
    pub(super) vms: &'a [Vm],
    pub(super) plans: &'a [(Arm, Plan)],
    pub(super) interrupt: &'a Interrupt,
}

impl Bench<'_> {
    pub(super) fn start(&mut self) -> Result<(), GuestError> {
        self.guests.iter_mut().try_for_each(|guest| guest.start())
    }

    pub(super) fn stop(&mut self) -> Result<(), GuestError> {
        self.guests.iter_mut().try_for_each(|guest| guest.stop().map(drop))
    }

    pub(super) fn block(
        &mut self,
        number: usize,
        order: &[Arm],
        expected: &Expected,
    ) -> Result<Block, RunError> {
        let mut samples = Vec::new();
        let mut invalid = None;
        for arm in order {
            match self.sample(*arm)? {
                Ok(sample) => samples.push(sample),
                Err(starved) => invalid = Some(starved),
            }
        }
        let matrix = self.host.measure(self.vms)?;
        if let Err(why) = expected.verify(&matrix) {
            invalid = Some(format!("at the end of the block {why}"));
        }
        Ok(Block { number, samples, invalid })
    }

    /// What the guests did in one window, or why it cannot be told: a guest that other programs kept
    /// from finishing one burst has no rate, and one such window must not end a long run.
    fn sample(&mut self, arm: Arm) -> Result<Result<ArmSample, String>, RunError> {
        let Some((_, plan)) = self.plans.iter().find(|(planned, _)| *planned == arm) else {
            return Err(HostFailure::Failed(format!("there is no plan for the arm {arm}")).into());
        };
        self.host.place(self.vms, plan)?;
        self.interrupt.sleep(self.config.settle)?;
        let before = self.readings()?;
        self.interrupt.sleep(self.config.window)?;
        let after = self.readings()?;
        let mut guests = Vec::new();
        for ((guest, before), after) in self.guests.iter().zip(before).zip(after) {
            let done = after.since(&before).filter(|done| done.reads > 0 && done.elapsed_ns > 0);
            let Some(Reading { reads, elapsed_ns, busy_ns, .. }) = done else {
                return Ok(Err(format!(
                    "in arm {arm} the guest {} finished no burst within {} s, so little CPU time did other \
                     programs leave it",
                    guest.name(),
                    self.config.window.as_secs_f64()
                )));
            };
            guests.push(GuestSample { vm: guest.name().to_owned(), reads, elapsed_ns, busy_ns });
        }
        let used: f64 = guests.iter().map(|guest| guest.busy_ns as f64 / guest.elapsed_ns as f64).sum();
        Ok(Ok(ArmSample { arm, cpu_share: used / usable_cpus(plan), guests }))
    }

    fn readings(&mut self) -> Result<Vec<Reading>, GuestError> {
        self.guests.iter_mut().map(|guest| guest.read()).collect()
    }
}

/// How many CPUs the placed vCPUs can use at once.
fn usable_cpus(plan: &Plan) -> f64 {
    let usable = plan.domains.iter().map(|domain| {
        plan.placement.iter().filter(|placed| placed.domain == domain.id).count().min(domain.cpus.len())
    });
    usable.sum::<usize>() as f64
}
