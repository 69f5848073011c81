//! The tables of the microbenchmark, and the paper's Tables 1 to 3 and Figure 4 beside them.

use std::collections::BTreeMap;

use comfy_table::Table;
use huddle_model::availability::Availability;
use huddle_model::summary::{Arm, ArmFigure, Block, MicrobenchFigures, Sample, Summary};
use huddle_model::text::bytes;

use super::{Microbench, MicrobenchSpec};
use crate::frame::report::{Part, Report, cell, number, percent, ratio, table};
use crate::frame::spec::GuestKind;

impl Report for Microbench {
    fn data_kib(figures: &MicrobenchFigures) -> u64 {
        figures.config.data_kib
    }

    fn remarks(&self, part: Part, summary: &Summary<MicrobenchFigures>) -> Vec<String> {
        match part {
            Part::Sharing => cold(&self.spec, summary).into_iter().collect(),
            Part::Ratios if summary.why_no_misses().is_some() => Vec::new(),
            Part::Ratios => {
                let counted = summary.own.events.iter();
                let counted = counted.filter_map(|counted| {
                    Some(format!("{} by {}", counted.role.name(), counted.event.value()?))
                });
                vec![format!("Counted: {}", counted.collect::<Vec<_>>().join(", "))]
            }
            Part::Paper if !has_paper(&self.spec) => Vec::new(),
            Part::Paper => differences(&self.spec, summary)
                .iter()
                .map(|what| format!("The machines differ: {what}."))
                .collect(),
        }
    }

    fn tables(&self, summary: &Summary<MicrobenchFigures>) -> Vec<(String, Table)> {
        let config = &summary.own.config;
        let reads = format!(
            "Reads of all VMs, {} block(s) of {} s an arm, a rest of {} us every {} reads",
            config.repetitions, config.seconds_per_arm, config.idle_us, config.burst_reads
        );
        vec![
            (reads, arm_table(summary)),
            ("Each vCPU: reads/s, and LLC misses/read beside them".to_owned(), vcpu_table(summary)),
            ("Each block, in the order measured (reads/s)".to_owned(), block_table(&summary.blocks)),
        ]
    }

    fn paper(&self, summary: &Summary<MicrobenchFigures>) -> Vec<[String; 3]> {
        if !has_paper(&self.spec) {
            return Vec::new();
        }
        let boot = summary.boot.as_ref().and_then(Availability::value);
        let flavours = &self.spec.settings.flavours;
        let one_flavour = self.spec.guest.has_kernels() && flavours.windows(2).all(|two| two[0] == two[1]);
        let (number, within, across) = if one_flavour {
            ("Table 2, VMs of one OS with data", "64.8 to 67.9 %", "53.3 to 55.5 %")
        } else {
            ("Table 3, microbenchmark", "45.4 to 66.5 %", "0.03 to 0.08 %")
        };
        [
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
            (&*format!("{number}: same data"), within.to_owned(), percent(summary.sharing_rate)),
            (&format!("{number}: other data"), across.to_owned(), percent(summary.sharing_rate_across)),
            (
                "Figure 4: time, opposed over recommended (C / B)",
                "2.1".to_owned(),
                ratio(summary.ratio("opposed_over_recommended")),
            ),
            (
                "Figure 4: time, not merged over opposed (A / C)",
                "about 1".to_owned(),
                ratio(summary.ratio("not_merged_over_opposed")),
            ),
        ]
        .map(|(what, paper, ours)| [what.to_owned(), paper, ours])
        .to_vec()
    }
}

/// Whether the paper has such VMs: all that they share they read.
fn has_paper(spec: &MicrobenchSpec) -> bool {
    spec.settings.cold.iter().all(String::is_empty)
}

/// What VMs hold and do not read.
fn cold(spec: &MicrobenchSpec, summary: &Summary<MicrobenchFigures>) -> Option<String> {
    let kib = summary.own.config.cold_kib?;
    let names = spec.settings.cold.iter().zip(1..).filter(|(name, _)| !name.is_empty());
    let names: Vec<String> = names.map(|(name, vm)| format!("vm{vm}: {name}")).collect();
    Some(format!("Besides, {kib} KiB of data that nobody reads ({})", names.join(", ")))
}

