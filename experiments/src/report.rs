//! What a person reads of a run: tables in the form of the paper.

use std::collections::BTreeMap;
use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use huddle_model::availability::Availability;
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;

use crate::design::Arm;
use crate::microbench::Block;
use crate::summary::{ArmFigure, Ratio, Summary};

/// The whole report of a run.
pub fn text(summary: &Summary) -> String {
    let mut out = String::new();
    let config = &summary.config;
    let level = config.cache_level.map_or_else(String::new, |level| format!(" at cache level {level}"));
    let domains: Vec<String> = summary
        .topology
        .domains()
        .iter()
        .map(|domain| {
            let size = domain.size_bytes.map_or_else(String::new, |bytes| format!(", {} KiB", bytes / 1024));
            format!("CPUs {}{size}", domain.cpus)
        })
        .collect();
    match &summary.boot {
        Availability::Available(boot) => {
            section(&mut out, "Sharing after boot (the paper's Table 1)", &sharing_table(&boot.matrix))
        }
        Availability::Unavailable(why) => {
            line(&mut out, &format!("Sharing after boot: not available: {why}\n"))
        }
    }
    let holds = summary.spec.data.iter().zip(1..).map(|(data, vm)| format!("vm{vm}: {data}"));
    section(
        &mut out,
        &format!("Sharing with {} KiB of data ({})", config.data_kib, holds.collect::<Vec<_>>().join(", ")),
        &sharing_table(&summary.matrix),
    );
    if summary.spec.is_timed() {
        section(
            &mut out,
            &format!("Placement on two cache domains{level} ({})", domains.join("; ")),
            &plan_table(summary),
        );
        section(
            &mut out,
            &format!(
                "Reads of all VMs, {} block(s) of {} s an arm, a rest of {} us every {} reads",
                config.repetitions, config.seconds_per_arm, config.idle_us, config.burst_reads
            ),
            &arm_table(summary),
        );
        section(&mut out, "Each vCPU: reads/s, and LLC misses/read beside them", &vcpu_table(summary));
        section(&mut out, "Each block, in the order measured (reads/s)", &block_table(&summary.blocks));
        ratios(&mut out, summary);
    }
    section(&mut out, "Beside the paper", &crate::report_paper::table(summary));
    for difference in crate::report_paper::differences(summary) {
        line(&mut out, &format!("The machines differ: {difference}."));
    }
    line(&mut out, "");
    line(&mut out, &format!("Result: {}.", summary.verdict));
    if summary.valid {
        let held = if summary.spec.merge { "merging held" } else { "nothing was merged" };
        line(&mut out, &format!("Every block is valid: {held} throughout."));
    }
    for why in &summary.invalid_blocks {
        line(&mut out, &format!("Left out, {why}."));
    }
    if summary.disturbances.is_empty() {
        line(&mut out, "Nothing was seen that disturbed the run.");
    }
    for disturbance in &summary.disturbances {
        line(&mut out, &format!("May have disturbed the run: {disturbance}."));
    }
    out
}

fn ratios(out: &mut String, summary: &Summary) {
    let ratios = &summary.ratios;
    for (what, ratio) in [
        ("opposed over recommended, time per read", ratios.opposed_over_recommended),
        ("  the same in CPU time, as guests count it", ratios.opposed_over_recommended_busy),
        ("  the same in CPU time, as the host counts it", ratios.opposed_over_recommended_host_busy),
        ("not merged over opposed", ratios.not_merged_over_opposed),
        ("not merged over recommended", ratios.not_merged_over_recommended),
        ("left to the kernel over recommended", ratios.kernel_over_recommended),
        ("placed by lot over recommended", ratios.random_over_recommended),
        ("recommended again over recommended", ratios.control_over_recommended),
    ] {
        if ratio.is_some() {
            ratio_line(out, what, ratio);
        }
    }
    match &summary.llc_misses {
        Availability::Unavailable(why) => line(out, &format!("LLC misses per read: not available: {why}")),
        Availability::Available(_) => {
            let counted = summary
                .events
                .iter()
                .filter_map(|counted| Some(format!("{} by {}", counted.role.name(), counted.event.value()?)));
            line(out, &format!("Counted: {}", counted.collect::<Vec<_>>().join(", ")));
        }
    }
    line(out, "");
}

