use std::collections::BTreeSet;

use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::view::View;
use huddle_testing::sample_observed::observed;
use proptest::prelude::*;

use super::*;
use crate::RecorderFacts;
use crate::families::{ALL, Kind};

/// Facts of a process that never ran.
fn facts() -> Facts {
    Facts {
        version: "0.1.0",
        revision: Some("abc"),
        start_unix_us: 1_700_000_000_500_000,
        own_cpu_us: Some(1_250_000),
        own_memory_bytes: Some(12 << 20),
        host_available_bytes: Some(3 << 30),
        recorder: Some(RecorderFacts { is_writing: true, steps: Some((7, 1)) }),
    }
}

/// A view with something of everything.
fn full(round: u64, vms: usize) -> View {
    let mut view = observed(round, vms);
    let ksm = KsmState {
        run: 1,
        full_scans: round,
        pages_shared: 100,
        pages_sharing: 900,
        ksm_zero_pages: Some(50),
        ..KsmState::default()
    };
    Arc::make_mut(&mut view.round).ksm = Availability::Available(ksm);
    view
}

fn followed(views: &[View]) -> Arc<Fold> {
    let mut fold = Fold::default();
    let mut before: Option<&View> = None;
    for view in views {
        fold.follow(&view.updates_since(before), view.round.end_unix_us);
        before = Some(view);
    }
    Arc::new(fold)
}

fn text_of(views: &[View], settings: MetricsSettings, format: Format) -> String {
    Encoder::new(settings).encode(&followed(views), facts(), format)
}

/// Samples of a text by name and labels, read by the rules of the format and no others.
#[derive(Debug, PartialEq)]
struct Parsed {
    name: String,
    labels: Vec<(String, String)>,
    value: f64,
}

fn parse_line(line: &str) -> Parsed {
    let name_end = line.find(['{', ' ']).unwrap();
    let mut labels = Vec::new();
    let mut rest = &line[name_end..];
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next().expect("a value has an end") {
                    (_, '\\') => value.push(match characters.next().unwrap().1 {
                        'n' => '\n',
                        escaped @ ('\\' | '"') => escaped,
                        other => panic!("\\{other} is no escape: {line}"),
                    }),
                    (at, '"') => break at,
                    (_, other) => value.push(other),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').unwrap_or_else(|| panic!("no end of the labels: {line}"));
    }
    let value = rest.strip_prefix(' ').unwrap().parse().unwrap_or_else(|_| panic!("no number: {line}"));
    Parsed { name: line[..name_end].to_owned(), labels, value }
}

fn parse(text: &str) -> Vec<Parsed> {
    text.lines().filter(|line| !line.starts_with('#')).map(parse_line).collect()
}

fn value(text: &str, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let is_it = |sample: &Parsed| {
        sample.name == name
            && labels
                .iter()
                .all(|(label, value)| sample.labels.iter().any(|(own, found)| own == label && found == value))
    };
    parse(text).into_iter().find(is_it).map(|sample| sample.value)
}

#[test]
fn a_scrape() {
    let views: Vec<View> = (1..=4).map(|round| full(round, 3)).collect();
    insta::assert_snapshot!("openmetrics", text_of(&views, MetricsSettings::default(), Format::OpenMetrics));
    insta::assert_snapshot!("prometheus", text_of(&views, MetricsSettings::default(), Format::Prometheus));
}

#[test]
fn every_family_is_written_where_everything_is_available() {
    let views: Vec<View> = (1..=4).map(|round| full(round, 3)).collect();
    let text = text_of(&views, MetricsSettings::default(), Format::OpenMetrics);
    let found: BTreeSet<String> = parse(&text).into_iter().map(|sample| sample.name).collect();
    let all: BTreeSet<String> = ALL.iter().map(|family| family.sample_name()).collect();
    assert_eq!(found, all);
}

