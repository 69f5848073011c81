//! Wishes of viewers, done between rounds.

use std::sync::Arc;

use huddle_model::availability::Availability;
use huddle_model::command::LoopCommand;
use huddle_model::plan::{Plan, PlanInput, PlanVm, Policy};
use huddle_model::snapshot::{Event, EventKind, Snapshot};
use tokio::sync::{mpsc, oneshot};

use super::{DRY_RUN, Engine, Events};

/// A wish, and where to say how it went: one sentence either way.
#[derive(Debug)]
pub struct Request {
    /// What is wanted.
    pub command: LoopCommand,
    /// Told once; nobody need be there to hear it.
    pub reply: oneshot::Sender<Result<String, String>>,
}

/// Where wishes are sent to.
pub type Requests = mpsc::Sender<Request>;

impl Engine {
    /// Does what is wanted with what the last round found, and tells it as a round of its own: a placement
    /// that changes is a new one in every recording.
    ///
    /// # Errors
    /// One sentence: what cannot be done and why. Nothing was changed then.
    pub fn command(&mut self, command: &LoopCommand) -> Result<(Arc<Snapshot>, String), String> {
        let last = self.memory.last.clone().ok_or("the first round is not done yet")?;
        let begin_unix_us = self.clock.now_unix_us();
        let mut events = Vec::new();
        let (said, plan) = match command {
            LoopCommand::Apply => {
                self.pinner.as_ref().ok_or("this loop was started with --dry-run and cannot pin")?;
                last.plan.value().ok_or("there is no plan to apply")?;
                self.apply = true;
                ("vCPUs are pinned as planned from now on".to_owned(), last.plan.clone())
            }
            LoopCommand::DryRun => {
                self.apply = false;
                ("nothing is pinned from now on; what is pinned stays".to_owned(), last.plan.clone())
            }
            LoopCommand::SetPolicy(policy) => {
                self.policy = *policy;
                (format!("planned by policy {policy} from now on"), plan_anew(&last, *policy))
            }
            LoopCommand::Restore => {
                let pinner =
                    self.pinner.as_mut().ok_or("this loop was started with --dry-run: nothing to undo")?;
                self.apply = false;
                let report = pinner.undo();
                events.extend(report.notes.into_iter().map(|note| (EventKind::Note, None, note)));
                if !report.failures.is_empty() {
                    return Err(format!("NOT EVERYTHING WAS UNDONE: {}", report.failures.join("; ")));
                }
                (
                    format!("{} changes were taken back; nothing is pinned from now on", report.restored),
                    last.plan.clone(),
                )
            }
            LoopCommand::StartRecording { .. } | LoopCommand::StopRecording => {
                return Err("recordings are not the engine's".into());
            }
        };
        events.push((EventKind::Lifecycle, None, format!("asked by a viewer: {said}")));
        // A window holds one placement only.
        let observation = self.window(&last.vms, last.topology.value());
        let pinned = if self.apply {
            self.pin(&last.vms, &plan, &mut events)
        } else {
            Availability::Unavailable(DRY_RUN.into())
        };
        self.memory.round += 1;
        let end_unix_us = self.clock.now_unix_us();
        let snapshot = Arc::new(Snapshot {
            round: self.memory.round,
            begin_unix_us,
            end_unix_us,
            plan,
            pinned,
            observation,
            events: at(end_unix_us, events),
            own_cpu_us: self.host.own_cpu_us().into(),
            ..Snapshot::clone(&last)
        });
        self.memory.last = Some(Arc::clone(&snapshot));
        Ok((snapshot, said))
    }
}

fn plan_anew(last: &Snapshot, policy: Policy) -> Availability<Plan> {
    let (Availability::Available(matrix), Availability::Available(topology)) = (&last.matrix, &last.topology)
    else {
        return last.plan.clone();
    };
    let limits: Vec<PlanVm> = last.vms.iter().map(|vm| PlanVm::of(vm, topology)).collect();
    Availability::Available(policy.plan(&PlanInput::new(matrix, topology, &limits)))
}

/// Events of a moment.
fn at(at_unix_us: u64, events: Events) -> Vec<Event> {
    events.into_iter().map(|(kind, vm, message)| Event { at_unix_us, kind, vm, message }).collect()
}
