//! `huddle-check`: huddle's readers of counters, of KVM and of mappings against what is known, on emulated hosts (`cargo
//! xtask host`): `huddle-check pmu::` where there is a PMU, `huddle-check kvm::` where there is KVM, `huddle-check
//! mappings::` everywhere.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod kvm;
mod mappings;
mod pmu;

use libtest_mimic::{Arguments, Failed, Trial};

/// Name and function of a test.
type Test = (&'static str, fn());

fn main() {
    let trial = |(name, test): &Test| {
        let test = *test;
        Trial::test(*name, move || std::panic::catch_unwind(test).map_err(|_| Failed::from("see above")))
    };
    let mut arguments = Arguments::from_args();
    // Each has the counters of its processor for itself.
    arguments.test_threads = Some(1);
    libtest_mimic::run(
        &arguments,
        pmu::TESTS.iter().chain(kvm::TESTS).chain(mappings::TESTS).map(trial).collect(),
    )
    .exit();
}
