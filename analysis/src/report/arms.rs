//! The chapter that compares arms, and the parts of it in an experiment's chapter.

use huddle_model::availability::Availability;

use super::colours::Colours;
use super::page::Page;
use super::{data, or_gap, paired};
use crate::compare::{By, Comparison, LATENCY_QUANTILES, LatencyOf, change_text, estimate_text};
use crate::figure::{Bar, Effect, ForestGroup, ForestRow, ScatterPoint, bars, distribution, forest, spots};
use crate::run::RunDir;
use crate::text::{FLAG_HEADINGS, figure, flag_cells, signed_percent};
use huddle_model::text::p_value;

/// The most bars of a figure.
const MOST_BARS: usize = 40;

/// The most decisions of trials that a figure shows with their intervals.
const MOST_DECISIONS: usize = 40;

pub(super) fn write(page: &mut Page, runs: &[RunDir]) {
    page.chapter("comparison", "Placements compared");
    if let Some(comparison) = or_gap(page, "Comparison", Comparison::of(runs, None, None)) {
        compared(page, "", &comparison);
        latencies(page, "", runs, &comparison);
    }
    predicted(page, runs);
}

/// The colours of its arms.
pub(super) fn colours(comparison: &Comparison) -> Colours {
    Colours::of(comparison.arms.iter().map(|arm| arm.name.as_str()))
}

/// The bars, the tables, the changes and the flaws of a comparison; ids of figures begin with `prefix`.
pub(super) fn compared(page: &mut Page, prefix: &str, comparison: &Comparison) {
    page.gaps(&comparison.warnings);
    let places = comparison.place_word();
    let colours = colours(comparison);
    for measure in comparison.measures.iter().copied() {
        let mut drawn: Vec<Bar> = comparison
            .arms
            .iter()
            .filter_map(|arm| {
                let estimate = arm.values[&measure].value()?;
                Some(Bar {
                    name: arm.of.name(&arm.name),
                    colour: colours.number(&arm.name),
                    value: estimate.median,
                    ci95: estimate.ci95,
                    n: estimate.n,
                })
            })
            .collect();
        if drawn.is_empty() {
            continue;
        }
        let id = format!("{prefix}arms-{}", measure.id());
        let better = if measure.more_is_better() { "More is better." } else { "Less is better." };
        let rest = match drawn.len().saturating_sub(MOST_BARS) {
            0 => String::new(),
            more => format!(" {more} more are in the table below."),
        };
        drawn.truncate(MOST_BARS);
        page.figure(
            bars(&id, &format!("{} by arm", measure.title()), measure.title(), &drawn),
            &format!("Medians over {places} with 95 % intervals. {better} As in the paper's Figure 4.{rest}"),
        );
    }
    paired::blocks(page, prefix, comparison, &colours);
    if comparison.arms.is_empty() {
        return;
    }
    let mut headings = vec!["arm".to_owned(), format!(">{places}")];
    headings.extend(comparison.measures.iter().map(|measure| format!(">{}", measure.title())));
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let rows: Vec<Vec<String>> = comparison
        .arms
        .iter()
        .map(|arm| {
            let values = comparison.measures.iter().map(|measure| estimate_text(&arm.values[measure]));
            [arm.of.name(&arm.name), arm.places.to_string()].into_iter().chain(values).collect()
        })
        .collect();
    page.table("Arms: medians with 95 % intervals", &headings, &rows);
    for (measure, reason) in comparison
        .arms
        .iter()
        .flat_map(|arm| {
            comparison.measures.iter().filter_map(|measure| Some((measure, arm.values[measure].reason()?)))
        })
        .collect::<std::collections::BTreeSet<_>>()
    {
        page.gap(&format!("{}: {reason}.", measure.title()));
    }
    if let Some(baseline) = &comparison.baseline {
        paired::changes(page, prefix, comparison, baseline);
        changes(page, comparison, baseline);
    }
    let rows: Vec<Vec<String>> = comparison
        .arms
        .iter()
        .map(|arm| std::iter::once(arm.of.name(&arm.name)).chain(flag_cells(&arm.samples)).collect())
        .collect();
    let headings: Vec<&str> = std::iter::once("arm").chain(FLAG_HEADINGS).collect();
    page.table("Samples (one vCPU in one window); including flawed ones", &headings, &rows);
}

fn changes(page: &mut Page, comparison: &Comparison, baseline: &str) {
    let rows: Vec<Vec<String>> = comparison
        .changes
        .iter()
        .map(|found| match &found.compared {
            Availability::Unavailable(reason) => {
                let mut row = vec![found.of.name(&found.arm), found.measure.title().to_owned()];
                row.extend(["0", "-", "-", "-"].map(str::to_owned));
                row.push(reason.clone());
                row
            }
            Availability::Available(compared) => {
                let effect = compared.effect_size(found.measure.more_is_better());
                vec![
                    found.of.name(&found.arm),
                    found.measure.title().to_owned(),
                    compared.change().n.to_string(),
                    change_text(compared),
                    compared.p_value().map_or_else(|| "-".to_owned(), p_value),
                    effect.map_or_else(|| "-".to_owned(), |effect| format!("{effect:+.2}")),
                    compared.method().to_owned(),
                ]
            }
        })
        .collect();
    let how = match comparison.by {
        By::Trial => "paired by block",
        By::Policy | By::Run => "not paired",
    };
    page.table(
        &format!("Change from {baseline}, {how}; positive is better"),
        &["arm", "measure", ">n", ">change [95 %]", ">p", ">effect size", "test"],
        &rows,
    );
}

