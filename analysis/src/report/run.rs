//! The chapter of one recording.

use huddle_model::text::utc_text;

use super::page::Page;
use super::{data, host, or_gap};
use crate::figure::{Line, Mark, ScatterPoint, Stack, heatmap, residency, series, spots};
use crate::run::RunDir;
use crate::sharing::Sharing;
use crate::summary::RunSummary;
use crate::text::{figure, percent};
use crate::timeline::{Point, Timeline};
use crate::validate;

/// Number of points of a line in a figure.
const POINTS: usize = 240;

/// Maximum number of VMs with their own line.
const LINES: usize = 6;

pub(super) fn write(page: &mut Page, number: usize, run: &RunDir) {
    let Some(manifest) = or_gap(page, "Recording", run.manifest()) else { return };
    page.chapter(&format!("run{number}"), &format!("Recording {} on {}", manifest.run, manifest.host));
    let checked = validate::Report::of(run);
    if checked.is_intact() {
        page.paragraph("The recording is complete: every segment exists and can be read.");
    }
    checked.problems.iter().chain(&checked.notes).for_each(|text| page.gap(text));
    host::write(page, &manifest);
    summary(page, run);
    sharing(page, number, run);
    time(page, number, run);
    rounds(page, number, run);
    resident(page, number, run);
}

fn summary(page: &mut Page, run: &RunDir) {
    let Some(summary) = or_gap(page, "Summary", RunSummary::of(run, 20)) else { return };
    page.section("Virtual machines");
    if summary.vms.is_empty() {
        page.gap("No VM was recorded.");
    } else {
        let rows: Vec<Vec<String>> = summary
            .vms
            .iter()
            .map(|vm| {
                vec![
                    vm.vm.clone(),
                    vm.holder(),
                    vm.vmm.clone(),
                    vm.vcpus.to_string(),
                    vm.rounds.to_string(),
                    vm.frames_used.map_or_else(|| "-".to_owned(), |frames| frames.to_string()),
                ]
            })
            .collect();
        page.table("VMs", &["VM", ">pid", "VMM", ">vCPUs", ">rounds", ">frames used"], &rows);
    }
    if summary.counted.is_empty() {
        page.gap("No counters were recorded: this run has no miss rates.");
    } else {
        let shown = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), figure);
        let rows: Vec<Vec<String>> = summary
            .counted
            .iter()
            .map(|vm| {
                vec![
                    vm.vm.clone(),
                    shown(vm.mpki),
                    shown(vm.miss_ratio),
                    shown(vm.ipc),
                    vm.samples.samples.to_string(),
                ]
            })
            .collect();
        page.table("Counters over the whole run", &["VM", ">MPKI", ">miss ratio", ">IPC", ">samples"], &rows);
        if summary.counted.iter().all(|vm| vm.mpki.is_none()) {
            page.gap("No MPKI: last-level cache misses or instructions were not counted on this host; see the findings above.");
        }
    }
    let reasons = [
        (summary.rounds.without_sharing, "no sharing was measured", &summary.rounds.sharing_unavailable),
        (summary.rounds.without_pinning, "nothing was pinned", &summary.rounds.pin_unavailable),
    ];
    for (count, what, why) in reasons {
        if count > 0 {
            let why = why.as_deref().unwrap_or("no reason was recorded");
            page.gap(&format!("In {count} of {} rounds {what}; last because: {why}", summary.rounds.count));
        }
    }
}

fn sharing(page: &mut Page, number: usize, run: &RunDir) {
    page.section("What VMs share");
    let Some(sharing) = or_gap(page, "Sharing", Sharing::of(run, None)) else { return };
    let Some(round) = sharing.round else {
        page.gap("No sharing rate was recorded.");
        return;
    };
    for (id, title, rates) in [
        ("last", format!("Sharing in round {round}"), &sharing.rates),
        ("mean", "Sharing, mean over all rounds".to_owned(), &sharing.mean_rates),
        ("read", format!("Shared and read by both VMs in round {round}"), &sharing.read_rates),
    ] {
        if rates.is_empty() {
            continue;
        }
        let drawn = heatmap(&format!("run{number}-sharing-{id}"), &title, &sharing.vms, rates);
        page.figure(
            drawn,
            "As the paper's tables 1 to 4. Zero-filled pages and sharing within a VM are not included.",
        );
    }
    let headings: Vec<String> =
        sharing.vms.iter().map(|name| format!(">{}", name.trim_start_matches('>'))).collect();
    let headings: Vec<&str> = std::iter::once("VM").chain(headings.iter().map(String::as_str)).collect();
    let rows: Vec<Vec<String>> = sharing
        .vms
        .iter()
        .zip(&sharing.rates)
        .map(|(name, rates)| {
            let cells = rates.iter().map(|rate| rate.map_or_else(|| "-".to_owned(), percent));
            std::iter::once(name.clone()).chain(cells).collect()
        })
        .collect();
    page.table(&format!("Sharing rates in round {round}"), &headings, &rows);
}

