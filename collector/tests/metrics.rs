//! Metrics of the real `huddle run`: at an address, at a socket and in a file; slow clients; and the last minutes, written
//! on a signal, on a viewer's command, and beside a recording.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use huddle_engine::attach::PROTOCOL;
use huddle_record::replay::Recording;
use huddle_testing::output::say;
use huddle_testing::own_state;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Whatever is waited for comes sooner than this, on a busy machine too.
const PATIENCE: Duration = Duration::from_secs(60);

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `huddle run` on one process.
struct Running {
    huddle: Ended,
    lines: Receiver<String>,
    _vm: Ended,
    dir: tempfile::TempDir,
}

/// `None` with the reason where this is not root, which in CI is a failure.
fn start(config: impl FnOnce(&Path) -> String, more: impl FnOnce(&Path) -> Vec<String>) -> Option<Running> {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
        say("skipped: needs root (CAP_SYS_ADMIN for frame numbers)");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let vm = Ended(Command::new("sleep").arg("600").spawn().unwrap());
    let mut command = command(dir.path(), &config(dir.path()));
    command.args(["run", "--window", "0.1", "--vm", &format!("we\"b={}", vm.0.id())]).args(more(dir.path()));
    let mut huddle = Ended(command.stderr(Stdio::piped()).spawn().unwrap());
    let (sender, lines) = channel();
    let stderr = BufReader::new(huddle.0.stderr.take().unwrap());
    std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let running = Running { huddle, lines, _vm: vm, dir };
    running.says("round 1:");
    Some(running)
}

fn command(dir: &Path, config: &str) -> Command {
    let file = dir.join("config.toml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
    command.arg("--config").arg(file).envs(own_state(dir)).env_remove("HUDDLE_LOG");
    command
}

fn refused(config: &str) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let output = command(dir.path(), config).args(["run", "--vm", "a=1"]).output().unwrap();
    assert!(!dir.path().join("state").exists(), "it began nevertheless");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

impl Running {
    /// The next line with these words.
    fn says(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut said = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(words) {
                return line;
            }
            said.push(line);
        }
        panic!("it did not say {words:?} but {said:#?}");
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.huddle.0.id().cast_signed()), signal).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Ends it by a signal; the directory that is left.
    fn end(mut self) -> tempfile::TempDir {
        self.send(Signal::SIGTERM);
        assert!(self.huddle.0.wait().unwrap().success());
        self.dir
    }
}

/// A port that nobody listens at.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn ask(mut stream: impl Read + Write, accept: &str) -> String {
    stream
        .write_all(format!("GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: {accept}\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(line.parse().unwrap())
}

/// Waits for a text that is as it has to be.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn metrics_are_at_an_address_and_in_a_file() {
    let port = free_port();
    let config = |dir: &Path| {
        format!(
            "[metrics]\nlisten = \"127.0.0.1:{port}\"\ntextfile = \"{}/huddle.prom\"\ntextfile_interval_s = 1\n",
            dir.display()
        )
    };
    let Some(running) = start(config, |_| Vec::new()) else { return };
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let cpu = "huddle_vm_cpu_seconds_total{vm=\"we\\\"b\"}";
    let text = until("the CPU time of a VM", || {
        let text = ask(connect(), "application/openmetrics-text;version=1.0.0");
        value(&text, cpu).map(|_| text)
    });
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(value(&text, "huddle_vms"), Some(1.0));
    assert_eq!(value(&text, "huddle_recording"), None, "nothing is recorded");
    assert!(value(&text, "huddle_process_resident_memory_bytes").unwrap() > 1e6);
    assert!(value(&text, "huddle_host_available_memory_bytes").unwrap() > 1e6);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - value(&text, "huddle_last_window_timestamp_seconds").unwrap()).abs() < 60.0);

    let file = running.path("huddle.prom");
    let text =
        until("the file", || std::fs::read_to_string(&file).ok().filter(|text| value(text, cpu).is_some()));
    assert!(text.contains("# TYPE huddle_vm_cpu_seconds_total counter\n") && !text.contains("# EOF"));
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let dir = running.end();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!dir.path().join("huddle.prom").exists(), "what stays would be taken for metrics of now");
}

#[test]
fn clients_that_neither_send_nor_read_hold_up_nobody() {
    let config = |dir: &Path| format!("[metrics]\nlisten = \"unix:{}/metrics\"\n", dir.display());
    let Some(running) = start(config, |dir| vec!["--record".into(), dir.join("run").display().to_string()])
    else {
        return;
    };
    let socket = running.path("metrics");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let connect = || UnixStream::connect(&socket).unwrap();
    let text = until("a recorded step", || {
        let text = ask(connect(), "");
        value(&text, "huddle_recorder_steps_total").filter(|steps| *steps > 0.0).map(|_| text)
    });
    assert_eq!(value(&text, "huddle_recording"), Some(1.0));
    assert_eq!(value(&text, "huddle_recorder_lost_steps_total"), Some(0.0));
    let windows = value(&text, "huddle_windows_total").unwrap();
    let stuck: Vec<UnixStream> = (0..40)
        .map(|number| {
            let mut stream = connect();
            // Some ask and read nothing, some do not even ask.
            if number % 2 == 0 {
                stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            } else {
                stream.write_all(b"GET /met").unwrap();
            }
            stream
        })
        .collect();
    std::thread::sleep(Duration::from_secs(2));
    let later = value(&ask(connect(), ""), "huddle_windows_total").unwrap();
    // One each 0.1 s; most of them have to be there on a busy machine, too.
    assert!(later >= windows + 10.0, "{windows} windows, and {later} two seconds later");
    drop(stuck);
    running.end();
}

