//! The tables of the web experiment, and the paper's Table 4 and Figure 5 beside them.

use comfy_table::Table;
use huddle_model::availability::Availability;
use huddle_model::stats::{Distribution, Figure};
use huddle_model::summary::{Arm, Summary, WebFigures};

use super::{Config, Own, Page};
use crate::frame::Part;
use crate::frame::report::{cell, number, percent, ratio, table};
use crate::frame::spec::GuestKind;
use crate::guest::qemu::Accelerator;

/// What is to be said after a part of the report.
pub(super) fn remarks(spec: &Config, part: Part, summary: &Summary<WebFigures>) -> Vec<String> {
    match part {
        Part::Sharing => vec![merges(spec).to_owned(), format!("Placed by {}.", summary.own.placed_by)],
        Part::Ratios => Vec::new(),
        Part::Paper => {
            let is_translated = summary.accelerator.as_deref() == Some(Accelerator::Tcg.name());
            let more = is_translated.then_some(
                "The VMs are translated (TCG): no effect of the placement is to be expected. Each instruction of a \
                 guest is many of the host's, and the translator's own code and tables overwrite the second-level \
                 cache on every request; on a host where KVM runs them the same command measures the paper's \
                 experiment.",
            );
            [machines(spec.guest)].into_iter().chain(more).map(str::to_owned).collect()
        }
    }
}

/// Tables of its figures.
pub(super) fn tables(own: &Own, summary: &Summary<WebFigures>) -> Vec<(String, Table)> {
    let tenants = "Mean response time of each server's users in ms, medians of blocks".to_owned();
    vec![(title(own, summary.blocks.len()), latency_table(summary)), (tenants, tenant_table(summary))]
}

fn machines(guest: GuestKind) -> &'static str {
    match guest {
        GuestKind::Process => {
            "The machines differ: VMs of Xen with a Debian each on two sockets with 20 MB of last-level cache there, \
             Apache processes of one Debian on two caches here, which share what a server allocates at its start \
             instead of an operating system."
        }
        GuestKind::Qemu | GuestKind::Xen => {
            "The machines differ: VMs of Xen on two sockets with 20 MB of last-level cache there, whose users sit \
             in the VMs; VMs of QEMU here that all boot the same Debian, with users on the host."
        }
    }
}

fn merges(spec: &Config) -> &'static str {
    match (spec.guest, spec.own.page) {
        (GuestKind::Qemu | GuestKind::Xen, Page::Paper) => {
            "What KSM merges here: all that the VMs have in common. The data's file is in each VM's page cache, which \
             is memory of its own; it was verified page by page before the first window and after each block."
        }
        (GuestKind::Qemu | GuestKind::Xen, Page::Resident) => {
            "What KSM merges here: all that the VMs have in common, the data in each server's memory among it, which \
             was verified page by page before the first window and after each block."
        }
        (GuestKind::Process, Page::Resident) => {
            "What KSM merges here: the data, which stays in each server's private memory, and what Apache and PHP \
             allocate at their start. It was verified page by page before the first window and after each block."
        }
        (GuestKind::Process, Page::Paper) => {
            "What KSM merges here: what Apache and PHP allocate at their start. Of the data nothing: the file's \
             pages are the host's page cache, and the string a request reads them into is freed with it."
        }
    }
}

fn title(own: &Own, blocks: usize) -> String {
    let how = match own.rate_per_s {
        Some(rate) => format!("open loop, {rate} requests/s to each server, counted from the intended start"),
        None => "closed loop, one user a server".to_owned(),
    };
    format!(
        "Response times in ms of {blocks} block(s) of {} requests to each server ({how}), with 95 % intervals over \
         blocks",
        own.requests
    )
}

