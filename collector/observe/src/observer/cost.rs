//! Cost of observation: CPU time of this process, run time of the programs, and events they lost.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::observation::{LossObservation, ProgramCost, ProgramObservation};

use super::super::probes::Programs;
use super::super::probes::cost::{self, CostMeter};
use super::super::probes::losses::{LossReader, Losses};
use super::super::probes::program::Program;

/// Costs and losses of the programs, window by window.
pub(super) struct CostWindow {
    programs: Result<Programs, String>,
    /// Keeps the kernel's statistics on; or the reason why they are off.
    meter: Result<CostMeter, String>,
    losses: Availability<LossReader>,
    costs: BTreeMap<Program, cost::ProgramCost>,
    lost: Losses,
}

impl CostWindow {
    pub(super) fn new(programs: Programs, losses: Availability<LossReader>) -> Self {
        let meter = CostMeter::start().map_err(|error| error.to_string());
        let costs = programs.costs();
        Self { programs: Ok(programs), meter, losses, costs, lost: Losses::default() }
    }

    pub(super) fn without(reason: String) -> Self {
        Self {
            programs: Err(reason.clone()),
            meter: Err(reason.clone()),
            losses: Availability::Unavailable(reason),
            costs: BTreeMap::new(),
            lost: Losses::default(),
        }
    }

    /// The reasons of all programs that do not run.
    pub(super) fn reasons(&self) -> BTreeMap<Program, String> {
        let reason = |program: Program| {
            let reason = match &self.programs {
                Err(reason) => Some(reason.clone()),
                Ok(programs) => {
                    let status = programs.status().iter().find(|status| status.program == program);
                    status.and_then(|status| status.attached.reason().map(str::to_owned))
                }
            };
            reason.map(|reason| (program, reason))
        };
        Program::ALL.into_iter().filter_map(reason).collect()
    }

    /// Costs and losses since the last call.
    pub(super) fn read(&mut self) -> (Vec<ProgramObservation>, Availability<LossObservation>) {
        let reasons = self.reasons();
        let costs = self.programs.as_ref().map(Programs::costs).unwrap_or_default();
        let of = |program: Program| {
            let cost = match (reasons.get(&program), &self.meter, costs.get(&program)) {
                (Some(reason), _, _) | (_, Err(reason), _) => Availability::Unavailable(reason.clone()),
                (None, Ok(_), None) => {
                    Availability::Unavailable("the kernel reports nothing about this program".into())
                }
                (None, Ok(_), Some(now)) => {
                    let before = self.costs.get(&program).copied().unwrap_or_default();
                    Availability::Available(ProgramCost {
                        runs: now.runs.saturating_sub(before.runs),
                        run_ns: now.run_ns.saturating_sub(before.run_ns),
                    })
                }
            };
            ProgramObservation { name: program.name().to_owned(), cost }
        };
        let programs = Program::ALL.into_iter().map(of).collect();
        self.costs = costs;
        (programs, self.read_losses())
    }

    fn read_losses(&mut self) -> Availability<LossObservation> {
        let reader = match &self.losses {
            Availability::Available(reader) => reader,
            Availability::Unavailable(reason) => return Availability::Unavailable(reason.clone()),
        };
        let now = match reader.read() {
            Ok(now) => now,
            Err(error) => return Availability::Unavailable(error.to_string()),
        };
        let before = std::mem::replace(&mut self.lost, now);
        Availability::Available(LossObservation {
            pass_events: now.pass_events.saturating_sub(before.pass_events),
            ksm_events: now.ksm_events.saturating_sub(before.ksm_events),
            exit_reasons: now.exit_reasons.saturating_sub(before.exit_reasons),
            vcpu_threads: now.vcpu_threads.saturating_sub(before.vcpu_threads),
        })
    }
}