#[test]
fn values_are_in_base_units() {
    let views: Vec<View> = (1..=4).map(|round| full(round, 3)).collect();
    let text = text_of(&views, MetricsSettings::default(), Format::Prometheus);
    let of = |name, labels: &[(&str, &str)]| value(&text, name, labels);
    assert_eq!(of("huddle_process_cpu_seconds_total", &[]), Some(1.25));
    assert_eq!(of("huddle_vm_cpu_seconds_total", &[("vm", "vm0")]), Some(2.6));
    assert_eq!(of("huddle_memory_at_risk_bytes", &[]), Some(950.0 * 4096.0));
    assert_eq!(of("huddle_vm_merged_bytes", &[("vm", "vm2")]), Some(200.0 * 4096.0));
    assert_eq!(of("huddle_pair_sharing_ratio", &[("vm", "vm0"), ("other_vm", "vm1")]), Some(204.0 / 800.0));
    assert_eq!(of("huddle_metrics_left_out_pairs", &[("limit", "pair_threshold")]), Some(2.0));
    assert_eq!(of("huddle_trial_decisions_total", &[("outcome", "kept")]), Some(1.0));
    assert_eq!(of("huddle_trial_decisions_total", &[("outcome", "aborted")]), Some(0.0));
    assert_eq!(of("huddle_last_round_timestamp_seconds", &[]), Some(1_700_000_004.001_5));
    assert_eq!(of("huddle_vm_reported_latency_seconds", &[("vm", "vm0")]).map(|s| s < 1e-4), Some(true));
    assert_eq!(of("huddle_stage_available", &[("stage", "sharing")]), Some(1.0));
}

/// Neither before the first round nor where nothing can be measured is there a zero.
#[test]
fn what_is_unavailable_is_absent() {
    let unknown = Facts { own_cpu_us: None, own_memory_bytes: None, recorder: None, ..facts() };
    let encoder = Encoder::new(MetricsSettings::default());
    let text = encoder.encode(&Arc::default(), unknown.clone(), Format::OpenMetrics);
    let names: BTreeSet<String> = parse(&text).into_iter().map(|sample| sample.name).collect();
    let few = [
        "huddle_build_info",
        "huddle_host_available_memory_bytes",
        "huddle_metrics_missed_steps_total",
        "huddle_process_start_time_seconds",
        "huddle_rounds_total",
        "huddle_windows_total",
    ];
    assert_eq!(names, few.map(str::to_owned).into());

    let mut view = observed(1, 2);
    let none = || "not here".to_owned();
    let round = Arc::make_mut(&mut view.round);
    round.matrix = Availability::Unavailable(none());
    round.plan = Availability::Unavailable(none());
    round.ksm = Availability::Unavailable(none());
    view.observation = Availability::Unavailable(none());
    view.comparison = Availability::Unavailable(none());
    let text = encoder.encode(&followed(&[view]), unknown, Format::OpenMetrics);
    for word in
        ["ksm_s", "sharing", "pair", "shared", "llc", "vm_cpu", "trial", "risk", "merge", "process_cpu"]
    {
        let found = parse(&text).into_iter().find(|sample| sample.name.contains(word));
        assert_eq!(found, None, "{word}");
    }
    for stage in ["sharing", "plan", "ksm", "observation"] {
        assert_eq!(value(&text, "huddle_stage_available", &[("stage", stage)]), Some(0.0), "{stage}");
    }
    assert_eq!(value(&text, "huddle_stage_available", &[("stage", "topology")]), Some(1.0));
    assert_eq!(value(&text, "huddle_vms", &[]), Some(2.0));
}

#[test]
fn what_is_at_risk_is_unknown_where_zero_pages_are_not_counted() {
    let of = |zero_pages: Option<i64>| {
        let mut view = full(1, 2);
        let round = Arc::make_mut(&mut view.round);
        let ksm = round.ksm.value().unwrap().clone();
        round.ksm = Availability::Available(KsmState { ksm_zero_pages: zero_pages, ..ksm });
        let text = text_of(&[view], MetricsSettings::default(), Format::OpenMetrics);
        let names = ["huddle_ksm_saved_bytes", "huddle_ksm_zero_pages_bytes", "huddle_memory_at_risk_bytes"];
        names.map(|name| value(&text, name, &[]).map(|bytes| bytes / 4096.0))
    };
    assert_eq!(of(Some(50)), [Some(900.0), Some(50.0), Some(950.0)]);
    assert_eq!(of(Some(0)), [Some(900.0), Some(0.0), Some(900.0)]);
    assert_eq!(of(None), [Some(900.0), None, None]);
    // The kernel's counter is signed.
    assert_eq!(of(Some(-1)), [Some(900.0), None, None]);
}

