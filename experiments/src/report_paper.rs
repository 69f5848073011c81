//! The paper's numbers beside those of a run, and in what the machines differ.

use comfy_table::Table;

use crate::design::Arm;
use crate::spec::GuestKind;
use crate::summary::{Ratio, Summary};

/// The paper's Tables 1 to 3 and Figure 4.
pub(crate) fn table(summary: &Summary) -> Table {
    let mut table = crate::report::table(["", "the paper", "this run"].map(str::to_owned).to_vec());
    let boot = summary.boot.value();
    let flavours = &summary.spec.flavours;
    let one_flavour = summary.spec.guest.has_kernels() && flavours.windows(2).all(|two| two[0] == two[1]);
    let (number, within, across) = if one_flavour {
        ("Table 2, VMs of one OS with data", "64.8 to 67.9 %", "53.3 to 55.5 %")
    } else {
        ("Table 3, microbenchmark", "45.4 to 66.5 %", "0.03 to 0.08 %")
    };
    for (what, paper, ours) in [
        (
            "Table 1, after boot: same OS",
            "52.2 to 71.4 %".to_owned(),
            percent(boot.and_then(|boot| boot.rate_within)),
        ),
        (
            "Table 1, after boot: other OS",
            "0.04 to 0.07 %".to_owned(),
            percent(boot.and_then(|boot| boot.rate_across)),
        ),
        (&format!("{number}: same data"), within.to_owned(), percent(summary.sharing_rate)),
        (&format!("{number}: other data"), across.to_owned(), percent(summary.sharing_rate_across)),
        (
            "Figure 4: time, opposed over recommended (C / B)",
            "2.1".to_owned(),
            ratio(summary.ratios.opposed_over_recommended),
        ),
        (
            "Figure 4: time, not merged over opposed (A / C)",
            "about 1".to_owned(),
            ratio(summary.ratios.not_merged_over_opposed),
        ),
    ] {
        table.add_row([what.to_owned(), paper, ours]);
    }
    table
}

/// In what this machine and run differ from the paper's, one sentence each.
pub(crate) fn differences(summary: &Summary) -> Vec<String> {
    let mut found = Vec::new();
    let caches: Vec<String> = summary
        .topology
        .domains()
        .iter()
        .map(|domain| match domain.size_bytes {
            Some(bytes) => format!("{} KiB for CPUs {}", bytes / 1024, domain.cpus),
            None => format!("of unknown size for CPUs {}", domain.cpus),
        })
        .collect();
    let level = summary.topology.level().map_or_else(|| "unknown".to_owned(), |level| level.to_string());
    found.push(format!(
        "two sockets of 8 cores with 20 MB of last-level cache each there, caches of level {level} here: {}",
        caches.join(", ")
    ));
    match (summary.spec.guest, summary.accelerator.as_deref()) {
        (GuestKind::Process, _) => {
            found.push("VMs of Xen with an operating system there, processes that stand for VMs here".into());
        }
        (GuestKind::Qemu, Some("tcg")) => found.push(
            "processors that run VMs themselves there, a translator (TCG) here, whose own tables and code \
             fill part of the caches and whose work dilutes every ratio"
                .into(),
        ),
        (GuestKind::Qemu, _) => found.push("Xen there, KVM here".into()),
        // The same hypervisor.
        (GuestKind::Xen, _) => {}
    }
    if summary.config.data_kib != 15 * 1024 {
        found.push(format!("15 MiB of data a pair there, {} KiB here", summary.config.data_kib));
    }
    if summary.spec.arms.contains(&Arm::NotMerged) {
        found.push(
            "page sharing switched off in arm A there; here the guests then read copies that differ, which \
             cannot be merged, in the same sequence"
                .into(),
        );
    }
    found
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_measured_is_no_number() {
        assert_eq!((percent(None), ratio(None)), ("not available".into(), "not measured".into()));
        assert_eq!(percent(Some(0.6649)), "66.49 %");
        let measured = Ratio { value: 1.987, ci95: Some([1.9, 2.1]), n: 9, test: None };
        assert_eq!(ratio(Some(measured)), "1.99 (1.90 to 2.10)");
    }
}