pub(crate) fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

pub(crate) fn section(out: &mut String, title: &str, table: &Table) {
    line(out, &format!("{title}\n{table}\n"));
}

pub(crate) fn ratio_line(out: &mut String, what: &str, ratio: Option<Ratio>) {
    let text = match ratio {
        Some(Ratio { value, ci95: Some([low, high]), test, .. }) => {
            let p = test.map_or_else(String::new, |test| format!(", p {}", p_value(test.p_value)));
            format!("{value:.2}  (95 % interval {low:.2} to {high:.2}{p})")
        }
        Some(Ratio { value, ci95: None, .. }) => format!("{value:.2}  (too few blocks for an interval)"),
        None => "not available: no valid block".into(),
    };
    line(out, &format!("{what:<46} {text}"));
}

/// A p value; what is smaller than four digits show is not written as 0.
fn p_value(p: f64) -> String {
    if p < 0.0001 { "< 0.0001".into() } else { format!("{p:.4}") }
}

pub(crate) fn table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let columns = header.len();
    table.set_header(header);
    for column in
        (1..columns).filter_map(|column| table.column_mut(column).map(|_| column)).collect::<Vec<_>>()
    {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

pub(crate) fn sharing_table(matrix: &SharingMatrix) -> Table {
    let names = matrix.vms().iter().map(|vm| vm.name.clone());
    let mut table =
        table([String::new()].into_iter().chain(names).chain(["frames used".to_owned()]).collect());
    for (i, vm) in matrix.vms().iter().enumerate() {
        let mut row = vec![vm.name.clone()];
        for j in 0..matrix.len() {
            row.push(if i == j { "-".into() } else { format!("{:.2} %", matrix.rate(i, j) * 100.0) });
        }
        row.push(vm.memory.map_or_else(|| "unknown".into(), |memory| memory.frames_used.to_string()));
        table.add_row(row);
    }
    table
}

fn plan_table(summary: &Summary) -> Table {
    let mut table = table(["arm", "policy", "CPUs: VMs", "shared frames within"].map(str::to_owned).to_vec());
    for arm in Arm::ALL {
        let row = match summary.plans.get(arm.name()) {
            Some(plan) => [arm.name().into(), plan.policy.to_string(), places(plan), within(plan)],
            None if arm.is_drawn() && summary.spec.arms.contains(&arm) => {
                [arm.name().into(), arm.policy().to_string(), "by lot in each block".into(), "varies".into()]
            }
            None => continue,
        };
        table.add_row(row);
    }
    table
}

pub(crate) fn places(plan: &Plan) -> String {
    if plan.placement.is_empty() {
        let cpus = plan.domains.iter().map(|domain| domain.cpus.to_string());
        return format!("{}: all, as the kernel likes", cpus.collect::<Vec<_>>().join(","));
    }
    let domains = plan.domains.iter().map(|domain| {
        let vms: Vec<&str> = plan
            .placement
            .iter()
            .filter(|placed| placed.domain == domain.id)
            .map(|placed| placed.vm.as_str())
            .collect();
        format!("{}: {}", domain.cpus, vms.join(" "))
    });
    domains.collect::<Vec<_>>().join("; ")
}

pub(crate) fn within(plan: &Plan) -> String {
    match (plan.shared_within, plan.shared_total) {
        (Some(within), Some(total)) => format!("{within} of {total}"),
        _ => "unknown".into(),
    }
}

fn arm_table(summary: &Summary) -> Table {
    let header = [
        "arm",
        "reads/s, median",
        "95 % interval",
        "s/Mreads",
        "CPU ns/read",
        "host CPU ns/read",
        "LLC misses/read",
    ];
    let mut table = table(header.map(str::to_owned).to_vec());
    let none = BTreeMap::new();
    let misses = summary.llc_misses.value().unwrap_or(&none);
    for arm in Arm::ALL {
        let Some(reads) = summary.arms.get(arm.name()) else { continue };
        let interval = reads.estimate.ci95.map_or_else(
            || "too few blocks".into(),
            |[low, high]| format!("{} to {}", number(low, 0), number(high, 0)),
        );
        let cell = |figures: &BTreeMap<&str, ArmFigure>, digits: usize| {
            figures
                .get(arm.name())
                .map_or_else(|| "-".into(), |figure| number(figure.estimate.median, digits))
        };
        table.add_row([
            arm.name().to_owned(),
            number(reads.estimate.median, 0),
            interval,
            cell(&summary.arms_time, 4),
            cell(&summary.arms_busy, 2),
            cell(&summary.arms_host_busy, 2),
            cell(misses, 4),
        ]);
    }
    table
}

fn vcpu_table(summary: &Summary) -> Table {
    let arms: Vec<&str> =
        Arm::ALL.iter().map(|arm| arm.name()).filter(|arm| summary.arms.contains_key(arm)).collect();
    let header = ["vCPU", "of"].into_iter().chain(arms.iter().copied());
    let mut table = table(header.map(str::to_owned).collect());
    for vcpu in &summary.vcpus {
        let name = format!("{} {}", vcpu.vm, vcpu.vcpu);
        let mut row = |what: &str, figures: &BTreeMap<&str, ArmFigure>, digits| {
            let cells = arms.iter().map(|arm| {
                figures.get(arm).map_or_else(|| "-".into(), |figure| number(figure.estimate.median, digits))
            });
            table.add_row([name.clone(), what.to_owned()].into_iter().chain(cells));
        };
        row("reads/s", &vcpu.reads, 0);
        if let Availability::Available(misses) = &vcpu.llc_misses {
            row("misses/read", misses, 4);
        }
    }
    table
}

fn block_table(blocks: &[Block]) -> Table {
    let arms: Vec<Arm> =
        Arm::ALL.into_iter().filter(|arm| blocks.iter().any(|block| block.sample(*arm).is_some())).collect();
    let mut header = vec!["block".to_owned(), "first".to_owned()];
    header.extend(arms.iter().map(|arm| arm.name().to_owned()));
    header.push("valid".into());
    let mut table = table(header);
    for block in blocks {
        let first = block.samples.first().map_or("-", |sample| sample.arm.name());
        let mut row = vec![block.number.to_string(), first.to_owned()];
        row.extend(arms.iter().map(|arm| {
            block.sample(*arm).map_or_else(|| "-".into(), |sample| number(sample.reads_per_s(), 0))
        }));
        row.push(if block.invalid.is_none() { "yes".into() } else { "NO".into() });
        table.add_row(row);
    }
    table
}

/// A number with a thin grouping of thousands: `12,345,678`.
pub(crate) fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), None), |(w, f)| (w, Some(f)));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or_else(|| grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(number(7.0, 0), "7");
        assert_eq!(number(123_456_789.4, 0), "123,456,789");
        assert_eq!(number(1234.567, 2), "1,234.57");
        assert_eq!(number(999.0, 0), "999");
    }

    #[test]
    fn ratios_are_shown_with_what_is_known_of_them() {
        let shown = |ratio| {
            let mut out = String::new();
            ratio_line(&mut out, "r", ratio);
            out
        };
        assert!(
            shown(Some(Ratio { value: 1.987, ci95: Some([1.9, 2.1]), n: 9, test: None }))
                .contains("1.99  (95 % interval 1.90 to 2.10)")
        );
        assert!(shown(Some(Ratio { value: 1.5, ci95: None, n: 2, test: None })).contains("too few"));
        assert!(shown(None).contains("not available"));
    }
}
