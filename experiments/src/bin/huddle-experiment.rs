//! Runs an experiment: `cargo xtask experiment NAME` builds it and calls it.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use huddle_experiments::frame::command::print_status;
use huddle_experiments::frame::run::RunError;
use huddle_experiments::frame::spec::SpecError;
use huddle_experiments::guest::xen::guard;
use huddle_experiments::host::HostFailure;
use huddle_experiments::interrupt::Interrupt;
use huddle_experiments::{microbench, web};
use huddle_host::HostRoot;

/// Exit code where the host cannot do it.
const CANNOT: u8 = 3;

/// Experiments that show on this host whether the method pays.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the host cannot do it (with the reason).
#[derive(Parser)]
#[command(version = env!("HUDDLE_VERSION"))]
struct Args {
    #[command(subcommand)]
    experiment: Experiment,
}

#[derive(Subcommand)]
enum Experiment {
    /// The paper's Figure 4 and Tables 1 to 3: VMs on data A and B, not merged, placed as recommended, the
    /// opposite way, by the kernel and at random, in alternation. Needs root and KSM, or a Xen that shares memory;
    /// takes a few minutes
    Microbench(microbench::Args),
    /// The paper's Table 4 and Figure 5: Apaches with PHP, as processes or in VMs, that hold data A or B, and
    /// how long their users wait in each placement. Needs root, KSM and Apache or QEMU; takes a few minutes
    Web(web::Args),
    /// Destroys the domains that a runner on Xen names on standard input, once that has ended
    #[command(hide = true)]
    GuardDomains,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // What cannot be said by the error that ends it, as that a domain could not be destroyed.
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(std::io::stderr).init();
    let result =
        Interrupt::on_signals().context("cannot take signals").and_then(|interrupt| match &args.experiment {
            Experiment::Microbench(args) => microbench::execute(args, &interrupt),
            Experiment::Web(args) => web::execute(args, &interrupt),
            Experiment::GuardDomains => guard_domains(),
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_status(&format!("huddle-experiment: {error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

/// The guard of a runner's domains.
fn guard_domains() -> anyhow::Result<()> {
    let domains = guard::XenDomains::open(&HostRoot::real())?;
    guard::run(std::io::stdin().lock(), &domains, guard::CREATE_LIMIT)
        .map_err(|left| anyhow::anyhow!("{}; destroy it with `xl destroy`", left.join("; ")))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let host = match error.downcast_ref::<RunError>() {
        Some(RunError::Host(failure)) => Some(failure),
        Some(RunError::SamePlacement { .. }) => return CANNOT,
        Some(RunError::Settings(_)) => return 2,
        None if error.is::<SpecError>() => return 2,
        _ => error.downcast_ref::<HostFailure>(),
    };
    if matches!(host, Some(HostFailure::Cannot(_))) { CANNOT } else { 1 }
}
