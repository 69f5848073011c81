//! `huddle-analysis`: see `huddle-analysis --help`.

#[cfg(test)]
mod pages;

use std::process::ExitCode;

use clap::Parser;
use huddle_analysis::cli::{Cli, is_broken_pipe};

fn main() -> ExitCode {
    match Cli::parse().run(&mut std::io::stdout().lock()) {
        Ok(code) => code,
        // The reader closed the pipe, as `| head` does.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            // Its message includes its cause.
            eprintln!("huddle-analysis: {error}");
            ExitCode::FAILURE
        }
    }
}
