//! What a person reads of a run: tables in the form of the paper.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};
use huddle_model::matrix::SharingMatrix;
use huddle_model::plan::Plan;

use crate::design::Arm;
use crate::microbench::Block;
use crate::summary::{Ratio, Summary};

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
    section(
        &mut out,
        &format!("Sharing, {} KiB of data A (vm1, vm2) and B (vm3, vm4)", config.data_kib),
        &sharing_table(&summary.matrix),
    );
    section(
        &mut out,
        &format!("Placement on two cache domains{level} ({})", domains.join("; ")),
        &plan_table(summary),
    );
    section(
        &mut out,
        &format!(
            "Reads of all four VMs, {} block(s) of {} s an arm, the CPU yielded every {} reads",
            config.repetitions, config.seconds_per_arm, config.burst_reads
        ),
        &arm_table(summary),
    );
    section(&mut out, "Each block, in the order measured (reads/s)", &block_table(&summary.blocks));
    ratio_line(&mut out, "opposed over recommended, time per read", summary.ratios.opposed_over_recommended);
    ratio_line(
        &mut out,
        "opposed over recommended, CPU time per read",
        summary.ratios.opposed_over_recommended_busy,
    );
    out.push_str("(the paper's Figure 4, on two sockets with 20 MB of cache each: 2.1)\n\n");
    line(&mut out, &format!("Result: {}.", summary.verdict));
    if summary.valid {
        line(&mut out, "Every block is valid: merging held throughout.");
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

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn section(out: &mut String, title: &str, table: &Table) {
    line(out, &format!("{title}\n{table}\n"));
}

fn ratio_line(out: &mut String, what: &str, ratio: Option<Ratio>) {
    let text = match ratio {
        Some(Ratio { value, ci95: Some([low, high]), .. }) => {
            format!("{value:.2}  (95 % interval {low:.2} to {high:.2})")
        }
        Some(Ratio { value, ci95: None, .. }) => format!("{value:.2}  (too few blocks for an interval)"),
        None => "not available: no valid block".into(),
    };
    line(out, &format!("{what:<44} {text}"));
}

fn table(header: Vec<String>) -> Table {
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

fn sharing_table(matrix: &SharingMatrix) -> Table {
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
        let Some(plan) = summary.plans.get(arm.name()) else { continue };
        table.add_row([arm.name().into(), plan.policy.to_string(), places(plan), within(plan)]);
    }
    table
}

fn places(plan: &Plan) -> String {
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

fn within(plan: &Plan) -> String {
    match (plan.shared_within, plan.shared_total) {
        (Some(within), Some(total)) => format!("{within} of {total}"),
        _ => "unknown".into(),
    }
}

fn arm_table(summary: &Summary) -> Table {
    let header = ["arm", "reads/s, median", "95 % interval", "CPU ns/read, median", "95 % interval"];
    let mut table = table(header.map(str::to_owned).to_vec());
    for arm in Arm::ALL {
        let cells = |figures: &std::collections::BTreeMap<&str, crate::summary::ArmFigure>, digits: usize| {
            let Some(figure) = figures.get(arm.name()) else { return [String::from("-"), "-".into()] };
            let interval = figure.estimate.ci95.map_or_else(
                || "too few blocks".into(),
                |[low, high]| format!("{} to {}", number(low, digits), number(high, digits)),
            );
            [number(figure.estimate.median, digits), interval]
        };
        let mut row = vec![arm.name().to_owned()];
        row.extend(cells(&summary.arms, 0));
        row.extend(cells(&summary.arms_busy, 2));
        table.add_row(row);
    }
    table
}

fn block_table(blocks: &[Block]) -> Table {
    let header = ["block", "first", "recommended", "opposed", "ratio", "valid"];
    let mut table = table(header.map(str::to_owned).to_vec());
    for block in blocks {
        let rate = |arm| block.sample(arm).map(crate::microbench::ArmSample::reads_per_s);
        let cell = |arm| rate(arm).map_or_else(|| "-".into(), |rate| number(rate, 0));
        let ratio = rate(Arm::Recommended).zip(rate(Arm::Opposed)).map(|(best, worst)| best / worst);
        table.add_row([
            block.number.to_string(),
            block.samples.first().map_or("-", |sample| sample.arm.name()).to_owned(),
            cell(Arm::Recommended),
            cell(Arm::Opposed),
            ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}")),
            if block.invalid.is_none() { "yes".into() } else { "NO".into() },
        ]);
    }
    table
}

/// A number with a thin grouping of thousands: `12,345,678`.
fn number(value: f64, digits: usize) -> String {
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
            shown(Some(Ratio { value: 1.987, ci95: Some([1.9, 2.1]), n: 9 }))
                .contains("1.99  (95 % interval 1.90 to 2.10)")
        );
        assert!(shown(Some(Ratio { value: 1.5, ci95: None, n: 2 })).contains("too few"));
        assert!(shown(None).contains("not available"));
    }
}
