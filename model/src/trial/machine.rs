//! The closed loop as a state machine: observe -> propose -> trial -> decide -> hold.
//!
//! It is driven by rounds (a complete pass of KSM, with the measurements and the plan after it) and windows
//! (counters and reports of workloads), each with the time; it decides which placement is in effect. It reads
//! no clock: `now` is from a monotonic clock, so a step of the wall clock changes only dates in the log.
//!
//! A trial has blocks; in each, both placements are in effect once, in an order that is drawn anew for each block from
//! the seed. What the evaluation promises rests on that coin alone (see [`crate::stats::evidence_above`]). The first
//! windows of each part of a block are not counted, since caches fill again.

mod round;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::budget::MoveBudget;
use super::error_budget::ErrorBudget;
use super::running::{Progress, Side, Trial};
use super::settings::TrialSettings;
use super::verdict::{Verdict, judge};
use super::writers::Writers;
use super::{Arm, Comparison, Decision, Evidence, Objective, Outcome};
use crate::assignment::Assignment;
use crate::availability::Availability;
use crate::id::{VmId, VmRef};
use crate::matrix::SharingMatrix;
use crate::observation::{Observation, TrialBlock};
use crate::plan::PlanInput;
use crate::stats::{Estimate, evidence_above};
use crate::topology::Topology;

/// Minimum number of blocks that must be affordable for a trial: fewer are seldom enough.
const MIN_BLOCKS: u32 = 8;

/// Maximum number of switches in a block: before it, and between its parts.
const SWITCHES_PER_BLOCK: u32 = 2;

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
    /// The sharing matrix that was planned with: VMs that write to shared pages have lower weights in it.
    pub matrix: &'a SharingMatrix,
    /// The same as it was measured.
    pub measured: &'a SharingMatrix,
    /// The cache domains.
    pub topology: &'a Topology,
    /// The domains of vCPUs by the affinities that the round read.
    pub here: &'a Assignment,
    /// What huddle had in force when they were read: those vCPUs are elsewhere without it.
    pub placed: &'a Assignment,
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
    /// Without its mirror images, see [`Assignment::unmirrored`].
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
    errors: ErrorBudget,
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
        let errors = ErrorBudget::new(settings.alpha_per_day);
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
            errors,
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
        let number = self.trial_number();
        let members: BTreeMap<&str, VmId> =
            self.members.iter().map(|(name, id, _)| (name.as_str(), *id)).collect();
        let is_member = |vm: &VmRef| {
            members.get(vm.name.as_str()).is_some_and(|id| vm.id.is_none_or(|other| other == *id))
        };
        let outside = observed.iter().filter(|vm| !is_member(vm)).map(|vm| vm.name.clone()).collect();
        Some(TrialBlock { trial: number, arm: self.arms[arm as usize].name.clone(), block, outside })
    }

    /// The number of the current trial, or of the last one, from 1.
    fn trial_number(&self) -> u32 {
        u32::try_from(self.trials).unwrap_or(u32::MAX)
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
                // Beyond its planned number it goes on block by block.
                blocks: self.settings.blocks.max(u32::try_from(trial.pairs.len() + 1).unwrap_or(u32::MAX)),
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
        let left = self.budget.left(at.now);
        let Phase::Trial(trial) = &self.phase else { return };
        let Some((before, after)) = trial.pairs.last() else { return };
        self.arms[Side::Before as usize].blocks.push(*before);
        self.arms[Side::After as usize].blocks.push(*after);
        // Whether there can be a further block must not depend on its order, which is drawn when it begins.
        let is_last = trial.moves.saturating_mul(SWITCHES_PER_BLOCK + 1) > left;
        let more_is_better = self.objective.more_is_better();
        let verdict = judge(&trial.pairs, more_is_better, &self.settings, trial.required, is_last);
        match verdict {
            Verdict::Open => self.switch(at.now, |machine| {
                if let Phase::Trial(trial) = &mut machine.phase {
                    trial.next_block(&machine.settings);
                }
            }),
            Verdict::Keep(change) => {
                let asked = self.settings.least_effect * 100.0;
                let reason =
                    format!("at least {asked:.1} % better, and enough evidence that it is not chance");
                self.end(at, Outcome::Kept, Some(change), reason, true);
            }
            Verdict::Revert(change, reason) => {
                let reason = if is_last {
                    format!("{reason}; no moves are left in this hour for more blocks")
                } else {
                    reason
                };
                self.end(at, Outcome::Reverted, Some(change), reason, true);
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
            self.reject(at.now, trial.unmirrored);
        }
        if trial.pairs.is_empty() {
            self.errors.give_back();
        }
        let evidence = (!trial.pairs.is_empty()).then(|| Evidence {
            value: evidence_above(&trial.pairs, self.objective.more_is_better(), 0.0),
            required: trial.required,
        });
        self.decisions.push(Decision {
            at_unix_us: at.unix_us,
            round: trial.round,
            objective: self.objective,
            proposal: trial.line,
            expected_change: trial.expected_change,
            observed_change: change,
            trial: Some(self.trial_number()),
            evidence,
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
