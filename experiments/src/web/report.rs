//! The tables of the web experiment, and the paper's Table 4 and Figure 5 beside them.

use std::collections::BTreeMap;

use comfy_table::Table;
use huddle_model::availability::Availability;
use huddle_model::stats::{Distribution, Figure};
use huddle_model::summary::{Arm, Summary, WebFigures};

use super::{Page, Web, WebSettings, WebSpec};
use crate::frame::report::{Part, Report, cell, number, percent, ratio, table};
use crate::frame::spec::GuestKind;
use crate::guest::qemu::Accelerator;

impl Report for Web {
    fn data_kib(figures: &WebFigures) -> u64 {
        figures.config.data_kib
    }

    fn remarks(&self, part: Part, summary: &Summary<WebFigures>) -> Vec<String> {
        match part {
            Part::Sharing => {
                vec![merges(&self.spec).to_owned(), format!("Placed by {}.", summary.own.placed_by)]
            }
            Part::Ratios => Vec::new(),
            Part::Paper => {
                let is_emulated = summary.accelerator.as_deref() == Some(Accelerator::Tcg.name());
                let more = is_emulated.then_some(
                    "The VMs are emulated (TCG): no effect of the placement is to be expected. Each instruction of a guest \
                     is many of the host's, and the emulator's own code and tables overwrite the second-level cache on \
                     every request; on a host where KVM runs them the same command measures the paper's experiment.",
                );
                [machines(self.spec.guest)].into_iter().chain(more).map(str::to_owned).collect()
            }
        }
    }

    fn tables(&self, summary: &Summary<WebFigures>) -> Vec<(String, Table)> {
        let tenants = "Mean response time of each server's users in ms, medians of blocks".to_owned();
        vec![
            (title(&self.spec.settings, summary.blocks.len()), latency_table(summary)),
            (tenants, tenant_table(summary)),
        ]
    }

    fn paper(&self, summary: &Summary<WebFigures>) -> Vec<[String; 3]> {
        let by_data = |arm: Arm| {
            let mut means: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
            for tenant in summary.own.tenants.iter().filter(|tenant| !tenant.writes) {
                let figure = tenant.arms.get(arm.name());
                means.entry(&tenant.data).or_default().extend(figure.map(|figure| figure.estimate.median));
            }
            means.retain(|_, values| !values.is_empty());
            let mean = |values: &Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
            let means = means.iter().map(|(data, values)| format!("{:.2} ms ({data})", mean(values) / 1e3));
            let means = means.collect::<Vec<_>>().join(", ");
            if means.is_empty() { "not measured".to_owned() } else { means }
        };
        [
            ("Table 4, web: same data", "30.5 %", percent(summary.sharing_rate)),
            ("Table 4, web: other data", "24.6 to 25.1 %", percent(summary.sharing_rate_across)),
            (
                "Figure 5: mean response time as recommended",
                "5.1 ms (A), 5.4 ms (B)",
                by_data(Arm::Recommended),
            ),
            ("Figure 5: mean response time opposed", "6.2 ms (A), 6.1 ms (B)", by_data(Arm::Opposed)),
            ("Figure 5: opposed over recommended", "1.17", ratio(summary.ratio("opposed_over_recommended"))),
        ]
        .map(|(what, paper, ours)| [what.to_owned(), paper.to_owned(), ours])
        .to_vec()
    }
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

fn merges(spec: &WebSpec) -> &'static str {
    match (spec.guest, spec.settings.page) {
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

fn title(settings: &WebSettings, blocks: usize) -> String {
    let how = match settings.rate_per_s {
        Some(rate) => format!("open loop, {rate} requests/s to each server, counted from the intended start"),
        None => "closed loop, one user a server".to_owned(),
    };
    format!(
        "Response times in ms of {blocks} block(s) of {} requests to each server ({how}), with 95 % intervals over \
         blocks",
        settings.requests
    )
}

fn latency_table(summary: &Summary<WebFigures>) -> Table {
    let header = ["arm", "mean", "p50", "p95", "p99", "p99.9", "requests", "failed", "timed out"];
    let mut table = table(header.into_iter().chain(["LLC misses/request"]));
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
    let names = arms.iter().map(|arm| arm.name());
    let mut table = table(["server", "data"].into_iter().chain(names).chain(["opposed over recommended"]));
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
