//! Damaged recordings, drawn from a seed, and what the programs make of them.
//!
//! Each is a small recording that the real recorder wrote, of which bytes were changed, cut, moved or exchanged, or
//! files were exchanged or replaced by what is no file (see [`harm`]). Every question is put to it, and a replay goes
//! through all of it (see [`questions`]). The answers must be those to the same recording with the damaged segments
//! removed; nothing may panic, take longer than [`PATIENCE`], or need more than [`MAX_BYTES`] of memory.
//!
//! Workers, processes of their own under that limit of memory, take many recordings each, since starting a program
//! takes far longer than an answer from a small recording: the questions are put by the same functions that the
//! program's `main` calls. Some recordings are also put to the real programs, in processes of their own.
//!
//! `cargo test` does some; `cargo xtask damage --recordings N` as many as it is told.

// Helpers of integration tests are not known as tests to Clippy.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test: what fails, panics")]

mod harm;
mod overseer;
mod questions;
mod worker;

use std::process::ExitCode;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};

/// How long one recording may take, with all questions.
const PATIENCE: Duration = Duration::from_secs(120);
/// Memory of a worker (RLIMIT_DATA: heap, stacks and private writable mappings).
const MAX_BYTES: u64 = 1 << 30;
/// Of so many recordings one is put to the real programs too.
const REAL_EVERY: u64 = 100;

/// What `cargo test` does.
const RECORDINGS: u64 = 6;
const SEED: u64 = 20_261_128;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| -> Option<u64> {
        let at = words.iter().position(|word| word == name)?;
        Some(words.get(at + 1).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{name} N")))
    };
    let seed = number("--seed").unwrap_or(SEED);
    if let (Some(from), Some(to)) = (number("--worker-from"), number("--worker-to")) {
        worker::run(seed, from..to);
        return ExitCode::SUCCESS;
    }
    if let Some(recordings) = number("--recordings") {
        let counts = overseer::run(seed, 0..recordings);
        println!("{counts}");
        return if counts.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let all = Trial::test("damaged_recordings_are_answered_from_what_is_whole", move || {
        let counts = overseer::run(seed, 0..RECORDINGS);
        huddle_testing::output::say(&counts.to_string());
        if counts.is_good() { Ok(()) } else { Err(Failed::from(counts.to_string())) }
    });
    libtest_mimic::run(&Arguments::from_args(), vec![all]).exit_code()
}
