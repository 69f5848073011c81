//! Commands of viewers, done between rounds.

use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::command::LoopCommand;
use huddle_model::event::EventKind;
use huddle_model::pinning::Pinning;
use huddle_model::plan::{Plan, Policy};
use huddle_model::update::{Round, Step};
use tokio::sync::{mpsc, oneshot};

use super::{Engine, Events, decision_event, events_at, unavailable_event};

/// Why nothing is done any more.
const ENDING: &str = "the loop is ending";

/// A command, and where to answer how it went: one sentence either way.
#[derive(Debug)]
pub struct Request {
    /// What is to be done.
    pub command: LoopCommand,
    /// Answered once; nobody need wait for it.
    pub reply: oneshot::Sender<Result<String, String>>,
}

/// Where commands are sent to.
pub type Requests = mpsc::Sender<Request>;

impl Engine {
    /// Does a command with what the last round found, and tells it as a round of its own: a placement that
    /// changes is a new one in every recording. A trial that the command is against is broken off first, and
    /// its decision told with it.
    ///
    /// The answer is an error where the command was taken and could not be carried out.
    ///
    /// # Errors
    /// One sentence: what cannot be done and why. Nothing was changed then.
    pub fn command(&mut self, command: &LoopCommand) -> Result<(Step, Result<String, String>), String> {
        let view = self.memory.view.as_ref().ok_or("the first round is not done yet")?;
        let last = Arc::clone(&view.round);
        let begin_unix_us = self.clock.now_unix_us();
        match command {
            LoopCommand::Apply => {
                self.pinner.as_ref().ok_or("this loop was started with --dry-run and cannot pin")?;
                last.plan.value().ok_or("there is no plan to apply")?;
            }
            LoopCommand::Restore => {
                self.pinner.as_ref().ok_or("this loop was started with --dry-run: nothing to undo")?;
            }
            LoopCommand::DryRun | LoopCommand::SetPolicy(_) => {}
            LoopCommand::StartRecording { .. } | LoopCommand::StopRecording => {
                return Err("recordings are not the engine's".into());
            }
        }
        // A window holds one placement only, so it ends before anything is changed.
        let observation = self.window(&last.vms, last.topology.value()).ok_or(ENDING)?;
        let mut events = Vec::new();
        let (answer, plan) = match command {
            LoopCommand::Apply => {
                self.apply = true;
                let answer = match self.trials {
                    Some(_) => "what is planned is tried from the next round on, and stays if it is better",
                    None => "vCPUs are pinned as planned from now on",
                };
                (Ok(answer.to_owned()), last.plan.clone())
            }
            LoopCommand::SetPolicy(policy) => {
                let plan = self.plan_anew(*policy, &last).ok_or(ENDING)?;
                self.policy = *policy;
                (Ok(self.change_policy(*policy)), plan)
            }
            LoopCommand::DryRun => {
                if self.break_off("a dry run") {
                    // What was only tried does not stay.
                    self.pin_as_wanted(&last, &last.plan, &mut events);
                }
                self.apply = false;
                (Ok("nothing is pinned from now on; what is pinned stays".to_owned()), last.plan.clone())
            }
            LoopCommand::Restore => (self.restore(&mut events), last.plan.clone()),
            LoopCommand::StartRecording { .. } | LoopCommand::StopRecording => {
                return Err("recordings are not the engine's".into());
            }
        };
        let (Ok(said) | Err(said)) = &answer;
        events.push((EventKind::Lifecycle, None, format!("asked by a viewer: {said}")));
        let pinning =
            if self.apply { self.pin_as_wanted(&last, &plan, &mut events) } else { Pinning::DryRun };
        let answer = match pinning.failure() {
            Some(reason) => {
                events.push(unavailable_event("pinning", reason));
                answer.and_then(|said| {
                    Err(format!("{said}, but pinning failed and is tried again in the next round: {reason}"))
                })
            }
            None => answer,
        };
        let decisions = self.new_decisions();
        events.extend(decisions.iter().map(decision_event));
        self.memory.round += 1;
        let end_unix_us = self.clock.now_unix_us();
        let round = Round {
            number: self.memory.round,
            begin_unix_us,
            end_unix_us,
            ksm: last.ksm.clone(),
            topology: last.topology.clone(),
            vms: Arc::clone(&last.vms),
            matrix: last.matrix.clone(),
            plan,
            pinning,
            events: events_at(end_unix_us, events),
            own_cpu_us: self.host.own_cpu_us().into(),
        };
        Ok((self.tell_round(round, observation, decisions), answer))
    }

    /// What is to be pinned until the next round: the plan, or where placements are tried, what was kept of
    /// those before.
    fn pin_as_wanted(
        &mut self,
        last: &Round,
        plan: &Availability<Arc<Plan>>,
        events: &mut Events,
    ) -> Pinning {
        let wanted = match (&mut self.trials, plan) {
            (Some(trials), Availability::Available(plan)) => {
                trials.planned(plan);
                trials.next_to_pin(true).map(|plan| Availability::Available(Arc::new(plan)))
            }
            _ => None,
        };
        self.pin_and_tell(&last.vms, wanted.as_ref().unwrap_or(plan), events)
    }

    /// Breaks off a trial; whether placements are tried and pinned at all.
    fn break_off(&mut self, what: &str) -> bool {
        let at = self.moment();
        let Some(trials) = self.trials.as_mut().filter(|_| self.apply) else { return false };
        trials.interrupt(at, what);
        true
    }

    fn change_policy(&mut self, policy: Policy) -> String {
        let (at, what) = (self.moment(), format!("policy {policy}"));
        match &mut self.trials {
            // In a dry run too: what was kept is not to come back with the next apply.
            Some(trials) if policy == Policy::None => {
                trials.let_go(at, &what);
                "every vCPU is left to the kernel from now on".to_owned()
            }
            Some(trials) if self.apply => {
                trials.interrupt(at, &what);
                format!("planned by policy {policy} from now on, and tried before it stays")
            }
            _ => format!("planned by policy {policy} from now on"),
        }
    }

    /// Takes everything back, and pins nothing more.
    fn restore(&mut self, events: &mut Events) -> Result<String, String> {
        let at = self.moment();
        if let Some(trials) = &mut self.trials {
            trials.let_go(at, "everything to be taken back");
            trials.was_undone();
        }
        self.apply = false;
        let report = self.undo().unwrap_or_default();
        events.extend(report.notes.into_iter().map(|note| (EventKind::Note, None, note)));
        if !report.failures.is_empty() {
            let failures = format!("NOT EVERYTHING WAS UNDONE: {}", report.failures.join("; "));
            events.push((EventKind::StageFailed, None, failures.clone()));
            return Err(failures);
        }
        Ok(format!("{} changes were taken back; nothing is pinned from now on", report.restored))
    }

    /// What this policy makes of what the last round measured; `None` where the loop is to end meanwhile.
    fn plan_anew(&mut self, policy: Policy, last: &Round) -> Option<Availability<Arc<Plan>>> {
        Some(match (&last.matrix, &last.topology) {
            (Availability::Available(matrix), Availability::Available(topology)) => {
                let basis = self.basis(&last.vms, matrix, topology)?;
                Availability::Available(self.plan(policy, basis)?.1)
            }
            _ => last.plan.clone(),
        })
    }
}
