//! Metrics of a loop that never ran, for programs that read them: `sample_metrics openmetrics|prometheus`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "an example for tests: what fails, panics")]

use std::sync::Arc;

use huddle_metrics::{Encoder, Facts, Fold, Format, MetricsSettings, RecorderFacts};
use huddle_model::availability::Availability;
use huddle_model::ksm::KsmState;
use huddle_model::view::View;
use huddle_testing::sample_observed::observed;

fn main() {
    let format = match std::env::args().nth(1).as_deref() {
        Some("openmetrics") => Format::OpenMetrics,
        Some("prometheus") => Format::Prometheus,
        _ => panic!("say which format: openmetrics or prometheus"),
    };
    let mut fold = Fold::default();
    let mut before: Option<View> = None;
    for number in 1..=4 {
        let mut view = observed(number, 3);
        let round = Arc::make_mut(&mut view.round);
        let ksm = KsmState { full_scans: number, pages_shared: 9, pages_sharing: 90, ..KsmState::default() };
        round.ksm = Availability::Available(ksm);
        // Names are what others made of them.
        let names = [("vm0", "quote\" back\\slash"), ("vm1", "two\nlines"), ("vm2", "\u{1f980} {}=,#")];
        let called =
            |name: &str| names.iter().find(|(own, _)| *own == name).map(|(_, odd)| (*odd).to_owned());
        for vm in Arc::make_mut(&mut round.vms) {
            vm.name = called(&vm.name).unwrap();
        }
        let mut window = Arc::unwrap_or_clone(view.observation.value().unwrap().clone());
        window.vcpus.iter_mut().for_each(|vcpu| vcpu.vm = called(&vcpu.vm).unwrap());
        window.merging.iter_mut().for_each(|merging| merging.vm = called(&merging.vm).unwrap());
        view.observation = Availability::Available(Arc::new(window));
        fold.follow(&view.updates_since(before.as_ref()), view.round.end_unix_us);
        before = Some(view);
    }
    let facts = Facts {
        version: "0.1.0",
        revision: None,
        start_unix_us: 1_700_000_000_000_000,
        own_cpu_us: Some(1_250_000),
        own_memory_bytes: Some(12 << 20),
        host_available_bytes: Some(3 << 30),
        recorder: Some(RecorderFacts { is_writing: true, steps: Some((4, 0)) }),
    };
    print!("{}", Encoder::new(MetricsSettings::default()).encode(&Arc::new(fold), facts, format));
}
