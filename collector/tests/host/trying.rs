//! The closed loop for real: processes that report their reads, moved by what they report.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ksm::Ksm;
use crate::reader::Reader;
use crate::trial;

/// Longer than passes and two whole trials take.
const PATIENCE: Duration = Duration::from_secs(90);

pub fn trials() -> Vec<Trial> {
    vec![
        trial("the_loop_moves_readers_from_the_opposed_to_the_recommended_placement", opposed),
        trial("the_loop_leaves_the_recommended_placement_alone", recommended),
        trial("the_loop_leaves_four_equal_readers_alone", equal),
        trial("the_loop_leaves_a_writer_and_says_why", writer),
    ]
}

/// Three quarters of the second-level cache: two readers of one data set fit, of two sets not.
fn data_kib() -> usize {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index2/size").unwrap_or_default();
    text.trim().trim_end_matches('K').parse::<usize>().unwrap_or(2048) * 3 / 4 / 4 * 4
}

/// What came of one run of the loop.
struct Ran {
    /// Where each reader was at the end of the run, and after it.
    during: Vec<Option<usize>>,
    after: Vec<Option<usize>>,
    /// Lines of decisions.
    decisions: Vec<String>,
}

/// Runs the loop over four readers, each of a seed of data, on a CPU, with so many writes a second, until
/// a decision is of `wanted`.
fn run(readers: [(u64, usize, usize); 4], wanted: &str) -> Ran {
    let ksm = Ksm::start();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("reports");
    let start = |(i, (seed, cpu, writes)): (usize, (u64, usize, usize))| {
        Reader::start(&format!("vm{i}"), seed, data_kib(), cpu, writes, &socket)
    };
    let readers: Vec<Reader> = readers.into_iter().enumerate().map(start).collect();
    // Merged by the settings of a hurry, and then followed at the kernel's own pace: ksmd runs on the
    // readers' CPUs.
    std::thread::sleep(Duration::from_secs(3));
    ksm.set("sleep_millisecs", "20");
    ksm.set("pages_to_scan", "200");
    let config = dir.path().join("config.toml");
    // Whatever else this machine does, it is to be tried.
    std::fs::write(&config, "[trial]\nload_limit = 1000.0\nworse_limit = 0.9\n").unwrap();
    let mut huddle = Command::new(env!("CARGO_BIN_EXE_huddle"));
    huddle.args([
        "run",
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
    for reader in &readers {
        huddle.args(["--vm", &format!("{}={}", reader.name, reader.pid())]);
    }
    let mut huddle =
        huddle.env("HUDDLE_STATE_DIR", dir.path().join("state")).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(huddle.id() as i32);
    let (send, said) = std::sync::mpsc::channel();
    let stderr = BufReader::new(huddle.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    let (mut lines, mut decisions) = (Vec::new(), Vec::new());
    let deadline = Instant::now() + PATIENCE;
    while let Ok(line) = said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if ["kept: ", "taken back: ", "aborted: ", "not tried: "].iter().any(|word| line.contains(word)) {
            eprintln!("{line}");
            decisions.push(line.clone());
        }
        let found = line.contains(wanted);
        lines.push(line);
        if found {
            break;
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let during = readers.iter().map(Reader::cpu).collect();
    kill(pid, Signal::SIGINT).unwrap();
    assert!(huddle.wait().unwrap().success(), "{lines:#?}");
    assert!(!Path::new(&socket).exists(), "the socket goes with the loop");
    let after = readers.iter().map(Reader::cpu).collect();
    assert!(!decisions.is_empty(), "{lines:#?}");
    Ran { during, after, decisions }
}

fn opposed() {
    let ran = run([(1, 0, 0), (1, 1, 0), (2, 0, 0), (2, 1, 0)], "kept: ");
    let last = ran.decisions.last().unwrap();
    assert!(last.contains("kept: policy paper moves 2 vCPUs"), "{:#?}", ran.decisions);
    assert_eq!(ran.during[0], ran.during[1]);
    assert_eq!(ran.during[2], ran.during[3]);
    assert_ne!(ran.during[0], ran.during[2]);
    assert_eq!(ran.after, [Some(0), Some(1), Some(0), Some(1)], "all is as it was");
}

fn recommended() {
    let ran = run([(1, 0, 0), (1, 0, 0), (2, 1, 0), (2, 1, 0)], "not tried: ");
    assert!(ran.decisions[0].contains("the VMs are where the policy wants them"), "{:?}", ran.decisions);
    assert_eq!(ran.during, [Some(0), Some(0), Some(1), Some(1)]);
}

fn equal() {
    let ran = run([(1, 0, 0), (1, 1, 0), (1, 0, 0), (1, 1, 0)], "not tried: ");
    assert!(ran.decisions[0].contains("not tried: "), "{:?}", ran.decisions);
    assert_eq!(ran.during, [Some(0), Some(1), Some(0), Some(1)]);
}

fn writer() {
    // Readers 0 and 1 are together already; 2 holds what they do and writes to all of it all the time.
    let ran = run([(1, 0, 0), (1, 0, 0), (1, 1, 2000), (2, 1, 0)], "vm2 writes: ");
    let last = ran.decisions.last().unwrap();
    assert!(last.contains("pages break a second, so what it shares counts"), "{last}");
    assert_eq!(ran.during, [Some(0), Some(0), Some(1), Some(1)]);
}
