//! The report of a run: tables in the form of the paper.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};
use huddle_model::availability::Availability;
use huddle_model::matrix::{SharingMatrix, Weigh};
use huddle_model::plan::Plan;
use huddle_model::summary::{Arm, ArmFigure, Ratio, Summary};
use huddle_model::text::{bytes, p_value, thousands};
use std::collections::BTreeMap;

use super::simulated_report::{self, Section};
use super::summary::all_ratios;
use super::{Verify, Workload};

/// What a workload has in its report.
pub trait Report: Workload {
    /// KiB of a data set.
    fn data_kib(figures: &Self::Figures) -> u64;

    /// Remarks after a part of the report, a line each.
    fn remarks(&self, part: Part, summary: &Summary<Self::Figures>) -> Vec<String>;

    /// Tables of its figures, each with its title.
    fn tables(&self, summary: &Summary<Self::Figures>) -> Vec<(String, Table)>;

    /// The paper's figures beside those of the run: what, the paper's, ours; none where the paper has none.
    fn paper(&self, summary: &Summary<Self::Figures>) -> Vec<[String; 3]>;
}

/// A part of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What VMs share.
    Sharing,
    /// The ratios of the arms.
    Ratios,
    /// The paper's figures.
    Paper,
}

/// The whole report of a run.
pub fn text<W: Report>(workload: &W, summary: &Summary<W::Figures>) -> String {
    let mut out = String::new();
    let spec = workload.spec();
    match &summary.boot {
        Some(Availability::Available(boot)) => {
            section(&mut out, "Sharing after boot (the paper's Table 1)", &sharing_table(&boot.matrix))
        }
        Some(Availability::Unavailable(why)) => {
            line(&mut out, &format!("Sharing after boot: not available: {why}\n"))
        }
        None => {}
    }
    if let Some(matrix) = &summary.matrix {
        let data = workload.data_names().into_iter().zip(1..).map(|(data, vm)| format!("vm{vm}: {data}"));
        // In the unit of the setting, exactly.
        let (data, kib) = (data.collect::<Vec<_>>().join(", "), W::data_kib(&summary.own));
        let title = format!("Sharing of {} with {kib} KiB of data each ({data})", workload.guests());
        section(&mut out, &title, &sharing_table(matrix));
        if let (Some(ms), Ok(read)) = (matrix.read_window_ms(), matrix.of_reads()) {
            let title = format!("Of it, what both VMs of a pair read within {ms} ms");
            section(&mut out, &title, &sharing_table(&read));
        }
    }
    remarks(&mut out, workload.remarks(Part::Sharing, summary));
    if spec.is_timed() && summary.untimed.is_none() {
        section(&mut out, &placement_title(summary), &plan_table(&spec.arms, &summary.plans));
        for (title, table) in workload.tables(summary) {
            section(&mut out, &title, &table);
        }
        for ratio in all_ratios::<W>() {
            if let Some(found) = summary.ratio(ratio.name) {
                ratio_line(&mut out, ratio.text, found);
            }
        }
        if let Some(why) = summary.why_no_misses() {
            line(&mut out, &format!("LLC {}: not available: {why}", W::MISSES.name));
        }
        workload.remarks(Part::Ratios, summary).iter().for_each(|remark| line(&mut out, remark));
        line(&mut out, "");
    }
    if let Some(simulated) = &summary.simulated {
        let Section { title, table, lines } = simulated_report::section(simulated);
        section(&mut out, &title, &table);
        remarks(&mut out, lines);
    }
    let rows = workload.paper(summary);
    if !rows.is_empty() {
        let mut paper = table(["", "the paper", "this run"]);
        rows.into_iter().for_each(|row| _ = paper.add_row(row));
        section(&mut out, "Beside the paper", &paper);
    }
    remarks(&mut out, workload.remarks(Part::Paper, summary));
    result(&mut out, workload.verify(), summary);
    out
}

/// Remarks, and an empty line after them.
fn remarks(out: &mut String, remarks: Vec<String>) {
    remarks.iter().for_each(|remark| line(out, remark));
    if !remarks.is_empty() {
        line(out, "");
    }
}

fn result<F>(out: &mut String, verify: Verify, summary: &Summary<F>) {
    line(out, &format!("Result: {}.", summary.verdict.as_deref().unwrap_or("none")));
    if let Some(simulated) = &summary.simulated {
        line(out, &format!("Besides: {}.", simulated.verdict));
    }
    if summary.valid && !summary.blocks.is_empty() {
        let held = match verify {
            Verify::Merged => ": merging held throughout",
            Verify::Unmerged => ": nothing was merged at any time",
            Verify::Nothing => "",
        };
        line(out, &format!("Every block is valid{held}."));
    }
    for why in summary.left_out() {
        line(out, &format!("Left out, {why}."));
    }
    if summary.disturbances.is_empty() {
        line(out, "No disturbance of the run was observed.");
    }
    for disturbance in &summary.disturbances {
        line(out, &format!("May have disturbed the run: {disturbance}."));
    }
}