fn arm_table(summary: &Summary<MicrobenchFigures>) -> Table {
    let header = [
        "arm",
        "reads/s, median",
        "95 % interval",
        "ns/read",
        "CPU ns/read",
        "host CPU ns/read",
        "LLC misses/read",
    ];
    let mut table = table(header);
    let none = BTreeMap::new();
    let misses = summary.llc_misses.as_ref().and_then(Availability::value).unwrap_or(&none);
    for arm in Arm::ALL.map(Arm::name) {
        let Some(reads) = summary.arms.get(arm) else { continue };
        let interval = reads.estimate.ci95.map_or_else(
            || "too few blocks".into(),
            |[low, high]| format!("{} to {}", number(low, 0), number(high, 0)),
        );
        table.add_row([
            arm.to_owned(),
            number(reads.estimate.median, 0),
            interval,
            cell(&summary.own.arms_time, arm, 2),
            cell(&summary.own.arms_busy, arm, 2),
            cell(&summary.own.arms_host_busy, arm, 2),
            cell(misses, arm, 4),
        ]);
    }
    table
}

fn vcpu_table(summary: &Summary<MicrobenchFigures>) -> Table {
    let arms: Vec<&str> =
        Arm::ALL.iter().map(|arm| arm.name()).filter(|arm| summary.arms.contains_key(*arm)).collect();
    let header = ["vCPU", "of"].into_iter().chain(arms.iter().copied());
    let mut table = table(header);
    for vcpu in &summary.own.vcpus {
        let name = format!("{} {}", vcpu.vm, vcpu.vcpu);
        let mut row = |what: &str, figures: &BTreeMap<String, ArmFigure>, digits| {
            let cells = arms.iter().map(|arm| cell(figures, arm, digits));
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
    let names = arms.iter().map(|arm| arm.name());
    let mut table = table(["block", "first"].into_iter().chain(names).chain(["valid"]));
    for block in blocks {
        let first = block.samples.first().map_or("-", |sample| sample.arm.name());
        let mut row = vec![block.number.to_string(), first.to_owned()];
        row.extend(arms.iter().map(|arm| {
            let reads = block.sample(*arm).and_then(Sample::reads_per_s);
            reads.map_or_else(|| "-".into(), |reads| number(reads, 0))
        }));
        row.push(if block.invalid.is_none() { "yes".into() } else { "NO".into() });
        table.add_row(row);
    }
    table
}

/// How this machine and run differ from the paper's, one sentence each.
fn differences(spec: &MicrobenchSpec, summary: &Summary<MicrobenchFigures>) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(topology) = &summary.topology {
        let caches = topology.domains().iter().map(|domain| match domain.size_bytes {
            Some(size) => format!("{} for CPUs {}", bytes(size), domain.cpus),
            None => format!("of unknown size for CPUs {}", domain.cpus),
        });
        let level = topology.level().map_or_else(|| "unknown".to_owned(), |level| level.to_string());
        found.push(format!(
            "two sockets of 8 cores with 20 MB of last-level cache each there, caches of level {level} here: {}",
            caches.collect::<Vec<_>>().join(", ")
        ));
    }
    match (spec.guest, summary.accelerator.as_deref()) {
        (GuestKind::Process, _) => {
            found.push("VMs of Xen with an operating system there, stand-in processes here".into());
        }
        (GuestKind::Qemu, Some("tcg")) => found.push(
            "processors that run VMs themselves there, an emulator (TCG) here, whose own tables and code fill part of \
             the caches and whose work dilutes every ratio"
                .into(),
        ),
        (GuestKind::Qemu, _) => found.push("Xen there, KVM here".into()),
        // The same hypervisor.
        (GuestKind::Xen, _) => {}
    }
    let data_bytes = summary.own.config.data_kib * 1024;
    if data_bytes != 15 << 20 {
        found.push(format!("15 MiB of data a pair there, {} here", bytes(data_bytes)));
    }
    if spec.arms.contains(&Arm::NotMerged) {
        found.push(
            "page sharing switched off in arm A there; here the guests then read copies that differ, which \
             cannot be merged, in the same sequence"
                .into(),
        );
    }
    found
}