/// Distributions of response times (the paper's Figure 5), and their quantiles.
pub(super) fn latencies(page: &mut Page, prefix: &str, runs: &[RunDir], comparison: &Comparison) {
    let Some(of) = comparison.latency_of() else {
        page.gap("No workload reported a latency, so there is no distribution of response times.");
        return;
    };
    if let Some(mut found) = or_gap(page, "Response times", data::histograms(comparison.asked(runs), of)) {
        let colours = colours(comparison);
        found.iter_mut().for_each(|arm| arm.colour = colours.number(&arm.name));
        let unit = match of {
            LatencyOf::Responses => "response time in us",
            LatencyOf::WindowMeans => "mean latency of a window, in us",
        };
        page.figure(
            distribution(&format!("{prefix}latency"), "Response times by arm", unit, &found),
            &format!(
                "Latencies {}. Each outline is scaled to its own arm; values beyond the 99.9th percentile are in the last bin. \
                 The paper's Figure 5 shows response times.",
                of.words()
            ),
        );
    }
    let rows: Vec<Vec<String>> = comparison
        .arms
        .iter()
        .filter_map(|arm| {
            let quantiles = arm.latency_quantiles_us.as_ref()?;
            let head = [arm.of.name(&arm.name), arm.latencies.to_string()];
            let failed = (of == LatencyOf::Responses).then(|| arm.failed.to_string());
            Some(head.into_iter().chain(quantiles.iter().map(|value| figure(*value))).chain(failed).collect())
        })
        .collect();
    let mut headings = vec!["arm".to_owned(), format!(">{}", of.unit())];
    headings.extend(LATENCY_QUANTILES.iter().map(|q| format!(">p{}", q * 100.0)));
    if of == LatencyOf::Responses {
        headings.push(">failed".to_owned());
    }
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    page.table(&format!("Response times in us, {}", of.words()), &headings, &rows);
}

fn predicted(page: &mut Page, runs: &[RunDir]) {
    page.section("Predicted and observed changes");
    let mut drawn = Vec::new();
    let mut rows = Vec::new();
    let mut observed_changes = Vec::new();
    for run in runs {
        let Some(trials) = or_gap(page, "Trials", data::trials(run)) else { continue };
        for trial in trials {
            if let (Some(expected), Some(observed)) = (trial.expected, trial.observed) {
                drawn.push(ScatterPoint {
                    x: expected * 100.0,
                    y: observed * 100.0,
                    y_ci95: trial.ci95.map(|ends| ends.map(|end| end * 100.0)),
                    what: trial.proposal.clone(),
                });
            }
            observed_changes.extend(trial.observed.map(|value| ForestRow {
                name: format!("round {}: {}", trial.round, trial.outcome),
                value,
                ci95: trial.ci95,
            }));
            let percent = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), signed_percent);
            let interval = trial.ci95.map_or_else(
                || "-".to_owned(),
                |[low, high]| format!("{} to {}", signed_percent(low), signed_percent(high)),
            );
            rows.push(vec![
                trial.proposal,
                trial.round.to_string(),
                trial.objective,
                percent(trial.expected),
                percent(trial.observed),
                interval,
                trial.blocks.to_string(),
                trial.outcome,
                trial.reason,
            ]);
        }
    }
    if rows.is_empty() {
        page.gap("No trial was recorded, so there is no prediction to compare with an observation.");
        return;
    }
    if !drawn.is_empty() {
        page.figure(
            spots(
                "predicted",
                "Predicted and observed changes",
                ("predicted change in %", "observed change in %"),
                &drawn,
                true,
            ),
            "On the line the prediction was exact. Vertical strokes are 95 % intervals.",
        );
    }
    observed(page, observed_changes);
    page.table(
        "Decisions of trials; positive change is better",
        &[
            "proposal",
            ">round",
            "objective",
            ">expected",
            ">observed",
            ">95 % interval",
            ">blocks",
            "outcome",
            "reason",
        ],
        &rows,
    );
}

/// The changes that the loop saw in its trials, with the intervals that it decided by.
fn observed(page: &mut Page, mut rows: Vec<ForestRow>) {
    let more = rows.len().saturating_sub(MOST_DECISIONS);
    rows.truncate(MOST_DECISIONS);
    if rows.is_empty() {
        return;
    }
    let rest = if more > 0 { format!(" {more} more are in the table below.") } else { String::new() };
    page.figure(
        forest(
            "observed",
            "Observed changes of trials",
            "change in %, positive is better",
            Effect::Change,
            &[ForestGroup { title: String::new(), rows }],
        ),
        &format!(
            "As the loop saw them when it decided. Dots are estimates, lines their 95 % intervals.{rest}"
        ),
    );
}
