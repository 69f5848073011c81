//! Kills `huddle` and the microbenchmark with SIGKILL at random moments, and checks the state after `huddle restore`:
//! every affinity and setting of KSM as before, no process, no socket, every closed segment readable.
//!
//! `cargo xtask kills --count N` runs it N times; without a count it is run [`DEFAULT_COUNT`] times.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test program without a harness: it ends at the first surprise and prints what it did"
)]

mod long_support;

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::output::say;
use huddle_testing::{ksm, recording};
use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;

use long_support::{is_to_run, level_of_two_domains};

/// How often, unless `HUDDLE_KILLS` says otherwise.
const DEFAULT_COUNT: u64 = 50;
/// The longest that anything runs before it is killed.
const LONGEST: Duration = Duration::from_millis(1500);
const SETTINGS: [&str; 4] = ["run", "pages_to_scan", "sleep_millisecs", "smart_scan"];
/// In the environment of what is started, so that what it leaves running is found.
const MARK: &str = "HUDDLE_KILLS_MARK";

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Run,
    Trial,
    Record,
    Pin,
    Restore,
    Experiment,
}

/// Experiments take seconds to begin, so they are not half of the time spent.
const TURNS: [What; 11] = [
    What::Run,
    What::Trial,
    What::Record,
    What::Pin,
    What::Restore,
    What::Run,
    What::Trial,
    What::Record,
    What::Pin,
    What::Restore,
    What::Experiment,
];

fn main() -> ExitCode {
    if !is_to_run("kills") {
        return ExitCode::SUCCESS;
    }
    let number = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let count = number("HUDDLE_KILLS", DEFAULT_COUNT);
    let seed = number("HUDDLE_KILLS_SEED", std::process::id().into());
    println!("{count} kills, seed {seed}");
    let _ksm = ksm::Ksm::start();
    let mut random = Random(seed);
    let mut scene = Scene::new();
    let mut killed: BTreeMap<What, (u64, u64)> = BTreeMap::new();
    for kill in 0..count {
        let what = TURNS[kill as usize % TURNS.len()];
        let was_killed = scene.kill(what, &mut random);
        if let Err(difference) = scene.check() {
            println!("test kills ... FAILED");
            println!("kill {kill} of {what:?}, seed {seed}: {difference}");
            return ExitCode::FAILURE;
        }
        let (all, by_signal) = killed.entry(what).or_default();
        *all += 1;
        *by_signal += u64::from(was_killed);
    }
    for (what, (all, by_signal)) in &killed {
        println!("{what:?}: {all} times, of which {by_signal} ended by the signal and the others before it");
    }
    println!("{} segments were read", scene.segments_read);
    println!(
        "test kills ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out"
    );
    ExitCode::SUCCESS
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Short times more often than long ones: most changes are made at the beginning.
    fn delay(&mut self, longest: Duration) -> Duration {
        let share = self.next() as f64 / u64::MAX as f64;
        longest.mul_f64(share * share)
    }
}

