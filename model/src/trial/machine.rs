//! The closed loop as a state machine: observe -> propose -> trial -> decide -> hold.
//!
//! It is driven by rounds (a complete pass of KSM, with the measurements and the plan after it) and windows
//! (counters and reports of workloads), each with the time; it decides which placement is in effect. It reads
//! no clock: `now` is from a monotonic clock, so a step of the wall clock changes only dates in the log.
//!
//! A trial has blocks; in each, both placements are in effect once. The order alternates (before, after;
//! after, before; ...) from a random start by the seed: a drift that is linear over two blocks affects both
//! sides equally, and there is one switch per block, since a switch costs moves and cold caches. The first
//! windows after a switch are not counted.

mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::assignment::Assignment;
use super::budget::MoveBudget;
use super::running::{Progress, Side, Trial};
use super::settings::TrialSettings;
use super::verdict::{Verdict, judge};
use super::writers::Writers;
use super::{Arm, Comparison, Decision, Objective, Outcome};
use crate::availability::Availability;
use crate::id::{VmId, VmRef};
use crate::matrix::SharingMatrix;
use crate::observation::{Observation, TrialBlock};
use crate::plan::PlanInput;
use crate::stats::Estimate;
use crate::topology::Topology;

/// Minimum number of blocks for a decision.
const MIN_BLOCKS: u32 = 8;

/// Identity of a VM for a trial: if any of this changes it is another VM.
pub type Member = (String, VmId, u32);

/// Time of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// On a monotonic clock, since any fixed start.
    pub now: Duration,
    /// By the wall clock, in microseconds since the Unix epoch; only for the log.
    pub unix_us: u64,
}

/// A complete pass, with the measurements and the plan after it.
#[derive(Clone, Copy, Debug)]
pub struct RoundReading<'a> {
    /// Its time.
    pub at: Moment,
    /// Its number.
    pub round: u64,
    /// The VMs: name, id, vCPUs.
    pub members: &'a BTreeSet<Member>,
    /// The sharing matrix.
    pub matrix: &'a SharingMatrix,
    /// The cache domains.
    pub topology: &'a Topology,
    /// The current domains of vCPUs, by their affinity.
    pub here: &'a Assignment,
    /// The plan of the policy.
    pub proposal: &'a Assignment,
    /// The policy's name.
    pub policy: &'a str,
    /// Whether the policy maximises sharing within domains, so that a proposal with little gain is not worth
    /// a trial. For other policies only a trial shows the gain.
    pub seeks_sharing: bool,
    /// The planner's input, to check which limits placements break; `None` if no limits are set.
    pub limits: Option<PlanInput<'a>>,
    /// Nothing is tried or changed, only reported.
    pub is_dry: bool,
}

/// State of the host at a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostReading {
    /// Runnable tasks per CPU; `None` if unknown.
    pub load_per_cpu: Option<f64>,
    /// KSM's `run`; `None` if unknown.
    pub ksm_run: Option<u64>,
}

enum Phase {
    Observing,
    Trial(Box<Trial>),
    Holding { until: Duration },
}

/// A reverted proposal, and until when it is not tried again.
struct Rejected {
    proposal: Assignment,
    /// The VMs at that time.
    members: BTreeSet<Member>,
    times: u32,
    until: Duration,
}

/// Maximum number of remembered reverted proposals.
const MAX_REJECTED: usize = 64;

/// Why a proposal is not tried now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is a dry run.
    DryRun,
    /// The VMs are already placed like that.
    InPlace,
    /// Its gain is too small.
    Gain,
    /// It was reverted recently.
    CoolDown,
    /// The host is too busy.
    Load,
    /// The objective cannot be measured.
    NoValue,
    /// Too few moves are left in this hour.
    Budget,
}

/// A refused proposal: reported once until something else happens.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    why: Refusal,
    proposal: Assignment,
    writers: Vec<String>,
}

/// The state machine.
pub struct Machine {
    settings: TrialSettings,
    objective: Objective,
    phase: Phase,
    /// The placement in effect outside of trials; empty until one is kept.
    incumbent: Assignment,
    /// Domains of vCPUs before huddle placed them.
    origin: Assignment,
    members: BTreeSet<Member>,
    matrix: Option<SharingMatrix>,
    /// Change of the matrix in the last pass; `None` before the second.
    moved: Option<f64>,
    writers: Writers,
    budget: MoveBudget,
    rejected: Vec<Rejected>,
    refused: Option<Refused>,
    /// Why the last window had no value of the objective.
    blind: Option<String>,
    host: HostReading,
    trials: u64,
    arms: Vec<Arm>,
    decisions: Vec<Decision>,
}

impl Machine {
    /// The initial state: no trial, and nothing placed.
    pub fn new(objective: Objective, settings: TrialSettings) -> Self {
        let budget = MoveBudget::new(settings.moves_per_hour);
        Self {
            settings,
            objective,
            phase: Phase::Observing,
            incumbent: Assignment::default(),
            origin: Assignment::default(),
            members: BTreeSet::new(),
            matrix: None,
            moved: None,
            writers: Writers::default(),
            budget,
            rejected: Vec::new(),
            refused: None,
            blind: None,
            host: HostReading::default(),
            trials: 0,
            arms: Vec::new(),
            decisions: Vec::new(),
        }
    }

