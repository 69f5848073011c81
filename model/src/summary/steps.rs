//! An experiment's result as a replay shows it: one step for each arm, with the view that a loop with the arm's
//! placement would have.
//!
//! A summary is a file of somebody else: what is made of it is bounded by its size and by [`MAX_BLOCKS`]. Not in it, and
//! so filled in:
//! - a VM whose id it does not have: the id of no process, 0;
//! - the thread of a vCPU: the process of its VM;
//! - guest memory, affinities and what may be merged: nothing;
//! - the time of its events, where it does not have when it began: 0.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Arm, ArmFigure, SimulatedMisses, SimulatedVcpu, Summary, measured, one_a_kind};
use crate::assignment::Assignment;
use crate::availability::Availability;
use crate::event::{Event, EventKind};
use crate::id::{TaskId, VmId};
use crate::matrix::MatrixVm;
use crate::observation::CountedEvent;
use crate::pinning::{PinOutcome, Pinning};
use crate::plan::{Plan, VcpuPlacement};
use crate::text::{plain_short, unix_us};
use crate::update::Round;
use crate::view::View;
use crate::vm::{Vcpu, Vm, VmmKind};

/// Most blocks of a result that is shown: an experiment has some ten.
pub const MAX_BLOCKS: usize = 10_000;

/// Most disturbances that are looked at.
const MAX_SENTENCES: usize = 1000;

/// Most bytes of a sentence of a summary.
pub(super) const SENTENCE_BYTES: usize = 1000;

/// Most bytes of a VM's name.
const NAME_BYTES: usize = 1000;

/// Most directories of a scan that are named; the others are counted.
const NAMED: usize = 16;

/// Figures of single experiments that are shown, too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ShownFigures {
    /// The event that was counted for each role; empty where the experiment does not say.
    #[serde(default)]
    pub events: Vec<CountedEvent>,
    /// The sizes of a scan; empty for a single result.
    #[serde(default)]
    pub sizes: Vec<SizeDirectory>,
}

/// Where the result of one size of a scan is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SizeDirectory {
    /// Its directory, below that of the scan.
    pub directory: String,
}

/// The steps of a result.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmSteps {
    /// The arms, in the order of reports; never empty.
    pub arms: Vec<Arm>,
    /// The view of each arm, in the same order: its placement, and what was measured in it. The number of its round is
    /// that of the step, from 1.
    pub views: Vec<View>,
    /// Misses that a simulated cache has had in every arm, without its blocks; or why there are none.
    pub simulated: Availability<SimulatedMisses>,
}

/// Why a summary has no steps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoSteps {
    /// It is of several runs.
    #[error("it is the result of a scan over data sizes, each of which has its own in {}; name one of these", listed(.0))]
    Scan(Vec<String>),
    /// It has no arm.
    #[error("it has no arm that this version knows, so there is no placement to show")]
    NoArm,
    /// More than an experiment has.
    #[error("it has {0} blocks, and at most {MAX_BLOCKS} are read: no experiment of huddle has as many")]
    TooManyBlocks(usize),
    /// A name that nobody gave.
    #[error(
        "it has a VM with a name of {0} bytes, and at most {NAME_BYTES} are read: huddle did not write it"
    )]
    LongName(usize),
}

fn listed(directories: &[String]) -> String {
    let named: Vec<String> =
        directories.iter().take(NAMED).map(|directory| plain_short(directory, 200)).collect();
    let more = directories.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    named.join(", ") + &more
}

impl ArmSteps {
    /// The steps of a result.
    ///
    /// # Errors
    /// It is that of a scan, or has no arm, or too much of something.
    pub fn of(summary: Summary<ShownFigures>) -> Result<Self, NoSteps> {
        if !summary.own.sizes.is_empty() {
            return Err(NoSteps::Scan(summary.own.sizes.into_iter().map(|size| size.directory).collect()));
        }
        if summary.blocks.len() > MAX_BLOCKS {
            return Err(NoSteps::TooManyBlocks(summary.blocks.len()));
        }
        if let Some(bytes) = names(&summary).map(str::len).find(|bytes| *bytes > NAME_BYTES) {
            return Err(NoSteps::LongName(bytes));
        }
        let arms = arms(&summary);
        if arms.is_empty() {
            return Err(NoSteps::NoArm);
        }
        let parts = Parts::of(&summary);
        let views = (1..).zip(&arms).map(|(number, arm)| parts.view(number, *arm)).collect();
        let simulated = match summary.simulated {
            Some(simulated) => Availability::Available(SimulatedMisses {
                verdict: plain_short(&simulated.verdict, SENTENCE_BYTES),
                blocks: Vec::new(),
                ..simulated
            }),
            None => Availability::Unavailable(NOT_SIMULATED.to_owned()),
        };
        Ok(Self { arms, views, simulated })
    }
}

