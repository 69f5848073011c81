//! Commands of viewers, carried out between rounds.

use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::command::LoopCommand;
use huddle_model::event::EventKind;
use huddle_model::pinning::Pinning;
use huddle_model::plan::{Plan, Policy};
use huddle_model::text::counted;
use huddle_model::update::{Round, Step};
use tokio::sync::{mpsc, oneshot};

use super::{Engine, Events, events_at, unavailable_event};

/// Why commands are no longer carried out.
pub const ENDING: &str = "the loop is ending";

/// A command, and where to send its outcome: one sentence either way.
#[derive(Debug)]
pub struct Request {
    /// The command.
    pub command: LoopCommand,
    /// Receives the outcome once; the requester need not wait for it.
    pub reply: oneshot::Sender<Result<String, String>>,
}

/// Where commands are sent to.
pub type Requests = mpsc::Sender<Request>;

/// A command that the engine carries out.
enum Placing {
    Apply,
    DryRun,
    Policy(Policy),
    Restore,
}

impl Placing {
    /// An error for the commands that are not for the engine.
    fn of(command: &LoopCommand) -> Result<Self, &'static str> {
        match command {
            LoopCommand::Apply => Ok(Self::Apply),
            LoopCommand::DryRun => Ok(Self::DryRun),
            LoopCommand::SetPolicy(policy) => Ok(Self::Policy(*policy)),
            LoopCommand::Restore => Ok(Self::Restore),
            LoopCommand::StartRecording { .. } | LoopCommand::StopRecording | LoopCommand::SaveLast => {
                Err("recordings are not the engine's")
            }
        }
    }
}

impl Engine {
    /// Carries out a command on the results of the last round, and emits a round of its own: each change of
    /// placement is a new round in a recording. A trial that conflicts with the command is aborted first, and
    /// its decision is emitted with the round.
    ///
    /// The inner result is an error if the command was accepted and could not be carried out.
    ///
    /// # Errors
    /// One sentence: why the command was rejected. Nothing was changed then.
    pub fn command(&mut self, command: &LoopCommand) -> Result<(Step, Result<String, String>), String> {
        let view = self.memory.view.as_ref().ok_or("the first round is not done yet")?;
        let last = Arc::clone(&view.round);
        let begin_unix_us = self.clock.now_unix_us();
        let command = Placing::of(command)?;
        match command {
            Placing::Apply => {
                self.pinner.as_ref().ok_or("this loop was started with --dry-run and cannot pin")?;
                last.plan.value().ok_or("there is no plan to apply")?;
            }
            Placing::Restore => {
                self.pinner.as_ref().ok_or("this loop was started with --dry-run: nothing to undo")?;
            }
            Placing::DryRun | Placing::Policy(_) => {}
        }
        // A window holds one placement only, so it ends before anything is changed.
        let observation = self.window(&last.vms, last.topology.value()).ok_or(ENDING)?;
        let mut events = Vec::new();
        let (answer, plan) = match command {
            Placing::Apply => {
                self.apply = true;
                self.resume(&mut events);
                let answer = match self.trials {
                    Some(_) => "the plan is tried from the next round on, and kept if it is better",
                    None => "vCPUs are pinned as planned from now on",
                };
                (Ok(answer.to_owned()), last.plan.clone())
            }
            Placing::Policy(policy) => {
                let plan = self.replan(policy, &last).ok_or(ENDING)?;
                self.policy = policy;
                (Ok(self.change_policy(policy)), plan)
            }
            Placing::DryRun => {
                if self.abort_trial("a dry run") {
                    // A placement that was only being tried is undone.
                    self.pin_as_wanted(&last, &last.plan, &mut events);
                }
                self.apply = false;
                (Ok("nothing is pinned from now on; what is pinned stays".to_owned()), last.plan.clone())
            }
            Placing::Restore => (self.restore(&mut events), last.plan.clone()),
        };
        let (Ok(outcome) | Err(outcome)) = &answer;
        events.push((EventKind::Lifecycle, None, format!("command of a viewer: {outcome}")));
        let pinning =
            if self.apply { self.pin_as_wanted(&last, &plan, &mut events) } else { Pinning::DryRun };
        let answer = match pinning.failure() {
            Some(reason) => {
                events.push(unavailable_event("pinning", reason));
                answer.and_then(|outcome| {
                    Err(format!(
                        "{outcome}, but pinning failed and is tried again in the next round: {reason}"
                    ))
                })
            }
            None => answer,
        };
        let decisions = self.new_decisions();
        self.memory.round += 1;
        let end_unix_us = self.clock.now_unix_us();
        let round = Round {
            number: self.memory.round,
            begin_unix_us,
            end_unix_us,
            ksm: last.ksm.clone(),
            topology: last.topology.clone(),
            vms: Arc::clone(&last.vms),
            left_out: last.left_out.clone(),
            matrix: last.matrix.clone(),
            plan,
            pinning,
            in_force: Arc::clone(&self.memory.in_force),
            events: events_at(end_unix_us, events),
            own_cpu_us: self.fact(|host| host.own_cpu_us()),
        };
        Ok((self.emit_round(round, observation, decisions), answer))
    }

