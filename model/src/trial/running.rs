//! One running trial: its position in its blocks, and its counts.

use std::collections::BTreeSet;

use super::settings::TrialSettings;
use super::{Member, Objective};
use crate::assignment::Assignment;
use crate::availability::Availability;
use crate::id::VcpuId;
use crate::observation::Observation;
use crate::rng::Rng;
use crate::stats::BlockSums;

/// Number of successive windows without a value of the objective, or without activity of a VM, that end it.
const SILENT_WINDOWS: u32 = 3;

/// One of the two placements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Before = 0,
    After = 1,
}

/// Progress of the trial by a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Same,
    NextPart,
    BlockEnded,
}

/// What is tried.
pub(super) struct Proposal {
    pub(super) assignment: Assignment,
    /// The same without its mirror images.
    pub(super) unmirrored: Assignment,
    /// Number of vCPUs that it moves.
    pub(super) moves: u32,
    /// The round of its plan.
    pub(super) round: u64,
    /// One short line for users.
    pub(super) line: String,
    pub(super) expected_change: Option<f64>,
}

pub(super) struct Trial {
    pub(super) proposal: Assignment,
    /// The proposal without its mirror images.
    pub(super) unmirrored: Assignment,
    /// Number of vCPUs that each switch moves.
    pub(super) moves: u32,
    pub(super) round: u64,
    pub(super) line: String,
    pub(super) expected_change: Option<f64>,
    /// The evidence that is required to keep the proposal.
    pub(super) required: f64,
    /// Completed blocks: the objective before and after.
    pub(super) pairs: Vec<(f64, f64)>,
    /// Draws the order of each block.
    rng: Rng,
    /// Whether the current block starts with the proposal.
    swapped: bool,
    /// The current half of the block.
    second: bool,
    sums: [BlockSums; 2],
    warmed: u32,
    counted: u32,
    silent: u32,
    /// vCPU threads at the first window.
    threads: Option<BTreeSet<(String, u32, VcpuId)>>,
    /// VMs that showed activity, with the windows since the last activity.
    alive: Vec<(String, u32)>,
}

impl Trial {
    pub(super) fn new(proposal: Proposal, required: f64, mut rng: Rng) -> Self {
        let Proposal { assignment, unmirrored, moves, round, line, expected_change } = proposal;
        Self {
            proposal: assignment,
            unmirrored,
            moves,
            round,
            line,
            expected_change,
            required,
            pairs: Vec::new(),
            swapped: rng.coin(),
            rng,
            second: false,
            sums: Default::default(),
            warmed: 0,
            counted: 0,
            silent: 0,
            threads: None,
            alive: Vec::new(),
        }
    }

    /// The placement in effect.
    pub(super) fn side(&self) -> Side {
        if self.swapped ^ self.second { Side::After } else { Side::Before }
    }

    /// The side and block of a window ending now; `None` during warm-up.
    pub(super) fn counted(&self) -> Option<(Side, u32)> {
        let block = u32::try_from(self.pairs.len()).unwrap_or(u32::MAX);
        (self.warmed == 0).then(|| (self.side(), block))
    }

    /// Why the window is invalid for this trial of `members`: a vCPU thread of theirs came or went, one of them
    /// is stalled.
    pub(super) fn disturbed(
        &mut self,
        seen: &Observation,
        objective: Objective,
        members: &BTreeSet<Member>,
    ) -> Option<String> {
        let names: BTreeSet<&str> = members.iter().map(|(name, ..)| name.as_str()).collect();
        let is_member = |vm: &str| names.contains(vm);
        let vcpus = || seen.vcpus.iter().filter(|vcpu| is_member(&vcpu.vm));
        let threads: BTreeSet<_> = vcpus().map(|vcpu| (vcpu.vm.clone(), vcpu.vcpu, vcpu.id)).collect();
        match &self.threads {
            Some(before) if *before != threads => {
                let (vm, vcpu, _) = before.symmetric_difference(&threads).next()?;
                return Some(format!("vCPU {vcpu} of {vm} came or went during the trial"));
            }
            Some(_) => {}
            None => self.threads = Some(threads),
        }
        let mut awake: BTreeSet<&str> = BTreeSet::new();
        if objective == Objective::Reported {
            let active = seen.reported.iter().filter(|report| report.operations > 0 && is_member(&report.vm));
            awake.extend(active.map(|report| report.vm.as_str()));
        } else {
            let ran = vcpus().filter(|vcpu| vcpu.run_ns().is_none_or(|ns| ns > 0));
            awake.extend(ran.map(|vcpu| vcpu.vm.as_str()));
        }
        for vm in &awake {
            match self.alive.iter_mut().find(|(name, _)| name == vm) {
                Some((_, silent)) => *silent = 0,
                None => self.alive.push(((*vm).to_owned(), 0)),
            }
        }
        // If no VM shows activity, the measurement failed, see `add`.
        for (name, silent) in self.alive.iter_mut().filter(|_| !awake.is_empty()) {
            if !awake.contains(name.as_str()) {
                *silent += 1;
                if *silent >= SILENT_WINDOWS {
                    return Some(format!("{name} is stalled: ended, paused, or migrated to another host"));
                }
            }
        }
        None
    }

    /// Adds a window; an error if the objective had no value for several.
    pub(super) fn add(
        &mut self,
        seen: &Observation,
        objective: Objective,
        settings: &TrialSettings,
    ) -> Result<Progress, String> {
        let mut alone = BlockSums::default();
        alone.add(seen);
        match alone.value(objective) {
            Availability::Available(_) => self.silent = 0,
            Availability::Unavailable(reason) => {
                self.silent += 1;
                if self.silent >= SILENT_WINDOWS {
                    return Err(reason);
                }
                return Ok(Progress::Same);
            }
        }
        if self.warmed > 0 {
            self.warmed -= 1;
            return Ok(Progress::Same);
        }
        let side = self.side();
        self.sums[side as usize].add(seen);
        self.counted += 1;
        if self.counted < settings.windows {
            return Ok(Progress::Same);
        }
        if !self.second {
            return Ok(Progress::NextPart);
        }
        let [before, after] = &self.sums;
        match (before.value(objective), after.value(objective)) {
            (Availability::Available(before), Availability::Available(after)) => {
                self.pairs.push((before, after));
                Ok(Progress::BlockEnded)
            }
            (Availability::Unavailable(reason), _) | (_, Availability::Unavailable(reason)) => Err(reason),
        }
    }

    /// Starts the second half of the block, in the other placement.
    pub(super) fn next_part(&mut self, settings: &TrialSettings) {
        self.second = true;
        self.counted = 0;
        self.warmed = settings.warm_up_windows;
    }

    /// Starts the next block, in an order that is drawn now. It has a warm-up even if the placement stays the same: else
    /// the times at which values are taken would depend on the order, and a period of the load could look like an effect.
    pub(super) fn next_block(&mut self, settings: &TrialSettings) {
        self.swapped = self.rng.coin();
        self.second = false;
        self.counted = 0;
        self.sums = Default::default();
        self.warmed = settings.warm_up_windows;
    }

    /// The start counts as a switch, too.
    pub(super) fn warm_up(&mut self, settings: &TrialSettings) {
        self.warmed = settings.warm_up_windows;
    }
}
