//! The package of `huddle-analysis`, beside which there is no other one of huddle.

use std::collections::BTreeSet;

use huddle_record::{Recorder, RecorderLimits};
use huddle_testing::sample;
use huddle_testing::sample_observed::observed;

use super::debian::Debian;
use super::files;

/// Installs it, puts a question to it, and removes it: nothing but the files `before` is left.
pub(crate) fn is_installed(debian: &Debian, before: &BTreeSet<String>) {
    debian.install("huddle-analysis");
    let version = debian.done("huddle-analysis --version");
    assert!(version.starts_with(concat!("huddle-analysis ", env!("CARGO_PKG_VERSION"))), "{version}");
    debian.has_help(
        "huddle-analysis",
        &["huddle-analysis", "huddle-analysis-summary", "huddle-analysis-report"],
    );
    debian.done("test -s /usr/share/doc/huddle-analysis/copyright");

    let views: Vec<_> = (1..=4).map(|round| observed(round, 3)).collect();
    let run = debian.path("/tmp/recording");
    let recorder = Recorder::start(&run, sample::manifest(), RecorderLimits::default()).unwrap();
    sample::steps(&views).into_iter().for_each(|step| recorder.send(step));
    recorder.finish().unwrap();
    let summary = debian.done("huddle-analysis summary /tmp/recording");
    assert!(summary.contains("rounds    4;") && summary.contains("vm2"), "{summary}");
    debian.done("huddle-analysis report /tmp/recording -o /tmp/report.html && test -s /tmp/report.html");
    debian.done("rm -r /tmp/recording /tmp/report.html");

    debian.done("apt-get purge --yes huddle-analysis");
    let left: Vec<_> = files(debian).difference(before).cloned().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}
