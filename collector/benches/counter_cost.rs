//! What it costs to read the counters of 64 vCPUs in one process once a second: the instructions that `huddle run` takes,
//! in user space and in the kernel, and those that `perf stat -p` takes for the same threads, events and intervals. In
//! an emulated ARM64 host, whose PMU counts them exactly.
//!
//! `cargo xtask counter-cost` builds what it needs and runs it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: what fails, panics")]

use std::path::Path;
use std::time::Duration;

use huddle_testing::emulated::host::{EmulatedHost, File, image};
use huddle_testing::emulated::programs::Architecture;

const HUDDLE: &str = env!("CARGO_BIN_EXE_huddle");
const THREADS: u32 = 64;
/// Two lengths, so that their difference has no start and no end.
const SECONDS: [u64; 2] = [10, 30];
/// Time limit of a command, in the host's time and this machine's.
const LIMIT: Duration = Duration::from_secs(600);
/// Cycles and instructions, and both again instead of the cache's events, which the emulated PMU has not.
const OF_PERF: &str = "cycles,instructions,r11,r08";
const OF_HUDDLE: &str = "--event llc_references=r11 --event llc_misses=r08";

/// Instructions.
#[derive(Clone, Copy)]
struct Instructions {
    user: f64,
    kernel: f64,
}

impl Instructions {
    fn all(self) -> f64 {
        self.user + self.kernel
    }
}

fn main() {
    let image = match image("arm64", Path::new(HUDDLE)) {
        Ok(image) => image,
        Err(reason) => return println!("skipped: {reason}"),
    };
    let mut host = EmulatedHost::boot(&image, &files(&image));
    let vm = format!("huddle-workload spin --threads {THREADS} --turns 10000 --sleep-us 100000");
    host.run(&format!("{vm} > /tmp/vm & sleep 2; pidof huddle-workload > /tmp/pid"), LIMIT).success();
    let rows = [("perf", perf_stat()), ("huddle", huddle_run())].map(|(name, command)| {
        let [short, long] = SECONDS.map(|seconds| measure(&mut host, &command, seconds));
        let seconds = (SECONDS[1] - SECONDS[0]) as f64;
        let a_second = Instructions {
            user: (long.user - short.user) / seconds,
            kernel: (long.kernel - short.kernel) / seconds,
        };
        let start = short.all() - a_second.all() * SECONDS[0] as f64;
        println!(
            "{name:<8}{:>12.0} instructions a second ({:.0} in user space, {:.0} in the kernel), and {:.1} million to \
             start and end",
            a_second.all(),
            a_second.user,
            a_second.kernel,
            start / 1e6
        );
        a_second.all()
    });
    println!("huddle over perf: {:.2} (at most 1 wanted)", rows[1] / rows[0]);
}

fn files(image: &Path) -> Vec<File> {
    let huddle = std::fs::read(Architecture::Arm64.distributed("huddle", Path::new(HUDDLE)));
    let huddle = huddle.expect("`cargo xtask counter-cost` builds it");
    let mut files =
        Architecture::Arm64.files(&[("huddle-workload", "usr/bin/huddle-workload")], Path::new(HUDDLE));
    files.push(File { path: "usr/bin/huddle", mode: 0o755, content: huddle });
    for entry in
        std::fs::read_dir(image.with_file_name("perf-arm64")).expect("`cargo xtask counter-cost` makes it")
    {
        let path = entry.unwrap().path();
        let name = format!("usr/lib/perf/{}", path.file_name().unwrap().to_str().unwrap());
        files.push(File { path: name.leak(), mode: 0o755, content: std::fs::read(path).unwrap() });
    }
    files
}

/// Debian's perf with its own loader and libraries.
fn perf() -> String {
    let directory = "/usr/lib/perf";
    format!("{directory}/ld-linux-aarch64.so.1 --library-path {directory} {directory}/perf")
}

fn perf_stat() -> String {
    format!("{} stat -I 1000 -o /dev/null -e {OF_PERF} -p $(cat /tmp/pid)", perf())
}

fn huddle_run() -> String {
    format!("huddle run --dry-run --vm a=$(cat /tmp/pid) {OF_HUDDLE}")
}

/// The instructions of a command that is interrupted after `seconds`.
fn measure(host: &mut EmulatedHost, command: &str, seconds: u64) -> Instructions {
    let line = format!(
        "{} stat -x, -o /tmp/counts -e instructions:u,instructions:k -- timeout -s INT {seconds} sh -c 'exec {command}' \
         > /tmp/log 2>&1; cat /tmp/log >&2; cat /tmp/counts",
        perf()
    );
    let output = host.run(&line, LIMIT);
    let log = output.stderr.clone();
    let text = output.success();
    let count = |kind: &str| {
        let line = text.lines().find(|line| line.contains(kind));
        let count = line.and_then(|line| line.split(',').next()?.parse().ok());
        count.unwrap_or_else(|| panic!("no {kind} in {text}: {log}"))
    };
    Instructions { user: count("instructions:u"), kernel: count("instructions:k") }
}
