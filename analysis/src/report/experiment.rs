//! The chapter of one experiment: the paper's tables and figures from its result.

use std::collections::BTreeMap;

use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::stats::Estimate;
use huddle_model::summary::{ArmFigure, MICROSECONDS, Ratio, Summary, by_order_of_arms, one_a_kind};
use huddle_model::topology::DomainId;
use serde_json::Value;

use super::colours::Colours;
use super::page::Page;
use super::{arms, misses, or_gap};
use crate::compare::{Comparison, Measure, estimate_text};
use crate::experiment::{ExperimentDir, other_figures};
use crate::figure::{Bar, Effect, ForestGroup, ForestRow, bars, forest, heatmap};
use crate::text::{duration, figure, percent};

pub(super) fn write(page: &mut Page, number: usize, dir: &ExperimentDir, summary: &Summary) {
    let environment = summary.environment.as_ref();
    let host = environment.and_then(|machine| machine.hostname.as_deref()).unwrap_or("an unnamed host");
    page.chapter(
        &format!("experiment{number}"),
        &format!("Experiment {} on {host}, guests: {}", summary.experiment, summary.guest),
    );
    let when = summary.started_utc.as_deref().unwrap_or("at an unknown time");
    let long = summary.duration_s.map_or_else(
        || "for an unknown time".to_owned(),
        |seconds| format!("for {}", duration((seconds * 1e6) as i64)),
    );
    page.paragraph(&format!("{}: began {when}, {long}.", dir.path().display()));
    if let Some(verdict) = &summary.verdict {
        page.paragraph(&format!("Result: {verdict}."));
    }
    // Summaries of earlier versions have a sentence for each arm.
    let disturbed = one_a_kind(&summary.disturbances);
    let disturbed: Vec<String> =
        disturbed.iter().map(|what| format!("Possible disturbance: {what}.")).collect();
    page.gaps(&disturbed);
    let prefix = format!("experiment{number}-");
    sharing(page, &prefix, summary);
    page.section("Arms");
    if let Some(comparison) = or_gap(page, "Comparison", Comparison::of_experiment(dir, None)) {
        own_figures(page, &prefix, summary, &comparison);
        ratios(page, &prefix, summary);
        arms::compared(page, &prefix, &comparison);
        if comparison.latency_of().is_some() {
            arms::latencies(page, &prefix, &dir.timed(), &comparison);
        }
    }
    misses::write(page, &prefix, dir, summary);
    plans(page, summary);
    machine(page, summary);
}

/// The sharing matrices, the paper's tables 1 to 4.
fn sharing(page: &mut Page, prefix: &str, summary: &Summary) {
    page.section("What VMs share");
    match &summary.boot {
        Some(Availability::Available(boot)) => {
            matrix(
                page,
                &format!("{prefix}sharing-boot"),
                "Sharing after boot",
                &boot.matrix,
                "The paper's Table 1: VMs before they hold data.",
            );
        }
        Some(Availability::Unavailable(why)) => page.gap(&format!("Sharing after boot is unknown: {why}.")),
        None => {}
    }
    let Some(found) = &summary.matrix else {
        page.gap("The result has no sharing matrix.");
        return;
    };
    let holds: Vec<String> = found
        .vms()
        .iter()
        .zip(summary.data())
        .map(|(vm, data)| format!("{} holds data {data}", vm.name))
        .collect();
    let data = if holds.is_empty() { String::new() } else { format!(" Here {}.", holds.join(", ")) };
    let cold = found.vms().iter().zip(summary.cold()).filter(|(_, cold)| !cold.is_empty());
    let cold: Vec<String> = cold.map(|(vm, cold)| format!("{} data {cold}", vm.name)).collect();
    let cold = match cold.is_empty() {
        true => String::new(),
        false => format!(" Besides, {} hold what nobody reads: {}.", cold.len(), cold.join(", ")),
    };
    matrix(
        page,
        &format!("{prefix}sharing"),
        "Sharing with data",
        found,
        &format!("As the paper's tables 2 to 4: VMs that hold the same data share most.{data}{cold}"),
    );
}

