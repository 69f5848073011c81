//! `/init` of a VM of an experiment: its only program, linked statically.
//!
//! It mounts what it needs, runs the flavour's userland once, so that it is in memory as it would be in
//! a VM that has booted, and serves the runner on the second serial line. When it ends, for whatever
//! reason, the kernel panics; with `panic=-1` and QEMU's `-no-reboot` that ends the VM.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use huddle_guest::{GuestFailure, ServeOptions, serve};
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::Pid;

/// The second serial line; the first is the console. A machine without one (a domain of Xen) is told another
/// by this word of the kernel's command line, as `huddle.line=hvc0`.
const LINE: &str = "ttyS1";
const LINE_WORD: &str = "huddle.line=";

/// What is run of the userland, if it is there.
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
    let words = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let name = words.split_ascii_whitespace().find_map(|word| word.strip_prefix(LINE_WORD)).unwrap_or(LINE);
    let line = OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new("/dev").join(name))
        .map_err(|error| GuestFailure::Io("cannot open the line to the runner", error))?;
    raw(&line).map_err(|errno| GuestFailure::Other(format!("cannot set up {name}: {errno}")))?;
    let vcpus = std::thread::available_parallelism().map_or(1, usize::from);
    let options = ServeOptions {
        vcpus,
        thread_name: |vcpu| format!("reader {vcpu}"),
        at_start: stay_on_cpu,
        private_bytes: 0,
        private_seed: 0,
        marks_mergeable: false,
    };
    let input = line.try_clone().map_err(|error| GuestFailure::Io("cannot share the serial line", error))?;
    serve(options, BufReader::new(input), line)
}

/// Reads every file of the userland and runs its shell once. A flavour without one is as good.
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