fn time(page: &mut Page, number: usize, run: &RunDir) {
    page.section("Over time");
    let Some(timeline) = or_gap(page, "Timeline", Timeline::of(run, POINTS)) else { return };
    let marks: Vec<&crate::timeline::Moment> = timeline
        .moments
        .iter()
        .filter(|moment| ["placement", "decision"].contains(&moment.kind.as_str()))
        .collect();
    if timeline.points.iter().all(|point| point.mpki.is_none()) {
        page.gap("No MPKI over time: last-level cache misses or instructions were not counted.");
    } else {
        let begin = timeline.points.first().map_or(0, |point| point.begin_us);
        let seconds = |us: i64| (us - begin) as f64 / 1e6;
        let line = |name: &str, points: &[Point]| Line {
            name: name.to_owned(),
            points: points
                .iter()
                .map(|point| (seconds((point.begin_us + point.end_us) / 2), point.mpki))
                .collect(),
        };
        let mut lines = vec![line("all VMs", &timeline.points)];
        lines.extend(timeline.vms.iter().take(LINES).map(|(name, points)| line(name, points)));
        let drawn: Vec<Mark> = marks
            .iter()
            .map(|mark| Mark { at: seconds(mark.at_us).max(0.0), what: mark.what.clone() })
            .collect();
        let rest = timeline.vms.len().saturating_sub(LINES);
        let more =
            if rest > 0 { format!(" {rest} more VMs are in the first line only.") } else { String::new() };
        page.figure(
            series(&format!("run{number}-mpki"), "MPKI over time", "MPKI", &lines, &drawn),
            &format!("Dashed lines are changes of placement and decisions, numbered as in the table.{more}"),
        );
    }
    if marks.is_empty() {
        page.paragraph("No placement was changed.");
    } else {
        let shown = 200;
        let rows: Vec<Vec<String>> = marks
            .iter()
            .take(shown)
            .enumerate()
            .map(|(n, mark)| {
                vec![(n + 1).to_string(), utc_text(mark.at_us), mark.kind.clone(), mark.what.clone()]
            })
            .collect();
        page.table("Changes of placement, and decisions", &[">", "when", "kind", "what"], &rows);
        if marks.len() > shown {
            page.gap(&format!("{} more are in `huddle-analysis timeline`.", marks.len() - shown));
        }
    }
}

fn rounds(page: &mut Page, number: usize, run: &RunDir) {
    let Some(points) = or_gap(page, "Rounds", data::rounds(run)) else { return };
    page.section("Misses by shared frames");
    if points.is_empty() {
        page.gap("There is no round with both an MPKI and a number of shared frames.");
        return;
    }
    let drawn: Vec<ScatterPoint> = points
        .iter()
        .map(|point| ScatterPoint {
            x: point.shared_within_frames,
            y: point.mpki,
            y_ci95: None,
            what: format!("round {}", point.round),
        })
        .collect();
    page.figure(
        spots(&format!("run{number}-mpki-frames"), "MPKI against frames shared within cache domains", ("frames shared within domains", "MPKI"), &drawn, false),
        "A point is a round. Other things change from round to round as well: this is a correlation, not a cause.",
    );
    let shown = 100;
    let rows: Vec<Vec<String>> = points
        .iter()
        .take(shown)
        .map(|point| {
            vec![point.round.to_string(), format!("{:.0}", point.shared_within_frames), figure(point.mpki)]
        })
        .collect();
    page.table("Rounds (at most 100)", &[">round", ">frames shared within domains", ">MPKI"], &rows);
}

fn resident(page: &mut Page, number: usize, run: &RunDir) {
    page.section("Where VMs ran");
    let Some(found) = or_gap(page, "Residency", data::residency(run)) else { return };
    let Some(found) = found else {
        page.gap("No residency was recorded: the CPUs of the vCPUs were not observed.");
        return;
    };
    let domains: Vec<String> = found
        .domains
        .iter()
        .map(|domain| domain.map_or_else(|| "no domain".to_owned(), |id| format!("domain {id}")))
        .collect();
    let most = 40;
    let stacks: Vec<Stack> = found
        .vms
        .iter()
        .filter_map(|(name, parts)| Some(Stack { name: name.clone(), parts: parts.clone()? }))
        .take(most)
        .collect();
    let unknown: Vec<&str> =
        found.vms.iter().filter(|(_, parts)| parts.is_none()).map(|(name, _)| name.as_str()).collect();
    if !unknown.is_empty() {
        page.gap(&format!(
            "CPU time by cache domain is unavailable for {}: in some windows it was not measured how long they ran where.",
            unknown.join(", ")
        ));
    }
    if stacks.is_empty() {
        return;
    }
    page.figure(
        residency(&format!("run{number}-residency"), "CPU time by cache domain", &domains, &stacks),
        "Over all windows in which it was observed.",
    );
    let titles: Vec<String> = domains.iter().map(|name| format!(">{name}, s")).collect();
    let headings: Vec<&str> = std::iter::once("VM").chain(titles.iter().map(String::as_str)).collect();
    let rows: Vec<Vec<String>> = found
        .vms
        .iter()
        .map(|(name, parts)| {
            let seconds = |place: usize| {
                parts.as_ref().map_or_else(|| "-".to_owned(), |parts| format!("{:.2}", parts[place] / 1e9))
            };
            std::iter::once(name.clone()).chain((0..domains.len()).map(seconds)).collect()
        })
        .collect();
    page.table("CPU time by cache domain, in seconds", &headings, &rows);
}