/// The names of VMs that are shown.
fn names(summary: &Summary<ShownFigures>) -> impl Iterator<Item = &str> {
    let of_matrix = summary.matrix.iter().flat_map(|matrix| matrix.vms()).map(|vm| vm.name.as_str());
    let placed = summary.plans.values().flat_map(|plan| &plan.placement).map(|placed| placed.vm.as_str());
    let simulated = summary.simulated.iter();
    let shown = simulated.clone().flat_map(|simulated| &simulated.vms).map(|vm| vm.vm.as_str());
    let blocks = simulated.flat_map(|simulated| &simulated.blocks).flat_map(|block| &block.samples);
    let drawn = blocks.flat_map(|sample| &sample.vcpus).map(|vcpu| vcpu.vm.as_str());
    let samples = summary.blocks.iter().flat_map(|block| &block.samples);
    let measured = samples.clone().flat_map(measured::probes).map(|probe| probe.vm);
    let plans = samples.filter_map(|sample| sample.plan.as_ref());
    let drawn_anew = plans.flat_map(|plan| &plan.placement).map(|placed| placed.vm.as_str());
    of_matrix.chain(placed).chain(shown).chain(drawn).chain(measured).chain(drawn_anew)
}

const NOT_SIMULATED: &str = "no cache was simulated in this experiment; `--simulate MACHINE` does that";

/// The arms with figures; if none has any, those that were planned.
fn arms(summary: &Summary<ShownFigures>) -> Vec<Arm> {
    let simulated = summary.simulated.as_ref().map(|simulated| &simulated.arms);
    let figures = |arm: &Arm| {
        let is_in = |arms: &BTreeMap<String, ArmFigure>| arms.contains_key(arm.name());
        is_in(&summary.arms) || simulated.is_some_and(is_in)
    };
    let with_figures: Vec<Arm> = Arm::ALL.into_iter().filter(figures).collect();
    if !with_figures.is_empty() {
        return with_figures;
    }
    Arm::ALL.into_iter().filter(|arm| summary.plans.contains_key(arm.name())).collect()
}

/// What the views of all arms have in common.
struct Parts<'a> {
    summary: &'a Summary<ShownFigures>,
    /// When the experiment began, in microseconds since the Unix epoch.
    began_us: u64,
    round: Round,
    notes: Vec<String>,
}

impl<'a> Parts<'a> {
    fn of(summary: &'a Summary<ShownFigures>) -> Self {
        let began = summary.started_utc.as_deref().and_then(unix_us).and_then(|us| u64::try_from(us).ok());
        let began_us = began.unwrap_or(0);
        let round = Round {
            number: 1,
            begin_unix_us: began_us,
            end_unix_us: began_us,
            ksm: Availability::Unavailable(
                "the result of an experiment has no state of KSM; its settings are in `environment` of summary.json"
                    .into(),
            ),
            topology: shared(summary.topology.as_ref(), "the cache domains"),
            vms: Arc::new(vms(summary)),
            left_out: missing("what else looked like a VM"),
            matrix: shared(summary.matrix.as_ref(), "what the VMs shared"),
            plan: missing("the placement"),
            pinning: Pinning::NoPlan(String::new()),
            in_force: Arc::default(),
            events: Vec::new(),
            own_cpu_us: missing("the CPU time of huddle"),
        };
        Self { summary, began_us, round, notes: notes(summary) }
    }

    fn view(&self, number: u64, arm: Arm) -> View {
        let observation = measured::observation(self.summary, arm, number, self.began_us, &self.round.vms);
        let plan = self.plan(arm);
        let was_measured = observation.value().is_some();
        let (pinning, in_force) = match (&plan, was_measured) {
            // What the threads were before is not known, so none counts as changed.
            (Availability::Available(plan), true) => {
                (Pinning::Done(PinOutcome::default()), Arc::new(Assignment::of(plan)))
            }
            (Availability::Available(_), false) => {
                let why = "nothing valid was measured in it";
                (Pinning::NotDone(why.to_owned()), Arc::default())
            }
            (Availability::Unavailable(reason), _) => (Pinning::NoPlan(reason.clone()), Arc::default()),
        };
        let reasons = plan.value().into_iter().flat_map(|plan| &plan.reasons);
        let reasons = reasons.map(|reason| format!("placed by policy {}: {reason}", arm.policy()));
        let notes: Vec<String> = self.notes.iter().cloned().chain(reasons).collect();
        let event = |message| Event { at_unix_us: self.began_us, kind: EventKind::Note, vm: None, message };
        let mut view = View::new(Arc::new(Round {
            number,
            plan: plan.map(Arc::new),
            pinning,
            in_force,
            events: notes.into_iter().map(event).collect(),
            ..self.round.clone()
        }));
        view.observation = observation.map(Arc::new);
        view.comparison = Availability::Unavailable(
            "an experiment has no trials; what its arms compare to is in the log, and in its report.txt"
                .into(),
        );
        view
    }

