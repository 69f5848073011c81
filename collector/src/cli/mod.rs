//! The command line: arguments, commands and output.

mod args;
mod commands;
mod config;
mod context;
mod failure;
mod last_minutes;
mod log;
mod looping;
mod metrics;
mod names;
#[cfg(test)]
mod pages;
mod privileges;
mod recorder;
mod recording;
mod runs;
mod seed_file;
mod service;
mod signals;
mod sketches;
mod sketching;
mod table;

use std::process::ExitCode;

use clap::Parser;
use huddle_model::text::plain;

use args::{Args, Command};
use failure::Failure;
use log::Log;
use metrics::EarlySocket;

/// Parses the command line, runs the command, and returns the exit code: 0 done, 1
/// failed, 2 wrong usage, 3 the host cannot do it.
pub(crate) fn main() -> ExitCode {
    let args = Args::parse();
    match Log::start().and_then(|log| {
        let early = EarlySocket::bind(&args.common, &args.command)?;
        privileges::confine(&args.command);
        dispatch(&args, &log, early)
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}huddle: {}", log::error_prefix(), plain(&failure.to_string()));
            failure.exit_code()
        }
    }
}

fn dispatch(args: &Args, log: &Log, early: EarlySocket) -> Result<(), Failure> {
    let common = &args.common;
    if let Some(name) = common.format.of_manager()
        && !matches!(&args.command, Command::Plan(_))
    {
        return Err(Failure::usage(anyhow::anyhow!(
            "--format {name} is for `huddle plan`; other commands answer with table or json"
        )));
    }
    match &args.command {
        Command::Doctor => commands::doctor::run(common),
        Command::Vms => commands::vms::run(common),
        Command::Matrix(matrix) => commands::matrix::run(common, matrix),
        Command::Sketch(sketch) => commands::sketch::run(common, sketch),
        Command::Plan(plan) => commands::plan::run(common, plan),
        Command::Pin(pin) => commands::pin::run(common, pin),
        Command::Run(run) => commands::run::run(common, run, early),
        Command::Top(top) => commands::top::run(common, top, log, early),
        Command::Restore => commands::restore::run(common),
    }
}
