//! What a person reads of a web experiment: tables beside the paper's Table 4 and Figure 5.

use comfy_table::Table;
use huddle_model::availability::Availability;

use super::distribution::{Distribution, Figure};
use super::spec::{Page, ServerKind, WebConfig};
use super::summary::WebSummary;
use crate::design::Arm;
use crate::guest::qemu::Accelerator;
use crate::report::{line, number, places, ratio_line, section, sharing_table, table, within};
use crate::summary::Ratio;

/// The whole report of a run.
pub fn text(summary: &WebSummary) -> String {
    let mut out = String::new();
    let (config, spec) = (&summary.config, &summary.spec);
    let holds = spec.holds().into_iter().zip(1..).map(|(data, vm)| format!("vm{vm}: {data}"));
    section(
        &mut out,
        &format!(
            "Sharing of {} web servers, page {}, {} KiB of data each ({})",
            spec.data.len(),
            summary.page,
            config.data_kib,
            holds.collect::<Vec<_>>().join(", ")
        ),
        &sharing_table(&summary.matrix),
    );
    line(&mut out, merges(spec));
    line(&mut out, "");
    section(&mut out, &format!("Placement by {}", summary.placed_by), &plan_table(summary));
    section(&mut out, &title(summary), &latency_table(summary));
    section(
        &mut out,
        "Mean response time of each server's users in ms, medians of blocks",
        &tenant_table(summary),
    );
    ratios(&mut out, summary);
    section(&mut out, "Beside the paper", &paper_table(summary));
    line(&mut out, machines(spec.guest));
    if summary.accelerator == Some(Accelerator::Tcg.name()) {
        line(
            &mut out,
            "The VMs are translated (TCG): no effect of the placement is to be expected. Each instruction of a guest \
             is many of the host's, and the translator's own code and tables overwrite the second-level cache on \
             every request; on a host where KVM runs them the same command measures the paper's experiment.",
        );
    }
    line(&mut out, "");
    line(&mut out, &format!("Result: {}.", summary.verdict));
    if summary.valid {
        line(&mut out, "Every block is valid.");
    }
    for why in &summary.invalid_blocks {
        line(&mut out, &format!("Left out, {why}."));
    }
    for disturbance in &summary.disturbances {
        line(&mut out, &format!("May have disturbed the run: {disturbance}."));
    }
    out
}

fn machines(guest: ServerKind) -> &'static str {
    match guest {
        ServerKind::Process => {
            "The machines differ: VMs of Xen with a Debian each on two sockets with 20 MB of last-level cache there, \
             Apache processes of one Debian on two caches here, which share what a server allocates at its start \
             instead of an operating system."
        }
        ServerKind::Qemu => {
            "The machines differ: VMs of Xen on two sockets with 20 MB of last-level cache there, whose users sit \
             in the VMs; VMs of QEMU here that all boot the same Debian, with users on the host."
        }
    }
}

fn merges(spec: &WebConfig) -> &'static str {
    match (spec.guest, spec.page) {
        (ServerKind::Qemu, Page::Paper) => {
            "What KSM merges here: all that the VMs have in common. The data's file is in each VM's page cache, which \
             is memory of its own; it was verified page by page before the first window and after each block."
        }
        (ServerKind::Qemu, Page::Resident) => {
            "What KSM merges here: all that the VMs have in common, the data in each server's memory among it, which \
             was verified page by page before the first window and after each block."
        }
        (ServerKind::Process, Page::Resident) => {
            "What KSM merges here: the data, which stays in each server's private memory, and what Apache and PHP \
             allocate at their start. It was verified page by page before the first window and after each block."
        }
        (ServerKind::Process, Page::Paper) => {
            "What KSM merges here: what Apache and PHP allocate at their start. Of the data nothing: the file's \
             pages are the host's page cache, and the string a request reads them into is freed with it."
        }
    }
}

fn title(summary: &WebSummary) -> String {
    let how = match summary.spec.rate_per_s {
        Some(rate) => format!("open loop, {rate} requests/s to each server, counted from the intended start"),
        None => "closed loop, one user a server".to_owned(),
    };
    format!(
        "Response times in ms of {} block(s) of {} requests to each server ({how}), with 95 % intervals over blocks",
        summary.blocks.len(),
        summary.spec.requests
    )
}

fn plan_table(summary: &WebSummary) -> Table {
    let mut table = table(["arm", "policy", "CPUs: VMs", "shared frames within"].map(str::to_owned).to_vec());
    for arm in Arm::ALL {
        let Some(plan) = summary.plans.get(arm.name()) else { continue };
        table.add_row([arm.name().into(), plan.policy.to_string(), places(plan), within(plan)]);
    }
    table
}

