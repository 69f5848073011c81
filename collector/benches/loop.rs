//! The effect of the closed loop on real processes: readers begin in the opposed placement, each sharing its
//! second-level cache with a reader of another data set; measured is what all of them read together before the first
//! trial and after the decision.
//!
//! `cargo bench -p huddle --bench loop`; needs root, KSM, and CPUs 0 and 1 with a second-level
//! cache each. KSM's settings are restored at the end.
#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used, reason = "a benchmark: what fails, panics")]

use std::path::Path;

use huddle_testing::{ksm, reader, readers_loop};

fn main() {
    let mut own = std::env::args().skip(1);
    if own.next().as_deref() == Some("reader") {
        reader::run(own);
    }
    if let Some(reason) = ksm::missing() {
        println!("nothing is measured: {reason}");
        return;
    }
    let huddle = Path::new(env!("CARGO_BIN_EXE_huddle"));
    let ran = readers_loop::run(huddle, [(1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 1, 0)], "kept: ");
    println!("readers end on CPUs {:?}", ran.during);
    match ran.recorded.rates {
        [Some(before), Some(after)] => println!(
            "reads a second, all four readers: {before:.0} before the trial, {after:.0} after it: {:.2} times",
            after / before
        ),
        rates => println!("no ratio: {rates:?}"),
    }
}
