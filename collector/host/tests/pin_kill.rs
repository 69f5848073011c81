//! Runs that end badly: this program starts itself as the run that pins, ends it by SIGKILL or lets it
//! panic, and looks at what is left.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at the first surprise and says what it skips; clippy.toml allows it in #[test] only"
)]

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use huddle_host::pin::{
    Change, HostPinner, Journal, StateDir, ThreadPin, Undoers, VcpuRef, recover, restore,
};
use huddle_host::{HostRoot, task};
use huddle_model::cpuset::CpuSet;
use huddle_model::vm::TaskId;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sched::sched_getaffinity;
use nix::unistd::{Pid, Uid, setresgid, setresuid};

/// The user and group nobody.
const NOBODY: u32 = 65_534;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    if let [_, word, how, place, pid] = &args[..]
        && word == "run-that-ends-badly"
    {
        run_badly(how, Path::new(place), pid.parse().unwrap());
        return ExitCode::SUCCESS;
    }
    let mut tests = Vec::new();
    if cpus().len() < 2 {
        println!("skipped: needs two usable CPUs, and this machine has one");
    } else {
        tests.push(Trial::test("after_sigkill_restore_puts_everything_back", sigkill));
        tests.push(Trial::test("after_sigkill_a_new_run_recovers", new_run_recovers));
        tests.push(Trial::test("sigkill_at_any_moment_loses_nothing", sigkill_anywhere));
        tests.push(Trial::test("sigkill_between_journal_and_change_is_harmless", sigkill_between));
        tests.push(Trial::test("a_panic_undoes", panics));
        tests.push(Trial::test("returning_undoes", returns));
    }
    if Uid::effective().is_root() {
        tests.push(Trial::test("an_unusable_state_directory_is_refused_to_a_user", refused_to_a_user));
    } else {
        println!("skipped: needs root to become another user");
    }
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// The run: pins the process `pid` to one CPU, says so on stdout, and goes on as `how` says.
fn run_badly(how: &str, place: &Path, pid: i32) {
    if how == "open-as-nobody" {
        setresgid(NOBODY.into(), NOBODY.into(), NOBODY.into()).unwrap();
        setresuid(NOBODY.into(), NOBODY.into(), NOBODY.into()).unwrap();
        for dir in ["unreadable", "unwritable", "others"] {
            println!("{}", StateDir::open(Some(&place.join(dir))).unwrap_err());
        }
        return;
    }
    let root = HostRoot::at(place);
    let state = StateDir::open(Some(&place.join("state"))).unwrap().lock(&root).unwrap();
    let mut journal = Journal::open(&root, &state).unwrap();
    let task = task::process(&root, pid).unwrap().id;
    let single = |cpu: u32| -> CpuSet { [cpu].into_iter().collect() };
    let all: Vec<u32> = cpus().iter().collect();
    if how == "journal-only" {
        let change = Change::Affinity {
            vm: "tenant".to_owned(),
            vcpu: 0,
            of: VcpuRef::Thread { process: task, thread: task },
            before: cpus(),
            after: single(all[0]),
            origin: Default::default(),
        };
        journal.record(&[change]).unwrap();
        say_and_wait();
    }
    let mut pinner = HostPinner::new(root, journal);
    if how == "to-and-fro" {
        println!("begun");
        loop {
            change(&mut pinner, task, single(all[0]));
            change(&mut pinner, task, single(all[1]));
            assert_eq!(pinner.undo().failures, [] as [String; 0]);
        }
    }
    change(&mut pinner, task, single(all[0]));
    assert_eq!(affinity(pid), single(all[0]));
    match how {
        "wait" => say_and_wait(),
        "panic" => panic!("on purpose"),
        "return" => {}
        other => panic!("no way to end called {other}"),
    }
}