#[test]
fn vms_and_pairs_are_bounded_and_the_rest_is_counted() {
    let settings = MetricsSettings { max_vms: 2, max_pairs: 0, ..MetricsSettings::default() };
    let text = text_of(&[full(1, 5)], settings, Format::OpenMetrics);
    let of_vms: BTreeSet<String> = parse(&text)
        .iter()
        .flat_map(|sample| &sample.labels)
        .filter(|(label, _)| label.ends_with("vm"))
        .map(|(_, value)| value.clone())
        .collect();
    assert_eq!(of_vms, ["vm0", "vm1"].map(str::to_owned).into());
    assert_eq!(value(&text, "huddle_metrics_left_out_vms", &[]), Some(3.0));
    assert_eq!(value(&text, "huddle_metrics_left_out_pairs", &[("limit", "max_pairs")]), Some(1.0));
    assert_eq!(value(&text, "huddle_metrics_left_out_pairs", &[("limit", "max_vms")]), Some(9.0));
    // Sums over all VMs have the others, too.
    assert_eq!(value(&text, "huddle_page_merges_total", &[]), Some(35.0));
}

#[test]
fn a_client_gets_openmetrics_only_if_it_names_it() {
    for (accept, format) in [
        ("", Format::Prometheus),
        ("*/*", Format::Prometheus),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", Format::Prometheus),
        ("application/openmetrics-text", Format::OpenMetrics),
        ("text/html, Application/OpenMetrics-Text; version=1.0.0;q=0.7", Format::OpenMetrics),
        ("application/openmetrics-text;q=0", Format::Prometheus),
    ] {
        assert_eq!(Format::accepted(accept), format, "{accept}");
    }
}

/// The view with these names of its VMs.
fn named(mut view: View, names: &[String]) -> View {
    let of = |name: &str| match name.strip_prefix("vm").and_then(|number| number.parse::<usize>().ok()) {
        Some(number) => names[number].clone(),
        None => name.to_owned(),
    };
    let round = Arc::make_mut(&mut view.round);
    for vm in Arc::make_mut(&mut round.vms) {
        vm.name = of(&vm.name);
    }
    let mut window = view.observation.value().unwrap().as_ref().clone();
    window.vcpus.iter_mut().for_each(|vcpu| vcpu.vm = of(&vcpu.vm));
    window.merging.iter_mut().for_each(|merging| merging.vm = of(&merging.vm));
    window.programs[0].name = names[0].clone();
    view.observation = Availability::Available(Arc::new(window));
    view
}

proptest! {
    /// Whatever VMs are called, the text is one that the format allows, each series is there once, and each VM has its own.
    #[test]
    fn no_name_breaks_the_format(names in prop::collection::hash_set(".{0,200}", 3), openmetrics: bool) {
        let names: Vec<String> = names.into_iter().collect();
        let view = named(full(1, 3), &names);
        let format = if openmetrics { Format::OpenMetrics } else { Format::Prometheus };
        let text = text_of(&[view], MetricsSettings::default(), format);
        prop_assert_eq!(text.ends_with("# EOF\n"), openmetrics);
        let samples = parse(&text);
        let families: Vec<String> = ALL.iter().map(|family| family.sample_name()).collect();
        let mut seen = BTreeSet::new();
        for sample in &samples {
            prop_assert!(families.contains(&sample.name), "{}", sample.name);
            prop_assert!(sample.value.is_finite());
            prop_assert!(seen.insert(format!("{} {:?}", sample.name, sample.labels)), "twice: {:?}", sample);
            for (_, value) in &sample.labels {
                prop_assert!(value.len() <= 140 && !value.chars().any(char::is_control), "{value:?}");
            }
        }
        let merged = samples.iter().filter(|sample| sample.name == "huddle_vm_merged_bytes");
        prop_assert_eq!(merged.count(), 3);
    }
}

/// Counters of what goes on never fall, whichever VMs come and go.
#[test]
fn counters_of_the_host_never_fall() {
    let mut fold = Fold::default();
    let mut before: Option<View> = None;
    let mut last = std::collections::BTreeMap::new();
    for round in 1..=12 {
        let view = full(round, [4, 2, 5, 1][round as usize % 4]);
        fold.follow(&view.updates_since(before.as_ref()), round);
        before = Some(view);
        let encoder = Encoder::new(MetricsSettings::default());
        let text = encoder.encode(&Arc::new(fold.clone()), facts(), Format::OpenMetrics);
        for sample in parse(&text) {
            let family = ALL.iter().find(|family| family.sample_name() == sample.name).unwrap();
            let of_vm = family.labels.contains(&"vm");
            if family.kind == Kind::Counter && !of_vm {
                let key = format!("{} {:?}", sample.name, sample.labels);
                let earlier = last.insert(key.clone(), sample.value);
                assert!(earlier.is_none_or(|earlier| earlier <= sample.value), "{key}: {earlier:?}");
            }
        }
    }
}
