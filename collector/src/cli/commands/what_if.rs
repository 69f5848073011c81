//! `huddle plan --replay`: what a policy would have done on a recording.

use std::path::Path;

use anyhow::anyhow;
use huddle_model::availability::Availability;
use huddle_model::matrix::{SharingMatrix, Weigh};
use huddle_model::plan::{MissSources, Plan, PlanLimits, Policy, WhatIf, what_if};
use huddle_model::text::{counted, utc_text};
use huddle_model::update::Round;
use huddle_record::replay::Recording;
use serde::Serialize;

use super::show_plan::print_plan;
use crate::cli::args::Format;
use crate::cli::failure::Failure;
use crate::cli::table::{print, print_json, print_table, right, table};

/// The JSON `huddle/what-if/1`.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    schema: &'static str,
    recording: &'a str,
    policy: Policy,
    rounds: Vec<RoundAnswer>,
    warnings: &'a [String],
}

/// One round, as recorded and as it would have been.
#[derive(Debug, PartialEq, Serialize)]
struct RoundAnswer {
    round: u64,
    /// In microseconds since the Unix epoch.
    begin_unix_us: u64,
    /// Frames shared by all pairs.
    shared_total: Option<u64>,
    /// What was planned then; null if there was no plan.
    recorded: Option<Planned>,
    /// What the policy would have planned.
    what_if: Availability<Planned>,
    /// Expected misses under that for a million reads; null where working sets are not known. With `--at` the plan has
    /// what the estimate was made from, or why there is none.
    misses_per_million_reads: Option<u32>,
    /// The same where the vCPUs were before.
    now_misses_per_million_reads: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Planned {
    policy: Policy,
    /// Frames shared by pairs within one domain; null where nothing is placed.
    shared_within: Option<u64>,
    /// vCPUs that have to be moved.
    moves: Option<usize>,
}

pub(super) fn run(
    format: Format,
    policy: Policy,
    weigh: Weigh,
    limits: &PlanLimits,
    dir: &Path,
    only: Option<u64>,
) -> Result<(), Failure> {
    let mut recording = Recording::open(dir).map_err(Failure::failed)?;
    log_warnings(&recording);
    let positions: Vec<(usize, u64)> = recording.rounds().collect();
    let mut rounds = Vec::new();
    let mut before: Option<Plan> = None;
    for (position, number) in positions {
        let view = recording.view(position).map_err(Failure::failed)?;
        let (recorded, seen) = (view.round, view.observation.value().map(|seen| &**seen));
        let sources = MissSources { limits: Some(limits), seen };
        let outcome = what_if(policy, weigh, &recorded, before.as_ref(), sources);
        if only == Some(number) {
            return one(format, outcome, recorded.matrix.value().map(|matrix| &**matrix));
        }
        rounds.push(answer(&recorded, &outcome));
        // A round without a plan leaves the placement as it was.
        // Nor does one that waits.
        let placed = outcome.value().filter(|what_if| what_if.plan.waiting.is_none());
        before = placed.map(|what_if| what_if.plan.clone()).or(before);
    }
    if let Some(number) = only {
        let (first, last) =
            (rounds.first().map_or(0, |round| round.round), rounds.last().map_or(0, |round| round.round));
        return Err(Failure::failed(anyhow!(
            "{} holds no round {number}; its rounds are {first} to {last}",
            dir.display()
        )));
    }
    match format {
        Format::Json => print_json(&Answer {
            schema: "huddle/what-if/1",
            recording: recording.name(),
            policy,
            rounds,
            warnings: recording.warnings(),
        }),
        _ => show(policy, &rounds),
    }
}

/// Logs what of a recording is left out, and what is to know of the rest.
pub(super) fn log_warnings(recording: &Recording) {
    for warning in recording.warnings() {
        tracing::warn!("{warning}");
    }
    for note in recording.notes() {
        tracing::info!("{note}");
    }
}

fn one(format: Format, outcome: Availability<WhatIf>, matrix: Option<&SharingMatrix>) -> Result<(), Failure> {
    match outcome {
        Availability::Unavailable(reason) => {
            Err(Failure::failed(anyhow!("no plan for that round: {reason}")))
        }
        Availability::Available(WhatIf { plan, .. }) if format == Format::Json => {
            print_json(&plan.of_vms(matrix.map_or(&[], SharingMatrix::vms)))
        }
        Availability::Available(WhatIf { plan, .. }) => print_plan(&plan),
    }
}

fn answer(round: &Round, outcome: &Availability<WhatIf>) -> RoundAnswer {
    let recorded = round.plan.value().map(|plan| Planned {
        policy: plan.policy,
        shared_within: plan.shared_within,
        moves: round.pinning.outcome().map(|pinned| pinned.changed as usize),
    });
    let what_if = outcome.as_ref().map(|outcome| Planned {
        policy: outcome.plan.policy,
        shared_within: outcome.plan.shared_within,
        moves: Some(outcome.moves),
    });
    let misses = outcome.value().and_then(|outcome| outcome.plan.expected.as_ref()?.misses.as_ref());
    RoundAnswer {
        round: round.number,
        begin_unix_us: round.begin_unix_us,
        shared_total: outcome
            .value()
            .and_then(|outcome| outcome.plan.shared_total)
            .or_else(|| round.plan.value()?.shared_total),
        recorded,
        what_if,
        misses_per_million_reads: misses.map(|misses| misses.misses_per_million_reads),
        now_misses_per_million_reads: misses.and_then(|misses| misses.now_misses_per_million_reads),
    }
}

/// A line for each series of equal rounds, and the sums.
fn show(policy: Policy, rounds: &[RoundAnswer]) -> Result<(), Failure> {
    let mut lines =
        table(&["rounds", "from (UTC)", "shared", "then", "within", "moves", "what if", "within", "moves"]);
    right(&mut lines, [2, 4, 5, 7, 8]);
    for alike in rounds.chunk_by(are_alike) {
        let (first, last) = (&alike[0], &alike[alike.len() - 1]);
        let numbers = match first.round == last.round {
            true => first.round.to_string(),
            false => format!("{}-{}", first.round, last.round),
        };
        let text = |number: Option<u64>| number.map_or_else(|| "n/a".to_owned(), |number| number.to_string());
        let moves = |planned: Option<&Planned>| {
            text(planned.and_then(|planned| planned.moves).map(|moves| moves as u64))
        };
        let then = first.recorded.as_ref();
        let what_if = first.what_if.value();
        lines.add_row([
            numbers,
            utc_text(i64::try_from(first.begin_unix_us).unwrap_or(i64::MAX)),
            text(first.shared_total),
            then.map_or_else(|| "n/a".to_owned(), |then| then.policy.to_string()),
            text(then.and_then(|then| then.shared_within)),
            moves(then),
            match &first.what_if {
                Availability::Available(planned) => planned.policy.to_string(),
                Availability::Unavailable(reason) => format!("n/a: {reason}"),
            },
            text(what_if.and_then(|planned| planned.shared_within)),
            moves(what_if),
        ]);
    }
    print_table(&lines)?;
    print("")?;
    let part = |of: &dyn Fn(&RoundAnswer) -> Option<u64>| {
        let sums = rounds.iter().filter_map(|round| Some((of(round)?, round.shared_total?)));
        let (within, total) = sums.fold((0u64, 0u64), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        match total {
            0 => "n/a".to_owned(),
            total => format!("{:.1} %", 100.0 * within as f64 / total as f64),
        }
    };
    let then = part(&|round| round.recorded.as_ref()?.shared_within);
    let what_if = part(&|round| round.what_if.value()?.shared_within);
    let moves: usize = rounds.iter().filter_map(|round| round.what_if.value()?.moves).sum();
    print(format!(
        "{}; of all shared frames within domains: {then} then, {what_if} by policy {policy}, which moves {}",
        counted(rounds.len(), "round"),
        counted(moves, "vCPU")
    ))?;
    let known: Vec<u32> = rounds.iter().filter_map(|round| round.misses_per_million_reads).collect();
    if known.is_empty() {
        return Ok(());
    }
    let mean = known.iter().map(|misses| f64::from(*misses)).sum::<f64>() / known.len() as f64 / 1000.0;
    print(format!(
        "estimated: {mean:.1} of a thousand reads miss the cache by policy {policy}, on average of {}; --at ROUND shows \
         from what",
        counted(known.len(), "round")
    ))
}

/// Whether two consecutive rounds may share a line.
fn are_alike(one: &RoundAnswer, other: &RoundAnswer) -> bool {
    let still = |planned: Option<&Planned>| {
        planned.is_none_or(|planned| planned.moves.is_none_or(|moves| moves == 0))
    };
    (&one.shared_total, &one.recorded, &one.what_if) == (&other.shared_total, &other.recorded, &other.what_if)
        && still(other.recorded.as_ref())
        && still(other.what_if.value())
}

#[cfg(test)]
mod tests {
    use huddle_testing::fixtures::{SMALL, view};

    use super::*;

    #[test]
    fn misses_are_estimated_where_working_sets_are_known() {
        let round = view(SMALL, 1).round;
        let before = what_if(Policy::Opposed, Weigh::All, &round, None, MissSources::default());
        let before = &before.value().unwrap().plan;
        let unknown = before.expected.as_ref().unwrap();
        assert!(unknown.misses.is_none() && unknown.misses_unavailable.is_some(), "{unknown:?}");

        let working_set_kib = round.vms.iter().map(|vm| (vm.name.clone(), 15 << 10)).collect();
        let limits = PlanLimits { working_set_kib, ..PlanLimits::default() };
        let sources = MissSources { limits: Some(&limits), seen: None };
        let outcome = what_if(Policy::Sharing, Weigh::All, &round, Some(before), sources);
        let answer = answer(&round, &outcome);
        let (misses, now) = (answer.misses_per_million_reads, answer.now_misses_per_million_reads);
        assert!(misses.unwrap() < now.unwrap(), "{answer:?}");
        let said = |reason: &&String| reason.starts_with("estimated: ");
        assert_eq!(outcome.value().unwrap().plan.reasons.iter().filter(said).count(), 1);
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(json["misses_per_million_reads"], misses.unwrap());
        let none = super::answer(&round, &Availability::Unavailable("no matrix".into()));
        assert_eq!(serde_json::to_value(none).unwrap()["misses_per_million_reads"], serde_json::Value::Null);
    }
}
