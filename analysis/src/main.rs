//! `huddle-analysis`: see `huddle-analysis --help`.

use std::process::ExitCode;

use clap::Parser;
use huddle_analysis::cli::{Cli, is_broken_pipe};

fn main() -> ExitCode {
    match Cli::parse().run(&mut std::io::stdout().lock()) {
        Ok(code) => code,
        // `| head` has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Its words have its cause in them already.
            eprintln!("huddle-analysis: {error}");
            ExitCode::FAILURE
        }
    }
}
