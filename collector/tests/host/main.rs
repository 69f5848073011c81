//! Tests on the real host: real processes, real frames, real KSM. They need root and KSM. If those are
//! missing each test reports that and counts as ignored, except in CI (`CI=true`), where it fails.
//!
//! They run one after the other, since KSM's settings are the host's. The program is also its own
//! tenants: `host tenant SPEC` (see [`tenant`]).
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: what fails, panics"
)]

mod content;
mod kinds_of_memory;
mod map;
mod reads;
mod reference;
mod run;
mod sharing;
mod sketch;
mod tenant;
mod top;
mod trying;
mod unmerged;

use huddle_testing::{ksm, reader};
use libtest_mimic::{Arguments, Failed, Trial};

fn main() {
    let mut own = std::env::args().skip(1);
    match own.next().as_deref() {
        Some("tenant") => tenant::run(&own.next().unwrap_or_default()),
        Some("reader") => reader::run(own),
        Some("hidden") => sharing::run_hidden(),
        Some("hidden-root") => sharing::run_hidden_root(),
        _ => {}
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials = [
        sharing::trials(),
        kinds_of_memory::trials(),
        reads::trials(),
        content::trials(),
        sketch::trials(),
        unmerged::trials(),
        run::trials(),
        top::trials(),
        trying::trials(),
    ];
    let trials = trials.into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit()
}

/// A test that needs root and KSM.
pub fn trial(name: &str, test: fn()) -> Trial {
    let run = move || std::panic::catch_unwind(test).map_err(|panic| Failed::from(text_of(&*panic)));
    let Some(reason) = ksm::missing() else { return Trial::test(name, run) };
    if std::env::var("CI").is_ok_and(|value| value == "true") {
        return Trial::test(name, move || Err(Failed::from(format!("CI must not skip this: {reason}"))));
    }
    eprintln!("{name}: skipped: {reason}");
    Trial::test(name, run).with_ignored_flag(true)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
