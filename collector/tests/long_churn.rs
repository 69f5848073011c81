//! A loop with trials while VMs come and go all the time: trials of the VMs that stay reach verdicts, and memory
//! stays level.
//!
//! `cargo xtask churn --seconds N` runs it for N seconds; without that it is run for [`DEFAULT_SECONDS`].
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program without a harness: it ends at the first surprise and prints what it did"
)]

mod long_support;

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::memory::{mergeable, page_bytes};
use huddle_testing::{ksm, recording};

use long_support::{is_to_run, level_of_two_domains};

const DEFAULT_SECONDS: u64 = 45;
/// VMs that stay.
const QUIET: usize = 4;
/// VMs that come in a second, and how many there are at a time.
const VISITORS_PER_S: u64 = 10;
const VISITORS: usize = 20;
/// Mergeable pages of a VM.
const PAGES: usize = 64;
/// Resident memory may grow by so much in the second half of the time.
const MAX_GROWTH_KIB: u64 = 8 << 10;

/// In two parts, since nothing here boots a guest, as tests with the whole name in them do.
const PROGRAM: &str = concat!("qemu-", "system-x86_64");
/// In the environment of what is started as a VM.
const ROLE: &str = "HUDDLE_CHURN_VM";

fn main() -> ExitCode {
    if std::env::var_os(ROLE).is_some() {
        be_a_vm();
    }
    if !is_to_run("churn") {
        return ExitCode::SUCCESS;
    }
    let seconds = std::env::var("HUDDLE_CHURN_SECONDS");
    let seconds = seconds.map_or(DEFAULT_SECONDS, |text| text.parse().unwrap());
    let _ksm = ksm::Ksm::start();
    let dir = tempfile::tempdir().unwrap();
    let mut host = Host::new(dir.path());
    let figures = host.run(Duration::from_secs(seconds));
    println!("{figures}");
    let is_good = figures.is_good();
    println!("test churn ... {}\n", if is_good { "ok" } else { "FAILED" });
    let (passed, failed) = (u8::from(is_good), u8::from(!is_good));
    println!("test result: {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out");
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A process that is taken for QEMU with one vCPU and some memory, until its standard input ends.
fn be_a_vm() -> ! {
    let kind: u64 = std::env::var(ROLE).unwrap().parse().unwrap();
    for (number, page) in mergeable(PAGES).chunks_mut(page_bytes() / 8).enumerate() {
        // Equal in VMs of one kind, and in no other page.
        page.fill((kind << 32) + number as u64 + 1);
    }
    let vcpu = std::thread::Builder::new().name("CPU 0/TCG".into());
    vcpu.spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(3600))
        }
    })
    .unwrap();
    println!("ready");
    let _ = std::io::Read::read(&mut std::io::stdin(), &mut [0]);
    std::process::exit(0)
}

/// A process that ends with this value.
struct Vm(Child);

impl Vm {
    fn start(program: &Path, name: &str, kind: u64) -> Self {
        let mut command = Command::new(program);
        command.args(["-name", name]).env(ROLE, kind.to_string()).stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Host<'a> {
    dir: &'a Path,
    program: PathBuf,
    quiet: Vec<String>,
    level: Option<&'static str>,
}

/// What came of it.
struct Figures {
    visitors: u64,
    /// Decisions by their outcome.
    decisions: BTreeMap<String, u64>,
    /// Aborted ones whose reason has a visitor in it.
    disturbed: Vec<String>,
    /// Resident memory of the loop, in KiB: after half of the time, and at the end.
    begin_kib: u64,
    end_kib: u64,
    has_two_domains: bool,
    errors: String,
    /// The end of the log.
    last: String,
}

impl Figures {
    fn verdicts(&self) -> u64 {
        ["kept", "taken_back"].iter().filter_map(|outcome| self.decisions.get(*outcome)).sum()
    }

    fn is_good(&self) -> bool {
        let has_verdicts = !self.has_two_domains || self.verdicts() > 0;
        has_verdicts
            && self.disturbed.is_empty()
            && self.end_kib < self.begin_kib + MAX_GROWTH_KIB
            && self.errors.is_empty()
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} VMs came and went; decisions: {:?}", self.visitors, self.decisions)?;
        writeln!(
            f,
            "resident memory after half of the time: {} KiB, at the end: {} KiB",
            self.begin_kib, self.end_kib
        )?;
        if !self.has_two_domains {
            writeln!(f, "this host has one cache domain at every level: nothing was tried")?;
        }
        self.disturbed.iter().try_for_each(|reason| writeln!(f, "disturbed: {reason}"))?;
        f.write_str(&self.errors)?;
        if self.is_good() { Ok(()) } else { writeln!(f, "the log ended with: {}", self.last) }
    }
}