fn matrix(page: &mut Page, id: &str, title: &str, found: &SharingMatrix, caption: &str) {
    let names: Vec<String> = found.vms().iter().map(|vm| vm.name.clone()).collect();
    let n = names.len();
    let rate = |i: usize, j: usize| (i != j).then(|| found.rate(i, j));
    let rates: Vec<Vec<Option<f64>>> = (0..n).map(|i| (0..n).map(|j| rate(i, j)).collect()).collect();
    page.figure(
        heatmap(id, title, &names, &rates),
        &format!("{caption} Zero-filled pages and sharing within a VM are not included."),
    );
    let headings: Vec<String> =
        names.iter().map(|name| format!(">{}", name.trim_start_matches('>'))).collect();
    let headings: Vec<&str> = std::iter::once("VM").chain(headings.iter().map(String::as_str)).collect();
    let cells = |row: &[Option<f64>]| -> Vec<String> {
        row.iter().map(|rate| rate.map_or_else(|| "-".to_owned(), percent)).collect()
    };
    let rows: Vec<Vec<String>> = names
        .iter()
        .zip(&rates)
        .map(|(name, row)| std::iter::once(name.clone()).chain(cells(row)).collect())
        .collect();
    page.table(&format!("{title}: rates"), &headings, &rows);
}

/// Figures by arm that the summary has and the comparison does not show.
fn own_figures(page: &mut Page, prefix: &str, summary: &Summary, comparison: &Comparison) {
    let shown = |measure: Measure| {
        comparison
            .arms
            .iter()
            .any(|arm| arm.values.get(&measure).is_some_and(|value| value.value().is_some()))
    };
    let main = (!shown(Measure::Throughput)).then_some(("arms", summary.arms.clone()));
    let others = other_figures(summary).into_iter().filter(|(name, _)| match *name {
        "arms_busy" => !shown(Measure::CpuTimeNs),
        "arms_host_busy" => !shown(Measure::HostCpuTimeNs),
        _ => true,
    });
    for (name, figures) in main.into_iter().chain(others) {
        let mut ordered: Vec<(String, ArmFigure)> =
            figures.into_iter().map(|(arm, figure)| (arm, figure.shown())).collect();
        ordered.sort_by(|(one, _), (other, _)| by_order_of_arms(one, other));
        draw(page, prefix, name, &ordered);
    }
}

fn draw(page: &mut Page, prefix: &str, name: &str, figures: &[(String, ArmFigure)]) {
    let Some(unit) = figures.first().map(|(_, figure)| figure.unit.clone()) else { return };
    let title = match name {
        // In the web experiment they are means of a block's responses.
        "arms" if unit == MICROSECONDS => "Mean response time".to_owned(),
        "arms" => "Main figure".to_owned(),
        "arms_time" => "Execution time".to_owned(),
        other => other.trim_start_matches("arms_").replace('_', " "),
    };
    let colours = Colours::of(figures.iter().map(|(arm, _)| arm.as_str()));
    let drawn: Vec<Bar> = figures
        .iter()
        .map(|(arm, ArmFigure { estimate: Estimate { n, median, ci95 }, .. })| Bar {
            name: arm.clone(),
            colour: colours.number(arm),
            value: *median,
            ci95: *ci95,
            n: *n,
        })
        .collect();
    let id = format!("{prefix}{}", name.replace('_', "-"));
    let unit = unit.as_str();
    let caption = match name {
        "arms_time" => {
            "Time for a read of each guest: medians over blocks with 95 % intervals. Less is better. The paper's Figure 4, which \
             has the time for a fixed number of reads."
        }
        _ => "Medians over blocks with 95 % intervals, as the experiment computed them.",
    };
    page.figure(bars(&id, &format!("{title} by arm"), unit, &drawn), caption);
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|(arm, figure)| {
            vec![
                arm.clone(),
                estimate_text(&Availability::Available(figure.estimate)),
                figure.estimate.n.to_string(),
            ]
        })
        .collect();
    page.table(&format!("{title} in {unit}"), &["arm", ">median [95 %]", ">n"], &rows);
}

