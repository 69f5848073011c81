//! The stand-in VM as the runner uses it: the real program, controlled over its pipes.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use huddle_experiments::guest::child::ChildGuest;
use huddle_experiments::guest::process::ProcessGuestSpec;
use huddle_experiments::guest::{ColdData, Guest, GuestData, GuestError, Pace, Reader, TimeLimits};
use huddle_experiments::interrupt::Interrupt;
use huddle_guest::chase;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const DATA: GuestData = GuestData { seed: 5, own_seed: 7, kib: 256, cold: None };
const PRIVATE_KIB: u64 = 64;
const PACE: Pace = Pace { burst_reads: 1000, idle_us: 0 };

fn spec() -> ProcessGuestSpec<'static> {
    ProcessGuestSpec {
        name: "v1",
        program: Path::new(env!("CARGO_BIN_EXE_huddle-standin")),
        vcpus: 1,
        private_kib: PRIVATE_KIB,
        private_seed: 6,
        limits: TimeLimits { ready: Duration::from_secs(60), answer: Duration::from_secs(20) },
        interrupt: Interrupt::default(),
    }
}

fn ready(spec: &ProcessGuestSpec<'_>) -> ChildGuest {
    let mut guest = spec.start().unwrap();
    guest.wait_ready().unwrap();
    guest.load(DATA).unwrap();
    guest
}

fn runs(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether it is gone or only waits to be collected by its parent.
fn has_ended(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < until, "{what} did not come true within 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_guest_reads_what_it_says_and_can_be_started_again() {
    let mut guest = ready(&ProcessGuestSpec { vcpus: 2, ..spec() });
    let mut data = vec![0; DATA.kib as usize * 128];
    chase::fill(&mut data, DATA.seed);
    for own in [false, true] {
        guest.start(PACE, own).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        let midway = guest.read().unwrap();
        let total = guest.stop_reading().unwrap();
        assert_eq!((midway.len(), total.len()), (2, 2), "one reading a vCPU");
        for (vcpu, (total, midway)) in total.iter().zip(&midway).enumerate() {
            assert!(total.reads > 0 && total.reads.is_multiple_of(PACE.burst_reads));
            assert!(total.since(midway).is_some(), "{midway:?} then {total:?}");
            assert!(total.busy_ns > 0 && total.elapsed_ns >= 50_000_000, "{total:?}");
            // CPU time is counted at the scheduler's clock, which may run a little ahead of the other.
            assert!(total.busy_ns as f64 <= total.elapsed_ns as f64 * 1.05, "{total:?}");
            // The position follows from the data and the number of reads: they were made, and on the
            // data that the seed gives. The guest's own copy is the same ring.
            let begin = data.len() / 2 * vcpu;
            assert_eq!(chase::walk(&data, begin, total.reads) as u64, total.position);
        }
    }
}

#[test]
fn its_worker_is_named_like_a_vcpu_and_its_memory_is_mergeable() {
    const COLD: ColdData = ColdData { seed: 8, kib: 32 };
    let mut guest = ready(&spec());
    guest.load(GuestData { cold: Some(COLD), ..DATA }).unwrap();
    let tasks = std::fs::read_dir(format!("/proc/{}/task", guest.pid())).unwrap();
    let names: Vec<String> = tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap().trim().to_owned())
        .collect();
    assert_eq!(names.iter().filter(|name| *name == "CPU 0/STANDIN").count(), 1, "{names:?}");

    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", guest.pid())).unwrap();
    let mut mergeable_kib = 0;
    let mut size_kib = 0;
    for line in smaps.lines() {
        if let Some(size) = line.strip_prefix("Size:") {
            size_kib = size.trim().trim_end_matches(" kB").trim().parse().unwrap();
        } else if line.starts_with("VmFlags:") && line.split(' ').any(|flag| flag == "mg") {
            mergeable_kib += size_kib;
        }
    }
    assert_eq!(mergeable_kib, (2 * DATA.kib + COLD.kib + PRIVATE_KIB) as usize);
}

