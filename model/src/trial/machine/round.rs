//! Handling of a complete pass of KSM: an urgent limit, a trial, or a refusal with its reason, reported once.

use std::collections::BTreeSet;

use super::{
    MIN_BLOCKS, Machine, Member, Moment, Phase, Refusal, Refused, Rejected, RoundReading, SWITCHES_PER_BLOCK,
    new_arm,
};
use crate::assignment::Assignment;
use crate::rng::Rng;
use crate::trial::running::{Proposal, Trial};
use crate::trial::sharing::{Gain, change};
use crate::trial::{Decision, Outcome};

impl Machine {
    /// A complete pass.
    pub fn round(&mut self, reading: &RoundReading<'_>) {
        let at = reading.at;
        self.moved = self.matrix.as_ref().map(|before| change(before, reading.measured));
        self.matrix = Some(reading.measured.clone());
        self.take_members(reading.members, at);
        // Not by what is wanted now: a window may have ended a trial since the affinities were read.
        let unplaced = reading.here.iter().filter(|(vm, vcpu, _)| reading.placed.domain(vm, *vcpu).is_none());
        let unplaced: Assignment = unplaced.map(|(vm, vcpu, d)| ((vm.to_owned(), vcpu), d)).collect();
        self.origin =
            unplaced.over(&self.origin).of_vms(|vm| reading.members.iter().any(|(name, ..)| name == vm));

        let moving = self.moved.is_none_or(|moved| moved > self.settings.moving_limit);
        if let Some(why) = self.required(reading) {
            self.adopt(reading, &why);
            return;
        }
        match &self.phase {
            Phase::Trial(_) if moving => self.abort(at, "what the VMs share changed during the trial".into()),
            Phase::Trial(_) => {}
            Phase::Holding { until } if at.now < *until => {}
            Phase::Holding { .. } | Phase::Observing => {
                self.phase = Phase::Observing;
                if !moving {
                    self.propose(reading);
                }
            }
        }
    }

    /// The limits that the current placement breaks, if the proposal breaks fewer. VMs to be kept apart are
    /// urgent; for the others a trial is finished first and a decision is held for a while, so that
    /// fluctuating load does not move VMs in every round.
    fn required(&self, reading: &RoundReading<'_>) -> Option<String> {
        let input = reading.limits?;
        if reading.proposal.is_empty() {
            return None;
        }
        let broken = |placement: &Assignment| input.broken(&placement.over(&self.origin).entries());
        let (now, then) = (broken(self.wanted()), broken(reading.proposal));
        let can_wait = match &self.phase {
            Phase::Trial(_) => true,
            Phase::Holding { until } => reading.at.now < *until,
            Phase::Observing => false,
        };
        let is_urgent = now.apart.len() > then.apart.len();
        (is_urgent || !can_wait && now.is_worse_than(&then)).then(|| now.to_string())
    }

    /// Applies the proposal without a trial, because limits require it.
    fn adopt(&mut self, reading: &RoundReading<'_>, why: &str) {
        if reading.is_dry {
            let gain = Gain::default();
            let line = format!("policy {} keeps to the limits", reading.policy);
            self.tell_refused(
                reading,
                Refusal::DryRun,
                format!("a dry run; it is required: {why}"),
                &gain,
                line,
            );
            return;
        }
        if let Phase::Trial(_) = &self.phase {
            self.abort(reading.at, format!("a limit is broken: {why}"));
        }
        let until = reading.at.now + self.settings.hold();
        self.switch(reading.at.now, |machine| {
            machine.incumbent = reading.proposal.clone();
            machine.phase = Phase::Holding { until };
        });
        self.refused = None;
        self.decisions.push(Decision {
            at_unix_us: reading.at.unix_us,
            round: reading.round,
            objective: self.objective,
            proposal: format!("policy {} keeps to the limits", reading.policy),
            expected_change: None,
            observed_change: None,
            trial: None,
            evidence: None,
            outcome: Outcome::Kept,
            reason: format!("required, without a trial: {why}"),
        });
    }

    /// Ends a trial if the set of VMs has changed, and forgets ended ones.
    fn take_members(&mut self, members: &BTreeSet<Member>, at: Moment) {
        if *members == self.members {
            return;
        }
        if let Phase::Trial(_) = &self.phase {
            let what = difference(&self.members, members);
            self.abort(at, format!("{what} during the trial"));
        }
        let same = |vm: &str| members.iter().any(|member| member.0 == vm && self.members.contains(member));
        self.incumbent = self.incumbent.of_vms(same);
        self.origin = self.origin.of_vms(same);
        self.members = members.clone();
    }