#[test]
fn what_cannot_be_served_is_said_and_nothing_is_begun() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (output, said) = refused(&format!("[metrics]\nlisten = \"{address}\"\n"));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("another program listens at {address}")), "{said}");
    let (output, said) = refused("[metrics]\nlisten = \"0.0.0.0:1\"\n");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("allow_remote"), "{said}");
    let (output, said) = refused("[record]\nkeep = \"5m\"\n");
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("keep_dir"), "{said}");
}

/// The recordings of last minutes in a directory.
fn saved(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("huddle-last-"))
        .collect();
    found.sort();
    found
}

#[test]
fn the_last_minutes_are_a_recording_on_a_signal_and_on_command() {
    let config = |dir: &Path| format!("[record]\nkeep = \"2s\"\nkeep_dir = \"{}/kept\"\n", dir.display());
    let Some(running) = start(config, |_| Vec::new()) else { return };
    // Longer than what is kept.
    std::thread::sleep(Duration::from_secs(4));
    running.send(Signal::SIGUSR1);
    let said = running.says("SIGUSR1: the last ");
    let first = saved(&running.path("kept"));
    assert_eq!(first.len(), 1);
    assert!(said.contains(first[0].to_str().unwrap()), "{said}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&first[0]), mode(&first[0].join("manifest.json"))), (0o700, 0o600));

    let mut recording = Recording::open(&first[0]).unwrap();
    assert_eq!(recording.warnings(), [""; 0]);
    assert!(recording.manifest().end_us.is_some());
    let windows = recording.len();
    // A window each 0.1 s for 2 s, and the rounds; a busy machine may have fewer.
    assert!((5..40).contains(&windows), "{windows}");
    let last = recording.view(windows - 1).unwrap();
    assert_eq!(last.round.vms[0].name, "we\"b");
    let window = last.observation.value().unwrap();
    assert!(window.window as usize > windows, "those before are not in it");

    // Twice in one second.
    running.send(Signal::SIGUSR1);
    running.says("SIGUSR1: the last ");
    let mut viewer = BufReader::new(UnixStream::connect(running.path("state/attach.sock")).unwrap());
    let hello = format!("{{\"hello\":{{\"protocol\":\"{PROTOCOL}\",\"version\":\"test\"}}}}\n");
    viewer.get_mut().write_all(hello.as_bytes()).unwrap();
    viewer.get_mut().write_all(b"\"save_last\"\n").unwrap();
    let mut lines = viewer.lines().map(Result::unwrap);
    let answer = lines.find(|line| line.starts_with("{\"answer\"")).unwrap();
    assert!(answer.contains("the last ") && answer.contains("huddle-last-"), "{answer}");
    assert_eq!(saved(&running.path("kept")).len(), 3);

    // What other programs of huddle make of it.
    let analysis = Path::new(env!("CARGO_BIN_EXE_huddle")).with_file_name("huddle-analysis");
    if analysis.exists() {
        let summary = Command::new(analysis).arg("summary").arg(&first[0]).output().unwrap();
        let text = String::from_utf8_lossy(&summary.stdout);
        assert!(summary.status.success() && text.contains("we\"b"), "{text}");
    } else {
        say("skipped in part: huddle-analysis is not built (cargo build --workspace --bins)");
    }
    let dir = running.end();
    assert_eq!(saved(&dir.path().join("kept")).len(), 3, "they stay");
}

#[test]
fn the_last_minutes_are_beside_a_recording_that_runs() {
    let more = |dir: &Path| vec!["--record".into(), dir.join("runs/one").display().to_string()];
    let Some(running) = start(|_| "[record]\nkeep = \"10m\"\n".into(), more) else { return };
    std::thread::sleep(Duration::from_secs(1));
    running.send(Signal::SIGUSR1);
    running.says("SIGUSR1: the last ");
    let dir = running.end();
    let kept = saved(&dir.path().join("runs"));
    assert_eq!(kept.len(), 1);
    let (mut kept, mut whole) =
        (Recording::open(&kept[0]).unwrap(), Recording::open(&dir.path().join("runs/one")).unwrap());
    assert!(kept.len() > 1 && kept.len() < whole.len(), "{} of {}", kept.len(), whole.len());
    // All of it is kept, so both begin alike.
    for at in 0..kept.len() - 1 {
        assert_eq!(kept.view(at).unwrap(), whole.view(at).unwrap(), "step {at}");
    }
}

#[test]
fn without_kept_minutes_the_signal_ends_nothing() {
    let Some(running) = start(|_| String::new(), |_| Vec::new()) else { return };
    running.send(Signal::SIGUSR1);
    running.says("SIGUSR1: the last minutes are not kept; set [record] keep");
    running.end();
}
