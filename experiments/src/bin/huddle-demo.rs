//! Stand-in VMs and `huddle top` on them: `cargo xtask demo` builds and calls it.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use huddle_experiments::demo::{Demo, DemoError};
use huddle_experiments::interrupt::Interrupt;

/// Exit code where the host cannot do it.
const CANNOT: u8 = 3;

/// Stand-in VMs that share data in pairs and start in the worst placement, and `huddle top` on them.
///
/// KSM runs for as long; all is as before when the terminal is left (q). Needs root.
#[derive(Parser)]
#[command(version = env!("HUDDLE_VERSION"))]
struct Args {
    /// How many stand-ins
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(2..=256))]
    vms: u16,
    /// Only start the stand-ins, where the kernel wants them, and write a configuration file of huddle that names them to
    /// this new file; they end with Ctrl-C or SIGTERM
    #[arg(long, value_name = "FILE")]
    stand_ins: Option<PathBuf>,
    /// Passed on to `huddle top`, after `--`
    #[arg(last = true)]
    more: Vec<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let is_alone = args.stand_ins.is_some();
    let cannot = if is_alone {
        None
    } else if !std::io::stdout().is_terminal() {
        Some(
            "the demo draws on a terminal, and standard output is not one; without one use `cargo xtask experiment`",
        )
    } else if !nix::unistd::Uid::effective().is_root() {
        Some("the demo needs root, to see physical frames and to start KSM; run it with `sudo -E`")
    } else {
        None
    };
    if let Some(why) = cannot {
        print_error(why);
        return ExitCode::from(CANNOT);
    }
    let beside = |name| std::env::current_exe().map(|own| own.with_file_name(name));
    let (huddle, standin) = match (beside("huddle"), beside("huddle-standin")) {
        (Ok(huddle), Ok(standin)) => (huddle, standin),
        (Err(error), _) | (_, Err(error)) => {
            print_error(&format!("cannot find the paths of the programs: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let demo = Demo { huddle, standin, vms: usize::from(args.vms), more: args.more };
    if let Some(config) = &args.stand_ins {
        // Before any other thread is started.
        let kept = Interrupt::on_signals()
            .map_err(|error| DemoError::Host("cannot take signals", error))
            .and_then(|interrupt| demo.keep(config, &interrupt));
        return match kept {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                print_error(&error.to_string());
                ExitCode::FAILURE
            }
        };
    }
    match demo.run() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            print_error(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr(), "huddle-demo: {line}");
}
