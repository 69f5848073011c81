//! How the real `huddle` ends and recovers: signals, full and read-only disks, damaged journals, files that others put
//! in the place of its own, and a second huddle.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::output::say;
use huddle_testing::own_state;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Time after a signal within which everything has to be undone and the program ended.
const LIMIT: Duration = Duration::from_secs(1);

/// Two processes as VMs, and a place for the state.
struct Scene {
    dir: tempfile::TempDir,
    processes: [Child; 2],
    level: String,
    all: Vec<usize>,
}

impl Scene {
    /// Prints a message and returns `None` if the test cannot run.
    fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
            say("skipped: needs root (CAP_SYS_ADMIN for frame numbers)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let csv = dir.path().join("two.csv");
        std::fs::write(&csv, "vm,a,b\na,-,0\nb,0,-\n").unwrap();
        let has_two = |level: &&str| {
            let args = ["plan", "--cache-level", level, "--format", "json", "--matrix"];
            let plan = Command::new(env!("CARGO_BIN_EXE_huddle")).args(args).arg(&csv).output().unwrap();
            let plan: Value = serde_json::from_slice(&plan.stdout).unwrap_or_default();
            plan["domains"].as_array().is_some_and(|domains| domains.len() > 1)
        };
        let Some(level) = ["3", "2", "1"].iter().find(|level| has_two(level)) else {
            say("skipped: this host has one cache domain at every level");
            return None;
        };
        let processes = [(); 2].map(|()| Command::new("sleep").arg("600").spawn().unwrap());
        let all = cpus(processes[0].id());
        Some(Self { dir, processes, level: (*level).to_owned(), all })
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command.args(args).envs(own_state(self.dir.path())).env_remove("HUDDLE_LOG");
        command
    }

    /// The same on the two processes.
    fn on_both(&self, args: &[&str]) -> Command {
        let mut command = self.command(args);
        // They share nothing, so a policy that goes by sharing would leave them where they are.
        command.args(["--policy", "spread", "--cache-level", &self.level]);
        for (name, process) in ["a", "b"].iter().zip(&self.processes) {
            command.args(["--vm", &format!("{name}={}", process.id())]);
        }
        command
    }

    fn pin(&self) {
        let pinned = self.on_both(&["pin"]).output().unwrap();
        assert!(pinned.status.success(), "{}", printed(&pinned));
        assert!(self.are_pinned());
    }

    fn restore(&self) -> Output {
        self.command(&["restore"]).output().unwrap()
    }

    /// A loop that has pinned both.
    fn start(&self) -> Child {
        let mut child = self.on_both(&["run"]).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(lines.any(|line| line.contains("round 1:")), "it ended");
        std::thread::spawn(move || lines.for_each(drop));
        assert!(self.are_pinned());
        child
    }

    fn now(&self) -> [Vec<usize>; 2] {
        self.processes.each_ref().map(|process| cpus(process.id()))
    }

    fn are_pinned(&self) -> bool {
        self.now().iter().all(|now| now.len() < self.all.len())
    }

    fn are_as_before(&self) -> bool {
        self.now() == [self.all.clone(), self.all.clone()]
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

fn cpus(pid: u32) -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(pid.cast_signed())).unwrap();
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// Everything that a program printed.
fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

fn send(child: &Child, signal: i32) {
    // SAFETY: kill(2) touches no memory of this process. nix knows no real-time signals.
    let sent = unsafe { nix::libc::kill(child.id().cast_signed(), signal) };
    assert_eq!(sent, 0);
}

/// Waits for a successful end; returns how long it took.
fn ends(child: &mut Child, what: &str) -> Duration {
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if begun.elapsed() > LIMIT * 20 {
            let _ = child.kill();
            panic!("{what}: it does not end");
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = begun.elapsed();
    assert!(status.success(), "{what}: {status}");
    took
}

/// Repeats it if it took too long: other programs may have used the CPUs.
fn within_limit(what: &str, mut ending: impl FnMut() -> Duration) {
    let mut took = Vec::new();
    while took.last().is_none_or(|took| *took >= LIMIT) {
        assert!(took.len() < 4, "{what}: it took {took:?}");
        took.push(ending());
    }
}

/// A small tmpfs, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64k,mode=700", "huddle-test"])
            .arg(at)
            .status()
            .unwrap();
        assert!(mounted.success());
        Self(at.to_owned())
    }

    fn remount(&self, how: &str) {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status();
        assert!(done.unwrap().success());
    }

