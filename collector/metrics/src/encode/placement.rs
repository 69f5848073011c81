//! Where vCPUs are bound, what that saves, and trials.

use std::collections::BTreeMap;
use std::fmt;

use huddle_model::matrix::CountedBy;
use huddle_model::topology::DomainId;
use huddle_model::trial::{Outcome, Phase};
use huddle_model::view::View;

use super::Exported;
use crate::families as family;
use crate::sample::{Families, Sample, Value};

/// Every way in which a proposal can end.
const OUTCOMES: [Outcome; 4] = [Outcome::Kept, Outcome::Reverted, Outcome::Aborted, Outcome::NotTried];

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Kept => "kept",
        Outcome::Reverted => "reverted",
        Outcome::Aborted => "aborted",
        Outcome::NotTried => "not_tried",
    }
}

fn counted_by(by: CountedBy) -> &'static str {
    match by {
        CountedBy::Groups => "groups",
        CountedBy::GroupsAndPairs => "groups_and_pairs",
        CountedBy::Pairs => "pairs",
    }
}

impl Exported {
    pub(super) fn write_placement(&self, families: &mut Families<'_>) -> fmt::Result {
        let Some(view) = &self.fold.view else { return Ok(()) };
        let policy = view.round.plan.value().map_or("", |plan| plan.policy.name());
        let pinning = view.pinning.name().unwrap_or("unknown");
        families.write(&family::PLACEMENT, [Sample::new(1).of(policy).of(pinning)])?;
        let changed = self.fold.placed_us.map(Value::seconds_of_us);
        families.write(&family::PLACEMENT_TIME, changed.map(Sample::new))?;
        self.write_bound(families, view)?;
        self.write_expected(families, view)?;
        self.write_trials(families, view)
    }

    fn write_bound(&self, families: &mut Families<'_>, view: &View) -> fmt::Result {
        let domains = view.round.topology.value().map_or(&[][..], |topology| topology.domains());
        let mut in_domain: BTreeMap<DomainId, u64> = domains.iter().map(|domain| (domain.id, 0)).collect();
        let mut in_both: BTreeMap<(&str, DomainId), u64> = BTreeMap::new();
        for (vm, _, domain) in view.in_force.iter() {
            *in_domain.entry(domain).or_default() += 1;
            if let Some(name) = self.labels.get(vm) {
                *in_both.entry((name, domain)).or_default() += 1;
            }
        }
        let of_domains =
            in_domain.into_iter().map(|(domain, vcpus)| Sample::new(vcpus).of(domain.0.to_string()));
        families.write(&family::DOMAIN_VCPUS, of_domains)?;
        let of_vms = in_both
            .into_iter()
            .map(|((name, domain), vcpus)| Sample::new(vcpus).of(name).of(domain.0.to_string()));
        families.write(&family::VM_DOMAIN_VCPUS, of_vms)?;
        families.write(&family::MOVED, [Sample::new(self.fold.moved)])
    }

    fn write_expected(&self, families: &mut Families<'_>, view: &View) -> fmt::Result {
        let plan = view.round.plan.value();
        if let (Some(plan), Some(matrix)) = (plan, view.round.matrix.value()) {
            let bytes = |frames: Option<u64>| frames.map(|frames| matrix.page_size().bytes_of(frames));
            families.write(&family::PLANNED_WITHIN, bytes(plan.shared_within).map(Sample::new))?;
            families.write(&family::SHARED_TOTAL, bytes(plan.shared_total).map(Sample::new))?;
        }
        let expected = plan.and_then(|plan| plan.expected.as_ref()).map(|expected| {
            Sample::new(expected.cache_bytes_saved).of(counted_by(expected.cache_bytes_saved_by))
        });
        families.write(&family::CACHE_SAVED_PLAN, expected)?;
        let saved = self.derived.as_ref().and_then(|derived| derived.saved);
        let saved = saved.map(|saved| Sample::new(saved.bytes).of(counted_by(saved.counted_by)));
        families.write(&family::CACHE_SAVED, saved)
    }

    fn write_trials(&self, families: &mut Families<'_>, view: &View) -> fmt::Result {
        let Some(comparison) = view.comparison.value() else { return Ok(()) };
        let count =
            |outcome| view.decisions.iter().filter(|decision| decision.outcome == outcome).count() as u64;
        let decisions = OUTCOMES.map(|outcome| Sample::new(count(outcome)).of(outcome_name(outcome)));
        families.write(&family::DECISIONS, decisions)?;
        let runs = matches!(comparison.phase, Phase::Trial { .. } | Phase::Recorded(Some(_)));
        families.write(&family::TRIAL, [Sample::new(runs)])?;
        let change = view.decisions.iter().rev().find_map(|decision| {
            let is_decided = matches!(decision.outcome, Outcome::Kept | Outcome::Reverted);
            let change = decision.observed_change.as_ref().filter(|_| is_decided)?;
            Some(Sample::new(change.median).of(decision.objective.name()))
        });
        families.write(&family::LAST_CHANGE, change)
    }
}
