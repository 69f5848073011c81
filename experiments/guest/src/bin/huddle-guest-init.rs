//! `/init` of a VM of an experiment: its only program, linked statically.
//!
//! It mounts what it needs, runs the flavour's userland once, so that it is in memory as it would be in
//! a VM that has booted, and serves the runner on the second serial line, or on the one that the kernel's
//! command line names: `huddle.line=hvc0` is the console of a Xen domain, which has no serial line.
//! When it ends, for whatever reason, the kernel panics; with `panic=-1` and QEMU's `-no-reboot` that
//! ends the VM.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use huddle_guest::{GuestFailure, ServeOptions, serve};
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;

/// The second serial line; the first is the console.
const LINE: &str = "ttyS1";

/// The parameter of the kernel's command line that names another line.
const PARAMETER: &str = "huddle.line=";

/// The first number is the level of messages that the kernel still prints on its console: emergencies (proc(5)).
const PRINTK: (&str, &str) = ("/proc/sys/kernel/printk", "1");

/// The program of the userland that is run, if it exists.
const SHELL: &str = "/bin/sh";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("huddle-guest-init: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), GuestFailure> {
    for (kind, target) in [("devtmpfs", "/dev"), ("proc", "/proc")] {
        std::fs::create_dir_all(target)
            .map_err(|error| GuestFailure::Io("cannot make a directory", error))?;
        match mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>) {
            // Kernels with CONFIG_DEVTMPFS_MOUNT may have done it.
            Ok(()) | Err(nix::Error::EBUSY) => {}
            Err(errno) => return Err(GuestFailure::Other(format!("cannot mount {target}: {errno}"))),
        }
    }
    userland();
    let parameters = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let named = named_line(&parameters);
    if named.is_some() {
        // It may be the console, where output of the kernel would come in between.
        std::fs::write(PRINTK.0, PRINTK.1)
            .map_err(|error| GuestFailure::Io("cannot quiet the kernel", error))?;
    }
    let name = named.unwrap_or(LINE);
    let line = OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new("/dev").join(name))
        .map_err(|error| GuestFailure::Other(format!("cannot open the line {name}: {error}")))?;
    raw(&line).map_err(|errno| GuestFailure::Other(format!("cannot set up the line {name}: {errno}")))?;
    let vcpus = std::thread::available_parallelism().map_or(1, usize::from);
    let options = ServeOptions {
        vcpus,
        thread_name: |vcpu| format!("reader {vcpu}"),
        at_start: stay_on_cpu,
        private_bytes: 0,
        private_seed: 0,
        marks_mergeable: false,
    };
    let input = line.try_clone().map_err(|error| GuestFailure::Io("cannot share the line", error))?;
    serve(options, BufReader::new(input), line)
}

/// The device in `/dev` that the kernel's command line names; as with the kernel's own parameters, the
/// last one counts.
fn named_line(parameters: &str) -> Option<&str> {
    parameters.split_ascii_whitespace().filter_map(|word| word.strip_prefix(PARAMETER)).next_back()
}

/// Reads every file of the userland and runs its shell once, if the flavour has one.
fn userland() {
    for directory in ["/bin", "/lib"] {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let mut content = Vec::new();
            let _ = File::open(entry.path()).and_then(|mut file| file.read_to_end(&mut content));
        }
    }
    if Path::new(SHELL).exists() {
        let script = "i=0; while [ $i -lt 100 ]; do i=$((i+1)); done; echo userland: $i";
        if let Err(error) = Command::new(SHELL).args(["-c", script]).stdin(Stdio::null()).status() {
            eprintln!("huddle-guest-init: {SHELL} cannot be run: {error}");
        }
    }
}

/// No echo, no translation of line ends.
fn raw(line: &File) -> Result<(), nix::Error> {
    let mut settings = tcgetattr(line)?;
    cfmakeraw(&mut settings);
    tcsetattr(line, SetArg::TCSANOW, &settings)
}

fn stay_on_cpu(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .map_err(|errno| format!("cannot run on vCPU {cpu}: {errno}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_what_the_command_line_names() {
        assert_eq!(named_line("console=hvc0 quiet huddle.line=hvc0\n"), Some("hvc0"));
        assert_eq!(named_line("huddle.line=ttyS2 huddle.line=ttyS1"), Some("ttyS1"));
        assert_eq!(named_line("console=ttyS0 quiet\n"), None);
    }
}