fn latency_table(summary: &WebSummary) -> Table {
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
            (summary.latency_us.get(arm.name()), summary.requests.get(arm.name()))
        else {
            continue;
        };
        let Distribution { mean, p50, p95, p99, p99_9, .. } = *latency;
        let mut row = vec![arm.name().to_owned()];
        row.extend([Some(mean), p50, p95, p99, p99_9].map(milliseconds));
        row.extend([requests.sent, requests.failed, requests.timed_out].map(|count| number(count as f64, 0)));
        row.push(match &summary.llc_misses {
            Availability::Available(misses) => {
                misses.get(arm.name()).map_or("-".into(), |figure| number(figure.estimate.median, 0))
            }
            Availability::Unavailable(_) => "-".into(),
        });
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

fn tenant_table(summary: &WebSummary) -> Table {
    let arms: Vec<Arm> = Arm::ALL.into_iter().filter(|arm| summary.arms.contains_key(arm.name())).collect();
    let mut header = vec!["server".to_owned(), "data".to_owned()];
    header.extend(arms.iter().map(|arm| arm.name().to_owned()));
    header.push("opposed over recommended".into());
    let mut table = table(header);
    for tenant in &summary.tenants {
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

fn ratios(out: &mut String, summary: &WebSummary) {
    let ratios = &summary.ratios;
    for (what, ratio) in [
        ("opposed over recommended, mean response time", ratios.opposed_over_recommended),
        ("  the same of the medians", ratios.opposed_over_recommended_p50),
        ("  the same of the 95th percentiles", ratios.opposed_over_recommended_p95),
        ("  the same placements when not merged", ratios.not_merged_opposed_over_not_merged),
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
    if let Availability::Unavailable(why) = &summary.llc_misses {
        line(out, &format!("LLC misses per request: not available: {why}"));
    }
    line(out, "");
}

fn paper_table(summary: &WebSummary) -> Table {
    let mut table = table(["", "the paper", "this run"].map(str::to_owned).to_vec());
    let percent =
        |rate: Option<f64>| rate.map_or("not available".into(), |rate| format!("{:.1} %", rate * 100.0));
    let of_data = |arm: Arm| {
        let mut means: Vec<String> = Vec::new();
        let mut seen: Vec<&str> = Vec::new();
        for tenant in summary.tenants.iter().filter(|tenant| !tenant.writes) {
            if seen.contains(&&*tenant.data) {
                continue;
            }
            seen.push(&tenant.data);
            let alike = summary.tenants.iter().filter(|other| other.data == tenant.data && !other.writes);
            let values: Vec<f64> =
                alike.filter_map(|other| Some(other.arms.get(arm.name())?.estimate.median)).collect();
            if !values.is_empty() {
                let mean = values.iter().sum::<f64>() / values.len() as f64;
                means.push(format!("{:.2} ms ({})", mean / 1e3, tenant.data));
            }
        }
        if means.is_empty() { "not measured".to_owned() } else { means.join(", ") }
    };
    for (what, paper, ours) in [
        ("Table 4, web: same data", "30.5 %", percent(summary.sharing_rate)),
        ("Table 4, web: other data", "24.6 to 25.1 %", percent(summary.sharing_rate_across)),
        ("Figure 5: mean response time as recommended", "5.1 ms (A), 5.4 ms (B)", of_data(Arm::Recommended)),
        ("Figure 5: mean response time opposed", "6.2 ms (A), 6.1 ms (B)", of_data(Arm::Opposed)),
        ("Figure 5: opposed over recommended", "1.17", ratio(summary.ratios.opposed_over_recommended)),
    ] {
        table.add_row([what.to_owned(), paper.to_owned(), ours]);
    }
    table
}

fn ratio(ratio: Option<Ratio>) -> String {
    match ratio {
        Some(Ratio { value, ci95: Some([low, high]), .. }) => format!("{value:.2} ({low:.2} to {high:.2})"),
        Some(Ratio { value, .. }) => format!("{value:.2} (no interval)"),
        None => "not measured".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_no_number() {
        assert_eq!((milliseconds(None), ratio(None)), ("too few".into(), "not measured".into()));
        assert_eq!(milliseconds(Some(Figure { value: 1234.0, ci95: None })), "1.234");
        let known = Some(Figure { value: 1000.0, ci95: Some([900.0, 1100.0]) });
        assert_eq!(milliseconds(known), "1.000 (0.900 to 1.100)");
    }
}
