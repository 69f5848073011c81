//! Other settings for a loop that runs.

use huddle_host::stages::{HostSource, SharingSource, VmSource};
use huddle_model::event::EventKind;
use huddle_model::matrix::Weigh;
use huddle_model::plan::{PlanLimits, Policy};
use huddle_model::update::Step;
use tokio::sync::mpsc;

use super::{Engine, Memory};

/// What takes the place of what a loop was started with. Everything else stays: what is pinned and its journal, trials,
/// counters, what the loop remembers.
pub struct Replacement {
    /// How VMs are placed; `None` to go on as now, which a viewer may have chosen.
    pub policy: Option<Policy>,
    /// Which shared frames count; `None` to go on as now.
    pub weigh: Option<Weigh>,
    /// Limits for every plan; `None` to go on with those that there are.
    pub limits: Option<PlanLimits>,
    /// Finds the VMs and measures them, by other settings; `None` to go on with those that there are.
    pub sources: Option<Sources>,
    /// What is reported about it, one sentence each.
    pub notes: Vec<String>,
}

/// The stages that find VMs and measure what they share.
pub struct Sources {
    /// Finds the VMs.
    pub vms: Box<dyn VmSource + Send>,
    /// Measures what they share.
    pub sharing: Box<dyn SharingSource + Send>,
    /// Reads facts of the host.
    pub host: Box<dyn HostSource + Send>,
}

/// Replacements that wait for the end of a step. A configuration is reloaded by hand, so there are few.
const MAX_WAITING: usize = 4;

impl Memory {
    /// Where replacements for this loop are sent to. Each is put in force between two steps, and a round follows.
    pub fn replacements(&mut self) -> mpsc::Sender<Replacement> {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        self.replacements = Some(receiver);
        sender
    }
}

impl Engine {
    /// Puts a replacement in force and does a round with it. A trial that runs is aborted: its placements were planned by
    /// other settings. Returns the steps, in order.
    pub(crate) fn replace(&mut self, replacement: Replacement) -> Vec<Step> {
        let Replacement { policy, weigh, limits, sources, notes } = replacement;
        let at = self.moment();
        if let Some(trials) = &mut self.trials {
            match policy == Some(Policy::None) && self.policy != Policy::None {
                true => trials.reset(at, RELOADED),
                false => trials.abort(at, RELOADED),
            }
        }
        self.policy = policy.unwrap_or(self.policy);
        self.weigh = weigh.unwrap_or(self.weigh);
        if let Some(limits) = limits {
            self.limits = limits;
        }
        if let Some(Sources { vms, sharing, host }) = sources {
            (self.vms, self.sharing, self.host) = (vms, sharing, host);
        }
        // Before the first round there is no view that events could be part of.
        let mut steps = Vec::new();
        if self.memory.view.is_some() {
            let events = notes.into_iter().map(|note| (EventKind::Lifecycle, None, note));
            steps.push(self.emit(Vec::new(), events.collect()));
        }
        steps.push(self.round());
        steps
    }
}

/// Why a trial was aborted.
const RELOADED: &str = "the configuration was reloaded";