    /// The placement that must be in effect now; vCPUs without an entry must be where they were before huddle
    /// started.
    pub fn wanted(&self) -> &Assignment {
        match &self.phase {
            Phase::Trial(trial) if trial.side() == Side::After => &trial.proposal,
            _ => &self.incumbent,
        }
    }

    /// The part of a trial that a window ending now belongs to, in which `observed` were observed; `None` outside
    /// of trials and during warm-up after a switch.
    pub fn block(&self, observed: &[VmRef]) -> Option<TrialBlock> {
        let Phase::Trial(trial) = &self.phase else { return None };
        let (arm, block) = trial.counted()?;
        let number = u32::try_from(self.trials).unwrap_or(u32::MAX);
        let members: BTreeMap<&str, VmId> =
            self.members.iter().map(|(name, id, _)| (name.as_str(), *id)).collect();
        let is_member = |vm: &VmRef| {
            members.get(vm.name.as_str()).is_some_and(|id| vm.id.is_none_or(|other| other == *id))
        };
        let outside = observed.iter().filter(|vm| !is_member(vm)).map(|vm| vm.name.clone()).collect();
        Some(TrialBlock { trial: number, arm: self.arms[arm as usize].name.clone(), block, outside })
    }

    /// Weights of the VMs' sharing: less than 1 for those that write to shared pages.
    pub fn weights(&self) -> BTreeMap<String, f64> {
        self.writers.weights(self.settings.lasting_s)
    }

    /// Change of the matrix in the last pass (0: none); `None` before the second pass.
    pub fn sharing_change(&self) -> Option<f64> {
        self.moved
    }