#[test]
fn commands_that_make_no_sense_are_answered_with_an_error() {
    let mut guest = ready(&spec());
    let error = guest.stop().unwrap_err();
    assert!(
        matches!(&error, GuestError::Unexpected { answer, .. } if answer.contains("does not read")),
        "{error}"
    );
    guest.start(PACE, false).unwrap();
    assert!(guest.start(PACE, false).unwrap_err().to_string().contains("reads already"));
    guest.stop().unwrap();
}

#[test]
fn a_guest_ends_when_its_input_ends_even_while_it_reads() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_huddle-standin"))
        .args(["--private-kib", "4", "--private-seed", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, b"load 1 2 64 0 0\nstart 1000 0 0\n").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(child.try_wait().unwrap().is_none(), "it reads until it is stopped");
    drop(input);
    let pid = child.id() as i32;
    wait_until("the end of the guest", || has_ended(pid));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_guest_ends_with_its_parent() {
    // A shell starts the guest, prints its pid and is killed. The guest's input is a FIFO that this test
    // keeps open, so only the parent's death can end it.
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("input");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let held = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let script = format!(
        "{} --private-kib 4 --private-seed 2 <{} >/dev/null & echo $!; wait",
        env!("CARGO_BIN_EXE_huddle-standin"),
        fifo.display()
    );
    let mut shell = Command::new("sh").arg("-c").arg(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(shell.stdout.take().unwrap()), &mut line)
        .unwrap();
    let pid: i32 = line.trim().parse().unwrap();
    wait_until("the guest's worker", || {
        std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|tasks| tasks.count() == 2)
    });
    shell.kill().unwrap();
    shell.wait().unwrap();
    wait_until("the end of the guest", || has_ended(pid));
    drop(held);
}

#[test]
fn a_guest_that_hangs_is_named_and_ended() {
    let mut guest = ready(&ProcessGuestSpec {
        limits: TimeLimits { ready: Duration::from_secs(60), answer: Duration::from_millis(300) },
        ..spec()
    });
    let pid = guest.pid();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    let error = guest.start(PACE, false).unwrap_err();
    assert!(matches!(error, GuestError::TimedOut { .. }), "{error}");
    assert!(error.to_string().contains(&format!("v1 (pid {pid})")), "{error}");
    assert!(!runs(pid), "the hung guest is gone");
}

#[test]
fn a_guest_that_died_is_distinguished_from_one_that_hangs() {
    let mut guest = ready(&spec());
    let pid = guest.pid();
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let error = guest.start(PACE, false).unwrap_err();
    assert!(matches!(error, GuestError::Ended { .. }), "{error}");
    drop(guest);
    assert!(!runs(pid));
}

#[test]
fn dropping_a_guest_ends_it() {
    let mut guest = ready(&spec());
    guest.start(PACE, false).unwrap();
    let pid = guest.pid();
    drop(guest);
    assert!(!runs(pid));
}

#[test]
fn a_program_that_is_not_there_and_a_guest_that_refuses_are_errors() {
    let missing = ProcessGuestSpec { program: Path::new("/nonexistent/huddle-standin"), ..spec() };
    let error = missing.start().unwrap_err().to_string();
    assert!(error.contains("/nonexistent/huddle-standin") && error.contains("cargo xtask"), "{error}");

    let mut guest = ready(&spec());
    let error = guest.load(GuestData { kib: 1, ..DATA }).unwrap_err();
    assert!(error.to_string().contains("whole number of pages"), "{error}");
    let cold = Some(ColdData { seed: 1, kib: 1 });
    let error = guest.load(GuestData { cold, ..DATA }).unwrap_err();
    assert!(error.to_string().contains("whole number of pages"), "{error}");
    guest.load(DATA).unwrap();
    let error = guest.start(Pace { burst_reads: 0, idle_us: 0 }, false).unwrap_err();
    assert!(matches!(error, GuestError::Unexpected { .. }), "{error}");
}
