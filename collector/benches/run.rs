//! What all of `huddle run` costs between rounds: 64 busy vCPU threads of 64 VMs, one window of
//! observation a second, recorded. Programs, readings, updates and the recorder are all in it. And what it costs to keep the
//! last minutes and to be scraped, beside a recording alone, in turns.
//!
//! `cargo bench --profile dev -p huddle --bench run [-- --vms N --seconds S --turns T --scrape-every S]`. Needs root.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark: what fails, panics")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::cpu_time::cpu_ns;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT_PERCENT: f64 = 1.0;

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: not root");
        return;
    }
    let arguments: Vec<String> = std::env::args().collect();
    let option = |name: &str, otherwise: u64| {
        let at = arguments.iter().position(|argument| argument == name);
        at.map_or(otherwise, |at| arguments[at + 1].parse().unwrap())
    };
    let (vms, seconds) = (option("--vms", 64), option("--seconds", 20));
    let (turns, scrape_every) = (option("--turns", 3), Duration::from_secs(option("--scrape-every", 15)));
    let dir = tempfile::tempdir().unwrap();
    let busy: Vec<Busy> = (0..vms).map(|_| Busy::start()).collect();
    let mut costs = [(); 3].map(|()| Vec::new());
    for turn in 0..turns {
        for (what, costs) in Does::ALL.into_iter().zip(&mut costs) {
            let place = dir.path().join(format!("{turn}-{what:?}"));
            costs.push(measure(&busy, what, &place, dir.path(), Duration::from_secs(seconds), scrape_every));
        }
    }
    let [bare, recorded, watched] = costs.map(|mut costs| {
        costs.sort_by(f64::total_cmp);
        costs[costs.len() / 2]
    });
    for (what, percent) in Does::ALL.iter().zip([bare, recorded, watched]) {
        println!(
            "huddle run, {vms} busy vCPU threads at 1 Hz, {}: {percent:.3} % of one core \
             (median of {turns}, limit {LIMIT_PERCENT} % with 64)",
            what.name()
        );
    }
    println!(
        "kept minutes and a scrape every {} s cost {:.3} times a recording alone",
        scrape_every.as_secs(),
        watched / recorded
    );
    if [bare, recorded, watched].iter().any(|percent| *percent > LIMIT_PERCENT) && vms <= 64 {
        println!("the limit is missed");
        std::process::exit(1);
    }
}

/// What the loop does besides observing.
#[derive(Clone, Copy, Debug)]
enum Does {
    Nothing,
    Records,
    /// It records, keeps the last minutes, and is scraped.
    RecordsAndIsWatched,
}

impl Does {
    const ALL: [Self; 3] = [Self::Nothing, Self::Records, Self::RecordsAndIsWatched];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "not recorded",
            Self::Records => "recorded",
            Self::RecordsAndIsWatched => "recorded, with metrics and the last minutes",
        }
    }
}

/// CPU time of a `huddle run` over some seconds of windows, in percent of one core.
fn measure(
    busy: &[Busy],
    does: Does,
    place: &Path,
    state: &Path,
    lasts: Duration,
    scrape_every: Duration,
) -> f64 {
    std::fs::create_dir(place).unwrap();
    let (config, socket) = (place.join("config.toml"), place.join("metrics"));
    let text = match does {
        Does::RecordsAndIsWatched => {
            format!("[metrics]\nlisten = \"unix:{}\"\n[record]\nkeep = \"10m\"\n", socket.display())
        }
        Does::Nothing | Does::Records => String::new(),
    };
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
    command
        .arg("--config")
        .arg(&config)
        .args(["run", "--dry-run"])
        .env("HUDDLE_STATE_DIR", state.join("state"))
        .env("HUDDLE_HOST_LOCK", state);
    for (number, process) in busy.iter().enumerate() {
        command.arg("--vm").arg(format!("vm{number}={}", process.0.id()));
    }
    if !matches!(does, Does::Nothing) {
        command.arg("--record").arg(place.join("run"));
    }
    let mut huddle = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(huddle.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("round 1")));
    // The first window follows the first scan; the cost of loading and scanning is not measured here.
    std::thread::sleep(Duration::from_millis(1500));
    let pid = huddle.id();
    let (before_ns, began) = (cpu_ns(pid), Instant::now());
    while let Some(left) = lasts.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
        if matches!(does, Does::RecordsAndIsWatched) {
            scrape(&socket);
        }
        std::thread::sleep(left.min(scrape_every));
    }
    let (used_ns, took) = (cpu_ns(pid) - before_ns, began.elapsed());
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
    for line in log.filter(|line| line.contains("own cost")) {
        println!("its log: {}", line.split_once("INFO").map_or(line.as_str(), |(_, text)| text.trim()));
    }
    assert!(huddle.wait().unwrap().success());
    used_ns as f64 / took.as_nanos() as f64 * 100.0
}

fn scrape(socket: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("\nhuddle_vm_cpu_seconds_total{"), "{answer}");
}

struct Busy(Child);

impl Busy {
    fn start() -> Self {
        Self(Command::new("nice").args(["-n", "19", "sh", "-c", "while :; do :; done"]).spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