impl<'a> Host<'a> {
    fn new(dir: &'a Path) -> Self {
        let program = dir.join(PROGRAM);
        huddle_testing::copy_program(&std::env::current_exe().unwrap(), &program);
        let quiet = (0..QUIET).map(|number| format!("churn-quiet{number}")).collect();
        let mut host = Self { dir, program, quiet, level: None };
        host.level = level_of_two_domains(|| host.huddle(&[]), dir);
        host
    }

    fn huddle(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command.args(arguments).envs(huddle_testing::own_state(self.dir)).env_remove("HUDDLE_LOG");
        command
    }

    fn run(&mut self, time: Duration) -> Figures {
        let kinds = [0, 0, 1, 1];
        let start = |(name, kind): (&String, u64)| Vm::start(&self.program, name, kind);
        let quiet: Vec<Vm> = self.quiet.iter().zip(kinds).map(start).collect();
        std::thread::sleep(Duration::from_millis(300));
        let config = self.dir.join("config.toml");
        std::fs::write(
            &config,
            "[trial]\nblocks = 8\ncool_down_s = 0\nhold_s = 0\nleast_gain = 0.0\nload_limit = 1000.0\n\
             moves_per_hour = 1000000\n\
             [record]\nsegment_max_age_s = 5\n",
        )
        .unwrap();
        let (recorded, reports) = (self.dir.join("recording"), self.dir.join("reports"));
        let loops = ["run", "--ksm-run", "--window", "0.2", "--min-interval", "0", "--trial", "reported"];
        let mut command = self.huddle(&loops);
        command.args(["--policy", "random"]).arg("--config").arg(&config);
        command.arg("--report-socket").arg(&reports).arg("--record").arg(&recorded);
        if let Some(level) = self.level {
            command.args(["--cache-level", level]);
        }
        let log = std::fs::File::create(self.dir.join("log")).unwrap();
        let mut run = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        // Who is there then does not wait to be placed.
        let log = || std::fs::read_to_string(self.dir.join("log")).unwrap();
        while !log().contains("round 1:") && run.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(20));
        }
        let begin = Instant::now();
        let (mut visitors, mut came, mut begin_kib) = (VecDeque::new(), 0_u64, 0);
        let mut errors = String::new();
        while begin.elapsed() < time {
            if run.try_wait().unwrap().is_some() {
                errors += "the loop ended by itself\n";
                break;
            }
            if begin.elapsed().as_millis() as u64 * VISITORS_PER_S / 1000 > came {
                came += 1;
                visitors.push_back(Vm::start(&self.program, &format!("churn-visitor{came}"), 100 + came));
                if visitors.len() > VISITORS {
                    visitors.pop_front();
                }
            }
            self.report(&reports);
            if begin_kib == 0 && begin.elapsed() > time / 2 {
                begin_kib = resident_kib(run.id());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let end_kib = resident_kib(run.id());
        drop((visitors, quiet));
        // A child that was not waited for, so its number is its own.
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(run.id().cast_signed()),
            nix::sys::signal::Signal::SIGTERM,
        )
        .unwrap();
        let status = run.wait().unwrap();
        let log = log();
        if !status.success() {
            errors += &format!("the loop ended with {status}: {}\n", last_lines(&log));
        }
        let (mut decisions, mut disturbed) = (BTreeMap::new(), Vec::new());
        let table = recorded.join("trials");
        for row in table.exists().then(|| recording::rows(&table)).into_iter().flatten() {
            let text = |name| recording::text(&row, name).to_owned();
            let (outcome, reason) = (text("outcome"), text("reason"));
            if outcome == "aborted" && reason.contains("visitor") {
                disturbed.push(reason);
            }
            *decisions.entry(outcome).or_default() += 1;
        }
        let has_two_domains = self.level.is_some();
        let last = last_lines(&log);
        Figures { visitors: came, decisions, disturbed, begin_kib, end_kib, has_two_domains, errors, last }
    }

    /// A report of each VM that stays, where the loop listens already.
    fn report(&self, path: &Path) {
        let socket = UnixDatagram::unbound().unwrap();
        if socket.connect(path).is_ok() {
            for name in &self.quiet {
                let _ = socket.send(format!("{name} 1000\n").as_bytes());
            }
        }
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// Resident memory of a process, in KiB (proc(5)).
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    line.and_then(|line| line.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}
