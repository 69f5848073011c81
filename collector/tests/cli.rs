//! The real `huddle` on real processes: what it answers, what it refuses, and what it leaves behind.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use huddle_testing::output::say;
use huddle_testing::recording::columns;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A `huddle` with a state directory of its own.
struct Huddle {
    dir: tempfile::TempDir,
}

impl Huddle {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_huddle"));
        command.args(args).env("HUDDLE_STATE_DIR", self.state_dir()).env_remove("HUDDLE_LOG");
        // Tests run side by side, each on processes of its own.
        command.env("HUDDLE_HOST_LOCK", self.dir.path().join("host"));
        command
    }

    fn output(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.output(&[args, &["--format", "json"]].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs it, expects this exit code, nothing on stdout and one line on stderr, and gives that line.
    fn refusal(&self, code: i32, args: &[&str]) -> String {
        let output = self.output(args);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert_eq!(output.stdout, b"", "{args:?}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{args:?}: {stderr}");
        stderr
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// A process to treat as a VM; ended with the test.
struct Process(Child);

impl Process {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    fn cpus(&self) -> Vec<usize> {
        cpus(&sched_getaffinity(self.pid()).unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cpus(set: &CpuSet) -> Vec<usize> {
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Prints why a test is skipped; in CI none may be.
fn skipped_without_root() -> bool {
    if is_root() {
        return false;
    }
    assert!(std::env::var_os("CI").is_none(), "CI must run this as root");
    say("skipped: needs root (CAP_SYS_ADMIN for frame numbers)");
    true
}

const TABLE_1: &str = "vm,VM1,VM2,VM3,VM4\nVM1,-,71.17,0.07,0.05\nVM2,71.43,-,0.06,0.05\n\
    VM3,0.06,0.05,-,52.18\nVM4,0.04,0.05,52.38,-\n";
const TWO_SOCKETS: &str = r#"{"domains":[{"id":0,"cpus":[0,1,2,3,4,5,6,7],"size_bytes":20971520,"node":0},
    {"id":1,"cpus":[8,9,10,11,12,13,14,15],"size_bytes":20971520,"node":1}]}"#;

#[test]
fn the_version_names_the_revision() {
    let output = Huddle::new().output(&["--version"]);
    let stdout = String::from_utf8(output.stdout).unwrap();
    let revision = option_env!("HUDDLE_GIT_REVISION").unwrap_or("source archive");
    assert_eq!(stdout, format!("huddle {} ({revision})\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn the_papers_example_is_planned_offline() {
    let huddle = Huddle::new();
    let (matrix, topology) = (huddle.file("m.csv", TABLE_1), huddle.file("t.json", TWO_SOCKETS));
    let plan = huddle.json(&["plan", "--matrix", &matrix, "--topology", &topology]);
    assert_eq!(plan["schema"], "huddle/plan/1");
    let domains: Vec<_> = plan["placement"].as_array().unwrap().iter().map(|vcpu| &vcpu["domain"]).collect();
    assert_eq!(domains, [0, 0, 1, 1]);
    assert!(!huddle.state_dir().exists(), "planning touches no state");

    let table = huddle.output(&["plan", "--matrix", &matrix, "--topology", &topology, "--policy", "opposed"]);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("policy opposed") && text.contains("20 MiB"), "{text}");
}

/// Two pairs that share all of their memory, on caches of which sizes and ways are known.
#[test]
fn misses_are_estimated_offline_where_working_sets_are_known() {
    let huddle = Huddle::new();
    let vm = |name: &str| {
        serde_json::json!({"name": name, "vcpus": 1, "pages_resident": 9000, "pages_used": 9000,
        "frames_used": 9000, "pages_zero": 0, "self_shared_pages": 0})
    };
    let vms = ["a", "b", "c", "d"].map(vm);
    let matrix = serde_json::json!({"schema": "huddle/matrix/1", "method": "merged", "duration_ms": 1.0,
        "vms": vms,
        "shared_frames": [[0, 9000, 0, 0], [9000, 0, 0, 0], [0, 0, 0, 9000], [0, 0, 9000, 0]],
        "rate": [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0]]});
    let topology = r#"{"domains":[{"id":0,"cpus":[0,1],"size_bytes":20971520},{"id":1,"cpus":[2,3],"size_bytes":20971520}],
        "sets":[{"domain":0,"ways":20,"line_bytes":64},{"domain":1,"ways":20,"line_bytes":64}]}"#;
    let files = (huddle.file("m.json", &matrix.to_string()), huddle.file("t.json", topology));
    let config = "[plan]\nworking_set_kib = { a = 15360, b = 15360, c = 15360, d = 15360 }\n";
    let config = huddle.file("c.toml", config);
    let args = ["plan", "--matrix", &files.0, "--topology", &files.1];
    let misses = |policy: &str| {
        let plan = huddle.json(&[&args[..], &["--config", &config, "--policy", policy]].concat());
        plan["expected"]["misses"].clone()
    };
    let (sharing, opposed) = (misses("sharing"), misses("opposed"));
    let of = |misses: &Value| misses["misses_per_million_reads"].as_u64().unwrap();
    assert!(of(&sharing) < 30_000 && of(&opposed) > 300_000, "{sharing} {opposed}");
    assert_eq!(sharing["basis"]["caches"][0]["ways_assumed"], false);
    assert_eq!(
        (&sharing["now_misses_per_million_reads"], &sharing["domains"][1]["vms"][1]["vm"]),
        (&Value::Null, &"d".into())
    );
    let table = huddle.output(&[&args[..], &["--config", &config]].concat());
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(text.contains("- estimated: ") && text.contains("as configured, used evenly"), "{text}");
    let plan = huddle.json(&args);
    assert_eq!(plan["expected"]["misses"], Value::Null);
    let text = String::from_utf8(huddle.output(&args).stdout).unwrap();
    assert!(text.contains("no estimate of misses: the working set of a is unknown; set it in"), "{text}");
}

#[test]
fn files_that_cannot_be_used_are_refused_in_one_line() {
    let huddle = Huddle::new();
    let good = (huddle.file("m.csv", TABLE_1), huddle.file("t.json", TWO_SOCKETS));
    for (text, word) in [
        ("vm,a,b\na,-,1\n", "not square"),
        ("vm,a,b\na,-,NaN\nb,1,-\n", "NaN"),
        ("vm,a,b\na,-,-1\nb,1,-\n", "-1"),
        ("vm,a,b\na,-,101\nb,1,-\n", "101"),
        ("vm,a,a\na,-,1\na,1,-\n", "two VMs"),
        ("{\"schema\":\"x\"}", "not a matrix"),
    ] {
        let file = huddle.file("bad.csv", text);
        let line = huddle.refusal(2, &["plan", "--matrix", &file, "--topology", &good.1]);
        assert!(line.contains(word) && line.contains("bad.csv"), "{line}");
    }
    for (text, word) in [
        (r#"{"domains":[{"id":0,"cpus":[0,1]},{"id":1,"cpus":[1]}]}"#, "CPU 1"),
        (r#"{"domains":[{"id":0,"cpus":[]}]}"#, "no CPU"),
        ("[]", "not a topology"),
    ] {
        let file = huddle.file("bad.json", text);
        let line = huddle.refusal(2, &["plan", "--matrix", &good.0, "--topology", &file]);
        assert!(line.contains(word) && line.contains("bad.json"), "{line}");
    }
    let line = huddle.refusal(2, &["plan", "--matrix", "/nowhere/m.csv", "--topology", &good.1]);
    assert!(line.contains("/nowhere/m.csv"), "{line}");
    let line = huddle.refusal(2, &["vms", "--config", "/nowhere/c.toml"]);
    assert!(line.contains("/nowhere/c.toml"), "{line}");
}

#[test]
fn processes_that_are_no_vm_are_refused() {
    let huddle = Huddle::new();
    let line = huddle.refusal(1, &["vms", "--vm", "a=4194303"]);
    assert!(line.contains("no process 4194303 for VM a;"), "{line}");
    let line = huddle.refusal(1, &["vms", "--vm", "a=2"]);
    assert!(line.contains("kernel thread"), "{line}");
    let process = Process::start();
    let (first, second) = (format!("a={}", process.pid()), format!("b={}", process.pid()));
    let line = huddle.refusal(2, &["vms", "--vm", &first, "--vm", &second]);
    assert!(line.contains(&process.pid().to_string()), "{line}");
    let line = huddle.refusal(2, &["vms", "--vm", &first, "--vm", "a=1"]);
    assert!(line.contains("two VMs are called \"a\""), "{line}");
    // A thread is not counted as a VM beside its own process.
    let (pid, own) = (std::process::id(), nix::unistd::gettid());
    let line = huddle.refusal(2, &["vms", "--vm", &format!("a={pid}"), "--vm", &format!("b={own}")]);
    assert!(line.contains(&format!("{own}, named as VM b, is a thread of process {pid}")), "{line}");
    let config = huddle.file("large.toml", "[record]\ntotal_max_mib = 17592186044416\n");
    let line = huddle.refusal(2, &["vms", "--config", &config]);
    assert!(line.contains("total_max_mib is 17592186044416, expected at most"), "{line}");
    for usage in [
        &["vms", "--vm", "a"][..],
        &["plan", "--policy", "papre"],
        &["matrix", "--method", "x"],
        &["bogus"],
        &["matrix", "--sample", "0.5"],
        &["matrix", "--method", "content", "--sample", "1.5"],
        &["matrix", "--method", "content", "--memory-mib", "0"],
    ] {
        assert_eq!(huddle.output(usage).status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn a_limit_that_names_no_vm_or_several_is_refused() {
    let huddle = Huddle::new();
    let (matrix, topology) = (huddle.file("m.csv", TABLE_1), huddle.file("t.json", TWO_SOCKETS));
    for (plan, word) in [
        ("apart = [[\"VM1\", \"VM7\"]]", "apart names \"VM7\", and no VM here is called that"),
        ("apart = [[\"VM1\", \"any:VM1\"]]", "names VM1 twice"),
        ("working_set_kib = { VM8 = 5 }", "working_set_kib names \"VM8\""),
    ] {
        let config = huddle.file("c.toml", &format!("[plan]\n{plan}\n"));
        let args = ["plan", "--matrix", &matrix, "--topology", &topology, "--config", &config];
        let line = huddle.refusal(2, &args);
        assert!(line.contains(word), "{line}");
    }
    let config = huddle.file("c.toml", "[plan]\napart = [[\"VM1\", \"VM2\"]]\n");
    let plan = huddle.json(&["plan", "--matrix", &matrix, "--topology", &topology, "--config", &config]);
    let domains: Vec<_> = plan["placement"].as_array().unwrap().iter().map(|vcpu| &vcpu["domain"]).collect();
    assert_ne!(domains[0], domains[1]);

    // A VM that runs has to be there too, before anything is measured or changed.
    let process = Process::start();
    let config = huddle.file("c.toml", "[plan]\napart = [[\"web\", \"gone\"]]\n");
    let vm = format!("web={}", process.pid());
    if is_root() {
        let line = huddle.refusal(2, &["pin", "--vm", &vm, "--config", &config]);
        assert!(line.contains("gone"), "{line}");
    }
}

#[test]
fn the_number_of_a_thread_is_no_vm_beside_its_process() {
    let huddle = Huddle::new();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        sender.send(nix::unistd::gettid()).unwrap();
        let _ = stopped.recv();
    });
    let (pid, tid) = (std::process::id(), receiver.recv().unwrap());
    let line = huddle.refusal(2, &["vms", "--vm", &format!("a={pid}"), "--vm", &format!("b={tid}")]);
    assert!(line.contains(&format!("{tid}, named as VM b, is a thread of process {pid}")), "{line}");
    drop(stop);
    thread.join().unwrap();
}

#[test]
fn a_process_named_as_a_vm_is_shown() {
    let huddle = Huddle::new();
    let process = Process::start();
    let vms = huddle.json(&["vms", "--vm", &format!("web={}", process.pid())]);
    let vm = &vms["vms"][0];
    assert_eq!(
        (vm["name"].as_str(), vm["process"]["id"].as_i64()),
        (Some("web"), Some(process.0.id().into()))
    );
    assert_eq!(vm["vcpus"].as_array().unwrap().len(), 1);
    assert!(
        vm["cannot_merge"][0].as_str().is_some(),
        "sleep marks nothing mergeable, which is reported: {vm}"
    );

    let config = huddle.file("c.toml", &format!("[[vm]]\nname = \"db\"\npid = {}\n", process.pid()));
    let vms = huddle.json(&["vms", "--config", &config]);
    assert!(vms["vms"].as_array().unwrap().iter().any(|vm| vm["name"] == "db"), "{vms}");
}

#[test]
fn without_the_privilege_frames_are_not_computed_with() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    // The user nobody may read the files of its own process, but sees no frame numbers in them.
    let mut sleep = Command::new("sleep");
    let process = Process(sleep.arg("600").uid(65534).gid(65534).spawn().unwrap());
    // The binary may be below a directory that the user nobody may not enter.
    let copy =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let copy = copy.unwrap();
    let binary = copy.path().join("huddle");
    huddle_testing::copy_program(std::path::Path::new(env!("CARGO_BIN_EXE_huddle")), &binary);
    for command in ["matrix", "plan"] {
        let output = Command::new(&binary)
            .args([command, "--vm", &format!("a={}", process.pid())])
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{stderr}");
        assert!(stderr.contains("CAP_SYS_ADMIN"), "{stderr}");
        assert_eq!(output.stdout, b"");
    }
    drop(huddle);
}

/// Contents need no frame numbers, only permission to read the memory.
#[test]
fn contents_are_measured_with_permission_to_read_them() {
    if skipped_without_root() {
        return;
    }
    let copy =
        tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let copy = copy.unwrap();
    let binary = copy.path().join("huddle");
    huddle_testing::copy_program(std::path::Path::new(env!("CARGO_BIN_EXE_huddle")), &binary);
    let nobody = |program: &Path| {
        let mut command = Command::new(program);
        command.uid(65534).gid(65534);
        command
    };
    let theirs = [0; 2].map(|_| Process(nobody(Path::new("sleep")).arg("600").spawn().unwrap()));
    let roots = Process::start();
    let content = |processes: &[(&str, &Process)], by: &mut Command| {
        by.args(["matrix", "--method", "content", "--cpu-share", "1", "--format", "json"]);
        for (name, process) in processes {
            by.args(["--vm", &format!("{name}={}", process.pid())]);
        }
        by.output().unwrap()
    };
    let output = content(&[("root", &roots)], &mut nobody(&binary));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{stderr}");
    let last = stderr.trim_end().lines().next_back().unwrap();
    assert!(last.contains("CAP_SYS_PTRACE") && last.contains("\"root\""), "{stderr}");
    // Beside one that may be read it is left out.
    let output = content(&[("a", &theirs[0]), ("root", &roots)], &mut nobody(&binary));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.success() && stderr.contains("root is left out: its memory cannot be read"),
        "{stderr}"
    );
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<_> = found["vms"].as_array().unwrap().iter().map(|vm| vm["name"].as_str()).collect();
    assert_eq!(names, [Some("a")]);

    let pair = [("a", &theirs[0]), ("b", &theirs[1])];
    let by_root = content(&pair, &mut Command::new(&binary));
    let by_root: Value = serde_json::from_slice(&by_root.stdout).unwrap();
    assert_eq!((&by_root["method"], &by_root["coverage"]), (&"content".into(), &1.0.into()));
    assert!(by_root["shared_frames"][0][1].as_u64().unwrap() > 0, "two of one program: {by_root}");
    // With Yama only a parent may read.
    let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    if yama.is_ok_and(|scope| scope.trim() != "0") {
        say("skipped in part: kernel.yama.ptrace_scope keeps users from their own processes");
        return;
    }
    let by_nobody = content(&pair, &mut nobody(&binary));
    let stderr = String::from_utf8_lossy(&by_nobody.stderr).into_owned();
    assert!(by_nobody.status.success(), "{stderr}");
    let by_nobody: Value = serde_json::from_slice(&by_nobody.stdout).unwrap();
    assert_eq!(
        (&by_nobody["vms"], &by_nobody["shared_frames"]),
        (&by_root["vms"], &by_root["shared_frames"])
    );

    let args = ["--vm", &format!("a={}", theirs[0].pid()), "--vm", &format!("b={}", theirs[1].pid())];
    let sampled = ["matrix", "--method", "content", "--sample", "0.5", "--memory-mib", "1"];
    let table = Command::new(&binary).args([&sampled[..], &args].concat()).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("95 % interval") && table.contains("50.0 % of contents compared"), "{table}");
    let json =
        Command::new(&binary).args([&sampled[..], &args, &["--format", "json"]].concat()).output().unwrap();
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(json["rate_error"][0][1].as_f64().unwrap() > 0.0, "{json}");
    let rate = |field: &str| json[field][0][1].as_f64().unwrap();
    assert!(rate("rate_low") <= rate("rate") && rate("rate") <= rate("rate_high"), "{json}");
    assert_eq!(json["coverage"], 0.5, "{json}");
}

#[test]
fn a_state_directory_that_cannot_be_used_is_refused_and_nothing_is_pinned() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let process = Process::start();
    let before = process.cpus();
    let file = huddle.file("state-file", "");
    let line = huddle.refusal(1, &["pin", "--vm", &format!("a={}", process.pid()), "--state-dir", &file]);
    assert!(line.contains(&file), "{line}");
    assert_eq!(process.cpus(), before);
}

/// A cache level with more than one domain; prints a message and returns `None` if there is none.
fn level_with_two_domains(huddle: &Huddle) -> Option<String> {
    for level in ["3", "2", "1"] {
        let csv = huddle.file("two.csv", "vm,a,b\na,-,0\nb,0,-\n");
        let output = huddle.output(&["plan", "--matrix", &csv, "--cache-level", level, "--format", "json"]);
        let plan: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if plan["domains"].as_array().is_some_and(|domains| domains.len() > 1) {
            return Some(level.to_owned());
        }
    }
    say("skipped: this host has one cache domain at every level");
    None
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "waited 30 s until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_pin_does_restore_undoes() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let Some(level) = level_with_two_domains(&huddle) else { return };
    let processes = [Process::start(), Process::start()];
    let before: Vec<_> = processes.iter().map(Process::cpus).collect();
    let names: Vec<String> =
        processes.iter().zip(["a", "b"]).map(|(p, n)| format!("{n}={}", p.pid())).collect();
    // They share nothing, so a policy that goes by sharing would leave them where they are.
    let args = ["--vm", &names[0], "--vm", &names[1], "--cache-level", &level, "--policy", "spread"];

    let dry = huddle.json(&[&["pin", "--dry-run"], &args[..]].concat());
    assert_eq!(dry["changed"], Value::Null);
    assert!(!huddle.state_dir().exists(), "a dry run leaves no trace");

    let pinned = huddle.json(&[&["pin"], &args[..]].concat());
    assert_eq!(pinned["changed"], 2, "{pinned}");
    for (process, before) in processes.iter().zip(&before) {
        assert!(process.cpus().len() < before.len());
    }
    let again = huddle.json(&[&["pin"], &args[..]].concat());
    assert_eq!((&again["changed"], &again["unchanged"]), (&0.into(), &2.into()));

    let restored = huddle.json(&["restore"]);
    assert_eq!(restored["restored"], 2, "{restored}");
    assert_eq!(processes.iter().map(Process::cpus).collect::<Vec<_>>(), before);
    assert_eq!(huddle.json(&["restore"])["restored"], 0);
}

/// Starts the loop on two processes and waits until they are pinned.
fn start_loop(huddle: &Huddle, processes: &[Process; 2], level: &str, more: &[&str]) -> Child {
    let names = [format!("a={}", processes[0].pid()), format!("b={}", processes[1].pid())];
    let policy = ["--policy", "spread"];
    let args =
        [&["run", "--vm", &names[0], "--vm", &names[1], "--cache-level", level], &policy[..], more].concat();
    let child = huddle.command(&args).stderr(Stdio::piped()).spawn().unwrap();
    let all = processes[0].cpus().len();
    wait_until("both are pinned", || processes.iter().all(|process| process.cpus().len() < all));
    child
}

#[test]
fn every_end_of_the_loop_leaves_the_host_as_it_was() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let Some(level) = level_with_two_domains(&huddle) else { return };
    let processes = [Process::start(), Process::start()];
    let before = processes[0].cpus();
    let cpus_now = || processes.iter().map(Process::cpus).collect::<Vec<_>>();

    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut child = start_loop(&huddle, &processes, &level, &[]);
        let second = huddle.refusal(1, &["pin", "--vm", &format!("a={}", processes[0].pid())]);
        assert!(second.contains(&child.id().to_string()), "the lock names its holder: {second}");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{signal}: {status}");
        assert_eq!(cpus_now(), [before.clone(), before.clone()], "after {signal}");
    }

    let mut child = start_loop(&huddle, &processes, &level, &[]);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert!(processes[0].cpus().len() < before.len(), "kill -9 undoes nothing by itself");
    assert_eq!(huddle.json(&["restore"])["restored"], 2);
    assert_eq!(cpus_now(), [before.clone(), before.clone()]);

    // A run after a kill undoes what is left over before it starts.
    let mut child = start_loop(&huddle, &processes, &level, &[]);
    child.kill().unwrap();
    child.wait().unwrap();
    let names = [format!("a={}", processes[0].pid())];
    let output = huddle.output(&["run", "--rounds", "1", "--vm", &names[0], "--cache-level", &level]);
    assert!(output.status.success());
    assert_eq!(cpus_now(), [before.clone(), before.clone()]);
}

#[test]
fn what_somebody_else_set_meanwhile_is_left() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let Some(level) = level_with_two_domains(&huddle) else { return };
    let processes = [Process::start(), Process::start()];
    let before = processes[0].cpus();
    let mut child = start_loop(&huddle, &processes, &level, &[]);
    let pinned = processes[0].cpus();
    let mut theirs = CpuSet::new();
    let other = before.iter().find(|cpu| !pinned.contains(cpu)).unwrap();
    theirs.set(*other).unwrap();
    sched_setaffinity(processes[0].pid(), &theirs).unwrap();
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(processes[0].cpus(), [*other]);
    assert_eq!(processes[1].cpus(), before);
}

