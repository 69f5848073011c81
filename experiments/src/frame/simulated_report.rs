//! The simulated misses in a report.

use comfy_table::Table;
use huddle_model::summary::{Arm, SIMULATED_RATIOS, SimulatedMisses, misses_for};

use super::report::{cell, number, ratio, table};

/// The paper's Figure 4: time, placed the opposite way over as recommended.
const PAPER_TIME_RATIO: f64 = 2.1;

/// A title, a table, and lines after it.
pub(super) struct Section {
    pub(super) title: String,
    pub(super) table: Table,
    pub(super) lines: Vec<String>,
}

/// The section of a simulation.
pub(super) fn section(simulated: &SimulatedMisses) -> Section {
    let title = format!(
        "SIMULATED misses of 1000 reads in the last-level caches of {}, {} block(s), one of {} sets",
        simulated.caches(),
        simulated.blocks.len(),
        simulated.fold
    );
    Section { title, table: arms(simulated), lines: lines(simulated) }
}

fn arms(simulated: &SimulatedMisses) -> Table {
    let vms = simulated.vms.iter().map(|vm| vm.vm.clone());
    let domains = simulated.domains.iter().map(|domain| format!("cache {}", domain.domain));
    let header = ["arm", "all VMs", "95 % interval"].map(str::to_owned).into_iter().chain(vms).chain(domains);
    let mut table = table(header);
    for arm in Arm::ALL.map(Arm::name) {
        let Some(figure) = simulated.arms.get(arm) else { continue };
        let interval = figure.estimate.ci95.map_or_else(
            || "too few blocks".into(),
            |[low, high]| format!("{} to {}", number(low, 1), number(high, 1)),
        );
        let vms = simulated.vms.iter().map(|vm| &vm.arms);
        let cells = vms.chain(simulated.domains.iter().map(|domain| &domain.arms));
        let cells = cells.map(|figures| cell(figures, arm, 1));
        table.add_row([arm.to_owned(), cell(&simulated.arms, arm, 1), interval].into_iter().chain(cells));
    }
    table
}

fn lines(simulated: &SimulatedMisses) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, over, under) in SIMULATED_RATIOS {
        let Some(found) = simulated.ratios.get(name) else { continue };
        let what = format!("{} over {}, misses", words(over), words(under));
        let misses =
            found.map_or_else(|| "none: a block has no misses".to_owned(), |found| ratio(Some(found)));
        let time = ratio(simulated.time_ratio(name));
        lines.push(format!("{what:<46} {misses}; as time {time}"));
    }
    lines.push(format!(
        "As time: a miss takes {} hits (the paper, section 1), and nothing else takes any.",
        simulated.miss_over_hit
    ));
    let recommended = simulated.arms.get(Arm::Recommended.name()).map(|figure| figure.estimate.median);
    // Where nearly everything misses as recommended, nothing takes twice the time.
    if let Some(under) = recommended.filter(|under| misses_for(PAPER_TIME_RATIO, *under) <= 1000.0) {
        lines.push(format!(
            "The paper's Figure 4 has {PAPER_TIME_RATIO} times the time, for which of 1000 reads {:.0} must have missed \
             placed the opposite way, if {under:.1} did as recommended.",
            misses_for(PAPER_TIME_RATIO, under)
        ));
    }
    let forward = simulated.blocks.iter().fold(0u64, |sum, block| sum.saturating_add(block.set_forward));
    if forward > 0 {
        lines.push(format!(
            "Slow vCPUs were set forward by {} million instructions in all, to be beside fast ones.",
            number(forward as f64 / 1e6, 0)
        ));
    }
    match simulated.not_counted() {
        (0, 0) => {}
        (lost, without) => lines.push(format!(
            "Not among them: {lost} accesses that were lost since recording began, {without} to pages whose frame was not known."
        )),
    }
    lines
}

fn words(arm: Arm) -> String {
    arm.name().replace('_', " ")
}
