//! The section on the host: its facts, and the limits of its figures.

use std::fmt::Display;

use huddle_model::availability::Availability;
use huddle_model::schema::{Environment, EventFact, Manifest};
use huddle_model::text::{bytes, utc_text};

use super::page::Page;

fn known<T: Display>(fact: &Availability<T>) -> String {
    match fact {
        Availability::Available(value) => value.to_string().trim().to_owned(),
        Availability::Unavailable(reason) => format!("- ({reason})"),
    }
}

pub(super) fn write(page: &mut Page, manifest: &Manifest) {
    caveats(page, manifest);
    facts(page, manifest);
}

/// All findings of `doctor` other than good, at the start of the recording.
fn caveats(page: &mut Page, manifest: &Manifest) {
    page.section("What limits these figures");
    let Some(findings) = &manifest.findings else {
        page.gap("This recording was made before the findings of `huddle doctor` were kept in it, so its limits are unknown except for the facts below.");
        return;
    };
    let limits: Vec<Vec<String>> = findings
        .iter()
        .filter(|finding| finding.state != "good")
        .map(|finding| {
            vec![
                finding.item.clone(),
                finding.state.clone(),
                finding.value.clone(),
                finding.meaning.clone(),
                finding.remedy.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    if limits.is_empty() {
        page.paragraph(&format!("`huddle doctor` checked {} items and found no limit.", findings.len()));
        return;
    }
    page.table(
        &format!(
            "{} of {} findings of `huddle doctor` at the start limit the figures",
            limits.len(),
            findings.len()
        ),
        &["finding", "state", "read", "what it means", "remedy"],
        &limits,
    );
}

fn facts(page: &mut Page, manifest: &Manifest) {
    let Environment {
        kernel_release,
        kernel_version,
        kernel_parameters,
        cpu_model,
        is_guest,
        cpus_online,
        memory_bytes,
        ksm,
        transparent_hugepage,
        khugepaged_defrag,
        governors,
        frequency_boost,
        numa_balancing,
        smt_active,
        nmi_watchdog,
        cache_aware_scheduling,
        sched_ext,
        mediated_vpmu,
        page_bytes,
        exit_reasons,
    } = &manifest.environment;
    let joined = |list: &Availability<Vec<String>>| known(&list.clone().map(|list| list.join(" ")));
    let governors = governors.clone().map(|found| {
        found.iter().map(|(name, cpus)| format!("{name} on {cpus} CPUs")).collect::<Vec<_>>().join(", ")
    });
    let ksm = ksm.clone().map(|files| {
        files.iter().map(|(name, value)| format!("{name}={}", known(value))).collect::<Vec<_>>().join(", ")
    });
    let caches = manifest.caches.clone().map(|caches| {
        let data_caches = caches.iter().filter(|cache| !cache.instruction_only).map(|cache| {
            let size = cache.size_bytes.map_or_else(|| "size unknown".to_owned(), bytes);
            format!("L{} of CPUs {}: {size}", cache.level, cache.cpus)
        });
        data_caches.collect::<Vec<_>>().join("; ")
    });
    let topology = manifest.topology.clone().map(|topology| {
        let domains = topology.domains.iter().map(|domain| format!("{}: CPUs {}", domain.id.0, domain.cpus));
        let classes =
            (!topology.classes.is_empty()).then(|| format!("classes of cores: {}", topology.classes));
        domains.chain(classes).chain(topology.notes).collect::<Vec<_>>().join("; ")
    });
    let end =
        manifest.end_us.map_or_else(|| "not recorded: it still runs, or was killed".to_owned(), utc_text);
    // Recordings from before these were kept have no row of them.
    let schedulers = [
        ("cache-aware scheduling", cache_aware_scheduling.as_ref().map(known)),
        ("sched_ext", sched_ext.as_ref().map(known)),
        ("mediated vPMU", mediated_vpmu.as_ref().map(known)),
        ("page size", page_bytes.map(|size| bytes(size.bytes()))),
        ("exit reasons", exit_reasons.as_ref().map(known)),
    ];
    let schedulers = schedulers.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let config = ("config", manifest.config.clone().unwrap_or_else(|| "none".to_owned()));
    let rows: Vec<Vec<String>> = [
        ("host", manifest.host.clone()),
        ("began", utc_text(manifest.begin_us)),
        ("ended", end),
        ("stopped early", manifest.stopped.clone().unwrap_or_else(|| "no".to_owned())),
        (
            "huddle",
            format!(
                "{} ({})",
                manifest.huddle_version,
                manifest.git_revision.as_deref().unwrap_or("no git revision")
            ),
        ),
        ("command line", manifest.command_line.join(" ")),
        ("kernel", known(kernel_release)),
        ("kernel build", known(kernel_version)),
        ("kernel parameters", joined(kernel_parameters)),
        ("CPU", known(cpu_model)),
        ("is itself a guest", known(is_guest)),
        ("CPUs online", known(cpus_online)),
        ("memory in bytes", known(memory_bytes)),
        ("caches", known(&caches)),
        ("cache domains", known(&topology)),
        ("KSM at the start", known(&ksm)),
        ("transparent huge pages", known(transparent_hugepage)),
        ("khugepaged defrag", known(khugepaged_defrag)),
        ("governors", known(&governors)),
        ("frequency boost", known(frequency_boost)),
        ("NUMA balancing", known(numa_balancing)),
        ("SMT active", known(smt_active)),
        ("NMI watchdog", known(nmi_watchdog)),
    ]
    .into_iter()
    .chain(schedulers)
    .chain(manifest.events.iter().map(|fact| (fact.role.name(), counted(fact))))
    .chain([config])
    .map(|(name, value)| vec![name.to_owned(), value])
    .collect();
    page.table("The host and the recording", &["fact", "value"], &rows);
}

/// The event of a counter, what it counts and where that is documented.
fn counted(fact: &EventFact) -> String {
    let mut text = known(&fact.event);
    for (before, more, after) in [(": ", &fact.counts, ""), (" (", &fact.source, ")"), ("; ", &fact.note, "")]
    {
        if let Some(more) = more {
            text.extend([before, more.as_str(), after]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use huddle_model::counters::CounterRole;

    use super::*;

    #[test]
    fn an_event_is_told_with_what_it_counts() {
        let mut fact = EventFact {
            role: CounterRole::LlcMisses,
            event: Availability::Available("cache-misses".into()),
            counts: Some("the L3: reads".into()),
            source: Some("a document".into()),
            note: None,
        };
        assert_eq!(counted(&fact), "cache-misses: the L3: reads (a document)");
        fact = EventFact { counts: None, source: None, note: Some("on cpu_core only".into()), ..fact };
        assert_eq!(counted(&fact), "cache-misses; on cpu_core only");
        fact = EventFact { event: Availability::Unavailable("no PMU".into()), note: None, ..fact };
        assert_eq!(counted(&fact), "- (no PMU)");
    }
}