#[test]
fn rounds_are_lines_of_json_and_a_recording() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let process = Process::start();
    let run_dir = huddle.dir.path().join("run");
    let name = format!("a={}", process.pid());
    let output = huddle.output(&[
        "run",
        "--rounds",
        "1",
        "--vm",
        &name,
        "--dry-run",
        "--format",
        "json",
        "--record",
        run_dir.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = BufReader::new(&output.stdout[..])
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["schema"], "huddle/round/1");
    assert_eq!(lines[0]["matrix"]["vms"][0]["name"], "a");
    assert_eq!(lines[0]["changed"], Value::Null, "a dry run changes nothing, which is not 0 changes");
    assert!(!huddle.state_dir().exists());

    let manifest: Value =
        serde_json::from_slice(&std::fs::read(run_dir.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["schema_version"], huddle_model::schema::SCHEMA_VERSION);
    assert_eq!(manifest["git_revision"], Value::from(option_env!("HUDDLE_GIT_REVISION")));
    for table in ["sharing", "groups", "vms", "placements", "decisions", "ksm", "events"] {
        // One VM shares with nobody: `sharing` has no row, and so no segment.
        if table != "sharing" {
            assert_eq!(segments(&run_dir.join(table)), 1, "{table}");
        }
    }
    let line = huddle.refusal(1, &["run", "--vm", &name, "--dry-run", "--record", run_dir.to_str().unwrap()]);
    assert!(line.contains("is not empty"), "{line}");
}

#[test]
fn windows_between_rounds_are_recorded_with_what_they_cost() {
    if skipped_without_root() {
        return;
    }
    let huddle = Huddle::new();
    let busy = Process(Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap());
    let (name, run_dir) = (format!("busy={}", busy.pid()), huddle.dir.path().join("run"));
    // Software events take the same way as the processor's, on any host.
    let events = ["--event", "instructions=task-clock", "--event", "llc_references=none"];
    let args = ["run", "--vm", &name, "--dry-run", "--window", "0.2", "--record", run_dir.to_str().unwrap()];
    let args = [&args[..], &events[..]].concat();
    let mut child = huddle.command(&args).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(log.any(|line| line.contains("round 1")));
    std::thread::sleep(Duration::from_secs(2));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let rest: Vec<String> = log.collect();
    assert!(child.wait().unwrap().success());
    assert!(rest.iter().any(|line| line.contains("own cost over")), "{rest:?}");

    let windows = columns(&run_dir.join("windows"), ["begin_us", "end_us", "own_cpu_us", "lost_pass_events"]);
    assert!(windows.len() >= 4, "{windows:?}");
    for pair in windows.windows(2) {
        let (end, next_begin) = (pair[0][1].unwrap(), pair[1][0].unwrap());
        assert!((end..end + 50_000).contains(&next_begin), "windows follow each other: {windows:?}");
    }
    let long_us: i64 = windows.iter().map(|window| window[1].unwrap() - window[0].unwrap()).sum();
    assert!(windows.iter().all(|window| window[2].unwrap() > 0), "our own time is recorded: {windows:?}");

    let counters = columns(&run_dir.join("counters"), ["migrations", "thread"]);
    assert_eq!(counters.len(), windows.len(), "one vCPU a window");
    assert!(counters.iter().all(|row| row[0].is_some() && row[1] == Some(busy.pid().as_raw().into())));
    let residency = columns(&run_dir.join("residency"), ["run_ns", "window"]);
    let run_us: i64 = residency.iter().map(|row| row[0].unwrap() / 1000).sum();
    // A busy thread runs, and on one CPU at a time; what it loses to others depends on them. 1 % of room
    // for readings that are not of the very moment.
    assert!(run_us > 0 && run_us <= long_us + long_us / 100 + 20_000, "{run_us} of {long_us}");
    let counted =
        columns(&run_dir.join("counters"), ["instructions", "llc_references", "interval_ns", "window"]);
    assert!(counted.iter().all(|row| row[1].is_none() && row[2].is_some()), "{counted:?}");
    let counts: Vec<i64> = counted.iter().filter_map(|row| row[0]).collect();
    assert!(!counts.is_empty(), "no window has a count: {counted:?}");
    let counted_us: i64 = counts.iter().map(|ns| ns / 1000).sum();
    // On a busy machine a thread may get no CPU for a whole window, in which there is then nothing to count.
    for [_, _, _, window] in counted.iter().filter(|row| row[0].is_none()) {
        let of_window = residency.iter().filter(|row| row[1] == *window);
        let run_us: i64 = of_window.map(|row| row[0].unwrap() / 1000).sum();
        assert!(run_us <= 10_000, "nothing was counted in window {window:?}, in which it ran {run_us} us");
    }
    // Two clocks of the same thread, read one after the other; what the hypervisor takes from this machine
    // (steal) is in task-clock and not in run time.
    assert!(run_us <= counted_us + run_us / 50 + 10_000, "task-clock {counted_us}, run {run_us}");
    assert!(counted_us <= long_us + long_us / 100 + 20_000, "task-clock {counted_us} of {long_us}");
    let programs = columns(&run_dir.join("programs"), ["runs"]);
    assert!(programs.iter().any(|row| row[0].is_some_and(|runs| runs > 0)), "some program ran");
}

fn segments(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".parquet"))
        .count()
}