fn change(pinner: &mut HostPinner, task: TaskId, cpus: CpuSet) {
    let pin = ThreadPin {
        vm: "tenant".to_owned(),
        vcpu: 0,
        id: task.into(),
        process: Some(task),
        cpus,
        within: None,
    };
    let report = pinner.set_affinities(&[pin]).unwrap();
    assert_eq!(report.outcome.skipped, 0, "{report:?}");
    pinner.set_ksm(&[("pages_to_scan", "5000".to_owned()), ("run", "1".to_owned())]).unwrap();
}

fn say_and_wait() -> ! {
    println!("begun");
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn affinity(tid: i32) -> CpuSet {
    let set = sched_getaffinity(Pid::from_raw(tid)).unwrap();
    (0..1024).filter(|cpu| set.is_set(*cpu as usize).unwrap()).collect()
}

/// CPUs this process, and so its children, may use.
fn cpus() -> CpuSet {
    affinity(0)
}

/// A tenant, a state directory, and a host with the real `/proc` and made-up settings of KSM.
struct Scene {
    dir: tempfile::TempDir,
    tenant: Child,
    runs: Vec<Child>,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("proc")).unwrap();
        let ksm = dir.path().join("sys/kernel/mm/ksm");
        std::fs::create_dir_all(&ksm).unwrap();
        std::fs::write(ksm.join("run"), "0\n").unwrap();
        std::fs::write(ksm.join("pages_to_scan"), "100\n").unwrap();
        let tenant = Command::new("sleep").arg("600").spawn().unwrap();
        Self { dir, tenant, runs: Vec::new() }
    }

    fn root(&self) -> HostRoot {
        HostRoot::at(self.dir.path())
    }

    fn state(&self) -> StateDir {
        StateDir::open(Some(&self.dir.path().join("state"))).unwrap()
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("state/journal")
    }

    /// Affinity of the tenant, `run` and `pages_to_scan`.
    fn now(&self) -> (CpuSet, String, String) {
        let read = |file| {
            let text = std::fs::read_to_string(self.dir.path().join("sys/kernel/mm/ksm").join(file));
            text.unwrap().trim().to_owned()
        };
        (affinity(self.tenant.id() as i32), read("run"), read("pages_to_scan"))
    }

    fn original(&self) -> (CpuSet, String, String) {
        (cpus(), "0".to_owned(), "100".to_owned())
    }

    fn pinned(&self) -> (CpuSet, String, String) {
        (cpus().iter().take(1).collect(), "1".to_owned(), "5000".to_owned())
    }

    fn start(&mut self, how: &str) -> &mut Child {
        let run = Command::new(std::env::current_exe().unwrap())
            .arg("run-that-ends-badly")
            .arg(how)
            .arg(self.dir.path())
            .arg(self.tenant.id().to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        self.runs.push(run.unwrap());
        self.runs.last_mut().unwrap()
    }

    /// Starts a run, waits for its word, and ends it by SIGKILL after `delay`.
    fn start_and_kill(&mut self, how: &str, delay: Duration, meanwhile: impl FnOnce(&Self, u32)) {
        let run = self.start(how);
        let pid = run.id();
        let mut line = String::new();
        BufReader::new(run.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "begun\n" {
            let mut stderr = String::new();
            run.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
            panic!("the run did not begin: {stderr}");
        }
        std::thread::sleep(delay);
        meanwhile(self, pid);
        let run = self.runs.last_mut().unwrap();
        run.kill().unwrap();
        let status = run.wait().unwrap();
        assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for child in self.runs.iter_mut().chain([&mut self.tenant]) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn sigkill() -> Result<(), Failed> {
    let mut scene = Scene::new();
    scene.start_and_kill("wait", Duration::ZERO, |scene, pid| {
        let error = scene.state().lock(&scene.root()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {pid}")), "{error}");
    });
    assert_eq!(scene.now(), scene.pinned());
    // The kernel gave the lock back.
    let report = restore(&Undoers::of_host(scene.root()), &scene.state().lock(&scene.root())?)?;
    assert_eq!((report.restored, report.failures.len()), (3, 0), "{report:?}");
    assert_eq!(scene.now(), scene.original());
    assert!(!scene.journal().exists());
    Ok(())
}

fn new_run_recovers() -> Result<(), Failed> {
    let mut scene = Scene::new();
    scene.start_and_kill("wait", Duration::ZERO, |_, _| {});
    let mut journal = Journal::open(&scene.root(), &scene.state().lock(&scene.root())?)?;
    assert_eq!(journal.entries().len(), 3);
    let report = recover(&Undoers::of_host(scene.root()), &mut journal);
    assert_eq!((report.restored, report.failures.len()), (3, 0), "{report:?}");
    assert!(report.notes[0].contains("earlier huddle"), "{report:?}");
    assert!(journal.entries().is_empty());
    assert_eq!(scene.now(), scene.original());
    Ok(())
}

fn sigkill_anywhere() -> Result<(), Failed> {
    let mut scene = Scene::new();
    for step in 0..40u64 {
        scene.start_and_kill("to-and-fro", Duration::from_micros(step * 613), |_, _| {});
        let report = restore(&Undoers::of_host(scene.root()), &scene.state().lock(&scene.root())?)?;
        assert_eq!(report.failures, [] as [String; 0], "kill {step}");
        assert!(!report.notes.iter().any(|note| note.contains("somebody else")), "kill {step}: {report:?}");
        assert_eq!(scene.now(), scene.original(), "kill {step}: {report:?}");
    }
    Ok(())
}

fn sigkill_between() -> Result<(), Failed> {
    let mut scene = Scene::new();
    scene.start_and_kill("journal-only", Duration::ZERO, |_, _| {});
    let report = restore(&Undoers::of_host(scene.root()), &scene.state().lock(&scene.root())?)?;
    assert_eq!((report.restored, report.failures.len()), (0, 0), "{report:?}");
    assert!(report.notes[0].contains("was not changed"), "{report:?}");
    assert_eq!(scene.now(), scene.original());
    Ok(())
}

fn panics() -> Result<(), Failed> {
    let mut scene = Scene::new();
    let run = scene.start("panic");
    let mut stderr = String::new();
    run.stderr.take().unwrap().read_to_string(&mut stderr)?;
    let status = run.wait()?;
    assert!(stderr.contains("on purpose"), "{stderr}");
    assert_eq!(status.code(), Some(101));
    assert_eq!(scene.now(), scene.original());
    assert!(!scene.journal().exists());
    Ok(())
}

fn returns() -> Result<(), Failed> {
    let mut scene = Scene::new();
    assert!(scene.start("return").wait()?.success());
    assert_eq!(scene.now(), scene.original());
    assert!(!scene.journal().exists());
    Ok(())
}

fn refused_to_a_user() -> Result<(), Failed> {
    let mut scene = Scene::new();
    let mode = |path: &Path, mode| std::fs::set_permissions(path, Permissions::from_mode(mode));
    mode(scene.dir.path(), 0o755)?;
    for (dir, owner, bits) in
        [("unreadable", NOBODY, 0o000), ("unwritable", NOBODY, 0o500), ("others", 0, 0o755)]
    {
        let path = scene.dir.path().join(dir);
        std::fs::create_dir(&path)?;
        std::os::unix::fs::chown(&path, Some(owner), None)?;
        mode(&path, bits)?;
    }
    let mut said = String::new();
    scene.start("open-as-nobody").stdout.take().ok_or("no stdout")?.read_to_string(&mut said)?;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "one sentence each: {said}");
    for (line, words) in lines.iter().zip([
        "cannot read the state directory",
        "cannot write to the state directory",
        "belongs to user 0, not to user 65534",
    ]) {
        assert!(line.contains(words), "{words}: {line}");
    }
    Ok(())
}
