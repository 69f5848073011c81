//! One run of the closed loop over readers, for tests and the benchmark `loop`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parquet::record::Row;

use crate::ksm::Ksm;
use crate::reader::Reader;
use crate::recording;

/// Longer than the passes and two whole trials take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Three quarters of the second-level cache: two readers of one data set fit, of two sets not.
fn data_kib() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
    text.trim().trim_end_matches('K').parse::<usize>().unwrap_or(2048) * 3 / 4 / 4 * 4
}

/// Whether a line of the log tells how a trial ended, or that there is none.
pub fn is_decision(line: &str) -> bool {
    ["kept: ", "reverted: ", "aborted: ", "not tried: "].iter().any(|word| line.contains(word))
}

/// Result of one run of the loop.
pub struct Ran {
    /// The CPU of each reader at the end of the run.
    pub during: Vec<Option<usize>>,
    /// The same after it.
    pub after: Vec<Option<usize>>,
    /// Log lines of decisions.
    pub decisions: Vec<String>,
    /// Contents of the recording.
    pub recorded: Recorded,
}

/// Contents of the recording of a run.
pub struct Recorded {
    /// Expected and observed change in per mille, the ends of its interval, blocks; one row per decision.
    pub changes: Vec<[Option<i64>; 5]>,
    /// Proposal, outcome and reason of each.
    pub words: Vec<[String; 3]>,
    /// Reads per second of all readers together: before the first trial, and after the last decision.
    pub rates: [Option<f64>; 2],
}

impl Recorded {
    fn read(dir: &Path) -> Self {
        let trials = dir.join("trials");
        let rows = recording::rows(&trials);
        let per_mille =
            |row: &Row, name: &str| recording::number(row, name).map(|value| (value * 1e3).round() as i64);
        let changes = rows.iter().map(|row| {
            let [expected, observed, low, high] =
                ["expected_change", "observed_change", "observed_low", "observed_high"]
                    .map(|name| per_mille(row, name));
            [expected, observed, low, high, recording::number(row, "blocks").map(|blocks| blocks as i64)]
        });
        let words = rows
            .iter()
            .map(|row| ["proposal", "outcome", "reason"].map(|name| recording::text(row, name).to_owned()));
        let (changes, words) = (changes.collect(), words.collect());
        let reports = recording::rows(&dir.join("reported"));
        let in_trial = |row: &&Row| recording::number(row, "block").is_some();
        let first = reports
            .iter()
            .filter(in_trial)
            .filter_map(|row| recording::number(row, "begin_us"))
            .reduce(f64::min);
        let last = rows.iter().filter_map(|row| recording::number(row, "begin_us")).reduce(f64::max);
        let outside = |holds: &dyn Fn(f64, f64) -> bool| {
            let mut windows = std::collections::BTreeMap::new();
            for row in &reports {
                let (Some(begin), Some(end)) =
                    (recording::number(row, "begin_us"), recording::number(row, "end_us"))
                else {
                    continue;
                };
                if holds(begin, end) {
                    let window = windows.entry(begin as u64).or_insert((0.0, end - begin));
                    window.0 += recording::number(row, "operations").unwrap_or(0.0);
                }
            }
            let (reads, us) = windows.values().fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            (us > 0.0).then(|| reads / us * 1e6)
        };
        // The window before the first counted one may already be one of the proposal, warming up.
        let before = first.and_then(|first| outside(&|_, end| end <= first - 200_000.0));
        // The first window after a switch warms the caches.
        let after = last.and_then(|last| outside(&|begin, _| begin >= last + 500_000.0));
        Self { changes, words, rates: [before, after] }
    }
}

/// Runs the loop of the program `huddle` over four readers, each with a data seed, on a CPU, with so many
/// writes per second, until a decision has the outcome `wanted`.
pub fn run(huddle: &Path, readers: [(u64, usize, usize); 4], wanted: &str) -> Ran {
    let ksm = Ksm::start();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("reports");
    let start = |(i, (seed, cpu, writes)): (usize, (u64, usize, usize))| {
        Reader::start(&format!("vm{i}"), seed, data_kib(), cpu, writes, &socket)
    };
    let readers: Vec<Reader> = readers.into_iter().enumerate().map(start).collect();
    // Merged quickly with fast settings, and then scanned at the kernel's default rate: ksmd runs on the
    // readers' CPUs.
    std::thread::sleep(Duration::from_secs(3));
    ksm.set("sleep_millisecs", "20");
    ksm.set("pages_to_scan", "200");
    let config = dir.path().join("config.toml");
    // Trials must run whatever the load of this machine.
    std::fs::write(&config, "[trial]\nload_limit = 1000.0\nworse_limit = 0.9\n").unwrap();
    let mut huddle = Command::new(huddle);
    huddle.args([
        "run",
        // Readers begin on a CPU of their own choice.
        "--override-bindings",
        "--cache-level",
        "2",
        "--trial",
        "reported",
        "--window",
        "0.4",
        "--min-interval",
        "1",
    ]);
    huddle.arg("--report-socket").arg(&socket).arg("--config").arg(&config);
    let record = dir.path().join("recording");
    huddle.arg("--record").arg(&record);
    for reader in &readers {
        huddle.args(["--vm", &format!("{}={}", reader.name, reader.pid())]);
    }
    let mut huddle = huddle.envs(crate::own_state(dir.path())).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(huddle.id() as i32);
    let (send, received) = std::sync::mpsc::channel();
    let stderr = BufReader::new(huddle.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    let (mut lines, mut decisions) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while let Ok(line) = received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if is_decision(&line) {
            eprintln!("{line}");
            decisions.push(line.clone());
        }
        let found = line.contains(wanted);
        lines.push(line);
        if found {
            break;
        }
    }
    // Some windows after the decision.
    std::thread::sleep(if wanted == "kept: " { Duration::from_secs(6) } else { Duration::from_millis(500) });
    let during = readers.iter().map(Reader::cpu).collect();
    kill(pid, Signal::SIGINT).unwrap();
    assert!(huddle.wait().unwrap().success(), "{lines:#?}");
    assert!(!Path::new(&socket).exists(), "the socket is removed with the loop");
    let after = readers.iter().map(Reader::cpu).collect();
    assert!(!decisions.is_empty(), "{lines:#?}");
    let recorded = Recorded::read(&record);
    // Each log line of a decision is one row, and there are no others.
    for line in &decisions {
        let as_line = |[proposal, outcome, reason]: &&[String; 3]| {
            let outcome = if outcome == "taken_back" { "reverted" } else { outcome };
            line.contains(&format!("{}: {proposal}", outcome.replace('_', " ")))
                && line.ends_with(reason.as_str())
        };
        let rows = recorded.words.iter().filter(as_line).count();
        let lines = decisions.iter().filter(|other| *other == line).count();
        assert_eq!(rows, lines, "{line}: {:?}", recorded.words);
    }
    Ran { during, after, decisions, recorded }
}