    /// The decisions that were not taken out yet, oldest first.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Takes out the decisions, oldest first: a loop that runs for months must not collect them.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.decisions)
    }

    /// The comparison for the screen and the recording.
    pub fn comparison(&mut self) -> Comparison {
        for arm in &mut self.arms {
            // Computed when a block is added, not at every call.
            if arm.value.value().map_or(0, |value| value.n) != arm.blocks.len() {
                arm.value = match Estimate::of_median(&arm.blocks) {
                    Some(value) => Availability::Available(value),
                    None => Availability::Unavailable("no block has ended yet".into()),
                };
            }
        }
        Comparison { objective: self.objective, phase: self.phase(), arms: self.arms.clone() }
    }

    fn phase(&self) -> super::Phase {
        match &self.phase {
            Phase::Trial(trial) => super::Phase::Trial {
                block: u32::try_from(trial.pairs.len() + 1).unwrap_or(u32::MAX),
                blocks: trial.blocks,
            },
            Phase::Holding { .. } => super::Phase::Holding,
            Phase::Observing => super::Phase::Observing {
                moved: self.moved.filter(|moved| *moved > self.settings.moving_limit),
            },
        }
    }

    /// Ends a running trial on request of a viewer, without a delay before the next one: the earlier
    /// placement is in effect again. `reason` is a clause.
    pub fn interrupt(&mut self, at: Moment, reason: String) {
        if let Phase::Trial(_) = &self.phase {
            self.abort(at, reason);
        }
        self.phase = Phase::Observing;
        self.refused = None;
    }

    /// The placement could not be applied, or not completely, so the trial is invalid.
    pub fn not_in_force(&mut self, at: Moment, reason: &str) {
        if let Phase::Trial(_) = &self.phase {
            self.abort(at, format!("the placement could not be applied: {reason}"));
        }
    }

    /// Whether a trial runs.
    pub fn is_trying(&self) -> bool {
        matches!(self.phase, Phase::Trial(_))
    }

    /// Drops the kept placement: only the state before huddle started is wanted. A running trial is ended
    /// first, as by [`Machine::interrupt`].
    pub fn reset(&mut self, at: Moment, reason: String) {
        self.interrupt(at, reason);
        self.switch(at.now, |machine| machine.incumbent = Assignment::default());
    }

    /// Processes the end of a window, after which another placement may be wanted. A partial window, cut
    /// short by a round or a viewer's command, is not a sample.
    pub fn window(&mut self, at: Moment, seen: &Observation, host: HostReading, is_whole: bool) {
        self.host = host;
        self.writers.add(seen);
        if !is_whole {
            self.guard(at, None, host);
            return;
        }
        let mut alone = crate::stats::BlockSums::default();
        alone.add(seen);
        let value = alone.value(self.objective);
        self.blind = value.reason().map(str::to_owned);
        if !self.guard(at, Some(seen), host) {
            return;
        }
        let Phase::Trial(trial) = &mut self.phase else { return };
        let ended = trial.add(seen, self.objective, &self.settings);
        match ended {
            Err(reason) => self.abort(at, format!("{} cannot be measured: {reason}", self.objective.name())),
            Ok(Progress::Same) => {}
            Ok(Progress::NextPart) => self.switch(at.now, |machine| {
                if let Phase::Trial(trial) = &mut machine.phase {
                    trial.next_part(&machine.settings);
                }
            }),
            Ok(Progress::BlockEnded) => self.block_ended(at),
        }
    }

    /// Aborts a trial if the host, or a whole window, requires it; returns false then.
    fn guard(&mut self, at: Moment, seen: Option<&Observation>, host: HostReading) -> bool {
        let Phase::Trial(trial) = &mut self.phase else { return true };
        let broken = match host {
            HostReading { ksm_run: Some(run), .. } if run != 1 => Some("KSM was switched off".to_owned()),
            HostReading { load_per_cpu: Some(load), .. } if load > self.settings.load_limit => Some(format!(
                "{load:.1} runnable tasks per CPU are above the limit of {}",
                self.settings.load_limit
            )),
            _ => seen.and_then(|seen| trial.disturbed(seen, self.objective, &self.members)),
        };
        let Some(reason) = broken else { return true };
        self.abort(at, reason);
        false
    }

    fn block_ended(&mut self, at: Moment) {
        let Phase::Trial(trial) = &mut self.phase else { return };
        let Some((before, after)) = trial.pairs.last() else { return };
        self.arms[Side::Before as usize].blocks.push(*before);
        self.arms[Side::After as usize].blocks.push(*after);
        let settings = TrialSettings { blocks: trial.blocks, ..self.settings.clone() };
        match judge(&trial.pairs, self.objective.more_is_better(), &settings) {
            Verdict::Open => self.switch(at.now, |machine| {
                if let Phase::Trial(trial) = &mut machine.phase {
                    trial.next_block();
                }
            }),
            Verdict::Keep(compared) => {
                let reason = "better by more than is asked for, and surely so".to_owned();
                self.end(at, Outcome::Kept, Some(compared.change), reason, true);
            }
            Verdict::TakeBack(compared, reason) => {
                self.end(at, Outcome::Reverted, Some(compared.change), reason, true);
            }
            Verdict::Abort(change) => {
                let limit = self.settings.worse_limit * 100.0;
                let reason = format!("{:.0} % worse, beyond the limit of {limit:.0} %", -change * 100.0);
                self.end(at, Outcome::Aborted, None, reason, true);
            }
            Verdict::Unusable(reason) => self.abort(at, reason),
        }
    }

    /// Ends a trial for a reason other than the proposal itself: it may be tried again after a quiet period.
    fn abort(&mut self, at: Moment, reason: String) {
        self.end(at, Outcome::Aborted, None, reason, false);
    }

    fn end(
        &mut self,
        at: Moment,
        outcome: Outcome,
        change: Option<Estimate>,
        reason: String,
        by_merit: bool,
    ) {
        let reason = self.with_writers(reason);
        let hold = self.settings.hold();
        let mut ended = None;
        self.switch(at.now, |machine| {
            let Phase::Trial(trial) = std::mem::replace(&mut machine.phase, Phase::Observing) else { return };
            if outcome == Outcome::Kept {
                machine.incumbent = trial.proposal.clone();
            }
            if outcome == Outcome::Kept || !by_merit {
                machine.phase = Phase::Holding { until: at.now + hold };
            }
            ended = Some(trial);
        });
        let Some(trial) = ended else { return };
        if outcome == Outcome::Kept {
            self.rejected.clear();
        } else if by_merit {
            self.reject(at.now, trial.proposal);
        }
        self.decisions.push(Decision {
            at_unix_us: at.unix_us,
            round: trial.round,
            objective: self.objective,
            proposal: trial.line,
            expected_change: trial.expected_change,
            observed_change: change,
            outcome,
            reason,
        });
    }

    fn reject(&mut self, now: Duration, proposal: Assignment) {
        let before = self.rejected.iter().position(|rejected| self.is_of(rejected, &proposal));
        let times = before.map_or(0, |at| self.rejected.remove(at).times) + 1;
        let until = now + self.settings.cool_down(times);
        let members = self.members.clone();
        self.rejected.push(Rejected { proposal, members, times, until });
        if self.rejected.len() > MAX_REJECTED {
            self.rejected.remove(0);
        }
    }

    /// Runs a change of the placement in effect, and charges its moves to the budget.
    fn switch(&mut self, now: Duration, step: impl FnOnce(&mut Self)) {
        let was = self.wanted().over(&self.origin);
        step(self);
        let moves = was.moves_to(&self.wanted().over(&self.origin));
        self.budget.spend(now, moves);
    }

    fn with_writers(&self, reason: String) -> String {
        let writers = self.writers.sentences(self.settings.lasting_s);
        std::iter::once(reason)
            .chain(writers.into_iter().map(|(_, sentence)| sentence))
            .collect::<Vec<_>>()
            .join("; ")
    }
}

fn new_arm(name: &str) -> Arm {
    Arm {
        name: name.to_owned(),
        value: Availability::Unavailable("no block has ended yet".into()),
        blocks: Vec::new(),
    }
}