fn ratios(page: &mut Page, prefix: &str, summary: &Summary) {
    let mut found: Vec<(&String, Ratio)> =
        summary.ratios.iter().filter_map(|(name, ratio)| Some((name, (*ratio)?))).collect();
    if found.is_empty() {
        page.gap("The result has no ratio of arms.");
        return;
    }
    found.sort_by(|(one, _), (other, _)| by_order_of_arms(one, other));
    let drawn: Vec<ForestRow> = found
        .iter()
        .map(|(name, ratio)| ForestRow { name: name.replace('_', " "), value: ratio.value, ci95: ratio.ci95 })
        .collect();
    page.figure(
        forest(
            &format!("{prefix}ratios"),
            "Ratios of the arms",
            "ratio of times, paired by block",
            Effect::Ratio,
            &[ForestGroup { title: String::new(), rows: drawn }],
        ),
        "Dots are medians over blocks, lines 95 % intervals, and an empty dot has too few blocks for one. Right of the dashed \
         line at 1 the arm named first is slower; an interval that crosses it shows no difference.",
    );
    let rows: Vec<Vec<String>> = found
        .into_iter()
        .map(|(name, Ratio { value, ci95, n, .. })| {
            let interval = ci95.map_or_else(
                || "too few blocks".to_owned(),
                |[low, high]| format!("{} to {}", figure(low), figure(high)),
            );
            vec![name.replace('_', " "), figure(value), interval, n.to_string()]
        })
        .collect();
    page.table(
        "Ratios of the arms, paired by block, as computed by the experiment; above 1 the arm in the denominator is better",
        &["ratio", ">median", ">95 % interval", ">blocks"],
        &rows,
    );
}

fn plans(page: &mut Page, summary: &Summary) {
    if summary.plans.is_empty() {
        return;
    }
    page.section("Where the arms placed the VMs");
    let mut plans: Vec<_> = summary.plans.iter().collect();
    plans.sort_by(|(one, _), (other, _)| by_order_of_arms(one, other));
    let rows: Vec<Vec<String>> = plans
        .into_iter()
        .map(|(arm, plan)| {
            let mut domains: BTreeMap<DomainId, Vec<String>> = BTreeMap::new();
            for placed in &plan.placement {
                domains.entry(placed.domain).or_default().push(format!("{}/{}", placed.vm, placed.vcpu));
            }
            let placed: Vec<String> = domains
                .iter()
                .map(|(domain, vcpus)| format!("domain {}: {}", domain.0, vcpus.join(", ")))
                .collect();
            let placed =
                if placed.is_empty() { "placed by the kernel".to_owned() } else { placed.join("; ") };
            let frames = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
            vec![
                arm.clone(),
                plan.policy.to_string(),
                placed,
                frames(plan.shared_within),
                frames(plan.shared_total),
            ]
        })
        .collect();
    page.table(
        "Placements",
        &["arm", "policy", "VM/vCPU", ">frames shared within domains", ">frames shared in all"],
        &rows,
    );
}

fn machine(page: &mut Page, summary: &Summary) {
    page.section("The machine");
    let facts = summary.environment.as_ref().and_then(|machine| serde_json::to_value(machine).ok());
    let Some(Value::Object(facts)) = facts else {
        page.gap("The result does not describe the machine.");
        return;
    };
    let rows: Vec<Vec<String>> =
        facts.iter().map(|(name, value)| vec![name.replace('_', " "), plain(value)]).collect();
    page.table("The machine before the experiment", &["fact", "value"], &rows);
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "- (not recorded)".to_owned(),
        Value::String(text) => text.clone(),
        Value::Object(members) => members
            .iter()
            .map(|(name, value)| format!("{name}={}", plain(value)))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Array(members) => members.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
