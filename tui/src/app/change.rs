//! What the last change of the placement was, and why.

use std::collections::HashMap;

use huddle_model::pinning::Pinning;
use huddle_model::plan::{Plan, Policy};
use huddle_model::text::counted;
use huddle_model::topology::DomainId;
use huddle_model::update::Round;

/// vCPUs of one VM that moved together from one domain to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) vm: String,
    pub(crate) vcpus: Vec<u32>,
    /// `None`: placed by the kernel.
    pub(crate) from: Option<DomainId>,
    /// `None`: placed by the kernel, or gone.
    pub(crate) to: Option<DomainId>,
}

/// One change of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) round: u64,
    pub(crate) at_unix_us: u64,
    pub(crate) policy: Policy,
    /// The previous policy, if it differs.
    pub(crate) policy_before: Option<Policy>,
    pub(crate) moves: Vec<Move>,
    pub(crate) pinning: Pinning,
    pub(crate) reasons: Vec<String>,
}

impl Change {
    /// A short label for the time axis.
    pub(crate) fn label(&self) -> String {
        let vcpus: usize = self.moves.iter().map(|moved| moved.vcpus.len()).sum();
        let vcpus = counted(vcpus, "vCPU");
        match self.policy_before {
            Some(before) => format!("{vcpus}, {before} to {}", self.policy),
            None => format!("{vcpus}, policy {}", self.policy),
        }
    }
}

/// What `round` changes compared with the last plan; `None` when nothing moves.
pub(crate) fn change(before: Option<&Plan>, round: &Round) -> Option<Change> {
    // A plan that waits leaves everything as it is.
    let plan = round.plan.value().filter(|plan| plan.waiting.is_none())?;
    let moves = moves(before, plan);
    let policy_before = before.map(|before| before.policy).filter(|policy| *policy != plan.policy);
    let is_change = match before {
        Some(_) => !moves.is_empty() || policy_before.is_some(),
        // The first plan that is seen, as of a loop that has run for long, or after a seek in a recording: what was
        // before is known only if it was pinned just now, or is the loop's first.
        None => round.pinning.outcome().map_or(round.number == 1, |outcome| outcome.changed > 0),
    };
    if !is_change {
        return None;
    }
    Some(Change {
        round: round.number,
        at_unix_us: round.end_unix_us,
        policy: plan.policy,
        policy_before,
        moves,
        pinning: round.pinning.clone(),
        reasons: plan.reasons.clone(),
    })
}

fn moves(before: Option<&Plan>, after: &Plan) -> Vec<Move> {
    let mut old: HashMap<(&str, u32), DomainId> = HashMap::new();
    for placed in before.iter().flat_map(|plan| &plan.placement) {
        old.insert((&placed.vm, placed.vcpu), placed.domain);
    }
    let mut moves: Vec<Move> = Vec::new();
    let mut note = |vm: &str, vcpu, from, to| {
        if from == to {
            return;
        }
        // vCPUs of one VM are adjacent in a placement, so only the latest moves can be of this VM.
        let own = moves.iter_mut().rev().take_while(|last| last.vm == vm);
        match own.into_iter().find(|last| last.from == from && last.to == to) {
            Some(last) => last.vcpus.push(vcpu),
            None => moves.push(Move { vm: vm.to_owned(), vcpus: vec![vcpu], from, to }),
        }
    };
    for placed in &after.placement {
        let from = old.remove(&(placed.vm.as_str(), placed.vcpu));
        note(&placed.vm, placed.vcpu, from, Some(placed.domain));
    }
    let mut gone: Vec<_> = old.into_iter().collect();
    gone.sort_unstable();
    for ((vm, vcpu), from) in gone {
        note(vm, vcpu, Some(from), None);
    }
    moves
}

#[cfg(test)]
mod tests {
    use huddle_model::pinning::PinOutcome;
    use huddle_model::plan::VcpuPlacement;

    use super::*;

    fn plan(places: &[(&str, u32, u32)]) -> Plan {
        let place = |(vm, vcpu, domain): &(&str, u32, u32)| VcpuPlacement {
            vm: (*vm).to_owned(),
            vcpu: *vcpu,
            domain: DomainId(*domain),
        };
        Plan {
            policy: Policy::Paper,
            domains: Vec::new(),
            placement: places.iter().map(place).collect(),
            shared_within: None,
            shared_total: None,
            expected: None,
            waiting: None,
            reasons: Vec::new(),
        }
    }

    #[test]
    fn a_plan_that_is_seen_first_is_a_change_only_where_it_was_pinned_now() {
        let mut round =
            huddle_testing::fixtures::view(huddle_testing::fixtures::SMALL, 7).round.as_ref().clone();
        let outcome = |changed| PinOutcome { changed, unchanged: 4, skipped: 0 };
        for (number, pinning, expected) in [
            (7, Pinning::Done(outcome(0)), false),
            (7, Pinning::Done(outcome(2)), true),
            (1, Pinning::DryRun, true),
            (3, Pinning::DryRun, false),
        ] {
            (round.number, round.pinning) = (number, pinning);
            assert_eq!(change(None, &round).is_some(), expected, "{number} {:?}", round.pinning);
        }
    }

    #[test]
    fn vcpus_that_move_together_are_one_move() {
        let before = plan(&[("a", 0, 0), ("a", 1, 0), ("b", 0, 1), ("c", 0, 1)]);
        let after = plan(&[("a", 0, 1), ("a", 1, 1), ("b", 0, 1), ("d", 0, 0)]);
        let moved = |vm: &str, vcpus: &[u32], from: Option<u32>, to: Option<u32>| Move {
            vm: vm.to_owned(),
            vcpus: vcpus.to_vec(),
            from: from.map(DomainId),
            to: to.map(DomainId),
        };
        assert_eq!(
            moves(Some(&before), &after),
            [
                moved("a", &[0, 1], Some(0), Some(1)),
                moved("d", &[0], None, Some(0)),
                moved("c", &[0], Some(1), None)
            ]
        );
        assert!(moves(Some(&after), &after).is_empty());
    }
}
