//! Figures of what a comparison found: blocks as lines from arm to arm, and changes with their intervals.

use huddle_model::stats::median;

use super::colours::Colours;
use super::page::Page;
use crate::compare::{ArmSummary, By, Comparison, Measure, Place};
use crate::figure::{Effect, ForestGroup, ForestRow, PairedArm, PairedBlock, Panel, forest, paired};

/// The most trials that a figure shows.
const MOST_TRIALS: usize = 24;

/// The most changes of a measure that a figure shows.
const MOST_CHANGES: usize = 40;

/// A figure for each measure, each trial with a panel of its own; nothing where values are not paired by block.
pub(super) fn blocks(page: &mut Page, prefix: &str, comparison: &Comparison, colours: &Colours) {
    if comparison.by != By::Trial {
        return;
    }
    for measure in comparison.measures.iter().copied() {
        let trials = comparison.arms.chunk_by(|one, other| one.of == other.of);
        let mut panels: Vec<Panel> = trials.filter_map(|arms| panel(arms, measure, colours)).collect();
        let more = panels.len().saturating_sub(MOST_TRIALS);
        panels.truncate(MOST_TRIALS);
        let better = if measure.more_is_better() { "More is better." } else { "Less is better." };
        let each = match panels.len() {
            0 => continue,
            1 => String::new(),
            _ => " Each trial has an axis of its own.".to_owned(),
        };
        let rest = match more {
            0 => String::new(),
            more => format!(" {more} more trials are in the tables only."),
        };
        page.figure(
            paired(
                &format!("{prefix}blocks-{}", measure.id()),
                &format!("{} of each block", measure.title()),
                measure.title(),
                &panels,
            ),
            &format!(
                "A thin line is a block, with the values that were measured in it one after the other; the strong line joins \
                 the medians, whose values are below. {better} The axis need not begin at 0.{each}{rest}"
            ),
        );
    }
}

/// The arms of one trial; `None` if no block has a value in two of them.
fn panel(arms: &[ArmSummary], measure: Measure, colours: &Colours) -> Option<Panel> {
    let with: Vec<_> = arms
        .iter()
        .filter_map(|arm| Some((arm, arm.by_block.get(&measure).filter(|values| !values.is_empty())?)))
        .collect();
    let mut places: Vec<Place> = with.iter().flat_map(|(_, values)| values.keys().copied()).collect();
    places.sort_unstable();
    places.dedup();
    let blocks: Vec<PairedBlock> = places
        .into_iter()
        .map(|place| PairedBlock {
            what: format!("block {}", place.1),
            values: with.iter().map(|(_, values)| values.get(&place).copied()).collect(),
        })
        .collect();
    blocks.iter().find(|block| block.values.iter().flatten().count() > 1)?;
    let drawn = |(arm, values): &(&ArmSummary, &std::collections::BTreeMap<Place, f64>)| PairedArm {
        name: arm.name.clone(),
        colour: colours.number(&arm.name),
        median: median(&values.values().copied().collect::<Vec<_>>()),
    };
    let title =
        arms.first().and_then(|arm| arm.of.text()).map_or_else(String::new, |trial| format!("trial {trial}"));
    Some(Panel { title, arms: with.iter().map(drawn).collect(), blocks })
}

/// The changes of the arms from the baseline, measure by measure.
pub(super) fn changes(page: &mut Page, prefix: &str, comparison: &Comparison, baseline: &str) {
    let mut more = 0;
    let mut groups = Vec::new();
    for measure in &comparison.measures {
        let found = comparison.changes.iter().filter(|change| change.measure == *measure);
        let mut rows: Vec<ForestRow> = found
            .filter_map(|change| {
                let estimate = change.compared.value()?.change();
                let name = change.of.name(&change.arm);
                Some(ForestRow { name, value: estimate.median, ci95: estimate.ci95 })
            })
            .collect();
        more += rows.len().saturating_sub(MOST_CHANGES);
        rows.truncate(MOST_CHANGES);
        if !rows.is_empty() {
            groups.push(ForestGroup { title: measure.title().to_owned(), rows });
        }
    }
    if groups.is_empty() {
        return;
    }
    let rest = if more > 0 { format!(" {more} more are in the table below.") } else { String::new() };
    page.figure(
        forest(
            &format!("{prefix}changes"),
            &format!("Changes from {baseline}"),
            "change in %, positive is better",
            Effect::Change,
            &groups,
        ),
        &format!(
            "Dots are medians, lines 95 % intervals, and an empty dot has too few values for one. An interval that crosses \
             the dashed line does not show that there is a difference.{rest}"
        ),
    );
}