#[test]
fn doctor_answers_without_any_privilege() {
    let huddle = Huddle::new();
    let doctor = huddle.json(&["doctor"]);
    assert_eq!(doctor["schema"], "huddle/doctor/1");
    let items: Vec<&str> = doctor["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["item"].as_str().unwrap())
        .collect();
    for item in ["ksm.run", "kvm.mediated_vpmu", "resctrl", "pmu.llc_misses", "sched_switch", "kvm_entry"] {
        assert!(items.contains(&item), "{item} is not in {items:?}");
    }
    for finding in doctor["findings"].as_array().unwrap() {
        assert!(!finding["meaning"].as_str().unwrap().is_empty(), "{finding}");
        assert!(finding["state"] != "degraded" || finding["remedy"].is_string(), "{finding}");
    }
}

#[test]
fn an_event_that_is_none_is_wrong_usage() {
    let huddle = Huddle::new();
    for event in [
        "llc_misses=cache-mises",
        "misses=r1",
        "llc_misses",
        "llc_misses=cpu/event=1",
        "cycles=event=1,event=2",
    ] {
        let output = huddle.output(&["doctor", "--event", event]);
        assert_eq!(output.status.code(), Some(2), "{event}");
        assert!(
            String::from_utf8_lossy(&output.stderr)
                .contains(event.split_once('=').map_or(event, |(_, event)| event)),
            "{event}"
        );
    }
}

#[test]
fn an_event_that_this_host_does_not_have_has_its_reason() {
    let huddle = Huddle::new();
    let finding = |event: &str| {
        let doctor = huddle.json(&["doctor", "--event", event]);
        let findings = doctor["findings"].as_array().unwrap().clone();
        findings.into_iter().find(|finding| finding["item"] == "pmu.llc_misses").unwrap()
    };
    let missing = finding("llc_misses=no_such_pmu/event=1/");
    assert_eq!(missing["state"], "missing");
    let reason = missing["value"].as_str().unwrap();
    assert!(reason.contains("this host has no PMU no_such_pmu"), "{reason}");
    // A PMU of another kind is addressed by its own number and layout, on any host of x86 that has it.
    if Path::new("/sys/bus/event_source/devices/msr/events/tsc").exists() {
        let output = huddle.output(&["doctor", "--event", "llc_misses=msr/umask=1/"]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("no field umask; its fields are event"), "{error}");
        assert!(finding("llc_misses=msr/tsc/")["value"].as_str().unwrap().contains("msr/tsc/"));
    }
}