    fn plan(&self, arm: Arm) -> Availability<Plan> {
        let (mut plan, note) = match self.summary.plans.get(arm.name()) {
            Some(plan) => (plan.clone(), arm.reads_own().then_some(READS_OWN)),
            None if arm.is_drawn() => match drawn(self.summary, arm) {
                Some(plan) => (plan, Some("the VMs were placed anew in each block; this is the first one")),
                None => {
                    let why = "the VMs were placed anew in each block, and the result does not have where";
                    return Availability::Unavailable(why.to_owned());
                }
            },
            None => return missing("the placement of this arm"),
        };
        plan.reasons.truncate(MAX_SENTENCES);
        let reasons = plan.reasons.iter().map(|reason| plain_short(reason, SENTENCE_BYTES));
        plan.reasons = note.map(str::to_owned).into_iter().chain(reasons).collect();
        Availability::Available(plan)
    }
}

/// The first placement of an arm whose VMs are placed anew in each block: as measured, or as simulated.
fn drawn(summary: &Summary<ShownFigures>, arm: Arm) -> Option<Plan> {
    let valid = summary.blocks.iter().filter(|block| block.invalid.is_none());
    if let Some(plan) = valid.filter_map(|block| block.sample(arm)?.plan.as_ref()).next() {
        return Some(plan.clone());
    }
    let domains = summary.topology.as_ref()?.domains();
    let block = summary.simulated.as_ref()?.blocks.first()?;
    let sample = block.samples.iter().find(|sample| sample.arm == arm)?;
    // Domains of a simulation are numbered in the order of the topology.
    let place = |vcpu: &SimulatedVcpu| {
        let domain = domains.get(usize::try_from(vcpu.domain).ok()?)?.id;
        Some(VcpuPlacement { vm: vcpu.vm.clone(), vcpu: vcpu.vcpu, domain })
    };
    Some(Plan {
        policy: arm.policy(),
        domains: domains.to_vec(),
        placement: sample.vcpus.iter().map(place).collect::<Option<_>>()?,
        shared_within: None,
        shared_total: None,
        expected: None,
        waiting: None,
        reasons: Vec::new(),
    })
}

const READS_OWN: &str = "in this arm each guest reads a copy of its own, which no other VM maps; the matrix has what is merged besides";

fn missing<T>(what: &str) -> Availability<T> {
    Availability::Unavailable(format!("the result does not have {what}"))
}

fn shared<T: Clone>(value: Option<&T>, what: &str) -> Availability<Arc<T>> {
    value.map_or_else(|| missing(what), |value| Availability::Available(Arc::new(value.clone())))
}

/// What the experiment says of itself, for the log.
fn notes(summary: &Summary<ShownFigures>) -> Vec<String> {
    let disturbances = &summary.disturbances[..summary.disturbances.len().min(MAX_SENTENCES)];
    let simulated = summary.simulated.as_ref().map(|simulated| simulated.verdict.clone());
    let left_out = summary.left_out().into_iter().map(|why| format!("left out: {why}"));
    let disturbances =
        one_a_kind(disturbances).into_iter().map(|what| format!("possible disturbance: {what}"));
    let sentences = summary.verdict.clone().into_iter().chain(simulated).chain(left_out).chain(disturbances);
    sentences.map(|sentence| plain_short(&sentence, SENTENCE_BYTES)).collect()
}

/// The VMs of the matrix, with the vCPUs that some arm places or measures.
fn vms(summary: &Summary<ShownFigures>) -> Vec<Vm> {
    let mut numbers: BTreeMap<&str, BTreeSet<u32>> = BTreeMap::new();
    let placed = summary.plans.values().flat_map(|plan| &plan.placement);
    let placed = placed.map(|placed| (placed.vm.as_str(), placed.vcpu));
    let samples = summary.blocks.iter().flat_map(|block| &block.samples);
    let measured = samples.flat_map(measured::probes).map(|probe| (probe.vm, probe.vcpu));
    for (vm, vcpu) in placed.chain(measured) {
        numbers.entry(vm).or_default().insert(vcpu);
    }
    let known = summary.matrix.iter().flat_map(|matrix| matrix.vms());
    let vm = |known: &MatrixVm| {
        let none = TaskId { id: 0, start_ticks: 0 };
        let id = known.id.unwrap_or(VmId::Process(none));
        let vcpu = |index: &u32| Vcpu {
            index: *index,
            id: measured::vcpu_id(id, *index),
            process: id.process(),
            thread_name: None,
            affinity: Default::default(),
            last_cpu: None,
            limits: Default::default(),
        };
        Vm {
            id,
            uuid: known.uuid,
            owner: known.owner.clone(),
            vmm: VmmKind::Unknown,
            vcpus: numbers.get(known.name.as_str()).into_iter().flatten().map(vcpu).collect(),
            ..Vm::of_process(&known.name, none, Vec::new())
        }
    };
    known.map(vm).collect()
}

#[cfg(test)]
mod tests;