    /// Pins the plan until the next round, or, where placements are tried, the placement that was kept last.
    fn pin_as_wanted(
        &mut self,
        last: &Round,
        plan: &Availability<Arc<Plan>>,
        events: &mut Events,
    ) -> Pinning {
        let wanted = match (&mut self.trials, plan) {
            (Some(trials), Availability::Available(plan)) => {
                trials.set_plan(plan);
                trials.next_to_pin(true).map(|plan| Availability::Available(Arc::new(plan)))
            }
            _ => None,
        };
        self.pin_and_report(&last.vms, wanted.as_ref().unwrap_or(plan), events)
    }

    /// Aborts a trial; returns whether placements are tried and pinned at all.
    fn abort_trial(&mut self, what: &str) -> bool {
        let at = self.moment();
        let Some(trials) = self.trials.as_mut().filter(|_| self.apply) else { return false };
        trials.abort_for_viewer(at, what);
        true
    }

    fn change_policy(&mut self, policy: Policy) -> String {
        let (at, what) = (self.moment(), format!("policy {policy}"));
        match &mut self.trials {
            // In a dry run too: the next `apply` must not pin again what was kept before.
            Some(trials) if policy == Policy::None => {
                trials.reset_for_viewer(at, &what);
                "every vCPU is left to the kernel from now on".to_owned()
            }
            Some(trials) if self.apply => {
                trials.abort_for_viewer(at, &what);
                format!("planned by policy {policy} from now on, and tried before it is kept")
            }
            _ => format!("planned by policy {policy} from now on"),
        }
    }

    /// Undoes all changes, and stops pinning.
    fn restore(&mut self, events: &mut Events) -> Result<String, String> {
        let at = self.moment();
        if let Some(trials) = &mut self.trials {
            trials.reset_for_viewer(at, "everything to be undone");
            trials.was_undone();
        }
        self.apply = false;
        self.memory.is_restored = true;
        let report = self.undo().unwrap_or_default();
        events.extend(report.notes.into_iter().map(|note| (EventKind::Note, None, note)));
        if !report.failures.is_empty() {
            let failures = format!("NOT EVERYTHING WAS UNDONE: {}", report.failures.join("; "));
            events.push((EventKind::StageFailed, None, failures.clone()));
            return Err(failures);
        }
        let nothing = if self.merger.is_some() { "nothing is pinned or merged" } else { "nothing is pinned" };
        Ok(format!("{} undone; {nothing} from now on", counted(report.restored, "change")))
    }

    /// Makes the changes besides pinning again that a restore has undone: settings of KSM now, and merging from the
    /// next round on.
    fn resume(&mut self, events: &mut Events) {
        if !std::mem::take(&mut self.memory.is_restored) {
            return;
        }
        let notes = self.pinner.as_mut().map(|pinner| pinner.resume()).unwrap_or_default();
        events.extend(notes.into_iter().map(|note| (EventKind::StageFailed, None, note)));
    }

    /// The plan of this policy for the measurement of the last round; `None` if the loop is stopped meanwhile.
    fn replan(&mut self, policy: Policy, last: &Round) -> Option<Availability<Arc<Plan>>> {
        Some(match (&last.matrix, &last.topology) {
            (Availability::Available(matrix), Availability::Available(topology)) => {
                let apart = self.memory.named_vms.apply(&self.limits, matrix.vms()).apart;
                let basis = self.basis(&last.vms, matrix, topology, apart)?;
                Availability::Available(self.plan(policy, basis)?.1)
            }
            _ => last.plan.clone(),
        })
    }
}