    /// Fills all free space.
    fn fill(&self) {
        let mut filler =
            std::fs::OpenOptions::new().create(true).append(true).open(self.0.join("filler")).unwrap();
        while filler.write_all(&[1; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("filler")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn every_signal_that_can_be_caught_undoes_within_a_second() {
    let Some(scene) = Scene::new() else { return };
    let named = [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGABRT,
        Signal::SIGTRAP,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGSTKFLT,
        Signal::SIGXCPU,
        Signal::SIGXFSZ,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
        Signal::SIGPWR,
        Signal::SIGSYS,
    ];
    let real_time = [nix::libc::SIGRTMIN(), nix::libc::SIGRTMAX()];
    for signal in named.into_iter().map(|signal| signal as i32).chain(real_time) {
        within_limit(&format!("signal {signal}"), || {
            let mut child = scene.start();
            send(&child, signal);
            let took = ends(&mut child, &format!("signal {signal}"));
            assert!(scene.are_as_before(), "signal {signal}: {:?}", scene.now());
            assert!(!scene.state().join("journal").exists() && !scene.state().join("attach.sock").exists());
            took
        });
    }
}

#[test]
fn signals_during_the_undo_do_not_cut_it_off() {
    let Some(scene) = Scene::new() else { return };
    for between_us in [0, 300, 1_000, 3_000, 10_000] {
        let mut child = scene.start();
        for signal in [Signal::SIGINT, Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT, Signal::SIGINT] {
            // It may have ended by now.
            let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
            std::thread::sleep(Duration::from_micros(between_us));
        }
        ends(&mut child, "many signals");
        assert!(scene.are_as_before(), "{between_us} us: {:?}", scene.now());
    }
}

/// Even if a round reads for minutes.
#[test]
fn a_signal_ends_a_loop_whatever_its_round_is_doing() {
    let Some(scene) = Scene::new() else { return };
    let config = scene.dir.path().join("slow.toml");
    std::fs::write(&config, "[sharing]\nmethod = \"content\"\ncpu_share = 0.001\n").unwrap();
    // Much to read, in this very process.
    let memory: Vec<u64> = (0..8 << 20).collect();
    let vm = format!("big={}", std::process::id());
    let socket = scene.state().join("attach.sock");
    // SIGHUP reloads a configuration file, where there is no terminal.
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        within_limit(signal.as_str(), || {
            let mut command = scene.command(&["run", "--vm", &vm, "--config"]);
            let mut child = command.arg(&config).stderr(Stdio::piped()).spawn().unwrap();
            let until = Instant::now() + Duration::from_secs(20);
            while UnixStream::connect(&socket).is_err() {
                assert!(Instant::now() < until, "it does not begin");
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(1500));
            kill(Pid::from_raw(child.id().cast_signed()), signal).unwrap();
            let took = ends(&mut child, signal.as_str());
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            assert!(text.contains("is abandoned") && text.contains("0 rounds; 0 changes undone"), "{text}");
            assert!(!socket.exists());
            took
        });
    }
    assert_eq!(memory[7], 7);
}

#[test]
fn a_journal_on_a_full_or_a_read_only_disk_is_undone() {
    let Some(scene) = Scene::new() else { return };
    let disk = Disk::mount(&scene.state());
    scene.pin();
    disk.fill();
    let restored = scene.restore();
    assert!(restored.status.success(), "{}", printed(&restored));
    assert!(printed(&restored).contains("2 changes undone"), "{}", printed(&restored));
    assert!(scene.are_as_before());

    disk.make_room();
    scene.pin();
    disk.remount("ro");
    let refused = scene.on_both(&["pin"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(printed(&refused).contains("cannot write to the state directory"), "{}", printed(&refused));
    for changes in ["2 changes undone", "already"] {
        let restored = scene.restore();
        assert!(restored.status.success(), "{}", printed(&restored));
        for words in [changes, "could not be emptied", "harmless"] {
            assert!(printed(&restored).contains(words), "{words}: {}", printed(&restored));
        }
        assert!(!printed(&restored).contains("journal-sharing"), "there is none: {}", printed(&restored));
        assert!(scene.are_as_before());
    }
    disk.remount("rw");
    let restored = scene.restore();
    assert!(restored.status.success() && !scene.state().join("journal").exists(), "{}", printed(&restored));
}

#[test]
fn a_loop_pins_again_when_its_disk_has_space_again_and_reports_failures() {
    let Some(scene) = Scene::new() else { return };
    let disk = Disk::mount(&scene.state());
    let mut child = scene.start();
    let mut viewer = Viewer::attach(&scene.state().join("attach.sock"));
    let answer = viewer.command("restore");
    assert!(answer["ok"].as_str().is_some_and(|done| done.contains("2 changes")), "{answer}");
    assert!(scene.are_as_before());

    disk.fill();
    for _ in 0..2 {
        let answer = viewer.command("apply");
        let why = answer["error"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert!(why.contains("pinning failed") && why.contains("No space left"), "{why}");
        assert!(scene.are_as_before(), "nothing is changed that is not in the journal");
    }
    disk.make_room();
    let answer = viewer.command("apply");
    assert!(answer["ok"].is_string(), "{answer}");
    assert!(scene.are_pinned());

    // The disk is full at the end, too.
    disk.fill();
    send(&child, Signal::SIGTERM as i32);
    ends(&mut child, "SIGTERM with a full disk");
    assert!(scene.are_as_before());
}

/// A viewer of a loop.
struct Viewer {
    read: BufReader<UnixStream>,
    write: UnixStream,
}

impl Viewer {
    fn attach(socket: &Path) -> Self {
        let mut write = UnixStream::connect(socket).unwrap();
        write.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        writeln!(write, "{}", json!({"hello": {"protocol": "huddle/attach/4", "version": "of a test"}}))
            .unwrap();
        Self { read: BufReader::new(write.try_clone().unwrap()), write }
    }

    fn command(&mut self, command: &str) -> Value {
        writeln!(self.write, "{}", json!(command)).unwrap();
        loop {
            let mut line = String::new();
            assert!(self.read.read_line(&mut line).unwrap() > 0, "the loop has ended");
            let answer = serde_json::from_str::<Value>(&line).unwrap()["answer"].take();
            if !answer.is_null() {
                return answer;
            }
        }
    }
}

#[test]
fn one_host_has_one_huddle_whatever_its_state_directory() {
    let Some(scene) = Scene::new() else { return };
    let mut child = scene.start();
    let other = scene.dir.path().join("other");
    let other = other.to_str().unwrap();
    for command in [&["pin"][..], &["run"], &["restore"]] {
        let refused = scene.on_both(&[command, &["--state-dir", other]].concat()).output().unwrap();
        let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0), "{command:?}: {stderr}");
        let holder = format!("another huddle (pid {}, state directory {:?})", child.id(), scene.state());
        assert!(stderr.contains(&holder) && stderr.trim_end().lines().count() == 1, "{stderr}");
    }
    assert!(scene.are_pinned());
    // What changes nothing needs no lock.
    for command in [&["vms"][..], &["matrix"], &["plan"], &["pin", "--dry-run"]] {
        let answer = scene.on_both(command).output().unwrap();
        assert!(answer.status.success(), "{command:?}: {}", printed(&answer));
    }
    send(&child, Signal::SIGTERM as i32);
    ends(&mut child, "SIGTERM");
    assert!(scene.are_as_before());
}

/// Without the variable that tests have: in namespaces, so that what else runs on this machine is not kept out.
#[test]
fn the_lock_is_the_hosts_by_default_and_is_seen_from_a_container_with_a_run_of_its_own() {
    let Some(scene) = Scene::new() else { return };
    let huddle = env!("CARGO_BIN_EXE_huddle");
    let (a, b) = (scene.processes[0].id(), scene.processes[1].id());
    let vms = format!("--cache-level {} --vm a={a} --vm b={b}", scene.level);
    let script = format!(
        "mount -t tmpfs none /run && cd {dir} || exit 70\n\
         {huddle} run --state-dir {dir}/one {vms} 2> log & loop=$!\n\
         for try in $(seq 500); do grep -q 'round 1:' log && break; sleep 0.02; done\n\
         {huddle} pin --state-dir {dir}/two {vms} 2> second; echo $? > second.code\n\
         unshare -m sh -c 'mount -t tmpfs none /run; {huddle} pin --state-dir {dir}/two {vms}' 2> third\n\
         echo $? > third.code\n\
         kill -TERM $loop; wait $loop; echo $? $loop > loop.code\n",
        dir = scene.dir.path().display()
    );
    let ran = Command::new("unshare")
        .args(["-m", "-n", "sh", "-c", &script])
        .env_remove("HUDDLE_HOST_LOCK")
        .env_remove("HUDDLE_STATE_DIR")
        .output()
        .unwrap();
    let read = |name: &str| {
        let text = std::fs::read_to_string(scene.dir.path().join(name));
        text.unwrap_or_else(|error| panic!("{name}: {error}: {}", printed(&ran))).trim().to_owned()
    };
    let ended = read("loop.code");
    let (code, pid) = ended.split_once(' ').unwrap();
    assert_eq!(code, "0", "{}", read("log"));
    let holder =
        format!("another huddle (pid {pid}, state directory \"{}/one\")", scene.dir.path().display());
    for name in ["second", "third"] {
        assert_eq!(read(&format!("{name}.code")), "1", "{name}: {}", read(name));
        assert!(read(name).contains(&holder), "{name}: {}", read(name));
    }
    assert!(scene.are_as_before());
}

#[test]
fn a_damaged_journal_is_named_and_the_rest_of_it_undone() {
    let Some(scene) = Scene::new() else { return };
    let journal = scene.state().join("journal");
    for (line, at) in [(1, 0), (1, 8), (1, 30), (1, 90), (2, 4), (2, 40), (2, 100)] {
        scene.pin();
        let mut bytes = std::fs::read(&journal).unwrap();
        let ends: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] == b'\n').collect();
        bytes[ends[line - 1] + 1 + at] ^= 4;
        std::fs::write(&journal, bytes).unwrap();

        let refused = scene.on_both(&["pin"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(printed(&refused).contains("is damaged"), "{}", printed(&refused));
        let restored = scene.restore();
        assert_eq!(restored.status.code(), Some(1), "{}", printed(&restored));
        let named = format!("line {} cannot be read and is not undone", line + 1);
        assert!(printed(&restored).contains(&named), "{named}: {}", printed(&restored));
        assert!(printed(&restored).contains("kept as"), "{}", printed(&restored));
        let who =
            [format!("thread {}", scene.processes[line - 1].id()), format!("VM {:?}", ["a", "b"][line - 1])];
        assert!(who.iter().any(|who| printed(&restored).contains(who)), "{who:?}: {}", printed(&restored));
        assert_eq!(cpus(scene.processes[2 - line].id()), scene.all, "the other one is undone");
        assert!(cpus(scene.processes[line - 1].id()).len() < scene.all.len(), "and this one is left alone");
        // What cannot be undone by the journal is undone by hand.
        let mut all = CpuSet::new();
        scene.all.iter().for_each(|cpu| all.set(*cpu).unwrap());
        let pid = Pid::from_raw(scene.processes[line - 1].id().cast_signed());
        sched_setaffinity(pid, &all).unwrap();
    }
}

#[test]
fn restore_removes_sockets_and_refuses_what_is_not_its_own() {
    let Some(scene) = Scene::new() else { return };
    let mut child = scene.start();
    child.kill().unwrap();
    child.wait().unwrap();
    let state = scene.state();
    std::os::unix::net::UnixDatagram::bind(state.join("reports")).unwrap();
    assert!(state.join("attach.sock").exists());
    let restored = scene.restore();
    assert!(restored.status.success() && scene.are_as_before(), "{}", printed(&restored));
    assert!(!state.join("attach.sock").exists() && !state.join("reports").exists());
    assert!(
        printed(&restored).contains("attach.sock of a loop that ended was removed"),
        "{}",
        printed(&restored)
    );

    let refusal = |words: &str| {
        for command in ["restore", "pin"] {
            let mut child =
                scene.on_both(&[command]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            let until = Instant::now() + Duration::from_secs(20);
            while child.try_wait().unwrap().is_none() {
                if Instant::now() > until {
                    let _ = child.kill();
                    panic!("{command}: it waits for what never comes: {words}");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{command}: {stderr}");
            assert!(stderr.contains(words) && stderr.trim_end().lines().count() == 1, "{words}: {stderr}");
            assert!(scene.are_as_before());
        }
    };
    for name in ["journal", "lock"] {
        let path = state.join(name);
        let _ = std::fs::remove_file(&path);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        refusal(&format!("{name} is a named pipe"));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &path).unwrap();
        refusal(&format!("{name} is a symbolic link"));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
        refusal(&format!("{name} belongs to user 65534"));
        std::fs::remove_file(&path).unwrap();
        nix::sys::stat::mknod(
            &path,
            nix::sys::stat::SFlag::S_IFCHR,
            nix::sys::stat::Mode::S_IRWXU,
            nix::sys::stat::makedev(1, 3),
        )
        .unwrap();
        refusal(&format!("{name} is a device"));
        std::fs::remove_file(&path).unwrap();
    }
    let real = scene.dir.path().join("real");
    std::fs::rename(&state, &real).unwrap();
    std::os::unix::fs::symlink(&real, &state).unwrap();
    refusal("is not a directory but a symbolic link");
    std::fs::remove_file(&state).unwrap();
    nix::unistd::mkfifo(&state, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refusal("is not a directory but a named pipe");
    std::fs::remove_file(&state).unwrap();
    std::fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(65_534), None).unwrap();
    refusal("belongs to user 65534, not to user 0");
}