fn latency_table(summary: &Summary<WebFigures>) -> Table {
    let header = [
        "arm",
        "mean",
        "p50",
        "p95",
        "p99",
        "p99.9",
        "requests",
        "failed",
        "timed out",
        "LLC misses/request",
    ];
    let mut table = table(header.map(str::to_owned).to_vec());
    for arm in Arm::ALL {
        let (Some(latency), Some(requests)) =
            (summary.own.latency_us.get(arm.name()), summary.own.requests.get(arm.name()))
        else {
            continue;
        };
        let Distribution { mean, p50, p95, p99, p99_9, .. } = *latency;
        let mut row = vec![arm.name().to_owned()];
        row.extend([Some(mean), p50, p95, p99, p99_9].map(milliseconds));
        row.extend([requests.sent, requests.failed, requests.timed_out].map(|count| number(count as f64, 0)));
        let misses = summary.llc_misses.as_ref().and_then(Availability::value);
        row.push(misses.map_or_else(|| "-".into(), |misses| cell(misses, arm.name(), 0)));
        table.add_row(row);
    }
    table
}

fn milliseconds(figure: Option<Figure>) -> String {
    match figure {
        Some(Figure { value, ci95: Some([low, high]) }) => {
            format!("{:.3} ({:.3} to {:.3})", value / 1e3, low / 1e3, high / 1e3)
        }
        Some(Figure { value, ci95: None }) => format!("{:.3}", value / 1e3),
        None => "too few".into(),
    }
}

fn tenant_table(summary: &Summary<WebFigures>) -> Table {
    let arms: Vec<Arm> = Arm::ALL.into_iter().filter(|arm| summary.arms.contains_key(arm.name())).collect();
    let mut header = vec!["server".to_owned(), "data".to_owned()];
    header.extend(arms.iter().map(|arm| arm.name().to_owned()));
    header.push("opposed over recommended".into());
    let mut table = table(header);
    for tenant in &summary.own.tenants {
        let data = if tenant.writes { format!("{}, written", tenant.data) } else { tenant.data.clone() };
        let mut row = vec![tenant.vm.clone(), data];
        row.extend(arms.iter().map(|arm| {
            let figure = tenant.arms.get(arm.name());
            figure.map_or("-".into(), |figure| format!("{:.3}", figure.estimate.median / 1e3))
        }));
        row.push(ratio(tenant.opposed_over_recommended));
        table.add_row(row);
    }
    table
}

/// The paper's figures beside those of the run.
pub(super) fn paper(summary: &Summary<WebFigures>) -> Vec<[String; 3]> {
    let of_data = |arm: Arm| {
        let mut means: Vec<String> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for tenant in summary.own.tenants.iter().filter(|tenant| !tenant.writes) {
            if seen.contains(&&*tenant.data) {
                continue;
            }
            seen.push(&tenant.data);
            let alike = summary.own.tenants.iter().filter(|other| other.data == tenant.data && !other.writes);
            let values: Vec<f64> =
                alike.filter_map(|other| Some(other.arms.get(arm.name())?.estimate.median)).collect();
            if !values.is_empty() {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                means.push(format!("{:.2} ms ({})", mean / 1e3, tenant.data));
            }
        }
        if means.is_empty() { "not measured".to_owned() } else { means.join(", ") }
    };
    [
        ("Table 4, web: same data", "30.5 %", percent(summary.sharing_rate)),
        ("Table 4, web: other data", "24.6 to 25.1 %", percent(summary.sharing_rate_across)),
        ("Figure 5: mean response time as recommended", "5.1 ms (A), 5.4 ms (B)", of_data(Arm::Recommended)),
        ("Figure 5: mean response time opposed", "6.2 ms (A), 6.1 ms (B)", of_data(Arm::Opposed)),
        ("Figure 5: opposed over recommended", "1.17", ratio(summary.ratio("opposed_over_recommended"))),
    ]
    .map(|(what, paper, ours)| [what.to_owned(), paper.to_owned(), ours])
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_no_number() {
        assert_eq!(milliseconds(None), "too few");
        assert_eq!(milliseconds(Some(Figure { value: 1234.0, ci95: None })), "1.234");
        let known = Some(Figure { value: 1000.0, ci95: Some([900.0, 1100.0]) });
        assert_eq!(milliseconds(known), "1.000 (0.900 to 1.100)");
    }
}
