//! Misses in the chapter of an experiment: simulated ones, and beside them what was predicted and measured.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::summary::{
    ArmFigure, MISSES_PER_THOUSAND_READS, Ratio, SimulatedMisses, Summary, by_order_of_arms,
};

use super::colours::Colours;
use super::or_gap;
use super::page::Page;
use crate::experiment::ExperimentDir;
use crate::figure::{
    Bar, Effect, ForestGroup, ForestRow, Level, LevelGroup, Origin, SizeLine, SizePoint, bars, by_size,
    forest, levels,
};
use crate::misses::{Columns, Misses, SizeMisses, about};

/// The most groups (VMs, cache domains) that a figure shows.
const MOST_GROUPS: usize = 24;

/// Nothing is written where nothing was simulated or predicted.
pub(super) fn write(page: &mut Page, prefix: &str, dir: &ExperimentDir, summary: &Summary) {
    let Some(misses) = or_gap(page, "Misses", Misses::of_summary(dir, summary)) else { return };
    if !misses.has_model() {
        return;
    }
    let simulates = misses.simulation.value().is_some();
    page.section(if simulates { "Simulated misses" } else { "Predicted misses" });
    for sentence in about(&misses) {
        page.paragraph(&format!("{sentence}."));
    }
    if let Some(simulated) = &summary.simulated {
        page.paragraph(&format!("Result of the simulation: {}.", simulated.verdict));
        of_arms(page, prefix, simulated);
        ratios(page, prefix, simulated);
    }
    if misses.greatest.is_some() {
        sizes(page, prefix, &misses);
    }
    if let Some(arms) = misses.arm_columns() {
        write_table(page, "Each arm: predicted, simulated, counted and timed", &arms);
    }
    let caption = "Opposed over recommended: above 1 the recommended placement is better";
    let greatest = if misses.greatest.is_some() { "; * marks the greatest of its column" } else { "" };
    write_table(page, &format!("{caption}{greatest}"), &misses.effect_columns());
    correlations(page, &misses);
    page.gaps(&misses.gaps());
}

fn write_table(page: &mut Page, caption: &str, Columns { headings, rows }: &Columns) {
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    // Sizes stay on one line.
    let unbroken = |row: &Vec<String>| -> Vec<String> {
        let head = row.iter().take(1).map(|size| size.replace(' ', "\u{a0}"));
        head.chain(row.iter().skip(1).cloned()).collect()
    };
    page.table(caption, &headings, &rows.iter().map(unbroken).collect::<Vec<_>>());
}

/// Misses by arm; of each VM, and of each cache.
fn of_arms(page: &mut Page, prefix: &str, simulated: &SimulatedMisses) {
    let unit = format!("SIMULATED {MISSES_PER_THOUSAND_READS}");
    let colours = Colours::of(simulated.arms.keys().map(String::as_str));
    let drawn: Vec<Bar> = ordered(&simulated.arms)
        .map(|(arm, ArmFigure { estimate, .. })| Bar {
            name: arm.clone(),
            colour: colours.number(arm),
            value: estimate.median,
            ci95: estimate.ci95,
            n: estimate.n,
        })
        .collect();
    if drawn.is_empty() {
        page.gap("No arm was simulated in every block.");
        return;
    }
    page.figure(
        bars(&format!("{prefix}simulated"), "Simulated misses by arm", &unit, &drawn),
        "Simulated, not counted: of 1000 reads of all vCPUs those that miss the last-level cache. Medians over blocks with 95 % \
         intervals. Less is better.",
    );
    let vms = simulated.vms.iter().map(|vm| (vm.vm.clone(), &vm.arms));
    let caches = simulated.domains.iter().map(|domain| (format!("cache {}", domain.domain), &domain.arms));
    groups(page, &colours, &unit, (&format!("{prefix}simulated-vms"), "VM"), vms.collect());
    groups(page, &colours, &unit, (&format!("{prefix}simulated-caches"), "cache"), caches.collect());
}

fn groups(
    page: &mut Page,
    colours: &Colours,
    unit: &str,
    (id, of): (&str, &str),
    found: Vec<(String, &BTreeMap<String, ArmFigure>)>,
) {
    let more = found.len().saturating_sub(MOST_GROUPS);
    let group = |(title, arms): &(String, &BTreeMap<String, ArmFigure>)| LevelGroup {
        title: title.clone(),
        levels: ordered(arms)
            .map(|(arm, ArmFigure { estimate, .. })| Level {
                name: arm.clone(),
                colour: colours.number(arm),
                value: estimate.median,
                ci95: estimate.ci95,
            })
            .collect(),
    };
    let drawn: Vec<LevelGroup> = found.iter().take(MOST_GROUPS).map(group).collect();
    if drawn.is_empty() {
        return;
    }
    let rest = if more > 0 { format!(" {more} more are not drawn.") } else { String::new() };
    page.figure(
        levels(id, &format!("Simulated misses of each {of}"), unit, &drawn),
        &format!(
            "Simulated, not counted. Dots are medians over blocks, lines 95 % intervals, and an empty dot has too few blocks for \
             one.{rest}"
        ),
    );
}