    fn propose(&mut self, reading: &RoundReading<'_>) {
        let proposal = reading.proposal;
        if proposal.is_empty() {
            return;
        }
        let before = self.incumbent.over(&self.origin);
        let after = proposal.over(&self.origin);
        let moves = before.moves_to(&after);
        let gain = Gain::of(reading.matrix, reading.topology, &before, &after);
        let line = format!(
            "policy {} moves {moves} vCPUs and brings {:.0} frames ({:.0} KiB of cache) more within domains, {:+.1} % of all shared",
            reading.policy,
            gain.proposed - gain.now,
            (gain.proposed - gain.now) * reading.matrix.page_size().bytes() as f64 / 1024.0,
            gain.part() * 100.0,
        );
        let refusal = self.refusal(reading, &gain, moves);
        let is_in_place = refusal.as_ref().is_some_and(|(why, _)| *why == Refusal::InPlace);
        let misses = reading
            .limits
            .filter(|_| !is_in_place)
            .and_then(|input| input.expected_misses(&after.entries(), Ok(&before.entries())).ok());
        let line = misses.map_or_else(|| line.clone(), |misses| format!("{line}; {misses}"));
        let left = self.budget.left(reading.at.now);
        // The last switch is the one at the end.
        let needed = moves.saturating_mul(MIN_BLOCKS * SWITCHES_PER_BLOCK + 1);
        let refusal = refusal.or_else(|| {
            (left < needed).then(|| {
                let reason = if needed > self.settings.moves_per_hour {
                    format!("a trial of it takes {needed} moves or more; allow as many by moves_per_hour")
                } else {
                    format!("{left} moves are left in this hour, too few for a trial")
                };
                (Refusal::Budget, reason)
            })
        });
        let refusal = refusal.or_else(|| {
            reading.is_dry.then(|| {
                let blocks = self.settings.blocks;
                (Refusal::DryRun, format!("a dry run; it would be tried in about {blocks} blocks"))
            })
        });
        if let Some((why, reason)) = refusal {
            self.tell_refused(reading, why, reason, &gain, line);
            return;
        }
        self.trials += 1;
        self.refused = None;
        let tried = Proposal {
            assignment: proposal.clone(),
            unmirrored: proposal.unmirrored(reading.topology),
            moves,
            round: reading.round,
            line,
            expected_change: gain.expected_change(),
        };
        let required = self.errors.begin(reading.at.now);
        let mut trial = Trial::new(tried, required, Rng::of_part(self.settings.seed, self.trials));
        trial.warm_up(&self.settings);
        self.arms = ["before", reading.policy].map(new_arm).to_vec();
        self.switch(reading.at.now, |machine| machine.phase = Phase::Trial(Box::new(trial)));
    }

    /// Why the proposal is not tried now.
    fn refusal(&self, reading: &RoundReading<'_>, gain: &Gain, moves: u32) -> Option<(Refusal, String)> {
        let (at, proposal) = (reading.at, reading.proposal);
        if moves == 0 {
            return Some((Refusal::InPlace, "the VMs are where the policy wants them".into()));
        }
        let (before, after) = (self.incumbent.over(&self.origin), proposal.over(&self.origin));
        if before.unmirrored(reading.topology) == after.unmirrored(reading.topology) {
            return Some((
                Refusal::InPlace,
                "the VMs are where the policy wants them, but for the names of equal domains".into(),
            ));
        }
        if reading.seeks_sharing && gain.part() < self.settings.least_gain {
            let asked = self.settings.least_gain * 100.0;
            return Some((
                Refusal::Gain,
                format!("less than the {asked:.0} % that are required for a trial"),
            ));
        }
        let unmirrored = proposal.unmirrored(reading.topology);
        if let Some(rejected) =
            self.rejected.iter().find(|rejected| self.is_of(rejected, &unmirrored) && at.now < rejected.until)
        {
            let left = (rejected.until - at.now).as_secs();
            return Some((
                Refusal::CoolDown,
                format!("it was reverted, and is not tried again for {left} s"),
            ));
        }
        if let Some(load) = self.host.load_per_cpu.filter(|load| *load > self.settings.load_limit) {
            return Some((
                Refusal::Load,
                format!("{load:.1} runnable tasks per CPU are too many to measure"),
            ));
        }
        self.blind
            .as_ref()
            .map(|why| (Refusal::NoValue, format!("{} cannot be measured: {why}", self.objective.name())))
    }

    /// Whether this, without mirror images, is the reverted proposal, for the same VMs.
    pub(super) fn is_of(&self, rejected: &Rejected, unmirrored: &Assignment) -> bool {
        let is_placed = |name: &str| unmirrored.domains_of(name).next().is_some();
        rejected.proposal == *unmirrored
            && self.members.iter().filter(|member| is_placed(&member.0)).all(|m| rejected.members.contains(m))
    }

    fn tell_refused(
        &mut self,
        reading: &RoundReading<'_>,
        why: Refusal,
        reason: String,
        gain: &Gain,
        line: String,
    ) {
        let writers = self.writers.sentences(self.settings.lasting_s);
        let names: Vec<String> = writers.iter().map(|(name, _)| name.clone()).collect();
        let refused = Refused { why, proposal: reading.proposal.clone(), writers: names };
        // No message is needed if the kept placement is in effect, unless there is a note about a VM.
        let as_kept =
            why == Refusal::InPlace && *reading.proposal == self.incumbent && refused.writers.is_empty();
        if self.refused.as_ref() == Some(&refused) || as_kept {
            return;
        }
        self.refused = Some(refused);
        self.decisions.push(Decision {
            at_unix_us: reading.at.unix_us,
            round: reading.round,
            objective: self.objective,
            proposal: line,
            expected_change: gain.expected_change(),
            observed_change: None,
            trial: None,
            evidence: None,
            outcome: Outcome::NotTried,
            reason: self.with_writers(reason),
        });
    }
}

/// The difference of two sets of VMs, as the start of a sentence.
fn difference(before: &BTreeSet<Member>, now: &BTreeSet<Member>) -> String {
    let has = |all: &BTreeSet<Member>, vm: &str| all.iter().any(|(name, ..)| name == vm);
    if let Some((name, ..)) = before.iter().find(|(name, ..)| !has(now, name)) {
        return format!("{name} ended");
    }
    if let Some((name, ..)) = now.iter().find(|(name, ..)| !has(before, name)) {
        return format!("{name} came");
    }
    let other = now.difference(before).next();
    match other {
        Some((name, id, vcpus)) => match before.iter().find(|(was, ..)| was == name) {
            Some((_, was, _)) if was == id => format!("{name} now has {vcpus} vCPUs"),
            _ => format!("{name} was restarted"),
        },
        None => "the VMs changed".into(),
    }
}
