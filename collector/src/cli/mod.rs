//! The command line: what the user may say, and how the answer is said.

mod args;
mod commands;
mod config;
mod context;
mod failure;
mod log;
mod looping;
mod privileges;
mod signals;
mod table;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Args, Command};
use failure::Failure;
use log::Log;

/// Reads the command line, does what it says, and reports the outcome by the exit code: 0 done, 1
/// failed, 2 wrong usage, 3 the host cannot do it.
pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::try_from_env("HUDDLE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = Log::default();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(log.clone())
        .with_target(false)
        .with_ansi(
            std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none(),
        )
        .init();
    privileges::drop_unneeded();
    match dispatch(&args, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("huddle: {failure}");
            failure.exit_code()
        }
    }
}

fn dispatch(args: &Args, log: &Log) -> Result<(), Failure> {
    let common = &args.common;
    match &args.command {
        Command::Doctor => commands::doctor::run(common),
        Command::Vms => commands::vms::run(common),
        Command::Matrix(matrix) => commands::matrix::run(common, matrix),
        Command::Plan(plan) => commands::plan::run(common, plan),
        Command::Pin(pin) => commands::pin::run(common, pin),
        Command::Run(run) => commands::run::run(common, run),
        Command::Top(top) => commands::top::run(common, top, log),
        Command::Restore => commands::restore::run(common),
    }
}