fn placement_title<F>(summary: &Summary<F>) -> String {
    let Some(topology) = &summary.topology else { return "Placement".to_owned() };
    let level = topology.level().map_or_else(String::new, |level| format!(" at cache level {level}"));
    let domains: Vec<String> = topology
        .domains()
        .iter()
        .map(|domain| {
            let size = domain.size_bytes.map_or_else(String::new, |size| format!(", {}", bytes(size)));
            format!("CPUs {}{size}", domain.cpus)
        })
        .collect();
    format!("Placement on two cache domains{level} ({})", domains.join("; "))
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn section(out: &mut String, title: &str, table: &Table) {
    line(out, &format!("{title}\n{table}\n"));
}

fn ratio_line(out: &mut String, what: &str, ratio: Ratio) {
    let text = match ratio {
        Ratio { value, ci95: Some([low, high]), test, .. } => {
            let p = test.map_or_else(String::new, |test| format!(", p {}", p_value(test.p_value)));
            format!("{value:.2}  (95 % interval {low:.2} to {high:.2}{p})")
        }
        Ratio { value, ci95: None, .. } => format!("{value:.2}  (too few blocks for an interval)"),
    };
    line(out, &format!("{what:<46} {text}"));
}

/// A table whose columns after the first are right-aligned.
pub(crate) fn table<T: Into<Cell>>(header: impl IntoIterator<Item = T>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn sharing_table(matrix: &SharingMatrix) -> Table {
    let names = matrix.vms().iter().map(|vm| &*vm.name);
    let mut table = table([""].into_iter().chain(names).chain(["frames used"]));
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

fn plan_table(arms: &[Arm], plans: &BTreeMap<String, Plan>) -> Table {
    let mut table = table(["arm", "policy", "CPUs: VMs", "shared frames within"]);
    for arm in Arm::ALL {
        let row = match plans.get(arm.name()) {
            Some(plan) => [arm.name().into(), policy(arm, plan), places(plan), within(arm, plan)],
            None if arm.is_drawn() && arms.contains(&arm) => {
                [arm.name().into(), arm.policy().to_string(), "random in each block".into(), "varies".into()]
            }
            None => continue,
        };
        table.add_row(row);
    }
    table
}

fn places(plan: &Plan) -> String {
    if plan.placement.is_empty() {
        let cpus = plan.domains.iter().map(|domain| domain.cpus.to_string());
        return format!("{}: all, chosen by the kernel", cpus.collect::<Vec<_>>().join(","));
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

fn policy(arm: Arm, plan: &Plan) -> String {
    match arm.weigh() {
        Weigh::All => plan.policy.to_string(),
        Weigh::Read => format!("{}, by reads", plan.policy),
    }
}

fn within(arm: Arm, plan: &Plan) -> String {
    let what = if arm.weigh() == Weigh::Read { " read" } else { "" };
    match (plan.shared_within, plan.shared_total) {
        (Some(within), Some(total)) => format!("{within} of {total}{what}"),
        _ => "unknown".into(),
    }
}

/// The median of an arm's figure in the unit that people read, or a dash.
pub(crate) fn cell(figures: &BTreeMap<String, ArmFigure>, arm: &str, digits: usize) -> String {
    figures.get(arm).map_or_else(|| "-".into(), |figure| number(figure.shown().estimate.median, digits))
}

pub(crate) fn percent(rate: Option<f64>) -> String {
    rate.map_or_else(|| "not available".into(), |rate| format!("{:.2} %", rate * 100.0))
}

pub(crate) fn ratio(ratio: Option<Ratio>) -> String {
    match ratio {
        Some(Ratio { value, ci95: Some([low, high]), .. }) => format!("{value:.2} ({low:.2} to {high:.2})"),
        Some(Ratio { value, .. }) => format!("{value:.2} (no interval)"),
        None => "not measured".into(),
    }
}

/// A number with its thousands separated.
pub(crate) fn number(value: f64, digits: usize) -> String {
    thousands(&format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_shown_with_what_is_known_of_them() {
        let shown = |ratio| {
            let mut out = String::new();
            ratio_line(&mut out, "r", ratio);
            out
        };
        assert!(
            shown(Ratio { value: 1.987, ci95: Some([1.9, 2.1]), n: 9, test: None })
                .contains("1.99  (95 % interval 1.90 to 2.10)")
        );
        assert!(shown(Ratio { value: 1.5, ci95: None, n: 2, test: None }).contains("too few"));
    }

    #[test]
    fn what_was_not_measured_is_no_number() {
        assert_eq!((percent(None), ratio(None)), ("not available".into(), "not measured".into()));
        assert_eq!(percent(Some(0.6649)), "66.49 %");
        let measured = Ratio { value: 1.987, ci95: Some([1.9, 2.1]), n: 9, test: None };
        assert_eq!(ratio(Some(measured)), "1.99 (1.90 to 2.10)");
    }
}
