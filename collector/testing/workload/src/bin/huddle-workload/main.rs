//! `huddle-workload`: loads and guests for emulated hosts.
#![allow(clippy::print_stdout, reason = "what tests wait for")]

use clap::{Parser, Subcommand};
use huddle_workload::guest::Guest;
use huddle_workload::spin::Spin;
use huddle_workload::terminal::Terminal;

/// Loads and guests whose instructions are known, for `cargo xtask host`.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A process whose threads have the names of vCPUs and run a loop of known instructions
    Spin(Spin),
    /// A VM under KVM whose vCPUs run a loop of known instructions
    Guest(Guest),
    /// A program on a terminal of its own, and what it draws there
    Terminal(Terminal),
    /// Takes all counters of a thread, pinned, until it is ended
    TakeCounters {
        /// Number of the thread
        thread: i32,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().what {
        What::Spin(spin) => spin.run(),
        What::Guest(guest) => guest.run(),
        What::Terminal(terminal) => terminal.run(),
        What::TakeCounters { thread } => {
            let taken = huddle_workload::counters::take_all(thread)?;
            println!("ready {}", taken.len());
            loop {
                std::thread::park();
            }
        }
    }
}