fn ordered(arms: &BTreeMap<String, ArmFigure>) -> impl Iterator<Item = (&String, &ArmFigure)> {
    let mut found: Vec<_> = arms.iter().collect();
    found.sort_by(|(one, _), (other, _)| by_order_of_arms(one, other));
    found.into_iter()
}

/// The simulated ratios, as misses and as time.
fn ratios(page: &mut Page, prefix: &str, simulated: &SimulatedMisses) {
    let group = |title: &str, ratios: &BTreeMap<String, Option<Ratio>>| {
        let mut found: Vec<(&String, Ratio)> =
            ratios.iter().filter_map(|(name, ratio)| Some((name, (*ratio)?))).collect();
        found.sort_by(|(one, _), (other, _)| by_order_of_arms(one, other));
        let row = |(name, ratio): (&String, Ratio)| ForestRow {
            name: name.replace('_', " "),
            value: ratio.value,
            ci95: ratio.ci95,
        };
        ForestGroup { title: title.to_owned(), rows: found.into_iter().map(row).collect() }
    };
    let groups =
        [group("SIMULATED misses", &simulated.ratios), group("SIMULATED, as time", &simulated.time_ratios)];
    if groups.iter().all(|group| group.rows.is_empty()) {
        page.gap("There is no simulated ratio of two arms.");
        return;
    }
    page.figure(
        forest(&format!("{prefix}simulated-ratios"), "Simulated ratios", "ratio, paired by block", Effect::Ratio, &groups),
        &format!(
            "Simulated, not counted. As time: if a miss takes {} hits, and nothing else takes time. An interval that crosses the \
             dashed line at 1 shows no difference.",
            simulated.miss_over_hit
        ),
    );
}

/// A ratio as a figure has it.
struct Drawn {
    value: f64,
    ci95: Option<[f64; 2]>,
}

/// The effect by size of data.
fn sizes(page: &mut Page, prefix: &str, misses: &Misses) {
    let greatest = misses.greatest;
    let line = |origin, name: &str, of: &dyn Fn(&SizeMisses) -> Option<Drawn>, greatest_kib| {
        let point = |size: &SizeMisses| {
            let Drawn { value, ci95 } = of(size)?;
            Some(SizePoint { kib: size.data_kib?, value, ci95 })
        };
        SizeLine {
            name: name.to_owned(),
            origin,
            points: misses.sizes.iter().filter_map(point).collect(),
            greatest_kib,
        }
    };
    let ratio = |found: &Availability<Ratio>| {
        found.value().map(|Ratio { value, ci95, .. }| Drawn { value: *value, ci95: *ci95 })
    };
    let lines = [
        line(
            Origin::Measured,
            "measured time of a read",
            &|size| ratio(&size.effect.measured_time),
            greatest.and_then(|greatest| greatest.measured_kib),
        ),
        line(
            Origin::Simulated,
            "SIMULATED misses, as time",
            &|size| ratio(&size.effect.simulated_time),
            greatest.and_then(|greatest| greatest.simulated_kib),
        ),
        line(
            Origin::Predicted,
            "PREDICTED misses, as time",
            &|size| size.effect.predicted_time.value().map(|value| Drawn { value: *value, ci95: None }),
            greatest.and_then(|greatest| greatest.predicted_kib),
        ),
    ];
    if lines.iter().all(|line| line.points.is_empty()) {
        page.gap("No size has a ratio of opposed over recommended.");
        return;
    }
    let cache = misses.simulation.value().map(|simulation| simulation.model.size_bytes());
    page.figure(
        by_size(
            &format!("{prefix}sizes"),
            "Opposed over recommended by size of data",
            "ratio of times",
            &lines,
            cache,
        ),
        "Above 1 the recommended placement is better. Upright strokes are 95 % intervals; an estimate has none. A ring marks the \
         greatest ratio of each line. Lines only join the sizes.",
    );
}

fn correlations(page: &mut Page, misses: &Misses) {
    let rows: Vec<Vec<String>> = misses
        .correlations()
        .into_iter()
        .map(|(what, value)| match value {
            Availability::Available(value) => vec![what.to_owned(), format!("{value:.2}"), String::new()],
            Availability::Unavailable(why) => vec![what.to_owned(), "-".to_owned(), why.clone()],
        })
        .collect();
    if !rows.is_empty() {
        page.table(
            "Rank correlation (Spearman) of the ratios of time over the sizes",
            &["of", ">correlation", "why none"],
            &rows,
        );
    }
}