/// Processes that are treated as VMs, and what they and the host were before.
struct Scene {
    dir: tempfile::TempDir,
    level: Option<&'static str>,
    processes: Vec<Child>,
    affinities: Vec<Vec<usize>>,
    settings: Vec<Option<String>>,
    mark: String,
    recordings: u64,
    segments_read: u64,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("config.toml"),
            "[trial]\nblocks = 8\ncool_down_s = 0\nhold_s = 0\nleast_gain = 0.0\nload_limit = 1000.0\n\
             [record]\nsegment_max_age_s = 1\n",
        )
        .unwrap();
        let processes: Vec<Child> =
            (0..6).map(|_| Command::new("sleep").arg("100000").spawn().unwrap()).collect();
        let mut scene = Self {
            mark: dir.path().to_str().unwrap().to_owned(),
            dir,
            level: None,
            affinities: processes.iter().map(affinity).collect(),
            processes,
            settings: settings(),
            recordings: 0,
            segments_read: 0,
        };
        scene.level = level_of_two_domains(|| scene.huddle(), scene.dir.path());
        if scene.level.is_none() {
            say("this host has one cache domain at every level: nothing but settings of KSM is changed");
        }
        scene
    }

    fn huddle(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command
            .env("HUDDLE_STATE_DIR", self.state())
            .env("HUDDLE_HOST_LOCK", self.dir.path().join("host"))
            .env(MARK, &self.mark)
            .env_remove("HUDDLE_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// A command on all VMs.
    fn on_vms(&self, arguments: &[&str]) -> Command {
        let mut command = self.huddle();
        command.args(arguments);
        if let Some(level) = self.level {
            command.args(["--cache-level", level]);
        }
        for (number, process) in self.processes.iter().enumerate() {
            command.arg("--vm").arg(format!("vm{number}={}", process.id()));
        }
        command
    }

    /// Starts something and kills it; false where it ended before.
    fn kill(&mut self, what: What, random: &mut Random) -> bool {
        let loops = ["run", "--ksm-run", "--policy", "spread", "--window", "0.05", "--min-interval", "0"];
        let mut longest = LONGEST;
        let mut command = match what {
            What::Run => self.on_vms(&loops),
            What::Trial => {
                let mut command = self.on_vms(&loops);
                command.args(["--trial", "reported", "--config"]);
                command.arg(self.dir.path().join("config.toml"));
                command
            }
            What::Record => {
                self.recordings += 1;
                let mut command = self.on_vms(&loops);
                command.arg("--config").arg(self.dir.path().join("config.toml"));
                command.arg("--record").arg(self.recording());
                // Long enough for segments to be closed.
                longest *= 3;
                command
            }
            What::Pin => {
                longest /= 4;
                self.on_vms(&["pin", "--policy", "spread"])
            }
            What::Restore => {
                longest /= 8;
                let pinned = self.on_vms(&["pin", "--policy", "spread"]).status().unwrap();
                assert!(pinned.success());
                let mut command = self.huddle();
                command.arg("restore");
                command
            }
            What::Experiment => {
                longest *= 4;
                self.experiment()
            }
        };
        let mut child = command.spawn().unwrap();
        let end = Instant::now() + random.delay(longest);
        while Instant::now() < end && child.try_wait().unwrap().is_none() {
            if what == What::Trial {
                self.report();
            }
            std::thread::sleep(Duration::from_millis(1).min(end.saturating_duration_since(Instant::now())));
        }
        let was_running = child.try_wait().unwrap().is_none();
        // The child was not waited for, so its pid cannot have been reused.
        child.kill().unwrap();
        child.wait().unwrap();
        was_running
    }

    /// A report of each VM, where the loop listens already.
    fn report(&self) {
        let socket = UnixDatagram::unbound().unwrap();
        if socket.connect(self.state().join("reports")).is_ok() {
            for number in 0..self.processes.len() {
                let _ = socket.send(format!("vm{number} 1000\n").as_bytes());
            }
        }
    }

    fn experiment(&self) -> Command {
        // Beside `huddle`: `cargo test --workspace` and `cargo xtask kills` build it.
        let program = Path::new(env!("CARGO_BIN_EXE_huddle")).with_file_name("huddle-experiment");
        assert!(program.exists(), "{} is missing: run `cargo xtask kills`", program.display());
        let mut command = Command::new(program);
        command.args(["microbench", "--data-kib", "256", "--settle-seconds", "0.05"]);
        command.arg("--state-dir").arg(self.state());
        let out = self.dir.path().join("experiment");
        let _ = std::fs::remove_dir_all(&out);
        command.arg("--out").arg(out).env(MARK, &self.mark);
        command.env("HUDDLE_HOST_LOCK", self.dir.path().join("host"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn recording(&self) -> PathBuf {
        self.dir.path().join(format!("recording-{}", self.recordings))
    }

    fn restore(&self) -> Output {
        self.huddle().arg("restore").stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap()
    }

    /// Restores and compares with the state before.
    fn check(&mut self) -> Result<(), String> {
        self.nothing_runs()?;
        let restored = self.restore();
        if !restored.status.success() {
            return Err(format!("restore failed: {}", String::from_utf8_lossy(&restored.stderr)));
        }
        let affinities: Vec<_> = self.processes.iter().map(affinity).collect();
        if affinities != self.affinities {
            return Err(format!("affinities are {affinities:?} and were {:?}", self.affinities));
        }
        if settings() != self.settings {
            return Err(format!("settings of KSM are {:?} and were {:?}", settings(), self.settings));
        }
        let again = String::from_utf8_lossy(&self.restore().stdout).into_owned();
        if !again.contains("nothing to undo") {
            return Err(format!("the journal still held something: {again}"));
        }
        for entry in std::fs::read_dir(self.state()).unwrap() {
            let path = entry.unwrap().path();
            use std::os::unix::fs::FileTypeExt;
            if path.symlink_metadata().unwrap().file_type().is_socket() {
                return Err(format!("{} is left", path.display()));
            }
        }
        self.read_recording()
    }

    /// Reads every closed segment of the latest recording with another reader than huddle's own.
    fn read_recording(&mut self) -> Result<(), String> {
        let dir = self.recording();
        if !dir.exists() {
            return Ok(());
        }
        for table in std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()) {
            if !table.is_dir() {
                continue;
            }
            let closed: Vec<PathBuf> = std::fs::read_dir(&table)
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.extension().is_some_and(|extension| extension == "parquet"))
                .collect();
            for segment in closed {
                recording::segment_rows(&segment)
                    .map_err(|error| format!("{} cannot be read: {error}", segment.display()))?;
                self.segments_read += 1;
            }
        }
        std::fs::remove_dir_all(&dir).map_err(|error| error.to_string())
    }

    /// Processes that were started end with the program that started them, or soon after.
    fn nothing_runs(&self) -> Result<(), String> {
        let begin = Instant::now();
        loop {
            let left = marked(&self.mark);
            if left.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > Duration::from_secs(10) {
                return Err(format!("processes {left:?} still run"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// Processes whose environment has the mark.
fn marked(mark: &str) -> Vec<String> {
    let mark = format!("{MARK}={mark}");
    let has_mark = |pid: &String| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(has_mark)
        .collect()
}

fn affinity(process: &Child) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(process.id() as i32)).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

fn settings() -> Vec<Option<String>> {
    let read = |name: &&str| std::fs::read_to_string(Path::new("/sys/kernel/mm/ksm").join(name)).ok();
    SETTINGS.iter().map(read).collect()
}
